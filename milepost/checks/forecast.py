"""What training on a file will cost on this machine: steps and tokens counted, time and memory from a model of both.

Time is operations over the machine's measured speed times `EFFICIENCY`, and a moment for each pass through the layers,
each save and the start. Memory is the process, the weights and what the largest pass keeps for the way back. The
constants were measured (docs/explanation/forecast.md tells how, and how far off they are).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milepost.checks.tokens import Counted
from milepost.errors import Invalid
from milepost.modeling import machine
from milepost.resources.forecasts import Forecast, Speed
from milepost.resources.methods import MethodType

#: The share of the speed of matrix products that training reaches.
EFFICIENCY = 0.5
#: A step, and a pass through one layer and back, cost this much however few their rows: some hundred operations are
#: started, and the optimizer's.
STEP_S, LAYER_PASS_S = 0.01, 0.001
#: Loading PyTorch, reading a billion bytes of weights twice (once for their hash), publishing a checkpoint.
START_S, READ_S_PER_GB, CHECKPOINT_S = 3.0, 2.0, 0.3

#: A process with PyTorch loaded; weights are there once, and a second time while they are fused.
PROCESS_BYTES = 400e6
WEIGHT_COPIES = 2.0
#: oneDNN keeps what it made for each shape of a bf16 product, up to 1,024 of them: each pass brings some new ones.
CACHE_BYTES_PER_PASS, CACHE_BYTES = 18e6, 0.93e9
#: What the allocator holds beyond what is alive.
ALLOCATED = 1.25

#: Tokens that go through the model at once (`training.supervised`), and every how many steps the validation file is
#: looked at (`training.plan`).
MAX_ROWS, VALID_EVERY = 2048, 10


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of a base's config.json decides the cost."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    ups: int = 2  # products that widen to `intermediate`: gate and up, or one

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's products."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.hidden * (2 * q + 2 * kv) + (self.ups + 1) * self.hidden * self.intermediate

    @property
    def weights(self) -> int:
        return self.layers * self.layer_weights + self.vocab * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True, slots=True)
class Course:
    """How a file is trained: a job's resolved numbers."""

    method: MethodType
    n_epochs: int
    batch_size: int
    threads: int
    lora_rank: int = 16
    checkpoint_every: int | None = None

    def checkpoints(self, steps: int) -> float:
        """How many are published: at each epoch's end, and every so many steps."""
        return self.n_epochs + (0.0 if self.checkpoint_every is None else steps / self.checkpoint_every)


def read_sizes(base: Path) -> Sizes:
    """From a base's folder."""
    raw: dict[str, Any] = json.loads((base / "config.json").read_bytes())
    hidden, heads = _said(raw, "hidden_size", "n_embd", "d_model"), _said(raw, "num_attention_heads", "n_head")
    return Sizes(
        hidden=hidden,
        layers=_said(raw, "num_hidden_layers", "n_layer"),
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or hidden // heads,
        intermediate=raw.get("intermediate_size") or raw.get("ffn_dim") or 4 * hidden,
        vocab=_said(raw, "vocab_size"),
        tied=raw.get("tie_word_embeddings", False),
        ups=2 if _is_gated(base) else 1,
    )


def _said(raw: Mapping[str, Any], *names: str) -> int:
    """A size under the first of the names that architectures have for it."""
    if found := next((raw[name] for name in names if raw.get(name)), None):
        return int(found)
    raise Invalid(f"The base model's config.json does not say {names[0]}. Add it", param="model")


def _is_gated(base: Path) -> bool:
    """Whether its layers have a gate, by the names of its weights: in a file's beginning, after eight bytes of size."""
    file = min(base.glob("model*.safetensors"), default=None)
    if file is None:
        return True
    with file.open("rb") as opened:
        header = opened.read(int.from_bytes(opened.read(8), "little"))
    return any(mark in header for mark in (b"gate", b".w3."))


