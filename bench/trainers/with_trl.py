"""TRL's trainers, step by step, on rows that were tokenised before; nothing of ours is imported.

`installed` leaves every setting that is not the comparison's as it comes: fp32 weights under bf16 autocast, gradient
checkpointing. Not so: what was found to be fastest here (bench/LOG.md).
"""

from __future__ import annotations

import json
from typing import Any

import torch
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.utils.data import Sampler
from transformers import AutoTokenizer, TrainerCallback
from turns import Turns, given

TUNED = {
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "eager"},
    "dataloader_pin_memory": False,
}


def main() -> None:
    told, turns = given(), Turns()
    torch.set_num_threads(told["threads"])
    torch.manual_seed(told["seed"])
    rows = json.loads((told["folder"] / told["rows"]).read_text())
    trainer = made(told, rows, turns)
    weights = load_file(told["folder"] / "start" / "adapter_model.safetensors")
    set_peft_model_state_dict(trainer.model, weights)
    trainer.train()


def made(told: dict[str, Any], rows: list[dict[str, Any]], turns: Turns) -> Any:
    import trl
    from datasets import Dataset

    trainer_class, config_class, own = {
        "supervised": (trl.SFTTrainer, trl.SFTConfig, {"dataset_kwargs": {"skip_prepare_dataset": True}}),
        "dpo": (trl.DPOTrainer, trl.DPOConfig, {"beta": told["beta"], "loss_type": "sigmoid"}),
    }[told["method"]]
    args = config_class(
        output_dir=str(told["folder"] / "trl"),
        per_device_train_batch_size=told["batches"][told["method"]],
        learning_rate=told["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        num_train_epochs=1,
        seed=told["seed"],
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **own,
        **(({} if told["installed"] else TUNED) | told.get("extra", {})),
    )

    class Stepwise(trainer_class):  # type: ignore[misc, valid-type]  # chosen at run time
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *_: Any) -> Sampler[int]:
            return Listed(told["orders"][told["order"]])

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            value = loss[0] if isinstance(loss, tuple) else loss
            self.last_loss = value.item()
            return loss

    class Watch(TrainerCallback):  # type: ignore[misc]  # untyped
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.before_step()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.after_step(trainer.last_loss)

    trainer = Stepwise(
        model=told["base"],
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(told["base"]),
        peft_config=LoraConfig(
            r=told["rank"],
            lora_alpha=2 * told["rank"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[Watch()],
    )
    return trainer


class Listed(Sampler[int]):
    """The comparison's batches, one after the other."""

    def __init__(self, batches: list[list[int]]) -> None:
        self._indices = [i for batch in batches for i in batch]

    def __iter__(self) -> Any:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


if __name__ == "__main__":
    main()
