from __future__ import annotations

import hashlib
import io
import os
import threading
from contextlib import closing

from sqlalchemy import select

from milepost.jobs import ledger
from milepost.resources.files import File, Purpose
from milepost.resources.jobs import JobRequest
from milepost.resources.uploads import UploadRequest
from milepost.store import blobs, files, idempotency, sweeping, uploads
from milepost.store.blobs import Incoming
from milepost.store.database import Database
from milepost.store.keys import Key
from milepost.store.schema import idempotency_keys
from milepost.store.schema import uploads as rows
from tests.store.fixtures import BASE, NOW, upload

DAY = 86_400


def expiring(database: Database, key: Key, content: bytes, seconds: int = 3600) -> File:
    blob = blobs.put(database.folder, io.BytesIO(content), limit=1000)
    with database.transaction() as connection:
        return files.insert_file(
            connection,
            database.folder,
            key.project_id,
            filename="a.jsonl",
            purpose=Purpose.FINE_TUNE,
            blob=blob,
            lines=400,
            now=NOW,
            expires_after_s=seconds,
        )


def is_kept(database: Database, content: bytes) -> bool:
    return blobs.path(database.folder, hashlib.sha256(content).hexdigest()).exists()


def test_the_bytes_of_an_expired_file_are_removed(database: Database, key: Key) -> None:
    expiring(database, key, b"short")
    upload(database, key, b"for ever")
    sweeping.sweep(database, NOW + 3599)
    assert is_kept(database, b"short")
    sweeping.sweep(database, NOW + 3600)
    assert (is_kept(database, b"short"), is_kept(database, b"for ever")) == (False, True)


def test_a_swept_file_is_still_said_to_have_expired(database: Database, key: Key) -> None:
    made = expiring(database, key, b"short")
    sweeping.sweep(database, NOW + DAY)
    with database.reading() as connection:
        said = files.absence(connection, key.project_id, made.id)
    assert said == f"No such File object: {made.id} (it expired at 2026-11-18 12:06:40 UTC)"


def test_an_expired_file_is_kept_for_its_job_until_that_has_ended(database: Database, key: Key) -> None:
    made = expiring(database, key, b"needed")
    job = ledger.create(database, key, JobRequest(model="tiny", training_file=made.id), BASE, NOW)
    sweeping.sweep(database, NOW + DAY)
    assert is_kept(database, b"needed")
    ledger.cancel(database, key.project_id, job.id, NOW + DAY)
    assert not is_kept(database, b"needed")


def test_an_expired_file_that_its_job_has_done_with_is_removed(database: Database, key: Key) -> None:
    made = expiring(database, key, b"needed")
    job = ledger.create(database, key, JobRequest(model="tiny", training_file=made.id), BASE, NOW)
    ledger.cancel(database, key.project_id, job.id, NOW)
    assert is_kept(database, b"needed")
    sweeping.sweep(database, NOW + DAY)
    assert not is_kept(database, b"needed")


def test_the_parts_of_an_expired_upload_are_removed(database: Database, key: Key) -> None:
    request = UploadRequest(filename="a", purpose=Purpose.USER_DATA, bytes=9, mime_type="a/b")
    with database.transaction() as connection:
        made = uploads.create(connection, key.project_id, request, NOW)
    with closing(Incoming(database.folder)) as incoming:
        incoming.write(b"part")
        uploads.add_part(database, key.project_id, made.id, incoming, NOW)
    sweeping.sweep(database, NOW + 3599)
    assert is_kept(database, b"part")
    sweeping.sweep(database, NOW + 3600)
    assert not is_kept(database, b"part")
    with database.reading() as connection:
        assert connection.scalars(select(rows.c.status)).all() == ["expired"]


def test_keys_of_requests_are_kept_for_a_day(database: Database, key: Key) -> None:
    with database.transaction() as connection:
        idempotency.remember(connection, key.project_id, "k", "sha", {"id": "a"}, NOW)
    sweeping.sweep(database, NOW + DAY - 1)
    with database.transaction() as connection:
        assert idempotency.recall(connection, key.project_id, "k", "sha") == {"id": "a"}
    sweeping.sweep(database, NOW + DAY)
    with database.reading() as connection:
        assert connection.execute(select(idempotency_keys)).all() == []


def test_bytes_that_no_row_tells_of_are_removed_at_the_start(database: Database, key: Key) -> None:
    blobs.put(database.folder, io.BytesIO(b"stranger"), limit=100)
    upload(database, key, b"known")
    (database.folder / blobs.FILES / "not-a-blob").touch()
    sweeping.drop_strangers(database)
    assert (is_kept(database, b"stranger"), is_kept(database, b"known")) == (False, True)
    assert (database.folder / blobs.FILES / "not-a-blob").exists()


def test_of_a_running_server_only_old_strangers_are_removed(database: Database, key: Key) -> None:
    for content, age in ((b"old", 3601), (b"new", 3599)):
        blob = blobs.put(database.folder, io.BytesIO(content), limit=100)
        os.utime(blobs.path(database.folder, blob.hash), (NOW - age, NOW - age))
    stop = threading.Event()
    stop.set()
    sweeping.keep_sweeping(database, stop, lambda: NOW)
    assert (is_kept(database, b"old"), is_kept(database, b"new")) == (False, True)


def test_many_are_swept_at_once(database: Database, key: Key) -> None:
    upload(database, key, b"known")
    hashes = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(1200)]
    for sha256 in hashes:
        blobs.path(database.folder, sha256).touch()
    sweeping.drop(database, hashes)
    assert [path.name for path in (database.folder / blobs.FILES).iterdir()] == [hashlib.sha256(b"known").hexdigest()]


def test_sweeping_outlives_its_errors_and_ends_when_told(database: Database, key: Key, caplog) -> None:
    expiring(database, key, b"short")
    stop = threading.Event()
    stop.set()

    def broken() -> float:
        raise RuntimeError

    sweeping.keep_sweeping(database, stop, broken)
    assert "could not be swept" in caplog.text
    sweeping.keep_sweeping(database, stop, lambda: NOW + DAY)
    assert not is_kept(database, b"short")
