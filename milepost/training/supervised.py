"""Supervised training: its examples are chats and prompt/completion pairs, its loss is that of their learnt tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from milepost.modeling.lora import Lora
from milepost.modeling.model import Linear
from milepost.resources.runs import RunHyperparameters
from milepost.training.batches import MAX_ROWS, Rows, collate, in_parts, losses, useful_length
from milepost.training.data import Example
from milepost.training.method import Method, Score


def count(examples: Sequence[Example]) -> int:
    """The tokens that a step's loss is the mean over."""
    return sum(example.learnt_count for example in examples)


def batches(examples: Sequence[Example], max_rows: int = MAX_ROWS) -> Iterator[Rows]:
    """Batches of at most `max_rows` tokens that together hold the examples, each with neighbours of its length."""
    return map(collate, in_parts([(example, useful_length(example)) for example in examples], max_rows))


def loss(lora: Lora, linear: Linear, batch: Rows, _: RunHyperparameters) -> tuple[Tensor, Score]:
    """The batch's loss, a sum over its labels in nats, to differentiate; and as numbers."""
    each, hits = losses(lora.model, linear, batch)
    total, labels = each.sum(), len(batch.labels)
    return total, Score({"loss": (total.item(), labels), "mean_token_accuracy": (hits.sum().item(), labels)})


METHOD = Method(count, batches, loss)
