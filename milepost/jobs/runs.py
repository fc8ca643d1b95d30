"""The control plane's side of a run directory: it writes job.json and control.json, and reads the rest.

What the child replaces atomically is whole whenever it is read; of events.jsonl the last line may be torn. A power
cut, or a bad disk, leaves worse: what cannot be read counts as not written, and the next life of the child writes it.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, Row, select

from milepost.config import Settings
from milepost.errors import Corrupt
from milepost.jobs.rows import Plan
from milepost.resources.forecasts import Actual
from milepost.resources.runs import (
    CHECKPOINTS,
    CONTROL,
    EVENTS,
    EXAMPLES,
    JOB,
    LOG,
    MANIFEST,
    NOTICES,
    PROGRESS,
    RESULT,
    Control,
    DataFile,
    Progress,
    Result,
    RunEvent,
    RunSpec,
    Source,
    Task,
    Wanted,
    readable,
)
from milepost.store import bases, blobs, speeds
from milepost.store.database import Database
from milepost.store.schema import checkpoints as checkpoint_rows
from milepost.store.schema import files, jobs

log = logging.getLogger(__name__)

RUNS = "runs"
Document = TypeVar("Document", bound=BaseModel)


def directory(folder: Path, job_id: str, task: Task) -> Path:
    """Where a job's run of this task lies in a data folder."""
    return folder / RUNS / job_id / task


def prepare(database: Database, settings: Settings, job_id: str, task: Task) -> Path:
    """Make the run directory, with its job.json unless it is there: a job's threads stay what they were."""
    path = directory(database.folder, job_id, task)
    if not (path / JOB).exists():
        blobs.make_folder(path)
        blobs.write_whole(path / JOB, _spec(database, settings, job_id, task).model_dump_json(indent=1))
    return path


def secrets(settings: Settings, path: Path) -> dict[str, str]:
    """What the child of a run may know, and no file or command line: the key of Weights & Biases, if it reports there.

    That key or none: what `wandb login` left for whoever runs the server is not for its users.
    """
    spec = RunSpec.model_validate_json((path / JOB).read_bytes())
    if spec.task is Task.VALIDATE or not spec.integrations:
        return {}
    key = settings.wandb_api_key
    return {"NETRC": os.devnull} | ({} if key is None else {"WANDB_API_KEY": key.get_secret_value()})


def want(path: Path, wanted: Wanted, lease_until: float | None = None, lease_s: float = 0.0) -> None:
    """Tell the child what is wanted of it, and for how long. An embedded child has no lease: it goes on when its server
    has crashed.
    """
    control = Control(wanted=wanted, lease_until=lease_until, lease_s=lease_s)
    blobs.write_whole(path / CONTROL, control.model_dump_json())


def forget_result(path: Path) -> None:
    """Before a child is started again in a directory where one was paused."""
    (path / RESULT).unlink(missing_ok=True)


def result(path: Path) -> Result | None:
    return _read(path / RESULT, Result)


def progress(path: Path) -> Progress | None:
    """None also if it is torn: it is written without fsync, and the power may have gone."""
    try:
        return _read(path / PROGRESS, Progress)
    except ValidationError:
        return None


def actual(path: Path, result: Result) -> Actual | None:
    """What a run that has ended did cost; None if its last words of progress were lost."""
    last = progress(path)
    if last is None or not last.spent_s or result.trained_tokens is None:
        return None
    return Actual(
        seconds=round(last.spent_s, 1),
        tokens=result.trained_tokens,
        tokens_per_second=round(result.trained_tokens / last.spent_s, 1),
        memory_bytes=last.peak_memory_bytes,
    )


def checkpoints(path: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the whole checkpoints, lowest step first."""
    whole = (manifest.parent for manifest in (path / CHECKPOINTS).glob(f"step-*/{MANIFEST}"))
    return sorted((int(folder.name.removeprefix("step-")), folder) for folder in whole)


def forget_examples(path: Path) -> None:
    """Remove what validation has tokenised, when the job has ended: nobody reads it again."""
    shutil.rmtree(path.parent / EXAMPLES, ignore_errors=True)


def forget_checkpoint(path: Path, step: int) -> None:
    """Remove the run's own copy of a checkpoint that was deleted: whole or absent, whenever the power goes."""
    folder = path / CHECKPOINTS / f"step-{step}"
    aside = folder.with_name(f".{folder.name}.dropped")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)


def log_tail(path: Path, size: int = 2000) -> str:
    """The last lines that the child printed."""
    with (path / LOG).open("rb") as log:
        log.seek(-min(size, log.seek(0, os.SEEK_END)), os.SEEK_CUR)
        return log.read().decode(errors="replace").strip()


class Tail:
    """Reads events.jsonl, or a file like it, as it grows, each whole line until it is accepted: what could not be
    stored is read again. What is torn is left for later: the next child tells it anew.
    """

    def __init__(self, path: Path, name: str = EVENTS) -> None:
        self._path = path / name
        self._offset = 0
        self._read_to = 0

    def accept(self) -> None:
        """What was read last is stored."""
        self._offset = self._read_to

    def read(self) -> list[RunEvent]:
        try:
            stream = self._path.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            stream.seek(self._offset)
            told, size = readable(stream.read(), past_faults=self._path.name == NOTICES)  # nobody tells those anew
        self._read_to = self._offset + size
        return told

    def require_all(self) -> None:
        """Raise `Corrupt` unless all was read: after the last words of a run nobody mends what it told."""
        if self._path.exists() and self._path.stat().st_size > self._offset:
            raise Corrupt(f"{self._path} cannot be read from byte {self._offset} on")


def _spec(database: Database, settings: Settings, job_id: str, task: Task) -> RunSpec:
    with database.reading() as connection:
        job = connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
        plan = Plan.model_validate(job.plan)
        return RunSpec(
            task=task,
            job_id=job_id,
            method=plan.method,
            hyperparameters=plan.run,
            seed=job.seed,
            threads=settings.training_threads or os.cpu_count() or 1,
            device=settings.device,
            memory_bytes=settings.training_memory_bytes,
            base=Source(name=job.model, path=str(bases.folder(settings, job.model)), hash=job.base_hash),
            training=_data_file(database, connection, job, "training_file"),
            validation=_data_file(database, connection, job, "validation_file") if job.validation_file else None,
            speed=speeds.get(settings),
            adapter=_adapter(database, connection, job.parent_checkpoint_id) if job.parent_checkpoint_id else None,
            tensorboard=None if settings.tensorboard_dir is None else str(settings.tensorboard_dir.resolve()),
            integrations=plan.integrations,
        )


def _data_file(database: Database, connection: Connection, job: Row[Any], param: Any) -> DataFile:
    """Deleted or not: the bytes are kept while the job may need them."""
    file_id = getattr(job, param)
    sha256 = connection.execute(select(files.c.sha256).where(files.c.id == file_id)).scalar_one()
    return DataFile(file_id=file_id, path=str(blobs.path(database.folder, sha256)), hash=sha256, param=param)


def _adapter(database: Database, connection: Connection, checkpoint_id: str) -> Source:
    """What training goes on from. Deleted or not: the job was created while it was there."""
    query = select(checkpoint_rows.c.name, checkpoint_rows.c.adapter_sha256).where(
        checkpoint_rows.c.id == checkpoint_id
    )
    row = connection.execute(query).one()
    folder = blobs.adapter_folder(database.folder, row.adapter_sha256)
    return Source(name=row.name, path=str(folder), hash=row.adapter_sha256)


def _read(path: Path, model: type[Document]) -> Document | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s cannot be read, and is taken for not written", path)
        return None
