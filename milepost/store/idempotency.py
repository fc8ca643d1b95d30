"""Idempotency-Key: a request that is sent again is answered again, and makes nothing twice.

The answer is written in the transaction of what was made, so there is no instant at which one is there without the
other; and since transactions that write take turns, of two requests with one key only one makes something. Refusals are
not kept: a request that was refused may be sent again, corrected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import Connection, insert, select

from milepost.errors import Invalid
from milepost.store.database import Database
from milepost.store.schema import idempotency_keys

MAX_KEY = 255
Made = TypeVar("Made", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Once:
    """A request that may come again: the Idempotency-Key it came with, and the sha256 of all that it asks for."""

    key: str
    request_sha256: str


def once(
    database: Database,
    project: str,
    key: str | None,
    request_sha256: str,
    *,
    kind: type[Made],
    now: float,
    make: Callable[[Connection], Made],
) -> Made:
    """What `make` makes in a transaction; if a request with this key has made it before, what was made then."""
    with database.transaction() as connection:
        if key is None:
            return make(connection)
        if (told := recall(connection, project, key, request_sha256)) is not None:
            return kind.model_validate(told)
        made = make(connection)
        remember(connection, project, key, request_sha256, made.model_dump(mode="json"), now)
        return made


def recall(connection: Connection, project: str, key: str, request_sha256: str) -> dict[str, Any] | None:
    """The answer to an earlier request with this key; None if there was none.

    Raises `Invalid` if that was another request, or if this cannot be a key. `connection` must be one that writes.
    """
    if not 1 <= len(key) <= MAX_KEY:
        raise Invalid(
            f"The Idempotency-Key has {len(key)} characters; it must have 1 to {MAX_KEY}. A random UUID will do",
            param="Idempotency-Key",
        )
    mine = select(idempotency_keys).where(idempotency_keys.c.project_id == project, idempotency_keys.c.key == key)
    found = connection.execute(mine).one_or_none()
    if found is None:
        return None
    if found.request_sha256 != request_sha256:
        raise Invalid(
            f"The Idempotency-Key '{key}' was used with another request. Send the same request again, or another key",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    answer: dict[str, Any] = found.answer
    return answer


def remember(  # noqa: PLR0917 (in the order of `recall`)
    connection: Connection, project: str, key: str, request_sha256: str, answer: Mapping[str, Any], now: float
) -> None:
    """Keep the answer for a day at least. In the transaction that called `recall`, and made what is answered."""
    values = {
        "project_id": project,
        "key": key,
        "created_at": int(now),
        "request_sha256": request_sha256,
        "answer": dict(answer),
    }
    connection.execute(insert(idempotency_keys).values(values))


def fingerprint(route: str, request: Mapping[str, Any]) -> str:
    """What tells one request from another: its route, such as `POST /files`, and all that it says, as JSON has it."""
    said = json.dumps([route, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()
