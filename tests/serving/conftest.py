"""Random adapters for the tiny base, saved as checkpoints are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from milepost.modeling import adapters
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.base import load_config
from milepost.resources.models import Base
from milepost.resources.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Source


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """OpenMP's threads wait for each other in busy loops: two are far slower than one where others compute too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MakeAdapter = Callable[..., Source]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Source:
    card = Base.model_validate_json((tiny_base / "base.json").read_bytes())
    return Source(name=card.name, path=str(tiny_base), hash=card.hash)


@pytest.fixture(scope="module")
def make_adapter(base: Source, tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """Each seed gives another adapter, strong enough to change what a greedy answer says."""

    def make(seed: int, *, rank: int = 4, size: float = 0.2) -> Source:
        folder = tmp_path_factory.mktemp(f"step-{seed}")
        config = AdapterConfig(rank=rank, alpha=2.0 * rank, base_hash=base.hash)
        generator = torch.Generator().manual_seed(seed)
        shapes = adapters.shapes(load_config(Path(base.path)), rank)
        tensors = {name: torch.randn(shape, generator=generator) * size for name, shape in shapes}
        content = adapters.adapter_bytes(tensors, config)
        (folder / ADAPTER_WEIGHTS).write_bytes(content)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(adapters.peft_config(config, base.path)))
        return Source(name=f"ft:{seed}", path=str(folder), hash=hashlib.sha256(content).hexdigest())

    return make
