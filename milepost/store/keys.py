"""Keys, and the organisation and project they belong to. A key's secret is shown once and kept as its sha256 only.

A secret is 48 random alphanumerics (285 bits): a plain hash of it cannot be searched, so none that is slow is needed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, or_, select, update
from sqlalchemy.exc import DBAPIError

from milepost.config import Settings
from milepost.errors import Denied, Forbidden, Full, NotFound, Unavailable
from milepost.resources.base import new_id, random_alphanumeric
from milepost.store.database import Database
from milepost.store.schema import keys, organizations, projects, service_accounts

log = logging.getLogger(__name__)


class KeyKind(StrEnum):
    PROJECT = "project"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. `hint` is enough of the secret to tell it from others.

    The project of an admin key is only where its row stands: such a key opens no project.
    """

    id: str
    kind: KeyKind
    name: str
    hint: str
    project_id: str
    project_name: str
    organization_id: str
    service_account: str | None
    created_at: int
    revoked_at: int | None
    expires_at: int | None
    last_used_at: int | None
    project_archived_at: int | None


@dataclass(frozen=True, slots=True)
class Secrets:
    """The plain keys of a first start: shown once, kept nowhere in the store."""

    project_key: str
    admin_key: str


#: What a key begins with: OpenAI's own prefixes.
PROJECT_PREFIX, ADMIN_PREFIX, ACCOUNT_PREFIX = "sk-proj-", "sk-admin-", "sk-svcacct-"
#: `last_used_at` is true to this: a busy key costs one write in this time, not one a request.
USE_S = 60

_SECRET_LENGTH = 48
_PREFIXES = {KeyKind.PROJECT: PROJECT_PREFIX, KeyKind.ADMIN: ADMIN_PREFIX}
_MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). `milepost keys create` makes one."
)
_WRONG_KIND = {
    KeyKind.ADMIN: (
        "is an admin key, which opens /v1/organization and the permissions of checkpoints only. Use a project key "
        "(`sk-proj-…`) here; `milepost keys create` makes one"
    ),
    KeyKind.PROJECT: (
        "is a project key, and this route is for admin keys (`sk-admin-…`, the SDK's `admin_api_key` or "
        "OPENAI_ADMIN_KEY). `milepost keys create --admin` makes one"
    ),
}
_ALL = (
    select(
        keys,
        projects.c.organization_id,
        projects.c.name.label("project_name"),
        projects.c.archived_at,
        service_accounts.c.name.label("account"),
        service_accounts.c.role.label("account_role"),
    )
    .join(projects, projects.c.id == keys.c.project_id)
    .outerjoin(service_accounts, service_accounts.c.id == keys.c.service_account_id)
)


def authenticate(
    database: Database,
    secret: str | None,
    takes: Collection[KeyKind] = (KeyKind.PROJECT,),
    *,
    now: Callable[[], float] = time.time,
) -> Key:
    """Find the key with this secret, if it is of a kind that `takes` has and opens anything now.

    Raises `Denied` if there is no such key or it has ended, `Forbidden` if it is good, but not for this.
    """
    if not secret:
        raise Denied(_MISSING)
    digest = _digest(secret)
    with database.reading() as connection:
        row = connection.execute(_ALL.where(keys.c.secret_sha256 == digest)).one_or_none()
    # compared again in constant time: the index may give away how far a guess agreed, though of a hash only
    if row is None or not hmac.compare_digest(row.secret_sha256, digest) or row.revoked_at is not None:
        raise Denied(
            f"Incorrect API key provided: {_mask(secret)}. `milepost keys list` shows the keys of this server, "
            "`milepost keys create` makes one.",
            code="invalid_api_key",
        )
    key = _key(row)
    if key.expires_at is not None and key.expires_at <= now():
        raise Denied(
            f"The API key {key.hint} expired on {said(key.expires_at)}. Create another", code="expired_api_key"
        )
    if key.kind not in takes:
        raise Forbidden(f"The API key {key.hint} {_WRONG_KIND[key.kind]}.", code="insufficient_permissions")
    if key.kind is KeyKind.PROJECT:
        _refuse_without_access(key, row.account_role)
    return key


def note_use(database: Database, key: Key, now: float) -> None:
    """Keep when a key was last used, to within `USE_S`."""
    if key.last_used_at is not None and now - key.last_used_at < USE_S:
        return
    stale = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at <= now - USE_S)  # another thread may have been here
    try:
        with database.transaction() as connection:
            connection.execute(update(keys).where(keys.c.id == key.id, stale).values(last_used_at=int(now)))
    except (DBAPIError, Full, Unavailable) as error:  # a full disk, or a long wait for a turn: it may only want to read
        why = error.orig if isinstance(error, DBAPIError) else error.message
        log.warning("the use of key %s could not be noted: %s", key.id, why)  # each request says so, while it lasts


def organization(database: Database) -> str | None:
    """The id of the organisation; None before the first start has made it."""
    with database.reading() as connection:
        return connection.scalar(select(organizations.c.id))