def forecast(
    sizes: Sizes,
    course: Course,
    training: Sequence[Counted],
    validation: Sequence[Counted] = (),
    *,
    examples: int | None = None,
    validation_examples: int | None = None,
    speed: Speed | None = None,
) -> Forecast:
    """The forecast of a job. `training` may be a sample of `examples`; without `speed` times are left open."""
    scale = 1.0 if examples is None else examples / max(len(training), 1)
    valid_scale = 1.0 if validation_examples is None else validation_examples / max(len(validation), 1)
    steps = math.ceil(round(len(training) * scale) / course.batch_size) * course.n_epochs
    tokens = round(sum(map(_rows, training)) * scale) * course.n_epochs
    known = Forecast(epochs=course.n_epochs, steps=steps, tokens=tokens, is_estimate=scale != 1.0)
    if course.method is MethodType.REINFORCEMENT:
        note = "How long answers get is not known before they are sampled: neither is time"
        return known.model_copy(update={"note": note})
    weight_bytes = 2 if speed is None or speed.dtype == "bfloat16" else 4
    passes = _passes(training, course, steps, scale)
    memory = _memory_bytes(sizes, course, training, weight_bytes, passes)
    if speed is None or speed.machine != machine.name():
        note = "This machine was not measured yet: the first job does it, or `milepost check`"
        return known.model_copy(update={"memory_bytes": memory, "threads": course.threads, "note": note})
    rate = speed.of(course.threads) * 1e9 * EFFICIENCY
    work = sum(_operations(sizes, one, course.method) for one in training) * scale
    looked_at = _validation_passes(course, steps, len(validation) * valid_scale)
    valid_work = sum(_forward(sizes, one) for one in validation) * valid_scale * looked_at
    seconds = (
        (work * course.n_epochs + valid_work) / rate
        + steps * STEP_S
        + passes * sizes.layers * LAYER_PASS_S * _passes_of(course.method)
        + START_S
        + READ_S_PER_GB * sizes.weights * 2 / 1e9
        + CHECKPOINT_S * course.checkpoints(steps)
    )
    return known.model_copy(
        update={
            "seconds": round(seconds, 1),
            "tokens_per_second": round(tokens / seconds, 1),
            "memory_bytes": memory,
            "threads": course.threads,
            "dtype": speed.dtype,
            "machine_gflops": speed.of(course.threads),
            "gflop_per_token": round(work * course.n_epochs / max(tokens, 1) / 1e9, 5),
            "efficiency": EFFICIENCY,
        }
    )


def _rows(counted: Counted) -> int:
    return sum(counted.rows)


# ------------------------------------------------------------------------------------------------ time


def _forward(sizes: Sizes, counted: Counted) -> float:
    """Operations of an example's way forward: two of each weight, attention's two products, logits where learnt."""
    total = 0.0
    for rows, learnt in zip(counted.rows, counted.learnt, strict=True):
        attention = 4 * rows * sizes.heads * sizes.head_dim * sizes.layers
        total += rows * (2 * sizes.layers * sizes.layer_weights + attention)
        total += 2 * learnt * sizes.vocab * sizes.hidden
    return total


def _operations(sizes: Sizes, counted: Counted, method: MethodType) -> float:
    """Forward and back: through frozen weights the way back costs what the way forward does. The adapter adds a tenth
    at most and is left to `EFFICIENCY`. A preference goes forward once more, without the adapter.
    """
    return _forward(sizes, counted) * (3.0 if method is MethodType.DPO else 2.0)


def _passes_of(method: MethodType) -> float:
    return 1.5 if method is MethodType.DPO else 1.0


def _passes(training: Sequence[Counted], course: Course, steps: int, scale: float) -> float:
    """Passes through the model: each step is cut into parts of at most `MAX_ROWS` tokens."""
    rows_per_step = sum(map(_rows, training)) * scale * course.n_epochs / max(steps, 1)
    return steps * max(1.0, math.ceil(rows_per_step / MAX_ROWS))


def _validation_passes(course: Course, steps: int, examples: float) -> float:
    """How often the whole validation file is gone through: for each checkpoint, and in batches now and then."""
    if not examples:
        return 0.0
    return course.checkpoints(steps) + steps / VALID_EVERY * min(course.batch_size, examples) / examples


# ------------------------------------------------------------------------------------------------ memory


def _memory_bytes(sizes: Sizes, course: Course, training: Sequence[Counted], weight_bytes: int, passes: float) -> int:
    weights = sizes.weights * weight_bytes * WEIGHT_COPIES
    adapter = _adapter_weights(sizes, course.lora_rank) * (
        16 + 2 * weight_bytes
    )  # master, gradient, two moments; a copy
    kept = ALLOCATED * _largest_pass(sizes, course, training, weight_bytes)
    cache = min(CACHE_BYTES, CACHE_BYTES_PER_PASS * passes) if weight_bytes == 2 else 0.0
    return round(PROCESS_BYTES + cache + weights + adapter + kept)


def _adapter_weights(sizes: Sizes, rank: int) -> int:
    q, kv = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    inputs_and_outputs = (
        (3 * sizes.hidden + q + 2 * kv) + (q + sizes.hidden) + (sizes.ups + 1) * (sizes.hidden + sizes.intermediate)
    )
    return rank * sizes.layers * inputs_and_outputs


def _largest_pass(sizes: Sizes, course: Course, training: Iterable[Counted], weight_bytes: int) -> float:
    """What the largest pass keeps: per token and layer the inputs of products, norms and activations, and attention's
    shares, which grow with the length.
    """
    lengths = sorted((rows for counted in training for rows in counted.rows), reverse=True)
    if not lengths:
        return 0.0
    many = course.batch_size * (2 if course.method is MethodType.DPO else 1)
    rows = min(sum(lengths[:many]), max(MAX_ROWS, lengths[0]))
    q, kv = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    per_row = 8 * sizes.hidden + weight_bytes * (2 * sizes.hidden + 2 * q + 2 * kv + 2 * sizes.ups * sizes.intermediate)
    shares = weight_bytes * sizes.heads * lengths[0]
    passing = 4 * 3 * sizes.heads * lengths[0] * rows  # attention's scores of one layer, in fp32, on the way back
    return rows * sizes.layers * (per_row + shares) + passing
