"""What a run's bytes depend on beside its job.json: kept in result.json, for who finds that a replay differs."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch

import milepost
from milepost.modeling.device import name
from milepost.resources.runs import JOB, Conditions

_PROCESSORS = Path("/proc/cpuinfo")


def conditions(run: Path, dtype: str, device: torch.device) -> Conditions:
    """Those of this process, which trains in `run`."""
    return Conditions(
        job_sha256=hashlib.sha256((run / JOB).read_bytes()).hexdigest(),
        dtype=dtype,
        threads=torch.get_num_threads(),
        processor=name(device) or _processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
    )


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Of what every run depends on, and of `others`."""
    libraries = {name: version(name) for name in ("torch", "safetensors", "tokenizers", *others)}
    return {"milepost": milepost.__version__, "python": platform.python_version(), **libraries}


def _processor() -> str:
    """As the processor calls itself; on a system that does not tell, its kind."""
    if _PROCESSORS.exists():
        lines = (line.partition(":") for line in _PROCESSORS.read_text(encoding="utf-8").splitlines())
        found = {name.strip(): value.strip() for name, _, value in lines}
        if "model name" in found:
            return found["model name"]
    return platform.processor() or platform.machine()
