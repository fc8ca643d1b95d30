"""Training once more what was trained: a finished run's job.json, in a folder of its own, to the same bytes or to the
first that differ.

What was measured and what was published are compared: events but for their times, and every tensor of every checkpoint.
The dtype is the one that the run chose then: to measure anew would compare two other things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from milepost.errors import Corrupt, Invalid, NotFound
from milepost.modeling.folders import file_hash
from milepost.resources.runs import (
    ADAPTER_WEIGHTS,
    CHECKPOINTS,
    EVENTS,
    JOB,
    MANIFEST,
    RESULT,
    Conditions,
    Manifest,
    Outcome,
    Result,
    RunEvent,
    RunSpec,
)

#: What a replay can end as: a run that was paused, stopped or cancelled has no end to compare.
_ENDS = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})


@dataclass(frozen=True, slots=True)
class Verdict:
    """`differences` begin with the first step, then comes the first tensor; none of them if all is the same.

    `reasons` are what is known to have been otherwise, `notes` what could not be compared.
    """

    differences: tuple[str, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    events: int
    checkpoints: int
    tensors: int

    @property
    def is_same(self) -> bool:
        return not self.differences


def replay(run: Path, scratch: Path, train: Callable[[Path], object]) -> Verdict:
    """Have `train` run the job of `run` again in the empty folder `scratch`, and compare.

    Raises `Invalid` if the run has not ended, `NotFound` if what it read is gone.
    """
    then = _finished(run)
    spec = RunSpec.model_validate_json((run / JOB).read_bytes())
    for source in _sources(spec):
        if not source.exists():
            raise NotFound(f"Job `{spec.job_id}` cannot be replayed: {source}, which it read, is not there any more")
    # only its own folder is written: no curve of the job's, and nothing to a service
    again = spec.model_copy(update={"dtype": _dtype(run, then, spec), "tensorboard": None, "integrations": ()})
    (scratch / JOB).write_text(again.model_dump_json(indent=1), encoding="utf-8")
    train(scratch)
    now = _result(scratch)
    if now is None:
        raise Corrupt(f"The replay of job `{spec.job_id}` ended without a result")
    return _compare(run, scratch, then, now)


def _compare(run: Path, scratch: Path, then: Result, now: Result) -> Verdict:
    events, events_now = _events(run), _events(scratch)
    steps, steps_now = _steps(run), _steps(scratch)
    both = sorted(set(steps) & set(steps_now))
    tensors = 0
    differences = [*_first(_event_differences(events, events_now)), *_end_differences(then, now)]
    for step in both:
        before, after = (safetensors.torch.load_file(each[step] / ADAPTER_WEIGHTS) for each in (steps, steps_now))
        tensors += len(before)
        if found := _first(_tensor_differences(step, before, after)):
            differences += found
            break
    return Verdict(
        differences=tuple(differences),
        reasons=tuple(_reasons(run, then, now, [*steps.values()])) if differences else (),
        notes=tuple(_notes(steps, steps_now)),
        events=len(events),
        checkpoints=len(both),
        tensors=tensors,
    )


def _event_differences(then: Sequence[RunEvent], now: Sequence[RunEvent]) -> Iterator[str]:
    for old, new in zip_longest(then, now):
        if old is None or new is None:
            more, when = (new, "now") if old is None else (old, "then")
            yield f"only {when} it told: {more.message}"
        elif (old.type, old.level, old.message, old.data) != (new.type, new.level, new.message, new.data):
            yield _event_difference(old, new)


def _event_difference(old: RunEvent, new: RunEvent) -> str:
    """The first number that differs, of the same step; else both sentences."""
    if old.type == new.type == "metrics" and old.data.get("step") == new.data.get("step"):
        for name, value in old.data.items():
            if value != new.data.get(name):
                return f"step {old.data['step']}: {name} was {value}, is now {new.data.get(name)}"
    return f"then it told: {old.message} Now: {new.message}"


def _end_differences(then: Result, now: Result) -> Iterator[str]:
    if (then.outcome, then.error) != (now.outcome, now.error):
        yield f"then it ended {_end(then)}, now {_end(now)}"


def _end(result: Result) -> str:
    return f"{result.outcome} ({result.error.message})" if result.error else str(result.outcome)


def _tensor_differences(step: int, then: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> Iterator[str]:
    where = f"checkpoint of step {step}"
    for name in sorted({*then, *now}):
        if name not in then or name not in now or then[name].shape != now[name].shape:
            yield f"{where}: tensor {name} is not of the same shape"
        elif not torch.equal(then[name], now[name]):
            apart = (then[name].double() - now[name].double()).abs().max().item()
            yield f"{where}: tensor {name} differs, by {apart:.3g} at most"


def _reasons(run: Path, then: Result, now: Result, checkpoints: Sequence[Path]) -> Iterator[str]:
    """What is known to have changed since, the likeliest first."""
    if then.conditions is not None and then.conditions.job_sha256 != _sha256(run / JOB):
        yield "job.json is not the one that the job ran with: it was changed since"
    for folder in checkpoints:
        promised = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).sha256
        for name, sha256 in promised.items():
            if file_hash(folder / name) != sha256:
                yield f"{folder.name}/{name} was changed after it was saved: its sha256 is not that of its manifest"
    if then.conditions is not None and now.conditions is not None:
        yield from _changes(_shown(then.conditions), _shown(now.conditions))
    yield from _changes(then.versions, now.versions)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, value in then.items():
        if now and value != now.get(name):
            yield f"{name}: {value} then, {now.get(name)} now"


def _shown(conditions: Conditions) -> dict[str, Any]:
    return conditions.model_dump(exclude={"job_sha256"})


def _notes(then: Mapping[int, Path], now: Mapping[int, Path]) -> Iterator[str]:
    if paused := sorted(set(then) - set(now)):
        yield f"not compared: the checkpoint of step {_listed(paused)}, which a pause left"
    if gone := sorted(set(now) - set(then)):
        yield f"not compared: the checkpoint of step {_listed(gone)}, which is not there any more"


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


def _first(found: Iterator[str]) -> list[str]:
    return [first] if (first := next(found, None)) else []


def _finished(run: Path) -> Result:
    then = _result(run)
    if then is None or then.outcome not in _ENDS:
        how = f"ended as {then.outcome}" if then else "has not ended"
        raise Invalid(f"The run in {run} {how}: only one that has succeeded or failed can be replayed")
    return then


def _result(run: Path) -> Result | None:
    try:
        return Result.model_validate_json((run / RESULT).read_bytes())
    except FileNotFoundError:
        return None


def _events(run: Path) -> list[RunEvent]:
    lines = (run / EVENTS).read_bytes().splitlines()
    return [RunEvent.model_validate_json(line) for line in lines]


def _steps(run: Path) -> dict[int, Path]:
    """The whole checkpoints by their steps."""
    manifests = (run / CHECKPOINTS).glob(f"step-*/{MANIFEST}")
    return {int(each.parent.name.removeprefix("step-")): each.parent for each in manifests}


def _dtype(run: Path, then: Result, spec: RunSpec) -> str:
    """What it trained in: a run of an older Milepost has told it in its first event only."""
    if spec.dtype != "auto":
        return spec.dtype
    if then.conditions is not None:
        return then.conditions.dtype
    told = (event.data["dtype"] for event in _events(run) if "dtype" in event.data)
    return str(next(told, spec.dtype))


def _sources(spec: RunSpec) -> list[Path]:
    """What the run read."""
    read = [spec.base, spec.training, spec.validation, spec.adapter]
    return [Path(each.path) for each in read if each is not None]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