def bootstrap(database: Database, settings: Settings, now: float) -> Secrets | None:
    """Make the organisation, its default project and the first two keys; None if they are there already."""
    with database.transaction() as connection:
        if connection.execute(update(organizations).values(name=settings.organization)).rowcount:
            return None
        organization, project = new_id("organization"), new_id("project")
        connection.execute(
            insert(organizations).values(id=organization, name=settings.organization, created_at=int(now))
        )
        connection.execute(
            insert(projects).values(id=project, organization_id=organization, name="Default", created_at=int(now))
        )
        given = settings.bootstrap_key
        secrets = Secrets(given.get_secret_value() if given else draw_secret(PROJECT_PREFIX), draw_secret(ADMIN_PREFIX))
        insert_key(connection, project, kind=KeyKind.PROJECT, name="first", secret=secrets.project_key, now=now)
        insert_key(connection, project, kind=KeyKind.ADMIN, name="first admin", secret=secrets.admin_key, now=now)
    return secrets


def list_keys(database: Database) -> tuple[Key, ...]:
    """All keys, oldest first, revoked ones too."""
    with database.reading() as connection:
        return tuple(_key(row) for row in connection.execute(_ALL.order_by(keys.c.sequence)))


def create(database: Database, kind: KeyKind, name: str, now: float, *, project: str | None = None) -> tuple[Key, str]:
    """Make a key of a project, by id or name, or of the default project; return it and its secret, had only now."""
    secret = draw_secret(_PREFIXES[kind])
    with database.transaction() as connection:
        project_id = default_project(connection) if project is None else _project(connection, project)
        if project_id is None:
            raise NotFound("There is no project here yet; the first `milepost serve` makes it")
        return insert_key(connection, project_id, kind=kind, name=name, secret=secret, now=now), secret


def revoke(database: Database, key_id: str, now: float) -> Key:
    """Revoke a key at once and for good; revoking it again changes nothing."""
    with database.transaction() as connection:
        revoke_where(connection, keys.c.id == key_id, now=now)
        row = connection.execute(_ALL.where(keys.c.id == key_id)).one_or_none()
    if row is None:
        raise NotFound(f"No such key: {key_id}. `milepost keys list` shows their ids", param="key_id")
    return _key(row)


# ------------------------------------------------------------------------------------------------ for the store


def insert_key(
    connection: Connection,
    project: str,
    *,
    kind: KeyKind,
    name: str,
    secret: str,
    now: float,
    account: str | None = None,
    expires_in_s: int | None = None,
) -> Key:
    """Make a key in the caller's transaction."""
    key_id = new_id("key")
    connection.execute(
        insert(keys).values(
            id=key_id,
            project_id=project,
            kind=kind,
            name=name,
            hint=_mask(secret),
            secret_sha256=_digest(secret),
            created_at=int(now),
            service_account_id=account,
            expires_at=None if expires_in_s is None else int(now) + expires_in_s,
        )
    )
    return _key(connection.execute(_ALL.where(keys.c.id == key_id)).one())


def revoke_where(connection: Connection, *which: ColumnElement[bool], now: float) -> None:
    """Revoke keys in the caller's transaction; those that are revoked keep their time."""
    connection.execute(update(keys).where(*which, keys.c.revoked_at.is_(None)).values(revoked_at=int(now)))


def draw_secret(prefix: str) -> str:
    return prefix + random_alphanumeric(_SECRET_LENGTH)


def default_project(connection: Connection) -> str | None:
    """The first project, which the first start made."""
    return connection.scalar(select(projects.c.id).order_by(projects.c.sequence).limit(1))


def said(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d at %H:%M:%S} UTC"


# ------------------------------------------------------------------------------------------------ private


def _refuse_without_access(key: Key, account_role: str | None) -> None:
    if key.project_archived_at is not None:
        raise Denied(
            f"The project `{key.project_id}` of the API key {key.hint} was archived on "
            f"{said(key.project_archived_at)} and answers no requests. Use a key of another project",
            code="project_archived",
        )
    if account_role == "none":
        raise Forbidden(
            f"The service account of the API key {key.hint} has the role `none` in project `{key.project_id}`. "
            "Give it the role `member` with an admin key first",
            code="insufficient_permissions",
        )


def _project(connection: Connection, wanted: str) -> str:
    """The id of the project that is called `wanted`, by its id or by a name that no other has."""
    live = select(projects.c.id).where(projects.c.archived_at.is_(None))
    found = connection.scalars(live.where(or_(projects.c.id == wanted, projects.c.name == wanted))).all()
    if len(found) != 1:
        many = f"{len(found)} projects are called '{wanted}' ({', '.join(found)}): name one by its id"
        raise NotFound(
            many if found else f"No such project: {wanted}. `milepost keys list` shows some", param="project"
        )
    return str(found[0])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _mask(secret: str) -> str:
    """Show where a key begins and ends, and never enough of a short one to be of use."""
    head, tail = (secret[:8], secret[-4:]) if len(secret) >= 24 else (secret[:3], "")
    return f"{head}***{tail}"


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        kind=KeyKind(row.kind),
        name=row.name,
        hint=row.hint,
        project_id=row.project_id,
        project_name=row.project_name,
        organization_id=row.organization_id,
        service_account=row.account,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        project_archived_at=row.archived_at,
    )
