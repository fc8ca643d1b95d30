"""How far a run in bf16 goes from the same run in fp32, step by step: `python -m bench.bf16 [--steps 50] [--batch 8]`.

Two whole runs on SmolLM2-135M from the same job.json but for its dtype, at the learning rate a job takes by itself. What is
compared is each step's training loss, before its update; the floor is 0.01 nats at every step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from milepost import config
from milepost.resources.methods import MethodType
from milepost.resources.runs import EVENTS, RunHyperparameters, RunSpec, Source, Task
from milepost.store import bases
from milepost.training.run import main as train
from tests.training.conftest import data_file, questions

BASE, FLOOR = "smollm2-135m-instruct", 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        losses = {dtype: run(Path(folder), dtype, given) for dtype in ("bfloat16", "float32")}
    apart = [abs(a - b) for a, b in zip(losses["bfloat16"], losses["float32"], strict=True)]
    report = {"steps": len(apart), "mean": sum(apart) / len(apart), "worst": max(apart), "floor": FLOOR, **losses}
    verdict = "ok" if max(apart) <= FLOOR else "ABOVE"
    print(
        f"{len(apart)} steps of {given.batch} chats: {report['mean']:.4f} nats apart in the mean, {max(apart):.4f} at worst "
        f"(step {apart.index(max(apart)) + 1}; at most {FLOOR}: {verdict}); losses {losses['float32'][0]:.2f} → "
        f"{losses['float32'][-1]:.2f}"
    )
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    if max(apart) > FLOOR:
        sys.exit(1)


def run(folder: Path, dtype: Any, given: argparse.Namespace) -> list[float]:
    """The training losses of each step of a run."""
    base, path = bases.get(config.load(os.environ), BASE)
    path_of_run = folder / dtype
    path_of_run.mkdir()
    spec = RunSpec(
        task=Task.TRAIN,
        job_id="ftjob-bench",
        method=MethodType.SUPERVISED,
        hyperparameters=RunHyperparameters(
            n_epochs=1, batch_size=given.batch, learning_rate=given.learning_rate, lora_rank=16
        ),
        seed=7,
        threads=given.threads,
        dtype=dtype,
        device="cpu",
        base=Source(name=base.name, path=str(path), hash=base.hash),
        training=data_file(path_of_run / "chats.jsonl", questions(given.steps * given.batch), "training_file"),
    )
    (path_of_run / "job.json").write_text(spec.model_dump_json())
    if train(path_of_run):
        sys.exit((path_of_run / "result.json").read_text())
    events = [json.loads(line) for line in (path_of_run / EVENTS).read_text().splitlines()]
    return [event["data"]["train_loss"] for event in events if event["type"] == "metrics"]


if __name__ == "__main__":
    main()
