"""What a validation says beyond good and bad: what deserves a look, and what training will cost. No torch, unless the
machine has to be measured first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from milepost.checks.forecast import Course, forecast, read_sizes
from milepost.checks.report import AT_LEISURE, Question, examine
from milepost.checks.sentences import findings, foreseen
from milepost.checks.tokens import Counted
from milepost.modeling import machine
from milepost.resources.forecasts import Speed
from milepost.resources.jobs import Level
from milepost.resources.runs import RunSpec
from milepost.training.data import Dataset, Pair
from milepost.training.directory import Directory
from milepost.training.start import RANK


def foresee(run: Directory, training: Dataset, validation: Dataset | None) -> dict[str, Any]:
    """Tell the findings and the forecast as events; returns what of them belongs into the result."""
    for sentence, data in _findings(run.spec):
        run.tell(f"Data check: {sentence}", level=Level.WARN, data=data)
    speed, is_new = _speed(run)
    given = run.spec.hyperparameters
    course = Course(
        method=run.spec.method,
        n_epochs=given.n_epochs,
        batch_size=given.batch_size,
        threads=run.spec.threads,
        lora_rank=given.lora_rank or RANK,
        checkpoint_every=given.checkpoint_every,
    )
    found = forecast(
        read_sizes(Path(run.spec.base.path)),
        course,
        _counted(training),
        () if validation is None else _counted(validation),
        speed=speed if run.spec.dtype == "auto" else speed.model_copy(update={"dtype": run.spec.dtype}),
    )
    run.tell(foreseen(found), data=found.model_dump(mode="json", exclude={"actual"}))
    return {"forecast": found, "speed": speed if is_new else None}


def _findings(spec: RunSpec) -> list[tuple[str, dict[str, object]]]:
    question = Question(AT_LEISURE, method=spec.method)
    with Path(spec.training.path).open("rb") as training:
        if spec.validation is None:
            return list(findings(examine(training, question)))
        with Path(spec.validation.path).open("rb") as validation:
            return list(findings(examine(training, question, validation)))


def _speed(run: Directory) -> tuple[Speed, bool]:
    """What the control plane knew of this machine, or a measurement of it, which is new."""
    known = run.spec.speed
    if known is not None and known.stands(machine.name(), is_quiet_now=machine.is_quiet()):
        return known, False
    from milepost.modeling.speed import measure  # torch: seconds, once per machine

    return measure().better(known), True


def _counted(dataset: Dataset) -> list[Counted]:
    found = []
    for example in dataset.teaching:
        parts = (example.preferred, example.non_preferred) if isinstance(example, Pair) else (example,)
        rows = tuple(part.token_count for part in parts)
        found.append(Counted(rows, rows, tuple(part.learnt_count for part in parts)))
    return found
