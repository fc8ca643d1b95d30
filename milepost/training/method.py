"""What the loop knows of a method: how examples become batches, and what a batch's loss is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from milepost.modeling.lora import Lora
from milepost.modeling.model import Linear
from milepost.resources.runs import RunHyperparameters


@dataclass(frozen=True, slots=True)
class Score:
    """Means in the making: of each quantity its sum, and over how many tokens or examples. Scores add up.

    `loss` is among them always; the others are named as the metrics are, without `train_`.
    """

    sums: Mapping[str, tuple[float, int]]

    def __add__(self, other: Score) -> Score:
        nothing = (0.0, 0)
        names = dict.fromkeys([*self.sums, *other.sums])
        pairs = {name: (self.sums.get(name, nothing), other.sums.get(name, nothing)) for name in names}
        return Score({name: (left[0] + right[0], left[1] + right[1]) for name, (left, right) in pairs.items()})

    @property
    def loss(self) -> float:
        total, count = self.sums["loss"]
        return total / count

    def means(self, prefix: str = "") -> dict[str, float]:
        """`prefix` "train_" gives train_loss and so on. What is not a finite number is left out, for JSON has no such;
        and all of it where the loss is none, for then the rest says nothing either.
        """
        if self.sums and not math.isfinite(self.loss):
            return {}
        means = {prefix + name: total / count for name, (total, count) in self.sums.items()}
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}


NOTHING = Score({})

ExampleType = TypeVar("ExampleType")
BatchType = TypeVar("BatchType")


@dataclass(frozen=True, slots=True)
class Method(Generic[ExampleType, BatchType]):
    """A step's loss is the sum of its batches' losses, divided by `count` of its examples.

    `batches` splits examples into what goes through the model at once. `loss` is a batch's, summed, to differentiate,
    and what was measured; `Linear` is the adapter as it learns, with or without dropout. `has_reference` if it compares
    with what training began from.
    """

    count: Callable[[Sequence[ExampleType]], int]
    batches: Callable[[Sequence[ExampleType]], Iterator[BatchType]]
    loss: Callable[[Lora, Linear, BatchType, RunHyperparameters], tuple[Tensor, Score]]
    has_reference: bool = False
