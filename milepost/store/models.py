"""The names a chat may ask for: bases, aliases, tuned models and checkpoints. They are looked up, never parsed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, select, update

from milepost.config import Settings
from milepost.errors import Invalid, NotFound
from milepost.resources.base import Deleted
from milepost.resources.models import Model
from milepost.resources.runs import Source
from milepost.store import bases, blobs
from milepost.store.database import Database
from milepost.store.schema import checkpoints, jobs


@dataclass(frozen=True, slots=True)
class Servable:
    """What answers to a name. `model` is the name to answer with: an alias answers as what it stands for."""

    model: str
    base: Source
    adapter: Source | None


@dataclass(frozen=True, slots=True)
class TunedCheckpoint:
    """A checkpoint that training may go on from. `base` is the name of the base model it was tuned from."""

    id: str
    name: str
    base: str
    base_hash: str
    adapter_sha256: str


def page(database: Database, settings: Settings, project: str) -> tuple[Model, ...]:
    """Everything that can be chatted with: bases, aliases, then the project's checkpoints, newest first."""
    with database.reading() as connection:
        newest = _tuned(project).where(checkpoints.c.deleted_at.is_(None)).order_by(checkpoints.c.sequence.desc())
        tuned = tuple(_tuned_model(row) for row in connection.execute(newest))
    return (*_untuned(settings).values(), *tuned)


def get(database: Database, settings: Settings, project: str, name: str) -> Model:
    if model := _untuned(settings).get(name):
        return model
    return _tuned_model(_find(database, project, name))


def delete(database: Database, settings: Settings, project: str, name: str, now: float) -> Deleted:
    """Delete a tuned model or checkpoint: its name answers no more. The job goes on naming it."""
    if name in _untuned(settings):
        raise Invalid(f"The model '{name}' is not a tuned model; only those can be deleted", param="model")
    row = _find(database, project, name)
    with database.transaction() as connection:
        connection.execute(update(checkpoints).where(checkpoints.c.id == row.id).values(deleted_at=int(now)))
    return Deleted(id=name, object="model")


def resolve(database: Database, settings: Settings, project: str, name: str) -> Servable:
    """Find what answers to a name. Whether its weights are there is for the engine to say: it reads and hashes them."""
    if name in _untuned(settings):
        base, path = bases.get(settings, name)
        return Servable(base.name, Source(name=base.name, path=str(path), hash=base.hash), None)
    with database.reading() as connection:
        row = connection.execute(_tuned(project).where(checkpoints.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"The model `{name}` does not exist or you do not have access to it.", code="model_not_found")
    _refuse_deleted(row)
    adapter = blobs.adapter_folder(database.folder, row.adapter_sha256)
    return Servable(
        name,
        Source(name=row.model, path=str(bases.folder(settings, row.model)), hash=row.base_hash),
        Source(name=name, path=str(adapter), hash=row.adapter_sha256),
    )


def checkpoint_for_training(database: Database, project: str, name: str) -> TunedCheckpoint | None:
    """The tuned model or checkpoint of this name that the project may train on from; None if there is none.

    Raises `NotFound`, with the time, if it was deleted.
    """
    with database.reading() as connection:
        row = connection.execute(_tuned(project).where(checkpoints.c.name == name)).one_or_none()
    if row is None:
        return None
    _refuse_deleted(row)
    return TunedCheckpoint(row.id, row.name, row.model, row.base_hash, row.adapter_sha256)


def _untuned(settings: Settings) -> dict[str, Model]:
    """Bases, and the aliases of those that are there."""
    there = {base.name: base for base in bases.list_bases(settings)}
    models = {name: Model(id=name, created=base.created, owned_by="system") for name, base in there.items()}
    for alias, name in bases.aliases(settings).items():
        if name in there:
            models.setdefault(alias, Model(id=alias, created=there[name].created, owned_by=f"alias of {name}"))
    return models


def _find(database: Database, project: str, name: str) -> Row[Any]:
    with database.reading() as connection:
        row = connection.execute(_tuned(project).where(checkpoints.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"The model '{name}' does not exist", param="model", code="model_not_found")
    _refuse_deleted(row)
    return row


def _refuse_deleted(row: Row[Any]) -> None:
    if row.deleted_at is not None:
        when = datetime.fromtimestamp(row.deleted_at, UTC)
        raise NotFound(
            f"The model '{row.name}' was deleted on {when:%Y-%m-%d at %H:%M:%S} UTC",
            param="model",
            code="model_not_found",
        )


def _tuned(project: str) -> Select[Any]:
    of_job = checkpoints.join(jobs, jobs.c.id == checkpoints.c.job_id)
    columns = (*checkpoints.c, jobs.c.model, jobs.c.base_hash, jobs.c.organization_id)
    return select(*columns).select_from(of_job).where(checkpoints.c.project_id == project)


def _tuned_model(row: Row[Any]) -> Model:
    return Model(id=row.name, created=row.created_at, owned_by=row.organization_id)
