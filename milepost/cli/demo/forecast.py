"""How long the demo will take on this machine, said before it starts."""

from __future__ import annotations

import os

from milepost.cli.demo.course import Course

#: The share of a matrix product's speed that training reaches while checkpoints are being asked beside it.
SHARE = 0.33
#: A pair of ours with its system prompt and the chat template's own tokens.
TOKENS_PER_PAIR = 66
#: Fetching and converting the default base over a fast line.
FETCH_S = 45.0


def seconds(course: Course, *, fetched: bool) -> float:
    """A forecast of the whole demo, from one short measurement of this machine."""
    from milepost.modeling.speed import gflops  # torch: seconds

    tokens = len(course.training) * course.n_epochs * TOKENS_PER_PAIR
    # On a busy machine more threads can be slower than one: they wait for each other.
    speed = max(gflops(threads) for threads in {1, os.cpu_count() or 1})
    training = tokens * course.gflop_per_token / (SHARE * speed)
    return training + course.rest_s + (0.0 if fetched else FETCH_S)
