"""Keys, and the organisation and project they belong to. A key's secret is shown once and kept as its sha256 only.

A secret is 48 random alphanumerics (285 bits): a plain hash of it cannot be searched, so none that is slow is needed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from milepost.config import Settings
from milepost.errors import Denied, NotFound
from milepost.resources.base import new_id, random_alphanumeric
from milepost.store.database import Database
from milepost.store.schema import keys, organizations, projects


class KeyKind(StrEnum):
    PROJECT = "project"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. `hint` is enough of the secret to tell it from others."""

    id: str
    kind: KeyKind
    name: str
    hint: str
    project_id: str
    organization_id: str
    created_at: int
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class Secrets:
    """The plain keys of a first start: shown once, kept nowhere in the store."""

    project_key: str
    admin_key: str


_PREFIXES = {KeyKind.PROJECT: "sk-proj-", KeyKind.ADMIN: "sk-admin-"}
_SECRET_LENGTH = 48
_MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). `milepost keys create` makes one."
)
_ALL = select(keys, projects.c.organization_id).join(projects, projects.c.id == keys.c.project_id)


def authenticate(database: Database, secret: str | None) -> Key:
    """Find the project key with this secret; raise `Denied` for every other."""
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
    if key.kind is not KeyKind.PROJECT:
        raise Denied(
            f"The key {key.hint} is an admin key; the routes that take one, for projects and keys, are not served "
            "yet. Use a project key (`sk-proj-…`); `milepost keys create` makes one.",
            code="invalid_api_key",
        )
    return key


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
        secrets = Secrets(given.get_secret_value() if given else _secret(KeyKind.PROJECT), _secret(KeyKind.ADMIN))
        _insert(connection, project, kind=KeyKind.PROJECT, name="first", secret=secrets.project_key, now=now)
        _insert(connection, project, kind=KeyKind.ADMIN, name="first admin", secret=secrets.admin_key, now=now)
    return secrets


def list_keys(database: Database) -> tuple[Key, ...]:
    """All keys, oldest first, revoked ones too."""
    with database.reading() as connection:
        return tuple(_key(row) for row in connection.execute(_ALL.order_by(keys.c.sequence)))


def create(database: Database, kind: KeyKind, name: str, now: float) -> tuple[Key, str]:
    """Make a key of the default project; return it and its secret, which cannot be had again."""
    secret = _secret(kind)
    with database.transaction() as connection:
        project = connection.scalar(select(projects.c.id).order_by(projects.c.sequence).limit(1))
        if project is None:
            raise NotFound("There is no project here yet; the first `milepost serve` makes it")
        return _insert(connection, project, kind=kind, name=name, secret=secret, now=now), secret


def revoke(database: Database, key_id: str, now: float) -> Key:
    """Revoke a key at once and for good; revoking it again changes nothing."""
    with database.transaction() as connection:
        connection.execute(
            update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=int(now))
        )
        row = connection.execute(_ALL.where(keys.c.id == key_id)).one_or_none()
    if row is None:
        raise NotFound(f"No such key: {key_id}. `milepost keys list` shows their ids", param="key_id")
    return _key(row)


def _insert(connection: Connection, project: str, *, kind: KeyKind, name: str, secret: str, now: float) -> Key:
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
        )
    )
    return _key(connection.execute(_ALL.where(keys.c.id == key_id)).one())


def _secret(kind: KeyKind) -> str:
    return _PREFIXES[kind] + random_alphanumeric(_SECRET_LENGTH)


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
        organization_id=row.organization_id,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
