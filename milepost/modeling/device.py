"""Where tensors are: on the processor, or on a GPU of NVIDIA's, chosen once as a process starts.

Whatever is made afterwards is made there (`torch.set_default_device`), but for what must be the same everywhere: the
order of the data, the adapter that training begins with, and what goes to disk.
"""

from __future__ import annotations

import torch

from milepost.errors import Invalid
from milepost.modeling import machine
from milepost.modeling.base import choose_dtype


def use(asked: str, *, why: str = "MILEPOST_DEVICE says so") -> torch.device:
    """Choose the device: `cpu`, `cuda`, `cuda:N`, or with `auto` a GPU if torch finds one.

    Raises `Invalid` if a GPU was asked for that is not there; `why` tells who asked.
    """
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise Invalid(
            f"It is to compute on {asked}, since {why}, but torch {torch.__version__} finds "
            f"{torch.cuda.device_count()} GPUs here. Install a torch with CUDA and NVIDIA's driver, or set "
            "MILEPOST_DEVICE to cpu and begin anew",
            param="MILEPOST_DEVICE",
        )
    torch.cuda.set_device(device)  # kernels that are not torch's, and what is asked of no device by name
    torch.set_default_device(device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def dtype_of(device: torch.device) -> torch.dtype:
    """The dtype that products are fastest in: on a GPU bf16 if it has it, on a processor by a measurement."""
    if device.type == "cpu":
        return choose_dtype()
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def memory_bytes(device: torch.device) -> int:
    """All the memory there is on it; of a processor's, what a process here can have."""
    if device.type == "cpu":
        return machine.memory_bytes()
    return int(torch.cuda.get_device_properties(device).total_memory)


def name(device: torch.device) -> str:
    """What a GPU calls itself; nothing of a processor, which has other places to say so."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def gpus() -> list[str]:
    """Those that torch finds, by name."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
