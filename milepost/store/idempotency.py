"""Requests that say by a key of their own that they are the same one, sent again: what they made is made once.

Both functions run in the transaction of what the request makes: of two that come at once, one makes it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select

from milepost.errors import Invalid
from milepost.store.schema import idempotency_keys


def recall(connection: Connection, project: str, key: str, request_sha256: str) -> dict[str, Any] | None:
    """What was remembered of this key; None if it is new. Raises `Invalid` if it came with another request before."""
    known = select(idempotency_keys).where(idempotency_keys.c.project_id == project, idempotency_keys.c.key == key)
    if (row := connection.execute(known).one_or_none()) is None:
        return None
    if row.request_sha256 != request_sha256:
        raise Invalid(
            f"The Idempotency-Key `{key}` was sent with another request before. Draw a new key for each request that "
            "is not a repetition",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    answer: dict[str, Any] = row.answer
    return answer


def remember(  # noqa: PLR0917 (a row, column by column)
    connection: Connection, project: str, key: str, request_sha256: str, answer: dict[str, Any], now: float
) -> None:
    values = {
        "project_id": project,
        "key": key,
        "created_at": int(now),
        "request_sha256": request_sha256,
        "answer": answer,
    }
    connection.execute(insert(idempotency_keys).values(values))
