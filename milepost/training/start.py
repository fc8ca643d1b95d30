"""What training starts from: the adapter's shape, asked for or that of the adapter it goes on from. No torch here."""

from __future__ import annotations

from pathlib import Path

from milepost.errors import Invalid
from milepost.modeling.adapter_files import TARGETS, AdapterConfig, read_bytes
from milepost.resources.runs import ADAPTER_WEIGHTS, RunSpec

#: Of an adapter whose shape nobody asked for; alpha is then twice its rank.
RANK = 16


def adapter_config(spec: RunSpec) -> AdapterConfig:
    """Rank, alpha and targets of the run's adapter.

    Raises `Corrupt` if the adapter that it goes on from is not whole, `Invalid` if it was asked to change shape.
    """
    asked = spec.hyperparameters
    if spec.adapter is None:
        rank = asked.lora_rank or RANK
        targets = tuple(sorted(asked.lora_targets or TARGETS))
        return AdapterConfig(rank, asked.lora_alpha or 2.0 * rank, spec.base.hash, targets)
    path = Path(spec.adapter.path) / ADAPTER_WEIGHTS
    found, _ = read_bytes(path, sha256=spec.adapter.hash, base_hash=spec.base.hash)
    for name, wanted, there in (
        ("lora_rank", asked.lora_rank, found.rank),
        ("lora_alpha", asked.lora_alpha, found.alpha),
        ("lora_targets", asked.lora_targets and tuple(sorted(asked.lora_targets)), found.targets),
    ):
        if wanted is not None and wanted != there:
            raise Invalid(
                f"Training goes on from `{spec.adapter.name}`, whose {name} is {_shown(there)}: it cannot become "
                f"{_shown(wanted)}. Leave {name} out, or start from the base model",
                param=name,
                code="invalid_hyperparameters",
            )
    return found


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else f"{value:g}"
