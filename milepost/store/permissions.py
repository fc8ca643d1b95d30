"""Sharing: which other projects may use a checkpoint. A permission that is taken back is a row that is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select
from sqlalchemy import delete as delete_rows

from milepost.errors import Invalid, NotFound
from milepost.resources.base import Deleted, Page, new_id
from milepost.resources.permissions import Permission
from milepost.store import tuned
from milepost.store.database import Database
from milepost.store.keys import Key
from milepost.store.outbox import publish
from milepost.store.pages import read_page
from milepost.store.schema import checkpoints, permissions, projects


def create(database: Database, key: Key, name: str, project_ids: Sequence[str], now: float) -> Page[Permission]:
    """Share a checkpoint with all of the projects, or with none. A project that has the permission keeps it."""
    wanted = tuple(dict.fromkeys(project_ids))
    with database.transaction() as connection:
        checkpoint = tuned.owned(connection, key, name)
        _check_projects(connection, key, wanted, checkpoint)
        # of two who share with the same project at the same time, the second finds the first one's permission
        connection.execute(select(checkpoints.c.id).where(checkpoints.c.id == checkpoint.id).with_for_update())
        mine = select(permissions).where(_of(checkpoint), permissions.c.project_id.in_(wanted))
        rows = {row.project_id: row for row in connection.execute(mine)}
        for project in wanted:
            if project not in rows:
                rows[project] = _insert(connection, key, checkpoint, project, now)
    shown = tuple(_permission(rows[project]) for project in wanted)
    return Page(data=shown, has_more=False, first_id=shown[0].id, last_id=shown[-1].id)


def page(
    database: Database,
    key: Key,
    name: str,
    *,
    project: str | None,
    after: str | None,
    limit: int,
    descending: bool,
) -> Page[Permission]:
    with database.reading() as connection:
        checkpoint = tuned.owned(connection, key, name)
        return read_page(
            connection,
            permissions,
            _permission,
            scope=_of(checkpoint),
            filters=() if project is None else (permissions.c.project_id == project,),
            keys=(permissions.c.created_at, permissions.c.sequence),
            descending=descending,
            after=after,
            limit=limit,
        )


def delete(database: Database, key: Key, name: str, permission_id: str, now: float) -> Deleted:
    """Take a permission back: from here on the checkpoint does not exist for its project."""
    with database.transaction() as connection:
        checkpoint = tuned.owned(connection, key, name)
        gone = delete_rows(permissions).where(_of(checkpoint), permissions.c.id == permission_id)
        if connection.execute(gone.returning(permissions.c.id)).one_or_none() is None:
            raise NotFound(f"No such permission: {permission_id} of model '{name}'", param="permission_id")
        publish(connection, checkpoint.project_id, "checkpoint.permission.deleted", permission_id, by=key, now=now)
    return Deleted(id=permission_id, object="checkpoint.permission")


def _check_projects(connection: Connection, key: Key, wanted: Sequence[str], checkpoint: Row[Any]) -> None:
    there = select(projects.c.id).where(
        projects.c.id.in_(wanted),
        projects.c.organization_id == key.organization_id,
        projects.c.archived_at.is_(None),
    )
    found = set(connection.scalars(there))
    if missing := [project for project in wanted if project not in found]:
        raise Invalid(
            f"No such project, or archived: {', '.join(missing)}. The checkpoint was shared with none of the "
            f"{len(wanted)}; GET /v1/organization/projects lists the projects",
            param="project_ids",
        )
    if checkpoint.project_id in found:
        raise Invalid(
            f"The model '{checkpoint.name}' belongs to project {checkpoint.project_id}, which needs no permission. "
            "Leave it out",
            param="project_ids",
        )


def _insert(connection: Connection, key: Key, checkpoint: Row[Any], project: str, now: float) -> Row[Any]:
    values = {
        "id": new_id("permission"),
        "checkpoint_id": checkpoint.id,
        "project_id": project,
        "created_at": int(now),
    }
    row = connection.execute(insert(permissions).values(values).returning(permissions)).one()
    publish(connection, checkpoint.project_id, "checkpoint.permission.created", row.id, by=key, now=now)
    return row


def _of(checkpoint: Row[Any]) -> ColumnElement[bool]:
    return permissions.c.checkpoint_id == str(checkpoint.id)


def _permission(row: Row[Any]) -> Permission:
    return Permission(id=row.id, created_at=row.created_at, project_id=row.project_id)
