"""LoRA adapters: in PEFT's format on disk, fused as the model's products are in memory, added with one rounding.

`y = xW` rounded to bf16 and then `y += h·B` loses about 0.1 nats from the second step on, although every gradient looks
right: a small difference is rounded away. So each product is one GEMM, `[x | h] · [W | B]ᵀ` with `h = x·Aᵀ`, summed in
fp32 and rounded once. The scale `alpha / rank` is folded into B.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from milepost.errors import Invalid
from milepost.modeling.adapter_files import AdapterConfig, header_of, read_bytes
from milepost.modeling.model import Config, Linear, Model, Product

#: Where PEFT's keys begin.
PREFIX = "base_model.model"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter ready to compute with. For each layer and product with inputs `in`, outputs `out`, `n` parts:

    `a[layer][name]` is (n·rank, in), the parts' A stacked; `b[layer][name]` is (out, n·rank), the parts' B on a block
    diagonal, `scale` folded in. So `y = [x | x·aᵀ] · [W | b]ᵀ`.
    """

    config: AdapterConfig
    a: tuple[dict[str, Tensor], ...]
    b: tuple[dict[str, Tensor], ...]

    @property
    def rank(self) -> int:
        return self.config.rank

    @property
    def scale(self) -> float:
        return self.config.scale

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for side in (self.a, self.b) for layer in side for tensor in layer.values())


def load_adapter(path: Path, *, sha256: str, base_hash: str, model: Config, dtype: torch.dtype) -> Adapter:
    """Read the adapter file `path`: `Corrupt` if its bytes are not those of `sha256`, `Invalid` if of another base.

    Modules it does not adapt have A and B of zeros, so that all adapters have the same products. On the processor,
    wherever its base is.
    """
    config, found = read_adapter(path, sha256=sha256, base_hash=base_hash)
    tensors = {
        name: found[name] if name in found else torch.zeros(shape, device="cpu")
        for name, shape in shapes(model, config.rank)
    }
    layers = [model.products(layer) for layer in range(model.layers)]
    return Adapter(
        config=config,
        a=tuple({name: fused_a(tensors, each).to(dtype) for name, each in layer.items()} for layer in layers),
        b=tuple(
            {name: fused_b(tensors, each, config.scale).to(dtype) for name, each in layer.items()} for layer in layers
        ),
    )


def read_adapter(path: Path, *, sha256: str, base_hash: str) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """An adapter file's words about itself and its tensors under PEFT's names."""
    config, content = read_bytes(path, sha256=sha256, base_hash=base_hash)
    tensors: dict[str, Tensor] = safetensors.torch.load(content)
    return config, tensors


def adapter_bytes(tensors: Mapping[str, Tensor], config: AdapterConfig) -> bytes:
    """The file `adapter_model.safetensors`, with the same bytes for the same tensors.

    safetensors writes metadata in an order that changes from run to run, so ours is put in afterwards.
    """
    content: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    words = {
        "format": "pt",
        "rank": str(config.rank),
        "alpha": str(config.alpha),
        "targets": ",".join(config.targets),
        "base": config.base_hash,
    }
    size = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": words, **header_of(content)}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def peft_config(config: AdapterConfig, base_name: str) -> dict[str, Any]:
    """The content of `adapter_config.json`, from which PEFT rebuilds the adapter."""
    return {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": list(config.targets),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }


def shapes(config: Config, rank: int, targets: Container[str] | None = None) -> Iterator[tuple[str, tuple[int, int]]]:
    """PEFT's names of all tensors of an adapter and their shapes; the A of a fused product stand in a row."""
    for layer in range(config.layers):
        for product in config.products(layer).values():
            parts = adapted(product, targets)
            yield from ((key(part, "A"), (rank, product.inputs)) for part in parts)
            yield from ((key(part, "B"), (rows.stop - rows.start, rank)) for part, rows in parts.items())


def adapted(product: Product, targets: Container[str] | None) -> dict[str, slice]:
    """The modules of a product that `targets` names (None: all), and which of its output features each makes."""
    ends = accumulate(product.parts.values())
    rows = {part: slice(end - out, end) for (part, out), end in zip(product.parts.items(), ends, strict=True)}
    return {part: each for part, each in rows.items() if targets is None or short_name(part) in targets}


def all_targets(config: Config) -> tuple[str, ...]:
    """The short names of all modules that can be adapted, sorted: PEFT's own order changes with PYTHONHASHSEED."""
    layers = (config.products(layer) for layer in range(config.layers))
    return tuple(sorted({short_name(part) for layer in layers for each in layer.values() for part in each.parts}))


def refuse_unknown_targets(config: Config, targets: Iterable[str]) -> None:
    """A target that names no module would be an adapter that is smaller than was asked for, or none."""
    known = all_targets(config)
    if unknown := [target for target in targets if target not in known]:
        raise Invalid(
            f"lora_targets names {', '.join(unknown)}, which this base does not have. Its linear modules: "
            f"{', '.join(known)}",
            param="lora_targets",
            code="invalid_hyperparameters",
        )


def short_name(module: str) -> str:
    """What `target_modules` calls a module: the last of its names."""
    return module.rpartition(".")[2]


def key(module: str, side: str) -> str:
    return f"{PREFIX}.{module}.lora_{side}.weight"


def fused_a(tensors: Mapping[str, Tensor], product: Product) -> Tensor:
    return torch.cat([tensors[key(part, "A")] for part in product.parts])


def fused_b(tensors: Mapping[str, Tensor], product: Product, scale: float) -> Tensor:
    blocks: Tensor = torch.block_diag(*(tensors[key(part, "B")] * scale for part in product.parts))
    return blocks


def adapted_linear(model: Model, adapter: Adapter) -> Linear:
    """The base with one adapter, its products concatenated once: as training computes them, without gradients."""
    joined = [
        {name: torch.cat((weight, adapter.b[layer][name]), dim=1) for name, weight in products.items()}
        for layer, products in enumerate(model.linears)
    ]

    def linear(layer: int, name: str, x: Tensor) -> Tensor:
        h = functional.linear(x, adapter.a[layer][name])
        return functional.linear(torch.cat((x, h), dim=-1), joined[layer][name])

    return linear
