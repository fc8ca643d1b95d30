"""Checkpoints by their names, and who may see them: the one lookup that chat, models, training and sharing use.

A project sees its own checkpoints and those shared with it; only its own may it delete or share.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, or_, select

from milepost.errors import Forbidden, NotFound
from milepost.store.keys import Key, KeyKind, said
from milepost.store.schema import checkpoints, jobs, permissions


def visible(project: str) -> Select[Any]:
    """The checkpoints that a project may use, deleted ones too, each with what its job says of its base."""
    shared = exists().where(permissions.c.checkpoint_id == checkpoints.c.id, permissions.c.project_id == project)
    return _named(or_(checkpoints.c.project_id == project, shared))


def newest(connection: Connection, project: str) -> list[Row[Any]]:
    """The checkpoints that a project may use, newest first. Its own and those shared with it are read off an index
    each: of both at once, a database would look at everyone's.
    """
    own = _named(checkpoints.c.project_id == project).order_by(checkpoints.c.sequence.desc())
    given = permissions.c.checkpoint_id == checkpoints.c.id
    shared = _named(permissions.c.project_id == project).join(permissions, given)
    rows = [*connection.execute(own), *connection.execute(shared)]
    return sorted((row for row in rows if row.deleted_at is None), key=lambda row: -row.sequence)


def find(connection: Connection, project: str, name: str) -> Row[Any] | None:
    """The checkpoint of this name that a project may use; None if there is none, or it is not for this project.

    Raises `NotFound` if it was deleted, with the time.
    """
    return _alive(connection.execute(visible(project).where(checkpoints.c.name == name)).one_or_none())


def anywhere(connection: Connection, name: str) -> Row[Any] | None:
    """The checkpoint of this name, whosever it is: for who has the data folder itself. Else as `find`."""
    return _alive(connection.execute(_named(checkpoints.c.name == name)).one_or_none())


def by_id(checkpoint_id: str) -> Select[Any]:
    """One checkpoint with what its job says of its base, whoever's it is: for the server itself, never for a client."""
    return _named(checkpoints.c.id == checkpoint_id)


def owned(connection: Connection, key: Key, name: str) -> Row[Any]:
    """The checkpoint of this name, for a key that may decide about it: its project's, or an admin key."""
    is_admin = key.kind is KeyKind.ADMIN
    scope = _named(jobs.c.organization_id == key.organization_id) if is_admin else visible(key.project_id)
    row = _alive(connection.execute(scope.where(checkpoints.c.name == name)).one_or_none())
    if row is None:
        raise NotFound(f"The model '{name}' does not exist", param="model", code="model_not_found")
    if not is_admin:
        refuse_shared(row, key.project_id)
    return row


def refuse_shared(row: Row[Any], project: str) -> None:
    """Using is all that sharing allows."""
    if row.project_id != project:
        raise Forbidden(
            f"The model '{row.name}' belongs to project `{row.project_id}`, which shares it with yours: you may use "
            "it, and only its own project can delete or share it",
            param="model",
            code="insufficient_permissions",
        )


def _alive(row: Row[Any] | None) -> Row[Any] | None:
    if row is not None and row.deleted_at is not None:
        raise NotFound(
            f"The model '{row.name}' was deleted on {said(row.deleted_at)}", param="model", code="model_not_found"
        )
    return row


def _named(scope: ColumnElement[bool]) -> Select[Any]:
    of_job = checkpoints.join(jobs, jobs.c.id == checkpoints.c.job_id)
    columns = (*checkpoints.c, jobs.c.model, jobs.c.base_hash, jobs.c.organization_id)
    return select(*columns).select_from(of_job).where(scope)
