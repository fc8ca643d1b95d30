"""Uploaded files: a row each, the bytes in `store.blobs`. Two uploads of the same bytes are two files and one blob.

A file whose time is over is gone for whoever reads, before its bytes are swept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select, update

from milepost.errors import NotFound, Unavailable
from milepost.resources.base import Deleted, Page, new_id
from milepost.resources.files import File, Purpose, expires_at
from milepost.store import blobs, sweeping
from milepost.store.blobs import Blob
from milepost.store.database import Database
from milepost.store.pages import read_page
from milepost.store.schema import files


def add(
    database: Database, project: str, *, filename: str, purpose: Purpose, blob: Blob, lines: int | None, now: float
) -> File:
    """Make a file of a blob. `lines` is the number of examples, known for training data only."""
    with database.transaction() as connection:
        return insert_file(
            connection,
            database.folder,
            project,
            filename=filename,
            purpose=purpose,
            blob=blob,
            lines=lines,
            now=now,
        )


def insert_file(
    connection: Connection,
    folder: Path,
    project: str,
    *,
    filename: str,
    purpose: Purpose,
    blob: Blob,
    lines: int | None,
    now: float,
    expires_after_s: int | None = None,
) -> File:
    """`add` in the caller's transaction, for files that come to be together with something else."""
    if not blobs.path(folder, blob.hash).exists():
        # the same bytes were deleted as another file after they were put; a client that retries uploads them again
        raise Unavailable("The file was deleted while it was uploaded; upload it again", param="file")
    values = {
        "id": new_id("file"),
        "project_id": project,
        "created_at": int(now),
        "filename": filename,
        "purpose": purpose,
        "bytes": blob.bytes,
        "sha256": blob.hash,
        "lines": lines,
        "expires_at": expires_at(purpose, expires_after_s, int(now)),
    }
    return make(connection.execute(insert(files).values(values).returning(files)).one())


def get(database: Database, project: str, file_id: str, now: float) -> File:
    with database.reading() as connection:
        return make(row(connection, project, file_id, now))


def page(
    database: Database,
    project: str,
    *,
    purpose: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    after: str | None,
    now: float,
) -> Page[File]:
    filters = [is_there(now)]
    if purpose is not None:
        filters.append(files.c.purpose == purpose)
    with database.reading() as connection:
        return read_page(
            connection,
            files,
            make,
            scope=files.c.project_id == project,
            filters=filters,
            keys=(files.c.created_at, files.c.sequence),
            descending=order == "desc",
            after=after,
            limit=limit,
        )


def delete(database: Database, project: str, file_id: str, now: float) -> Deleted:
    """Delete a file. Its bytes go at once, or when the last job that still needs them has ended."""
    with database.transaction() as connection:
        row(connection, project, file_id, now)
        connection.execute(update(files).where(files.c.id == file_id).values(deleted_at=int(now)))
    sweep(database, file_id)
    return Deleted(id=file_id, object="file")


def blob_path(database: Database, project: str, file_id: str, now: float) -> Path:
    with database.reading() as connection:
        return blobs.path(database.folder, row(connection, project, file_id, now).sha256)


def row(connection: Connection, project: str, file_id: str, now: float) -> Row[Any]:
    mine = select(files).where(files.c.id == file_id, files.c.project_id == project)
    if found := connection.execute(mine.where(is_there(now))).one_or_none():
        return found
    raise NotFound(absence(connection, project, file_id), param="id")


def is_there(now: float) -> ColumnElement[bool]:
    """Neither deleted nor expired."""
    return and_(files.c.deleted_at.is_(None), or_(files.c.expires_at.is_(None), files.c.expires_at > int(now)))


def absence(connection: Connection, project: str, file_id: str) -> str:
    """What to say of a file that is not there: that it was, and when it went, if it was this project's."""
    mine = select(files).where(files.c.id == file_id, files.c.project_id == project)
    gone = connection.execute(mine).one_or_none()
    if gone is None:
        return f"No such File object: {file_id}"
    # what sweeps an expired file marks it deleted at that same second
    has_expired = gone.deleted_at is None or gone.deleted_at == gone.expires_at
    when = datetime.fromtimestamp(gone.expires_at if has_expired else gone.deleted_at, UTC)
    return (
        f"No such File object: {file_id} ({'it expired' if has_expired else 'deleted'} at {when:%Y-%m-%d %H:%M:%S} UTC)"
    )


def sweep(database: Database, *file_ids: str) -> None:
    """Remove the bytes of those of the files that are deleted, unless another file or an unfinished job needs them.

    After the transaction that let them go: bytes are not to be lost to one that is rolled back.
    """
    query = select(files.c.sha256).where(files.c.id.in_(file_ids), files.c.deleted_at.is_not(None))
    with database.reading() as connection:
        hashes = connection.scalars(query).all()
    sweeping.drop(database, hashes)


def make(row: Row[Any]) -> File:
    """A row as the API's object."""
    return File(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        filename=row.filename,
        purpose=row.purpose,
        expires_at=row.expires_at,
    )
