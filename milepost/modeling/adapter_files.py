"""An adapter's file as it lies on disk: its bytes, verified, and what they say of themselves.

No torch here: the validate task looks at the adapter that training is to go on from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milepost.errors import Corrupt, Invalid
from milepost.resources.models import LLAMA_MODULES

#: The modules that are adapted if nobody says which, of a base whose card says no others.
TARGETS = LLAMA_MODULES


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter's file says of itself. `targets` are modules as PEFT names them, sorted: PEFT's own order changes
    with PYTHONHASHSEED.
    """

    rank: int
    alpha: float
    base_hash: str
    targets: tuple[str, ...] = TARGETS

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def read_bytes(path: Path, *, sha256: str, base_hash: str) -> tuple[AdapterConfig, bytes]:
    """An adapter file: `Corrupt` if its bytes are not those of `sha256`, `Invalid` if it is of another base.

    Hashed and read from the same bytes.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Corrupt(
            f"The adapter {shown(path)} is not there. Restore it from a backup; the base never answers for it"
        ) from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise Corrupt(
            f"The adapter {shown(path)} has sha256 {found}, not {sha256}: its bytes were changed after it was saved"
        )
    words = header_of(content)["__metadata__"]
    config = AdapterConfig(
        rank=int(words["rank"]),
        alpha=float(words["alpha"]),
        base_hash=words["base"],
        targets=tuple(words["targets"].split(",")),
    )
    if config.base_hash != base_hash:
        raise Invalid(
            f"The adapter {shown(path)} was trained on a base with hash {config.base_hash}, not {base_hash}",
            param="model",
        )
    return config, content


def shown(path: Path) -> str:
    """How errors name an adapter file: its folder is its hash; where the data folder lies is not a client's to know."""
    return f"{path.parent.name}/{path.name}"


def header_of(content: bytes) -> dict[str, Any]:
    """The JSON a safetensors file begins with: 8 bytes of its length, then itself."""
    size = int.from_bytes(content[:8], "little")
    found: dict[str, Any] = json.loads(content[8 : 8 + size])
    return found
