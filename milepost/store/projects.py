"""Projects of an organisation. Everything else belongs to one; an archived one is read-only, and its keys open nothing.

Functions here and in `service_accounts` and `api_keys` are for an admin key: `admin` is that key, which sees its
organisation only.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from milepost.errors import Conflict, NotFound
from milepost.resources.admin import Project, ProjectRequest, ProjectUpdate, check_served
from milepost.resources.base import Page, new_id
from milepost.store.database import Database
from milepost.store.keys import Key, default_project, said
from milepost.store.outbox import publish
from milepost.store.pages import read_page
from milepost.store.schema import projects


def create(database: Database, admin: Key, request: ProjectRequest, now: float) -> Project:
    check_served(request)
    values = {
        "id": new_id("project"),
        "organization_id": admin.organization_id,
        "name": request.name,
        "created_at": int(now),
    }
    with database.transaction() as connection:
        row = connection.execute(insert(projects).values(values).returning(projects)).one()
        publish(connection, row.id, "project.created", row.id, by=admin, now=now)
    return _project(row)


def page(database: Database, admin: Key, *, archived: bool, after: str | None, limit: int) -> Page[Project]:
    """List projects, oldest first; `archived` ones too, or not."""
    with database.reading() as connection:
        return read_page(
            connection,
            projects,
            _project,
            scope=projects.c.organization_id == admin.organization_id,
            filters=() if archived else (projects.c.archived_at.is_(None),),
            keys=(projects.c.created_at, projects.c.sequence),
            descending=False,
            after=after,
            limit=limit,
        )


def get(database: Database, admin: Key, project_id: str) -> Project:
    with database.reading() as connection:
        return _project(row(connection, admin, project_id))


def update_project(database: Database, admin: Key, project_id: str, request: ProjectUpdate, now: float) -> Project:
    check_served(request)
    with database.transaction() as connection:
        found = live_row(connection, admin, project_id)
        if request.name is not None:
            changed = update(projects).where(projects.c.id == project_id).values(name=request.name)
            found = connection.execute(changed.returning(projects)).one()
            publish(connection, project_id, "project.updated", project_id, by=admin, now=now)
    return _project(found)


def archive(database: Database, admin: Key, project_id: str, now: float) -> Project:
    """Archive a project for good: its keys open nothing from here on; jobs that run, run to their end.

    To archive it again changes nothing.
    """
    with database.transaction() as connection:
        found = row(connection, admin, project_id)
        if found.id == default_project(connection):
            raise Conflict(
                f"Project `{project_id}` is the default project, which keys made on the machine belong to; it cannot "
                "be archived. Archive another, or revoke its keys",
                param="project_id",
            )
        if found.archived_at is None:
            changed = update(projects).where(projects.c.id == project_id).values(archived_at=int(now))
            found = connection.execute(changed.returning(projects)).one()
            publish(connection, project_id, "project.archived", project_id, by=admin, now=now)
    return _project(found)


def row(connection: Connection, admin: Key, project_id: str) -> Row[Any]:
    mine = select(projects).where(projects.c.id == project_id, projects.c.organization_id == admin.organization_id)
    if found := connection.execute(mine).one_or_none():
        return found
    raise NotFound(f"No such project: {project_id}. GET /v1/organization/projects lists them", param="project_id")


def live_row(connection: Connection, admin: Key, project_id: str) -> Row[Any]:
    """The row of a project that may be changed."""
    found = row(connection, admin, project_id)
    if found.archived_at is not None:
        raise Conflict(
            f"Project `{project_id}` was archived on {said(found.archived_at)}; nothing in it can be changed. "
            "Create another project",
            param="project_id",
        )
    return found


def _project(row: Row[Any]) -> Project:
    return Project(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        archived_at=row.archived_at,
        status="active" if row.archived_at is None else "archived",
    )
