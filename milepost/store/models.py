"""The names a chat may ask for: bases, aliases, tuned models and checkpoints. They are looked up, never parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, update

from milepost.config import Settings
from milepost.errors import Invalid, NotFound
from milepost.resources.base import Deleted
from milepost.resources.models import Model, Shape
from milepost.resources.runs import ADAPTER_CONFIG, Source
from milepost.store import bases, blobs, tuned
from milepost.store.database import Database
from milepost.store.schema import checkpoints


@dataclass(frozen=True, slots=True)
class Servable:
    """What answers to a name. `model` is the name to answer with: an alias answers as what it stands for."""

    model: str
    base: Source
    adapter: Source | None


@dataclass(frozen=True, slots=True)
class Tuned:
    """A checkpoint that training may go on from. `base` names the base model it was trained on.

    `shape` None could not be read beside its weights, which know it as well.
    """

    id: str
    name: str
    project_id: str
    base: str
    base_hash: str
    adapter_sha256: str
    shape: Shape | None


def page(database: Database, settings: Settings, project: str) -> tuple[Model, ...]:
    """Everything that can be chatted with: bases, aliases, then the checkpoints a project may use, newest first."""
    with database.reading() as connection:
        found = tuple(_tuned_model(row, project) for row in tuned.newest(connection, project))
    return (*_untuned(settings).values(), *found)


def get(database: Database, settings: Settings, project: str, name: str) -> Model:
    if model := _untuned(settings).get(name):
        return model
    with database.reading() as connection:
        row = tuned.find(connection, project, name)
    if row is None:
        raise _no_model(name)
    return _tuned_model(row, project)


def delete(database: Database, settings: Settings, project: str, name: str, now: float) -> Deleted:
    """Delete a tuned model or checkpoint: its name answers no more, for whomever. The job goes on naming it."""
    if name in _untuned(settings):
        raise Invalid(f"The model '{name}' is not a tuned model; only those can be deleted", param="model")
    with database.transaction() as connection:
        row = tuned.find(connection, project, name)
        if row is None:
            raise _no_model(name)
        tuned.refuse_shared(row, project)
        connection.execute(update(checkpoints).where(checkpoints.c.id == row.id).values(deleted_at=int(now)))
    return Deleted(id=name, object="model")


def resolve(database: Database, settings: Settings, project: str, name: str) -> Servable:
    """Find what answers to a name. Whether its weights are there is for the engine to say: it reads and hashes them."""
    if name in _untuned(settings):
        base, path = bases.get(settings, name)
        return Servable(base.name, Source(name=base.name, path=str(path), hash=base.hash), None)
    with database.reading() as connection:
        row = tuned.find(connection, project, name)
    if row is None:
        raise NotFound(f"The model `{name}` does not exist or you do not have access to it.", code="model_not_found")
    return Servable(name, *_sources(database, settings, row))


def sources(database: Database, settings: Settings, name: str) -> tuple[Source, Source]:
    """Base and adapter of a tuned model or checkpoint, of whichever project: for who has the data folder itself.

    Raises `NotFound` if there is none of this name, or it was deleted, with the time.
    """
    with database.reading() as connection:
        row = tuned.anywhere(connection, name)
    if row is None:
        raise NotFound(
            f"There is no tuned model or checkpoint `{name}` in {database.folder}",
            param="model",
            code="model_not_found",
        )
    return _sources(database, settings, row)


def servable_of(database: Database, settings: Settings, checkpoint_id: str) -> Servable:
    """What answers as a checkpoint that has just been published, whoever's it is."""
    with database.reading() as connection:
        row = connection.execute(tuned.by_id(checkpoint_id)).one()
    return Servable(row.name, *_sources(database, settings, row))


def note_ready(database: Database, checkpoint_id: str, ready_ms: int) -> None:
    """Keep how soon a checkpoint could answer."""
    with database.transaction() as connection:
        connection.execute(update(checkpoints).where(checkpoints.c.id == checkpoint_id).values(ready_ms=ready_ms))


def checkpoint_for_training(database: Database, project: str, name: str) -> Tuned | None:
    """The checkpoint of this name that a project may go on training from, its own or one shared with it; None if the
    name is no checkpoint's that it may use.

    Raises `NotFound` if it was deleted, with the time.
    """
    with database.reading() as connection:
        row = tuned.find(connection, project, name)
    if row is None:
        return None
    return Tuned(
        id=row.id,
        name=row.name,
        project_id=row.project_id,
        base=row.model,
        base_hash=row.base_hash,
        adapter_sha256=row.adapter_sha256,
        shape=_shape(blobs.adapter_folder(database.folder, row.adapter_sha256) / ADAPTER_CONFIG),
    )


def _shape(path: Path) -> Shape | None:
    try:
        return Shape.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _sources(database: Database, settings: Settings, row: Row[Any]) -> tuple[Source, Source]:
    adapter = blobs.adapter_folder(database.folder, row.adapter_sha256)
    return (
        Source(name=row.model, path=str(bases.folder(settings, row.model)), hash=row.base_hash),
        Source(name=row.name, path=str(adapter), hash=row.adapter_sha256),
    )


def _untuned(settings: Settings) -> dict[str, Model]:
    """Bases, and the aliases of those that are there."""
    there = {base.name: base for base in bases.list_bases(settings)}
    models = {name: Model(id=name, created=base.created, owned_by="system") for name, base in there.items()}
    for alias, name in bases.aliases(settings).items():
        if name in there:
            alike = Model(id=alias, created=there[name].created, owned_by=f"alias of {name}", base=name)
            models.setdefault(alias, alike)
    return models


def _tuned_model(row: Row[Any], project: str) -> Model:
    """A checkpoint as a project sees it: the job of one that is only shared with it is not its to see."""
    return Model(
        id=row.name,
        created=row.created_at,
        owned_by=row.organization_id,
        base=row.model,
        project_id=row.project_id,
        fine_tuning_job_id=row.job_id if row.project_id == project else None,
        step_number=row.step_number,
    )


def _no_model(name: str) -> NotFound:
    return NotFound(f"The model '{name}' does not exist", param="model", code="model_not_found")
