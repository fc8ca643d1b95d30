"""Uploads in parts: each part is a blob of its own, and completing an upload joins them into one more.

Joining takes long, and holds no transaction: what the upload is gets asked before, and whether it still is in the
transaction that makes the file. Until then nothing has changed, so a completion that fails may be tried again. Parts
keep their rows when their bytes are gone: they tell whether a completion is the same as an earlier one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, BinaryIO

from sqlalchemy import Connection, Row, Select, and_, case, insert, select, update

from milepost.errors import Conflict, Corrupt, Invalid, NotFound
from milepost.resources.base import new_id
from milepost.resources.files import Purpose, clean_name
from milepost.resources.uploads import LIFETIME_S, CompleteRequest, Upload, UploadPart, UploadRequest, UploadStatus
from milepost.store import blobs, files, sweeping
from milepost.store.blobs import Incoming
from milepost.store.database import Database
from milepost.store.schema import files as file_rows
from milepost.store.schema import upload_parts, uploads

_CHUNK = 1024 * 1024

#: Looks at the joined bytes before they are a file: the number of examples in training data, or `Invalid`.
Check = Callable[[Purpose, BinaryIO], int | None]


def create(connection: Connection, project: str, request: UploadRequest, now: float) -> Upload:
    upload_id = new_id("upload")
    values = {
        "id": upload_id,
        "project_id": project,
        "created_at": int(now),
        "expires_at": int(now) + LIFETIME_S,
        "filename": clean_name(request.filename, "filename"),
        "purpose": request.purpose,
        "mime_type": request.mime_type,
        "bytes": request.bytes,
        "status": UploadStatus.PENDING,
        "expires_after": request.expires_after.seconds if request.expires_after else None,
    }
    connection.execute(insert(uploads).values(values))
    return _upload(connection, _row(connection, project, upload_id, now))


def require_pending(database: Database, project: str, upload_id: str, now: float) -> None:
    """Before a part's bytes are read: refuse those that nobody waits for."""
    with database.reading() as connection:
        _require(_row(connection, project, upload_id, now), UploadStatus.PENDING)


def add_part(database: Database, project: str, upload_id: str, incoming: Incoming, now: float) -> UploadPart:
    """Publish what has come in as a part. Parts may be added side by side; their order is told at completion."""
    size = incoming.finish().bytes
    with database.transaction() as connection:
        upload = _row(connection, project, upload_id, now)
        _require(upload, UploadStatus.PENDING)
        if not 0 < size <= upload.bytes:
            raise Invalid(
                f"The part has {size} bytes, but upload `{upload_id}` was created for {upload.bytes} in all. "
                "Send a piece of the file, or create an upload with the file's true size",
                param="data",
            )
        values = {
            "id": new_id("part"),
            "upload_id": upload_id,
            "created_at": int(now),
            "bytes": size,
            "sha256": incoming.publish().hash,
        }
        connection.execute(insert(upload_parts).values(values))
    return UploadPart(id=values["id"], created_at=values["created_at"], upload_id=upload_id)


def complete(
    database: Database, project: str, upload_id: str, request: CompleteRequest, *, check: Check, now: float
) -> Upload:
    """Make a file of the parts. The same completion once more, after an answer was lost, is answered the same."""
    upload = _find(database, project, upload_id, now)
    if upload.status == UploadStatus.PENDING:
        parts = _parts(database, upload, request.part_ids)
        _require_size(upload, parts)
        if made := _join(database, upload, parts, request, check=check, now=now):
            _drop_parts(database, upload_id)
            return made
        upload = _find(database, project, upload_id, now)  # someone was quicker
        if upload.status == UploadStatus.PENDING:
            raise Corrupt(f"Bytes of parts of upload `{upload_id}` are missing on the server. Add the parts again")
    _require(upload, UploadStatus.COMPLETED)
    return _completed_before(database, upload, request, now)


def cancel(database: Database, project: str, upload_id: str, now: float) -> Upload:
    """Cancel an upload. To cancel it again changes nothing, and is no error."""
    with database.transaction() as connection:
        upload = _row(connection, project, upload_id, now)
        _require(upload, UploadStatus.PENDING, UploadStatus.CANCELLED)
        connection.execute(update(uploads).where(uploads.c.id == upload_id).values(status=UploadStatus.CANCELLED))
        answer = _upload(connection, _row(connection, project, upload_id, now))
    _drop_parts(database, upload_id)
    return answer


# ------------------------------------------------------------------------------------------------ completing


def _parts(database: Database, upload: Row[Any], part_ids: Sequence[str]) -> list[Row[Any]]:
    """The rows of the parts, in the order they are named."""
    with database.reading() as connection:
        rows = connection.execute(select(upload_parts).where(upload_parts.c.upload_id == upload.id)).all()
    known = {row.id: row for row in rows}
    named: dict[str, Row[Any]] = {}
    for place, part_id in enumerate(part_ids):
        if part_id in named:
            raise Invalid(f"Part {part_id} is named twice. Name each part once, in the file's order", param="part_ids")
        if part_id not in known:
            raise Invalid(
                f"No such part of upload `{upload.id}`: {part_id} (part_ids[{place}]). "
                "Name ids that adding a part to this upload has answered",
                param="part_ids",
            )
        named[part_id] = known[part_id]
    return list(named.values())


def _require_size(upload: Row[Any], parts: Sequence[Row[Any]]) -> None:
    size = sum(part.bytes for part in parts)
    if size != upload.bytes:
        raise Invalid(
            f"The parts named have {size} bytes in all, but upload `{upload.id}` was made for {upload.bytes}. "
            "Name every part, or add what is missing and complete it again",
            param="part_ids",
        )


