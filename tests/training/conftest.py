import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from milepost.modeling import machine
from milepost.modeling.folders import file_hash
from milepost.resources.forecasts import Speed
from milepost.resources.methods import MethodType
from milepost.resources.models import Base
from milepost.resources.runs import DataFile, RunHyperparameters, RunSpec, Source, Task

MakeRun = Callable[..., Path]

HYPERPARAMETERS = RunHyperparameters(
    n_epochs=2, batch_size=4, learning_rate=1e-2, lora_rank=4, lora_alpha=32.0, state_every_tokens=400
)


def chats(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Chats of 30 to 90 bytes with a rule to learn: the answer repeats the last word."""
    drawn = random.Random(seed)
    words = ["red", "green", "blue", "one", "two", "three", "north", "south"]
    return [
        {
            "messages": [
                {"role": "user", "content": " ".join(drawn.choices(words, k=drawn.randint(1, 8)))},
                {"role": "assistant", "content": drawn.choice(words)},
            ]
        }
        for _ in range(count)
    ]


def questions(count: int) -> list[dict[str, Any]]:
    """Questions and answers of which half can be learnt: the losses fall, and stay well above zero."""
    drawn = random.Random(5)
    tables, columns = ("jobs", "files", "models", "events"), ("id", "status", "bytes", "name")
    found = []
    for _ in range(count):
        table, column, most = drawn.choice(tables), drawn.choice(columns), drawn.randint(10, 999)
        question = drawn.choice(("Show the newest {}.", "Count the {}.", "Which {} are mine?")).format(table)
        answer = f"SELECT {column}, count(*) FROM openai.{table} WHERE {column} > {drawn.randint(1, 99)} LIMIT {most}"
        found.append([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    return [{"messages": messages} for messages in found]


def preferences(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """The same rule as preferences: the last word again is better than another."""
    drawn = random.Random(seed)
    words = ["red", "green", "blue", "one", "two", "three", "north", "south"]
    found = []
    for _ in range(count):
        asked = drawn.choices(words, k=drawn.randint(1, 8))
        other = drawn.choice([word for word in words if word != asked[-1]]) + " " + drawn.choice(words)
        found.append(
            {
                "input": {"messages": [{"role": "user", "content": " ".join(asked)}], "tools": []},
                "preferred_output": [{"role": "assistant", "content": asked[-1]}],
                "non_preferred_output": [{"role": "assistant", "content": other}],
            }
        )
    return found


def data_file(path: Path, lines: Iterable[Any], param: Any) -> DataFile:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return DataFile(file_id=f"file-{path.stem}", path=str(path), hash=file_hash(path), param=param)


@pytest.fixture
def make_run(tiny_base: Path, tmp_path: Path) -> MakeRun:
    """Make a run directory with a job.json, as the control plane does."""

    def make(
        name: str = "run",
        *,
        training: Iterable[Any] | None = None,
        validation: Iterable[Any] | None = None,
        task: Task = Task.TRAIN,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        hyperparameters = HYPERPARAMETERS.model_copy(update=changes.pop("hyperparameters", {}))
        base = Base.model_validate_json((tiny_base / "base.json").read_bytes())
        lines = chats(22) if training is None else training
        spec = RunSpec(
            task=task,
            job_id="ftjob-test",
            method=MethodType.SUPERVISED,
            hyperparameters=hyperparameters,
            seed=7,
            threads=1,
            dtype="float32",
            base=Source(name=base.name, path=str(tiny_base), hash=base.hash),
            speed=Speed(machine=machine.name(), dtype="float32", gflops={1: 50.0}),
            training=data_file(folder / "training.jsonl", lines, "training_file"),
            validation=None
            if validation is None
            else data_file(folder / "validation.jsonl", validation, "validation_file"),
        ).model_copy(update=changes)
        (folder / "job.json").write_text(spec.model_dump_json())
        return folder

    return make
