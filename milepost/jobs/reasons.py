"""Why a job's hyperparameters are what they are, for people: each is named with its value, whoever chose it.

OpenAI never told what its `auto` chose, nor what rate the multiplier multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milepost.resources.methods import Hyperparameters
from milepost.resources.models import Base

#: Why `auto` is what it is. Of the others the base or the adapter says (`_why`).
AUTO = {
    "n_epochs": "so that 100 to 25,000 examples are seen",
    "batch_size": "up to 8, with 32 steps an epoch or more",
    "learning_rate_multiplier": "the base rate as it is",
    "beta": "the usual",
    "lora_rank": "the usual",
    "lora_alpha": "twice the rank",
    "lora_targets": "all linear modules of the base",
    "lora_dropout": "the adapter sees all of its input",
    "lr_scheduler": "after that the rate falls evenly to the last step",
    "warmup_ratio": "the rate rises in the first 5 % of the steps",
    "weight_decay": "none",
    "max_grad_norm": "the usual",
    "on_divergence": "rather than leave steps out",
}
#: What the further settings are of.
ADAPTER = ("lora_rank", "lora_alpha", "lora_targets", "lora_dropout")
TRAINING = ("warmup_ratio", "lr_scheduler", "weight_decay", "max_grad_norm", "max_length", "on_divergence")
#: These do nothing unless they are asked for.
ON_DEMAND = ("early_stopping_patience", "checkpoint_every", "keep_checkpoints", "spike_threshold")
FURTHER = (*ADAPTER, *TRAINING, *ON_DEMAND)


def first(asked: Hyperparameters, settings: Mapping[str, Any], examples: int, rate: str) -> str:
    """Of OpenAI's hyperparameters. `rate` tells what the base rate is for."""
    multiplier, base_rate = settings["learning_rate_multiplier"], settings["base_learning_rate"]
    names = ["n_epochs", "batch_size", "learning_rate_multiplier", *(["beta"] if "beta" in settings else [])]
    told = [f"{name}={shown(settings[name])} ({_why(name, asked)})" for name in names]
    return (
        f"Hyperparameters for {examples} examples: {', '.join(told)}. "
        f"The learning rate is {settings['learning_rate']:g}: {multiplier:g} times {base_rate:g}, {rate}"
    )


def further(asked: Hyperparameters, settings: Mapping[str, Any], base: Base, parent: str | None) -> str:
    """Of the others. `parent` names what training goes on from."""
    context = f"{base.context_length:,} tokens that the base reads"
    is_all = settings["max_length"] == base.context_length
    auto = AUTO | {"max_length": f"the {context}" if is_all else f"at most 2,048 of the {context}"}
    if parent is not None:
        auto |= dict.fromkeys(("lora_rank", "lora_alpha", "lora_targets"), f"that of `{parent}`")
    unused = [name for name in ON_DEMAND if settings[name] is None]

    def told(names: tuple[str, ...]) -> str:
        return ", ".join(_told(name, settings[name], _why(name, asked, auto)) for name in names if name not in unused)

    sentences = [f"The adapter: {told(ADAPTER)}", f"Training: {told((*TRAINING, *ON_DEMAND))}"]
    if unused:
        sentences.append(f"Not in use, since not asked for: {', '.join(unused)}")
    return ". ".join(sentences)


def shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return "+".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told(name: str, value: object, why: str) -> str:
    """The shape of an adapter whose words about itself cannot be read is known to the training process only."""
    return f"{name} ({why})" if value is None else f"{name}={shown(value)} ({why})"


def _why(name: str, asked: Hyperparameters, auto: Mapping[str, str] = AUTO) -> str:
    if name == "learning_rate_multiplier" and asked.learning_rate != "auto":
        return "of the learning rate that was asked for"
    return f"auto: {auto[name]}" if getattr(asked, name) == "auto" else "as asked"
