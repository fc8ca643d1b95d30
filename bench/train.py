"""How fast supervised training is, and how far from what the machine's matrix products allow.

    python bench/train.py [--threads 2] [--steps 30] [--json FILE]

500 chats of 60-200 tokens would be TRL's test; these are 75-100, the demo's. Tokens count unpadded. The machine's bound
is measured between the steps, so that whoever shares the machine slows both: GEMM rate at the model's largest shape,
divided by the operations of a token. Start it with the child's environment, or a competitor collapses the barriers:
this script starts itself again with `CHILD_ENVIRONMENT`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import time
from array import array
from pathlib import Path

from milepost import config
from milepost.resources.runs import CHILD_ENVIRONMENT
from milepost.store import bases

BASE = "smollm2-135m-instruct"
BATCH, RANK, WARMUP = 8, 16, 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in CHILD_ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | CHILD_ENVIRONMENT)
    found = measure(arguments.threads, arguments.steps, arguments.dtype)
    for name, value in found.items():
        print(f"{name:<28}{value:,.2f}" if isinstance(value, float) else f"{name:<28}{value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def measure(threads: int, steps: int, dtype_name: str) -> dict[str, float | int | str]:
    import torch

    from milepost.modeling.adapters import AdapterConfig
    from milepost.modeling.base import load_base
    from milepost.modeling.lora import Lora, fresh_tensors
    from milepost.resources.runs import RunHyperparameters
    from milepost.training.supervised import METHOD

    torch.set_num_threads(threads)
    dtype = getattr(torch, dtype_name)
    _, folder = bases.get(config.load(os.environ), BASE)
    model = load_base(folder, dtype)
    lora = Lora(model, AdapterConfig(RANK, 2.0 * RANK, ""), fresh_tensors(model.config, RANK, seed=0))
    optimizer = torch.optim.AdamW([lora.flat], lr=2e-4, weight_decay=0.0, fused=True)
    given = RunHyperparameters(n_epochs=1, batch_size=BATCH, learning_rate=2e-4)
    rows = random.Random(0)
    x, weight = torch.randn(700, model.config.hidden).to(dtype), model.linears[0]["gate_up"]

    def product_rate() -> float:
        """Operations per second of the largest product, the best of three: it is the bound, not the average."""

        def once() -> float:
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            return time.perf_counter() - started

        return 2 * x.numel() * len(weight) / min(once() for _ in range(3))

    def step() -> tuple[int, int]:
        chosen = [example(rows, number) for number in range(BATCH)]
        labels = METHOD.count(chosen)
        for batch in METHOD.batches(chosen):
            loss, _ = METHOD.loss(lora, lora.linear, batch, given)
            (loss / labels).backward()
        torch.nn.utils.clip_grad_norm_([lora.flat], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        lora.refresh()
        return sum(len(one.tokens) for one in chosen), labels

    rates, products, tokens, learnt, wall, processor = [], [], 0, 0, 0.0, 0.0
    for i in range(WARMUP + steps):
        product = product_rate()
        started, cpu = time.perf_counter(), time.process_time()
        count, labels = step()
        spent = time.perf_counter() - started
        if i >= WARMUP:
            products.append(product)
            rates.append(count / spent)
            tokens, learnt, wall = tokens + count, learnt + labels, wall + spent
            processor += time.process_time() - cpu
    per_token = operations(model.config, learnt / tokens)
    bound = statistics.median(products) / per_token
    return {
        "threads": threads,
        "dtype": dtype_name,
        "steps": steps,
        "load (1 min)": os.getloadavg()[0],
        "tokens/s mean": tokens / wall,
        "tokens/s median": statistics.median(rates),
        "learnt tokens/s": learnt / wall,
        "tokens per CPU second": tokens / processor,
        "product GFLOP/s": statistics.median(products) / 1e9,
        "GFLOP per token": per_token / 1e9,
        "bound, tokens/s": bound,
        "share of the bound": statistics.median(rates) / bound,
        "peak RSS, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def example(drawn: random.Random, number: int) -> object:
    """A chat of 75 to 100 tokens, of which about half are learnt."""
    from milepost.training.data import Example

    length = drawn.randint(75, 100)
    tokens = array("i", (drawn.randint(5, 40_000) for _ in range(length)))
    return Example(number, tokens, bytes(i >= length // 2 for i in range(length)), is_cut=False)


def operations(model: object, learnt_share: float) -> float:
    """Of one token, forward and back: two products of each weight (LoRA needs no gradient of the base's), and of its
    logits where it is learnt; attention and the adapter are left out."""
    from milepost.modeling.llama import FUSED, LlamaConfig

    assert isinstance(model, LlamaConfig)
    weights = sum(inputs * sum(outputs) for inputs, outputs in (model.features(name) for name in FUSED)) * model.layers
    return 4.0 * (weights + model.vocab * model.hidden * learnt_share)


if __name__ == "__main__":
    main()
