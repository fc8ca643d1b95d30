"""LLaMA-Factory, step by step, on rows that were tokenised before; nothing of ours is imported.

It imports torchaudio, whose wheel on PyPI asks for CUDA's torch; no sound is trained on, so an empty module stands in.
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

sys.modules["torchaudio"] = types.ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)

from datasets import Dataset, DatasetDict  # noqa: E402
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from turns import Turns, given  # noqa: E402


class Watch(TrainerCallback):  # type: ignore[misc]  # untyped
    def __init__(self, turns: Turns) -> None:
        self._turns, self.loss = turns, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._turns.before_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._turns.after_step(self.loss)


def main() -> None:
    told, turns = given(), Turns()
    torch.set_num_threads(told["threads"])
    watch = Watch(turns)
    theirs = CustomSeq2SeqTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = theirs(self, *args, **kwargs)
        value = loss[0] if isinstance(loss, tuple) else loss
        watch.loss = value.item()
        return loss

    CustomSeq2SeqTrainer.compute_loss = compute_loss
    run_exp(arguments(told), callbacks=[watch])


def arguments(told: dict[str, Any]) -> dict[str, Any]:
    folder: Path = told["folder"]
    return {
        "model_name_or_path": told["base"],
        "adapter_name_or_path": str(folder / "start"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "template": "smollm2",
        "dataset": "tokenised",
        "tokenized_path": str(tokenised(told)),
        "disable_shuffling": True,
        "output_dir": str(folder / "llamafactory"),
        "per_device_train_batch_size": told["batches"]["supervised"],
        "learning_rate": told["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "num_train_epochs": 1.0,
        "seed": told["seed"],
        "bf16": True,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "overwrite_cache": True,
        **told.get("extra", {}),
    }


def tokenised(told: dict[str, Any]) -> Path:
    """The rows in the order of the comparison's batches, as it keeps what it has tokenised."""
    folder: Path = told["folder"]
    rows = json.loads((folder / told["rows"]).read_text())
    ordered = [rows[i] for batch in told["orders"][told["order"]] for i in batch]
    for row in ordered:
        row["attention_mask"] = [1] * len(row["input_ids"])
        row["images"] = row["videos"] = row["audios"] = None
    path = folder / "llamafactory-rows"
    DatasetDict({"train": Dataset.from_list(ordered)}).save_to_disk(str(path))
    return path


if __name__ == "__main__":
    main()
