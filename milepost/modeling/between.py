"""What lies between a layer's products, each as one function with its gradient by hand.

Autograd's own takes twice as many operations, each a pass over memory, and keeps what goes into them and comes out: a
third of a training step was theirs (`bench/LOG.md`). Serving computes with the same ones; there nothing is kept.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: Kernels of these for GPUs (liger-kernel, the extra `gpu`).
HAS_LIGER = find_spec("liger_kernel") is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In fp32 whatever comes in, as transformers does it (arXiv:1910.07467)."""
    if x.is_cuda and HAS_LIGER:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        return LigerRMSNormFunction.apply(x, weight, eps, 0.0, "llama", False)  # type: ignore[no-any-return]
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]  # torch's
    return out


def gated(gate_up: Tensor) -> Tensor:
    """`silu(gate) · up` (…, width) of (…, 2 · width) (arXiv:2002.05202)."""
    if gate_up.is_cuda and HAS_LIGER:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        return LigerSiLUMulFunction.apply(*gate_up.chunk(2, dim=-1))  # type: ignore[no-any-return]
    out: Tensor = _Gated.apply(gate_up)  # type: ignore[no-untyped-call]  # torch's
    return out


def rotary(frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cos and sin (…, 1, head_dim / 2) of rotary position embeddings (arXiv:2104.09864)."""
    angles = (positions.float().unsqueeze(-1) * frequencies).unsqueeze(-2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head of `x` (…, heads, head_dim) by its position's angle: half-split layout."""
    out: Tensor = _Rotated.apply(x, cos, sin)  # type: ignore[no-untyped-call]  # torch's
    return out


class _RmsNorm(torch.autograd.Function):
    """The weight is frozen, and gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.float32, copy=True)
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return wide.mul_(scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.to(torch.float32, copy=True).mul_(scale)
        d_normed = (d_out * weight).float()
        along = torch.linalg.vecdot(d_normed, normed).unsqueeze(-1).div_(x.shape[-1])
        return d_normed.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        opened = functional.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(d_out, opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_out * up, gate, grad_input=d_gate)
        return d_gate_up


class _Rotated(torch.autograd.Function):
    """What is rotated comes back rotated the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(d_out, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sense: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = x.new_empty(x.shape)  # whatever strides x has
    new_first, new_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-sense)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin, value=sense)
    return out
