"""Reports of files of training data: which base's tokenizer counts, and an upload's report."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, BinaryIO

from milepost.config import Settings
from milepost.errors import Invalid
from milepost.jobs.hyperparameters import auto_batch_size, auto_epochs
from milepost.resources.forecasts import Speed
from milepost.resources.methods import MethodType
from milepost.resources.reports import FileReport
from milepost.resources.runs import RunHyperparameters
from milepost.store import bases, speeds

if TYPE_CHECKING:
    from milepost.checks.report import Limits, Question

log = logging.getLogger(__name__)


def examine_upload(settings: Settings, file: BinaryIO) -> FileReport | None:
    """What there is to say of a file; None if saying it failed, which is logged: the file itself may well be good.

    Leaves the file at its start.
    """
    from milepost.checks.report import AT_UPLOAD, examine  # numpy, tokenizers: not before the first upload

    try:
        return examine(file, ask(settings, AT_UPLOAD, speed=speeds.get(settings)))
    except Exception:
        log.exception("a file's report could not be made; the file is kept without")
        return None
    finally:
        file.seek(0)


def ask(
    settings: Settings,
    limits: Limits,
    *,
    model: str | None = None,
    method: MethodType | None = None,
    speed: Speed | None = None,
) -> Question:
    """What to look at a file for. The default base need not be in the cache: then nothing is counted. A `model` that
    was named must be, or it is `Invalid`.
    """
    from milepost.checks.forecast import read_sizes
    from milepost.checks.report import Question
    from milepost.checks.tokens import load_tokenizer

    def auto(examples: int) -> tuple[int, int]:
        return auto_epochs(examples), auto_batch_size(examples)

    try:
        base, folder = bases.get(settings, model or settings.default_base)
        limit = min(RunHyperparameters.model_fields["max_length"].default, base.context_length)
        tokenizer, sizes = load_tokenizer(folder, base.name, limit), read_sizes(folder)
    except Invalid as error:
        if model is not None:
            raise
        return Question(limits, method=method, note=f"Tokens were not counted: {error.message}", auto=auto)
    threads = settings.training_threads or os.cpu_count() or 1
    return Question(limits, method=method, tokenizer=tokenizer, sizes=sizes, speed=speed, threads=threads, auto=auto)
