"""Service accounts: programs that are members of a project. Their keys end with them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from milepost.errors import Invalid, NotFound
from milepost.resources.admin import (
    NewServiceAccount,
    NewServiceAccountKey,
    ServiceAccount,
    ServiceAccountKeyRequest,
    ServiceAccountRequest,
    ServiceAccountUpdate,
    check_served,
)
from milepost.resources.base import Deleted, Page, new_id
from milepost.store import projects
from milepost.store.database import Database
from milepost.store.keys import ACCOUNT_PREFIX, Key, KeyKind, draw_secret, insert_key, revoke_where, said
from milepost.store.outbox import publish
from milepost.store.pages import read_page
from milepost.store.schema import keys, service_accounts


def create(
    database: Database, admin: Key, project_id: str, request: ServiceAccountRequest, now: float
) -> NewServiceAccount:
    """Make a service account, and its first key unless the account only is asked for."""
    alone = bool(request.create_service_account_only)
    if alone and request.expires_in_seconds is not None:
        raise Invalid(
            "With 'create_service_account_only' no key is made that 'expires_in_seconds' could be about. Leave one out",
            param="expires_in_seconds",
        )
    values = {
        "id": new_id("service_account"),
        "project_id": project_id,
        "name": request.name,
        "role": "none" if alone else "member",
        "created_at": int(now),
    }
    with database.transaction() as connection:
        projects.live_row(connection, admin, project_id)
        made = _account(connection.execute(insert(service_accounts).values(values).returning(service_accounts)).one())
        publish(connection, project_id, "service_account.created", made.id, by=admin, now=now)
        wanted = ServiceAccountKeyRequest(expires_in_seconds=request.expires_in_seconds)
        key = None if alone else _new_key(connection, admin, project_id, made.id, wanted, now=now)
    return NewServiceAccount(**made.model_dump(), api_key=key)


def create_key(
    database: Database, admin: Key, project_id: str, account_id: str, request: ServiceAccountKeyRequest, *, now: float
) -> NewServiceAccountKey:
    check_served(request)
    with database.transaction() as connection:
        projects.live_row(connection, admin, project_id)
        _row(connection, project_id, account_id)
        return _new_key(connection, admin, project_id, account_id, request, now=now)


def page(database: Database, admin: Key, project_id: str, *, after: str | None, limit: int) -> Page[ServiceAccount]:
    """List a project's service accounts, oldest first."""
    with database.reading() as connection:
        projects.row(connection, admin, project_id)
        return read_page(
            connection,
            service_accounts,
            _account,
            scope=service_accounts.c.project_id == project_id,
            filters=(service_accounts.c.deleted_at.is_(None),),
            keys=(service_accounts.c.created_at, service_accounts.c.sequence),
            descending=False,
            after=after,
            limit=limit,
        )


def get(database: Database, admin: Key, project_id: str, account_id: str) -> ServiceAccount:
    with database.reading() as connection:
        projects.row(connection, admin, project_id)
        return _account(_row(connection, project_id, account_id))


def update_account(
    database: Database, admin: Key, project_id: str, account_id: str, request: ServiceAccountUpdate, *, now: float
) -> ServiceAccount:
    with database.transaction() as connection:
        projects.live_row(connection, admin, project_id)
        found = _row(connection, project_id, account_id)
        if values := request.model_dump(exclude_none=True):
            changed = update(service_accounts).where(service_accounts.c.id == account_id).values(values)
            found = connection.execute(changed.returning(service_accounts)).one()
            publish(connection, project_id, "service_account.updated", account_id, by=admin, now=now)
    return _account(found)


def delete(database: Database, admin: Key, project_id: str, account_id: str, now: float) -> Deleted:
    """Delete a service account; its keys open nothing from here on."""
    with database.transaction() as connection:
        projects.live_row(connection, admin, project_id)
        _row(connection, project_id, account_id)
        gone = update(service_accounts).where(service_accounts.c.id == account_id).values(deleted_at=int(now))
        connection.execute(gone)
        revoke_where(connection, keys.c.service_account_id == account_id, now=now)
        publish(connection, project_id, "service_account.deleted", account_id, by=admin, now=now)
    return Deleted(id=account_id, object="organization.project.service_account.deleted")


def _new_key(
    connection: Connection,
    admin: Key,
    project_id: str,
    account_id: str,
    request: ServiceAccountKeyRequest,
    *,
    now: float,
) -> NewServiceAccountKey:
    secret = draw_secret(ACCOUNT_PREFIX)
    key = insert_key(
        connection,
        project_id,
        kind=KeyKind.PROJECT,
        name=request.name,
        secret=secret,
        now=now,
        account=account_id,
        expires_in_s=request.expires_in_seconds,
    )
    publish(connection, project_id, "api_key.created", key.id, by=admin, now=now)
    return NewServiceAccountKey(
        id=key.id, name=key.name, value=secret, created_at=key.created_at, expires_at=key.expires_at
    )


def _row(connection: Connection, project_id: str, account_id: str) -> Row[Any]:
    of_project = (service_accounts.c.id == account_id, service_accounts.c.project_id == project_id)
    row = connection.execute(select(service_accounts).where(*of_project)).one_or_none()
    if row is None or row.deleted_at is not None:
        gone = f" It was deleted on {said(row.deleted_at)}." if row else ""
        raise NotFound(
            f"No such service account: {account_id} in project {project_id}.{gone}", param="service_account_id"
        )
    return row


def _account(row: Row[Any]) -> ServiceAccount:
    return ServiceAccount(id=row.id, name=row.name, role=row.role, created_at=row.created_at)
