"""liger-kernel's functions that training and serving use on a GPU, beside ours: values and gradients, without a GPU.

    python -m venv /tmp/liger && /tmp/liger/bin/pip install --no-deps liger-kernel==0.8.5 triton==3.9.0
    echo $PWD/.venv/lib/python3.11/site-packages > /tmp/liger/lib/python3.11/site-packages/ours.pth
    PYTHONPATH=$PWD /tmp/liger/bin/python bench/peers/liger.py

Triton's interpreter computes the kernels with NumPy. It does not wrap numbers, and has no `rsqrt` of CUDA's library:
both are given to it here, so this is of these versions only. Prints the largest differences, in fp32.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import liger_kernel.ops.rms_norm as norms
import numpy as np
import torch
import triton.language as tl
from liger_kernel.ops.swiglu import LigerSiLUMulFunction
from triton.runtime import interpreter

from milepost.modeling import between

_converted = interpreter._implicit_cvt  # noqa: SLF001


def _scalar(value):  # noqa: ANN001, ANN202
    if not isinstance(value, float):
        return _converted(value)
    return tl.tensor(interpreter.TensorHandle(np.array([value], np.float32), tl.float32), tl.float32)


def _rsqrt(x):  # noqa: ANN001, ANN202
    return tl.tensor(interpreter.TensorHandle(1 / np.sqrt(x.handle.data), x.dtype), x.type)


def compare(name, ours, theirs, x):  # noqa: ANN001, ANN201
    found = []
    for function in (ours, theirs):
        given = x.clone().requires_grad_()
        out = function(given)
        torch.manual_seed(1)
        (gradient,) = torch.autograd.grad(out, given, torch.randn_like(out))
        found.append((out, gradient))
    values, gradients = ((found[0][each] - found[1][each]).abs().max().item() for each in (0, 1))
    print(f"{name}: values {values:.1e}, gradients {gradients:.1e} apart")
    assert max(values, gradients) < 1e-5


def main() -> None:
    interpreter._implicit_cvt, norms.rsqrt = _scalar, _rsqrt  # noqa: SLF001
    assert between.HAS_LIGER
    torch.manual_seed(0)
    weight = torch.randn(576)
    compare(
        "RMSNorm",
        lambda x: between.rms_norm(x, weight, 1e-5),
        lambda x: norms.LigerRMSNormFunction.apply(x, weight, 1e-5, 0.0, "llama", False),
        torch.randn(3, 7, 576),
    )
    compare(
        "gate",
        between.gated,
        lambda x: LigerSiLUMulFunction.apply(*x.chunk(2, dim=-1)),
        torch.randn(3, 7, 2 * 1536),
    )


if __name__ == "__main__":
    main()