def _join(
    database: Database,
    upload: Row[Any],
    parts: Sequence[Row[Any]],
    request: CompleteRequest,
    *,
    check: Check,
    now: float,
) -> Upload | None:
    """The completed upload; None if it is not pending any more, so that its parts may be gone in mid-copy."""
    md5 = None if request.md5 is None else _md5()
    with closing(Incoming(database.folder)) as incoming:
        try:
            for part in parts:
                with blobs.path(database.folder, part.sha256).open("rb") as stream:
                    for chunk in _chunks(stream, part.bytes):
                        if md5 is not None:
                            md5.update(chunk)
                        incoming.write(chunk)
        except FileNotFoundError:
            return None
        if md5 is not None:
            _require_md5(request, md5.hexdigest())
        incoming.finish()
        with incoming.open() as whole:
            lines = check(Purpose(upload.purpose), whole)
        return _make_file(database, upload, incoming, lines, now)


def _make_file(
    database: Database, upload: Row[Any], incoming: Incoming, lines: int | None, now: float
) -> Upload | None:
    this = uploads.c.id == upload.id
    with database.transaction() as connection:
        move = update(uploads).where(this, uploads.c.status == UploadStatus.PENDING)
        if not connection.execute(move.values(status=UploadStatus.COMPLETED)).rowcount:
            return None
        file = files.insert_file(
            connection,
            database.folder,
            upload.project_id,
            filename=upload.filename,
            purpose=Purpose(upload.purpose),
            blob=incoming.publish(),
            lines=lines,
            now=now,
            expires_after_s=upload.expires_after,
        )
        connection.execute(update(uploads).where(this).values(file_id=file.id))
        return _upload(connection, _row(connection, upload.project_id, upload.id, now))


def _completed_before(database: Database, upload: Row[Any], request: CompleteRequest, now: float) -> Upload:
    """The answer of the earlier completion, if that was of the same parts: the file's bytes tell."""
    parts = _parts(database, upload, request.part_ids)
    with files.blob_path(database, upload.project_id, upload.file_id, now).open("rb") as whole:
        if not _is_made_of(whole, parts):
            raise Conflict(
                f"Upload `{upload.id}` was completed with other parts or in another order, as file {upload.file_id}. "
                "Use that file, or create another upload",
                param="part_ids",
            )
        if request.md5 is not None:
            whole.seek(0)
            _require_md5(request, hashlib.file_digest(whole, _md5).hexdigest())
    with database.reading() as connection:
        return _upload(connection, upload)


def _is_made_of(whole: BinaryIO, parts: Sequence[Row[Any]]) -> bool:
    for part in parts:
        digest = hashlib.sha256()
        for chunk in _chunks(whole, part.bytes):
            digest.update(chunk)
        if digest.hexdigest() != part.sha256:
            return False
    return not whole.read(1)


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (chunk := stream.read(min(size, _CHUNK))):
        size -= len(chunk)
        yield chunk


def _require_md5(request: CompleteRequest, found: str) -> None:
    if request.md5 and request.md5.lower() != found:
        raise Invalid(
            f"The parts in this order have the md5 {found}, but {request.md5} was expected. Check the order of "
            "part_ids, or add the part that differs once more",
            param="md5",
        )


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


# ------------------------------------------------------------------------------------------------ rows


def _find(database: Database, project: str, upload_id: str, now: float) -> Row[Any]:
    with database.reading() as connection:
        return _row(connection, project, upload_id, now)


def _row(connection: Connection, project: str, upload_id: str, now: float) -> Row[Any]:
    query = _as_of(now).where(uploads.c.id == upload_id, uploads.c.project_id == project)
    if found := connection.execute(query).one_or_none():
        return found
    raise NotFound(f"No such Upload object: {upload_id}", param="upload_id")


def _as_of(now: float) -> Select[Any]:
    """Uploads with the status they have now, whether or not they have been swept."""
    is_over = and_(uploads.c.status == UploadStatus.PENDING, uploads.c.expires_at <= int(now))
    status = case((is_over, UploadStatus.EXPIRED), else_=uploads.c.status).label("status")
    return select(*(column for column in uploads.c if column is not uploads.c.status), status)


def _require(upload: Row[Any], *wanted: UploadStatus) -> None:
    if upload.status in wanted:
        return
    raise Conflict(
        f"Upload `{upload.id}` {_FATES[upload.status](upload)}. Only an upload that is pending takes parts and can be "
        "completed or cancelled; create another",
        param="upload_id",
    )


def _expired(upload: Row[Any]) -> str:
    return f"expired at {datetime.fromtimestamp(upload.expires_at, UTC):%Y-%m-%d %H:%M:%S} UTC, an hour after its start"


#: What has become of an upload that is not what was wanted.
_FATES: dict[str, Callable[[Row[Any]], str]] = {
    UploadStatus.COMPLETED: lambda upload: f"is completed, as file {upload.file_id}",
    UploadStatus.CANCELLED: lambda _: "was cancelled",
    UploadStatus.EXPIRED: _expired,
}


def _upload(connection: Connection, row: Row[Any]) -> Upload:
    file = None
    if row.file_id is not None:
        file = files.make(connection.execute(select(file_rows).where(file_rows.c.id == row.file_id)).one())
    return Upload(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        purpose=row.purpose,
        status=row.status,
        file=file,
    )


def _drop_parts(database: Database, upload_id: str) -> None:
    with database.reading() as connection:
        hashes = connection.scalars(select(upload_parts.c.sha256).where(upload_parts.c.upload_id == upload_id)).all()
    sweeping.drop(database, hashes)
