"""Direct preference optimisation (arXiv:2305.18290): its examples are pairs of answers to one question, its loss asks
that the preferred one has become likelier than the other, since training began, by more.

The reference is what training began from: the same base with the adapter switched off, or with the adapter that
training goes on from. No second model is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling.lora import Lora
from milepost.modeling.model import Linear
from milepost.resources.runs import RunHyperparameters
from milepost.training.batches import MAX_ROWS, Rows, collate, in_parts, losses, useful_length
from milepost.training.data import Pair
from milepost.training.method import Method, Score


@dataclass(frozen=True, slots=True)
class Batch:
    """Both answers of each pair in the same rows. `preferred` and `non_preferred` are their places among the examples
    in the rows, (pairs,) each.
    """

    rows: Rows
    preferred: Tensor
    non_preferred: Tensor


def batches(pairs: Sequence[Pair], max_rows: int = MAX_ROWS) -> Iterator[Batch]:
    """Batches of at most `max_rows` tokens, or of one pair that is longer."""
    return map(_collate, in_parts([(pair, _useful_length(pair)) for pair in pairs], max_rows))


def loss(lora: Lora, linear: Linear, batch: Batch, given: RunHyperparameters) -> tuple[Tensor, Score]:
    """The batch's loss, a sum over its pairs, to differentiate; and as numbers.

    A reward is β times what an answer's log-likelihood has gained on the reference, a margin the preferred one's lead.
    `accuracy` is the share of pairs with a lead; that of tokens is of the preferred answers.
    """
    with torch.no_grad(), lora.as_reference() as reference:
        before, _ = losses(lora.model, reference, batch.rows)
    now, hits = losses(lora.model, linear, batch.rows)
    gains = given.beta * _sums(before - now, batch.rows)
    margins = gains[batch.preferred] - gains[batch.non_preferred]
    total = -functional.logsigmoid(margins).sum()
    pairs = len(margins)
    wanted = [each.sum().item() for each in hits.split(batch.rows.counts)]
    labels = [batch.rows.counts[i] for i in batch.preferred.tolist()]
    return total, Score(
        {
            "loss": (total.item(), pairs),
            "mean_token_accuracy": (sum(wanted[i] for i in batch.preferred.tolist()), sum(labels)),
            "reward_margin": (margins.sum().item(), pairs),
            "reward_accuracy": ((margins > 0).sum().item(), pairs),
        }
    )


METHOD = Method(len, batches, loss, has_reference=True)


def _sums(values: Tensor, rows: Rows) -> Tensor:
    """From one value a label to one an example."""
    return torch.stack([each.sum() for each in values.split(rows.counts)])


def _useful_length(pair: Pair) -> int:
    return useful_length(pair.preferred) + useful_length(pair.non_preferred)


def _collate(pairs: Sequence[Pair]) -> Batch:
    answers = [pair.preferred for pair in pairs] + [pair.non_preferred for pair in pairs]
    order = sorted(range(len(answers)), key=lambda i: (useful_length(answers[i]), i))
    place = {answer: i for i, answer in enumerate(order)}
    return Batch(
        rows=collate([answers[i] for i in order]),
        preferred=torch.tensor([place[i] for i in range(len(pairs))]),
        non_preferred=torch.tensor([place[i + len(pairs)] for i in range(len(pairs))]),
    )
