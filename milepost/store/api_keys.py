"""Keys as the admin routes show them. Whatever is not of the organisation or the project asked for does not exist."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, or_, select, update

from milepost.errors import Conflict, Invalid, NotFound
from milepost.resources.admin import (
    AdminKey,
    AdminKeyRequest,
    KeyOwner,
    NewAdminKey,
    OwningAccount,
    ProjectKey,
    ProjectKeyUpdate,
    check_served,
)
from milepost.resources.base import Deleted, Page
from milepost.store import projects
from milepost.store.database import Database
from milepost.store.keys import ADMIN_PREFIX, Key, KeyKind, draw_secret, insert_key, revoke_where, said
from milepost.store.outbox import publish
from milepost.store.pages import read_page
from milepost.store.schema import keys, service_accounts
from milepost.store.schema import projects as project_rows

_OLDEST_FIRST = (keys.c.created_at, keys.c.sequence)
_ALIVE = keys.c.revoked_at.is_(None)
#: Keys, each with the service account it is of, if it is of one.
_OWNERS = service_accounts.alias("owners")
_WITH_OWNERS = select(
    keys,
    _OWNERS.c.name.label("account_name"),
    _OWNERS.c.role.label("account_role"),
    _OWNERS.c.created_at.label("account_created_at"),
).outerjoin(_OWNERS, _OWNERS.c.id == keys.c.service_account_id)


# ------------------------------------------------------------------------------------------------ of projects


def project_page(
    database: Database,
    admin: Key,
    project_id: str,
    *,
    access: Literal["active", "inactive", "any"],
    after: str | None,
    limit: int,
) -> Page[ProjectKey]:
    """List a project's keys, oldest first: those whose owner has this access to the project."""
    with database.reading() as connection:
        project = projects.row(connection, admin, project_id)
        return read_page(
            connection,
            keys,
            lambda row: _project_key(row, project),
            query=_WITH_OWNERS,
            scope=_of_project(project_id),
            filters=(_ALIVE, *_having(access, project)),
            keys=_OLDEST_FIRST,
            descending=False,
            after=after,
            limit=limit,
        )


def project_key(database: Database, admin: Key, project_id: str, key_id: str) -> ProjectKey:
    with database.reading() as connection:
        project = projects.row(connection, admin, project_id)
        return _project_key(_row(connection, key_id, _of_project(project_id)), project)


def update_project_key(
    database: Database, admin: Key, project_id: str, key_id: str, request: ProjectKeyUpdate, *, now: float
) -> ProjectKey:
    """Set when a key expires, counted from now. One that has expired stays so."""
    check_served(request)
    if request.expires_in_seconds is None and request.scopes is None:
        raise Invalid("Give at least one of 'expires_in_seconds' and 'scopes'", param="expires_in_seconds")
    with database.transaction() as connection:
        project = projects.live_row(connection, admin, project_id)
        row = _row(connection, key_id, _of_project(project_id))
        if row.expires_at is not None and row.expires_at <= now:
            raise Conflict(
                f"API key `{key_id}` expired on {said(row.expires_at)} and cannot be changed. Create another",
                param="api_key_id",
            )
        if request.expires_in_seconds is not None:
            expires_at = int(now) + request.expires_in_seconds
            connection.execute(update(keys).where(keys.c.id == key_id).values(expires_at=expires_at))
            row = _row(connection, key_id, _of_project(project_id))
            publish(connection, project_id, "api_key.updated", key_id, by=admin, now=now)
        return _project_key(row, project)


def delete_project_key(database: Database, admin: Key, project_id: str, key_id: str, now: float) -> Deleted:
    """Delete a key: it opens nothing from here on."""
    with database.transaction() as connection:
        projects.live_row(connection, admin, project_id)
        _row(connection, key_id, _of_project(project_id))
        revoke_where(connection, keys.c.id == key_id, now=now)
        publish(connection, project_id, "api_key.deleted", key_id, by=admin, now=now)
    return Deleted(id=key_id, object="organization.project.api_key.deleted")


# ------------------------------------------------------------------------------------------------ of admins


