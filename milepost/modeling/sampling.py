"""Logits → tokens, for a whole batch at once. A row's token depends on that row alone: its logits and its own draw."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor

#: Temperatures below this are greedy: logits divided by less would overflow.
GREEDY_BELOW = 1e-5

#: Draws are whole multiples of 2⁻³², so that one times a sum in fp64 is always below the sum.
DRAW_BITS = 32


#: Logits that are looked at together for the likeliest.
BLOCK = 128


class Draws:
    """The random numbers of one choice: the same for the same seed and index, whoever else is in the batch."""

    def __init__(self, seed: int, index: int) -> None:
        self._random = random.Random(f"{seed}:{index}")  # noqa: S311 (reproducible, not secret)

    def next(self) -> float:
        """Uniform in [0, 1)."""
        return self._random.getrandbits(DRAW_BITS) / (1 << DRAW_BITS)


def sample(logits: Tensor, temperatures: Tensor, top_ps: Tensor, draws: Tensor) -> Tensor:
    """Tokens (rows,) of `logits` (rows, vocab): the likeliest at temperature 0, else drawn from the nucleus `top_p`."""
    tokens = greedy(logits)
    drawn = (temperatures >= GREEDY_BELOW).nonzero().squeeze(-1)
    if len(drawn):
        probabilities = torch.softmax(logits[drawn].float() / temperatures[drawn, None], dim=-1)
        tokens[drawn] = _pick(_nucleus(probabilities, top_ps[drawn]), draws[drawn])
    return tokens


def greedy(logits: Tensor) -> Tensor:
    """As `logits.argmax(-1)`, the first of equals too. That takes each number by itself, `amax` sixteen at a time."""
    blocks = logits.unflatten(-1, (-1, BLOCK)) if logits.shape[-1] % BLOCK == 0 else logits.unsqueeze(-1)
    block = blocks.amax(-1).argmax(-1)
    return block * blocks.shape[-1] + blocks[torch.arange(len(logits)), block].argmax(-1)


def adjust(logits: Tensor, counts: Mapping[int, int], *, frequency: float, presence: float) -> None:
    """Take OpenAI's penalties off one row of logits (vocab,), in place, for tokens drawn `counts` times so far."""
    if counts and (frequency or presence):
        tokens = torch.tensor(list(counts))
        logits[tokens] -= torch.tensor([presence + frequency * count for count in counts.values()])


def likeliest(logits: Tensor, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The logprob of `token` in one row of logits (vocab,), and the `count` likeliest (token, logprob), in nats."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    values, tokens = logprobs.topk(count) if count else (logprobs[:0], logprobs[:0].long())
    return float(logprobs[token]), list(zip(tokens.tolist(), values.tolist(), strict=True))


def _nucleus(probabilities: Tensor, top_ps: Tensor) -> Tensor:
    """Zero all but the fewest likeliest tokens whose probabilities sum to top_p; the likeliest always stays."""
    cut = (top_ps < 1).nonzero().squeeze(-1)
    if not len(cut):
        return probabilities
    ordered, tokens = probabilities[cut].sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(-1) - ordered >= top_ps[cut, None].clamp(min=1e-6)
    kept = torch.zeros_like(ordered).scatter_(-1, tokens, ordered.masked_fill(outside, 0))
    return probabilities.index_copy(0, cut, kept)


def _pick(weights: Tensor, draws: Tensor) -> Tensor:
    """The token at which the running sum of `weights` (rows, vocab) passes `draws` (rows,) of the whole."""
    sums = weights.cumsum(-1, dtype=torch.float64)
    targets = draws.double().unsqueeze(-1) * sums[:, -1:]
    # Where a diverged adapter's logits are not numbers nothing passes: any token will do, but one of the vocabulary.
    return torch.searchsorted(sums, targets, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)
