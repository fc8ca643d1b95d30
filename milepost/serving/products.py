"""Products with fixed weights, kept in the layout that oneDNN computes in where torch has it.

From torch's own layout each call would first copy the weights into oneDNN's: half of a decode step's time (measured:
`bench/serve.py`). The operators are those torch's compiler emits for frozen weights.
"""

# ruff: noqa: SLF001 (torch has no public names for these operators)

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

#: The number of rows the layout is chosen for; others work as well.
TYPICAL_ROWS = 32


class Product(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """`x` (rows, in) → (rows, out)."""
        ...

    def plus(self, x: Tensor, small: Tensor) -> Tensor:
        """The product and `small` (rows, out), added before the one rounding."""
        ...


def product(weight: Tensor) -> Product:
    """The product with `weight` (out, in), which may be let go afterwards."""
    is_packed = weight.device.type == "cpu" and _can_pack(weight.dtype)
    return Packed(_pack(weight)) if is_packed else Plain(weight)


@dataclass(frozen=True, slots=True)
class Packed:
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return out

    def plus(self, x: Tensor, small: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, small, self.weight, None, "add")
        return out


@dataclass(frozen=True, slots=True)
class Plain:
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)

    def plus(self, x: Tensor, small: Tensor) -> Tensor:
        return torch.addmm(small, x, self.weight.t())


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TYPICAL_ROWS)
    return packed
