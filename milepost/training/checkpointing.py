"""Checkpoints, for the world, and states, to go on from: each appears whole or not at all.

A state is all that the next step depends on. The order of the data and the learning rate follow from the job's seed and
the number of the step, so a step, the masters and the optimizer's two moments are enough.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from milepost.modeling import folders
from milepost.modeling.adapters import adapter_bytes, peft_config
from milepost.modeling.lora import Lora
from milepost.resources.base import Frozen
from milepost.resources.checkpoints import Metrics
from milepost.resources.runs import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CHECKPOINTS,
    MANIFEST,
    METRICS,
    STATE,
    CheckpointMetrics,
    Manifest,
)
from milepost.training.optimizer import MOMENTS, AdamW

TENSORS = "state.safetensors"
FACTS = "state.json"
KEPT_STATES = 2


class Facts(Frozen):
    """state.json. `seq` is the last child_seq told before this state; `trained_tokens` counts up to here. `device` is
    where training began and goes on: elsewhere it would come to other bits.

    `metrics` are of this step, for a checkpoint of it: a run may be paused right after it was started again.
    `best_loss` is the lowest full validation loss, of `best_step`; `waited` counts the checkpoints since.
    `recent_losses` are those of the last steps that were taken; `skipped` counts those that were not, and
    `skipped_in_a_row` the last of them that nothing stands between.
    """

    step: int
    seq: int
    dtype: str
    device: str = "cpu"
    trained_tokens: int = 0
    metrics: Metrics = Metrics()
    best_loss: float | None = None
    best_step: int = 0
    waited: int = 0
    recent_losses: tuple[float, ...] = ()
    skipped: int = 0
    skipped_in_a_row: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """`tensors` are the masters and the moments, flat; none before the first step, when only the facts are known."""

    facts: Facts
    tensors: Mapping[str, Tensor]


def save_state(run: Path, state: State) -> None:
    """Publish a state, and forget all but the newest two."""
    with folders.published(run / STATE / f"step-{state.facts.step}") as draft:
        (draft / TENSORS).write_bytes(safetensors.torch.save(dict(state.tensors)))
        (draft / FACTS).write_text(state.facts.model_dump_json(), encoding="utf-8")
        _seal(draft)
    for old in _by_step(run / STATE)[KEPT_STATES:]:
        shutil.rmtree(old)


def newest_state(
    run: Path, told_seq: int | None = None, on_damaged: Callable[[Path], None] = lambda _: None
) -> State | None:
    """The newest state that is whole; None if there is none. Newer ones that are not are put aside.

    Those that count on events after `told_seq` are passed over: they would never be told.
    """
    for folder in _by_step(run / STATE):
        if _is_whole(folder):
            facts = Facts.model_validate_json((folder / FACTS).read_bytes())
            if told_seq is not None and facts.seq > told_seq:
                continue
            return State(facts, safetensors.torch.load((folder / TENSORS).read_bytes()))
        on_damaged(_put_aside(folder))
    return None


def publish_checkpoint(run: Path, lora: Lora, base_name: str, metrics: CheckpointMetrics) -> None:
    """Publish the adapter as it is now with its metrics; one that is there already and whole stays untouched."""
    target = run / CHECKPOINTS / f"step-{metrics.step}"
    if _is_whole(target):
        return
    with folders.published(target) as draft:
        (draft / ADAPTER_WEIGHTS).write_bytes(adapter_bytes(lora.tensors, lora.config))
        config = json.dumps(peft_config(lora.config, base_name), sort_keys=True, indent=1)
        (draft / ADAPTER_CONFIG).write_text(config, encoding="utf-8")
        (draft / METRICS).write_text(metrics.model_dump_json(indent=1), encoding="utf-8")
        _seal(draft)


def optimizer_state(optimizer: AdamW, lora: Lora) -> dict[str, Tensor]:
    """What a state keeps of the masters and AdamW's moments. They are views: save before the next step."""
    return {"masters": lora.flat, **optimizer.moments}


def restore(state: State, optimizer: AdamW, lora: Lora) -> None:
    """Put masters and moments back as `optimizer_state` found them."""
    with torch.no_grad():
        lora.flat.copy_(state.tensors["masters"])
    lora.refresh()
    optimizer.moments = {name: state.tensors[name].to(lora.flat.device) for name in MOMENTS}
    optimizer.taken = torch.tensor(float(state.facts.step - state.facts.skipped))  # those that it took


def _seal(draft: Path) -> None:
    """Write the manifest, last: without it nothing is there."""
    hashes = {file.name: folders.file_hash(file) for file in sorted(draft.iterdir())}
    (draft / MANIFEST).write_text(Manifest(sha256=hashes).model_dump_json(indent=1), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    """Whether every file has the hash that the manifest promises."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        promised = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).sha256
    except ValidationError:
        return False
    return all(
        (folder / name).exists() and folders.file_hash(folder / name) == sha256 for name, sha256 in promised.items()
    )


def _put_aside(folder: Path) -> Path:
    """Out of the way of the state of this step that will be saved anew, for whoever wants to know what happened."""
    number = len(list(folder.parent.glob(f".{folder.name}.damaged*"))) + 1
    return folder.rename(folder.with_name(f".{folder.name}.damaged-{number}"))


def _by_step(parent: Path) -> list[Path]:
    """The folders `step-N`, highest step first."""
    return sorted(parent.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)