def create_admin_key(database: Database, admin: Key, request: AdminKeyRequest, now: float) -> NewAdminKey:
    secret = draw_secret(ADMIN_PREFIX)
    with database.transaction() as connection:
        made = insert_key(
            connection,
            admin.project_id,
            kind=KeyKind.ADMIN,
            name=request.name,
            secret=secret,
            now=now,
            expires_in_s=request.expires_in_seconds,
        )
        publish(connection, admin.project_id, "api_key.created", made.id, by=admin, now=now)
        shown = _admin_key(_row(connection, made.id, _of_admins(admin)))
    return NewAdminKey(**dict(shown), value=secret)


def admin_page(
    database: Database, admin: Key, *, order: Literal["asc", "desc"], after: str | None, limit: int
) -> Page[AdminKey]:
    with database.reading() as connection:
        return read_page(
            connection,
            keys,
            _admin_key,
            scope=_of_admins(admin),
            filters=(_ALIVE,),
            keys=_OLDEST_FIRST,
            descending=order == "desc",
            after=after,
            limit=limit,
        )


def admin_key(database: Database, admin: Key, key_id: str) -> AdminKey:
    with database.reading() as connection:
        return _admin_key(_row(connection, key_id, _of_admins(admin)))


def delete_admin_key(database: Database, admin: Key, key_id: str, now: float) -> Deleted:
    """Delete an admin key, but not the last that opens anything: nobody could make another over the API."""
    with database.transaction() as connection:
        _row(connection, key_id, _of_admins(admin))
        lasting = or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
        working = select(keys.c.id).where(_of_admins(admin), _ALIVE, lasting).with_for_update()
        if set(connection.scalars(working)) <= {key_id}:
            raise Conflict(
                f"API key `{key_id}` is the last admin key, and without one nobody could make another over the API. "
                "Create another first, or run `milepost keys revoke` on the server",
                param="key_id",
            )
        revoke_where(connection, keys.c.id == key_id, now=now)
        publish(connection, admin.project_id, "api_key.deleted", key_id, by=admin, now=now)
    return Deleted(id=key_id, object="organization.admin_api_key.deleted")


# ------------------------------------------------------------------------------------------------ private


def _of_project(project_id: str) -> ColumnElement[bool]:
    return and_(keys.c.kind == KeyKind.PROJECT, keys.c.project_id == project_id)


def _of_admins(admin: Key) -> ColumnElement[bool]:
    of_mine = project_rows.c.id == keys.c.project_id, project_rows.c.organization_id == admin.organization_id
    return and_(keys.c.kind == KeyKind.ADMIN, exists().where(*of_mine))


def _having(access: Literal["active", "inactive", "any"], project: Row[Any]) -> tuple[ColumnElement[bool], ...]:
    if access == "any":
        return ()
    if project.archived_at is not None:
        return () if access == "inactive" else (keys.c.id.is_(None),)
    account = service_accounts.c
    without = exists().where(account.id == keys.c.service_account_id, account.role == "none")
    return (without if access == "inactive" else ~without,)


def _row(connection: Connection, key_id: str, scope: ColumnElement[bool]) -> Row[Any]:
    row = connection.execute(_WITH_OWNERS.where(keys.c.id == key_id, scope)).one_or_none()
    if row is None or row.revoked_at is not None:
        gone = f" It was deleted on {said(row.revoked_at)}." if row else ""
        raise NotFound(f"No such API key: {key_id}.{gone}", param="key_id")
    return row


def _project_key(row: Row[Any], project: Row[Any]) -> ProjectKey:
    owner = KeyOwner()
    if row.service_account_id is not None:
        who = OwningAccount(
            id=row.service_account_id,
            name=row.account_name,
            role=row.account_role,
            created_at=row.account_created_at,
        )
        owner = KeyOwner(type="service_account", service_account=who)
    is_active = project.archived_at is None and row.account_role != "none"
    return ProjectKey(
        id=row.id,
        name=row.name,
        redacted_value=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        owner=owner,
        owner_project_access="active" if is_active else "inactive",
    )


def _admin_key(row: Row[Any]) -> AdminKey:
    return AdminKey(
        id=row.id,
        name=row.name,
        redacted_value=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
