"""Supervised training: its examples are chats and pairs, its loss is that of their learnt tokens.

A method is this and no more: how its file is read, how examples become a batch, and what a batch's loss is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from milepost.modeling.label_loss import label_loss
from milepost.modeling.llama import Linear, Llama, hidden_states
from milepost.modeling.packed import Packed, pack, packed_attention
from milepost.training.data import Example

#: Most tokens that go through the model at once: what is kept for the way back grows with them.
MAX_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples in rows. `rows` are those whose next token is learnt, `labels` these tokens."""

    packed: Packed
    rows: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """What was measured over `labels` learnt tokens: the sum of their losses in nats, and how many were predicted."""

    loss: float = 0.0
    hits: int = 0
    labels: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.loss + other.loss, self.hits + other.hits, self.labels + other.labels)

    @property
    def mean_loss(self) -> float:
        return self.loss / self.labels

    @property
    def accuracy(self) -> float:
        return self.hits / self.labels


def batches(examples: Sequence[Example], max_rows: int = MAX_ROWS) -> Iterator[Batch]:
    """Batches of at most `max_rows` tokens that together hold the examples, each with neighbours of its length.

    What stands behind the last learnt token is left out: no loss depends on it.
    """
    useful = [(example, example.learnt.rindex(1)) for example in examples if any(example.learnt)]
    part: list[tuple[Example, int]] = []
    rows = 0
    for example, length in sorted(useful, key=lambda one: (one[1], one[0].number)):
        if part and rows + length > max_rows:
            yield _collate(part)
            part, rows = [], 0
        part.append((example, length))
        rows += length
    if part:
        yield _collate(part)


def label_count(examples: Sequence[Example]) -> int:
    return sum(example.learnt_count for example in examples)


def loss(model: Llama, linear: Linear, batch: Batch) -> tuple[Tensor, Score]:
    """The batch's loss, a sum over its labels in nats, to differentiate; and as numbers."""
    hidden = hidden_states(model, batch.packed.tokens, batch.packed.positions, linear, packed_attention(batch.packed))
    total, hits = label_loss(hidden.index_select(0, batch.rows), model.head, batch.labels)
    return total, Score(total.item(), hits, len(batch.labels))


def _collate(part: Sequence[tuple[Example, int]]) -> Batch:
    sequences, rows, labels = [], [], []
    row = 0
    for example, length in part:
        tokens = torch.tensor(example.tokens, dtype=torch.int64)
        learnt = torch.tensor(list(example.learnt[1 : length + 1]), dtype=torch.bool)
        sequences.append(tokens[:length])
        rows.append(learnt.nonzero().flatten() + row)
        labels.append(tokens[1 : length + 1][learnt])
        row += length
    return Batch(pack(sequences), torch.cat(rows), torch.cat(labels))
