"""Uploaded files: a row each, the bytes in `store.blobs`. Two uploads of the same bytes are two files and one blob."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, exists, insert, or_, select, update

from milepost.errors import NotFound, Unavailable
from milepost.resources.base import Deleted, Page, new_id
from milepost.resources.files import File, Purpose
from milepost.resources.jobs import NEXT
from milepost.store import blobs
from milepost.store.blobs import Blob
from milepost.store.database import Database
from milepost.store.pages import read_page
from milepost.store.schema import files, jobs


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
    }
    return _file(connection.execute(insert(files).values(values).returning(files)).one())


def get(database: Database, project: str, file_id: str) -> File:
    with database.reading() as connection:
        return _file(row(connection, project, file_id))


def page(
    database: Database,
    project: str,
    *,
    purpose: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    after: str | None,
) -> Page[File]:
    filters: list[ColumnElement[bool]] = [files.c.deleted_at.is_(None)]
    if purpose is not None:
        filters.append(files.c.purpose == purpose)
    with database.reading() as connection:
        return read_page(
            connection,
            files,
            _file,
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
        row(connection, project, file_id)
        connection.execute(update(files).where(files.c.id == file_id).values(deleted_at=int(now)))
    sweep(database, file_id)
    return Deleted(id=file_id, object="file")


def blob_path(database: Database, project: str, file_id: str) -> Path:
    with database.reading() as connection:
        return blobs.path(database.folder, row(connection, project, file_id).sha256)


def row(connection: Connection, project: str, file_id: str) -> Row[Any]:
    query = select(files).where(files.c.id == file_id, files.c.project_id == project, files.c.deleted_at.is_(None))
    if found := connection.execute(query).one_or_none():
        return found
    raise NotFound(f"No such File object: {file_id}", param="id")


def sweep(database: Database, *file_ids: str) -> None:
    """Remove the bytes of those of the files that are deleted, unless another file or an unfinished job needs them.

    After the transaction that let them go: bytes are not to be lost to one that is rolled back. In one of its own, so
    that nobody makes a file of a blob that is about to go.
    """
    same = files.alias()
    unfinished = exists().where(
        jobs.c.status.in_(list(NEXT)), or_(jobs.c.training_file == same.c.id, jobs.c.validation_file == same.c.id)
    )
    needed = exists().where(same.c.sha256 == files.c.sha256, or_(same.c.deleted_at.is_(None), unfinished))
    query = select(files.c.sha256).where(files.c.id.in_(file_ids), files.c.deleted_at.is_not(None), ~needed)
    with database.transaction() as connection:
        for sha256 in connection.scalars(query):
            blobs.path(database.folder, sha256).unlink(missing_ok=True)


def _file(row: Row[Any]) -> File:
    return File(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        filename=row.filename,
        purpose=row.purpose,
    )
