"""Sequences in rows: what goes through the model at once, whatever the method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from milepost.modeling.label_loss import label_losses
from milepost.modeling.model import Linear, Model
from milepost.modeling.packed import Packed, pack, packed_attention
from milepost.training.data import Example, Pair

#: Most tokens that go through the model at once: what is kept for the way back grows with them.
MAX_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples in rows. `rows` are those whose next token is learnt, `labels` these tokens, `counts` how many of them
    each example has.
    """

    packed: Packed
    rows: Tensor
    labels: Tensor
    counts: tuple[int, ...]


Item = TypeVar("Item", Example, Pair)


def useful_length(example: Example) -> int:
    """The tokens that are computed: those up to the last learnt one, which itself is only predicted."""
    return example.learnt.rindex(1)


def in_parts(examples: Sequence[tuple[Item, int]], max_rows: int) -> Iterator[list[Item]]:
    """Examples with their lengths in parts of at most `max_rows` tokens, each with neighbours of its length."""
    part: list[Item] = []
    rows = 0
    for example, length in sorted(examples, key=lambda one: (one[1], one[0].number)):
        if part and rows + length > max_rows:
            yield part
            part, rows = [], 0
        part.append(example)
        rows += length
    if part:
        yield part


def collate(examples: Sequence[Example]) -> Rows:
    """Put examples in rows, in the order given: by rising length, or attention gets many groups.

    What stands behind the last learnt token is left out: no loss depends on it.
    """
    sequences, rows, labels = [], [], []
    row = 0
    for example in examples:
        length = useful_length(example)
        tokens = torch.tensor(example.tokens, dtype=torch.int64)
        learnt = torch.tensor(list(example.learnt[1 : length + 1]), dtype=torch.bool)
        sequences.append(tokens[:length])
        rows.append(learnt.nonzero().flatten() + row)
        labels.append(tokens[1 : length + 1][learnt])
        row += length
    return Rows(pack(sequences), torch.cat(rows), torch.cat(labels), tuple(map(len, labels)))


def losses(model: Model, linear: Linear, batch: Rows) -> tuple[Tensor, Tensor]:
    """The loss of each label in nats (labels,), in fp64, and whether it was predicted (labels,)."""
    packed = batch.packed
    hidden = model.hidden_states(packed.tokens, packed.positions, linear, packed_attention(packed))
    return label_losses(hidden.index_select(0, batch.rows), model.head, batch.labels, model.finish)
