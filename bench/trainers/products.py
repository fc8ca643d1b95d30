"""What the machine's matrix products allow: those of a step, and nothing else, at the model's shapes.

A step is answered by the operations per second of the fastest shape ("peak") and of all, each as often as it is
needed ("rate").
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from turns import Turns, given

from milepost.modeling.base import load_config
from milepost.modeling.llama import FUSED


def main() -> None:
    told, turns = given(), Turns()
    torch.set_num_threads(told["threads"])
    dtype = torch.bfloat16
    config = load_config(Path(told["base"]))
    shapes = [(inputs, sum(outputs)) for inputs, outputs in map(config.features, FUSED)]
    rows, learnt = told["rows_per_step"], told["learnt_per_step"]
    cases = [(rows, *shape, config.layers) for shape in shapes] + [(min(128, learnt), config.hidden, config.vocab, 0)]
    made = [
        (
            torch.randn(count, inputs).to(dtype),
            torch.randn(outputs, inputs).to(dtype),
            torch.randn(count, outputs).to(dtype),
        )
        for count, inputs, outputs, _ in cases
    ]
    while True:
        turns.before_step()
        peak, seconds, operations = 0.0, 0.0, 0.0
        for (count, inputs, outputs, layers), (x, weight, d_out) in zip(cases, made, strict=True):
            times = layers or learnt / count
            work = 2.0 * count * inputs * outputs
            for product in (lambda x=x, w=weight: x @ w.T, lambda d=d_out, w=weight: d @ w):
                spent = min(_timed(product) for _ in range(5))
                peak = max(peak, work / spent)
                seconds, operations = seconds + times * spent, operations + times * work
        turns.answer(peak=peak, rate=operations / seconds, operations=operations)


def _timed(product: object) -> float:
    assert callable(product)
    began = time.perf_counter()
    product()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
