"""What became a fact besides jobs: a row of the outbox, written with it, that audit and webhooks read."""

from __future__ import annotations

from sqlalchemy import Connection, insert

from milepost.store.keys import Key
from milepost.store.schema import outbox


def publish(connection: Connection, project: str, kind: str, subject: str, *, by: Key, now: float) -> None:
    """Tell of a change in the transaction that makes it. `kind` is what OpenAI's audit log calls it."""
    values = {
        "project_id": project,
        "created_at": int(now),
        "type": kind,
        "subject_id": subject,
        "data": {"key_id": by.id},
    }
    connection.execute(insert(outbox).values(values))
