"""Uploads, and what may happen while their parts are joined."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import BinaryIO

import pytest

from milepost.config import Settings
from milepost.errors import Conflict, Corrupt
from milepost.resources.files import Purpose
from milepost.resources.uploads import CompleteRequest, Upload, UploadRequest
from milepost.store import blobs, files, sweeping, uploads
from milepost.store.blobs import Incoming
from milepost.store.database import Database, open_database
from milepost.store.keys import Key
from tests.store.fixtures import NOW


def begin(database: Database, key: Key, *pieces: bytes) -> tuple[str, list[str]]:
    """An upload with these parts; its id, and theirs."""
    size = sum(map(len, pieces))
    request = UploadRequest(filename="a.txt", purpose=Purpose.USER_DATA, bytes=size, mime_type="text/plain")
    with database.transaction() as connection:
        upload = uploads.create(connection, key.project_id, request, NOW)
    return upload.id, [add(database, key, upload.id, piece) for piece in pieces]


def add(database: Database, key: Key, upload_id: str, piece: bytes, now: float = NOW) -> str:
    with closing(Incoming(database.folder)) as incoming:
        incoming.write(piece)
        return uploads.add_part(database, key.project_id, upload_id, incoming, now).id


def complete(database: Database, key: Key, upload_id: str, part_ids: Sequence[str], meanwhile=lambda: None) -> Upload:
    """`meanwhile` is called when the parts are joined and nothing is written yet."""
    request = CompleteRequest(part_ids=tuple(part_ids))

    def check(_purpose: Purpose, _file: BinaryIO) -> tuple[None, None]:
        meanwhile()
        return None, None

    return uploads.complete(database, key.project_id, upload_id, request, check=check, now=NOW)


def bytes_of(database: Database, key: Key, upload: Upload) -> bytes:
    assert upload.file is not None
    return files.blob_path(database, key.project_id, upload.file.id, NOW).read_bytes()


def hashes(database: Database) -> set[str]:
    return {path.name for path in (database.folder / blobs.FILES).iterdir()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_whoever_is_quicker_completes(database: Database, key: Key) -> None:
    upload, parts = begin(database, key, b"ab", b"cd")
    made: list[Upload] = []

    def meanwhile() -> None:
        made.append(complete(database, key, upload, parts[::-1]))

    with pytest.raises(Conflict, match="was completed with other parts or in another order"):
        complete(database, key, upload, parts, meanwhile)
    assert bytes_of(database, key, made[0]) == b"cdab"
    assert hashes(database) == {sha256(b"cdab")}


def test_the_slower_of_two_that_are_the_same_has_the_answer_of_the_quicker(database: Database, key: Key) -> None:
    upload, parts = begin(database, key, b"ab", b"cd")
    made: list[Upload] = []
    done = complete(database, key, upload, parts, lambda: made.append(complete(database, key, upload, parts)))
    assert [done] == made
    assert bytes_of(database, key, done) == b"abcd"


def test_an_upload_that_is_cancelled_meanwhile_is_cancelled(database: Database, key: Key) -> None:
    upload, parts = begin(database, key, b"ab")
    with pytest.raises(Conflict, match=r"was cancelled\."):
        complete(database, key, upload, parts, lambda: uploads.cancel(database, key.project_id, upload, NOW))
    assert hashes(database) == set()


def test_an_upload_that_expires_meanwhile_is_completed_unless_it_is_swept(database: Database, key: Key) -> None:
    upload, parts = begin(database, key, b"ab")
    with pytest.raises(Conflict, match="expired at"):
        complete(database, key, upload, parts, lambda: sweeping.sweep(database, NOW + 3600))
    assert hashes(database) == set()


def test_a_part_that_is_added_meanwhile_is_not_of_the_file(database: Database, key: Key) -> None:
    upload, parts = begin(database, key, b"ab")
    done = complete(database, key, upload, parts, lambda: add(database, key, upload, b"cd"))
    assert bytes_of(database, key, done) == b"ab"
    assert hashes(database) == {sha256(b"ab")}


def test_a_part_comes_too_late_once_it_is_completed(database: Database, key: Key) -> None:
    upload, parts = begin(database, key, b"ab")
    complete(database, key, upload, parts)
    with pytest.raises(Conflict, match=r"is completed, as file file-"):
        add(database, key, upload, b"cd")
    assert hashes(database) == {sha256(b"ab")}
    assert list((database.folder / "incoming").iterdir()) == []


def test_lost_bytes_of_a_part_are_told(database: Database, key: Key) -> None:
    upload, parts = begin(database, key, b"ab")
    blobs.path(database.folder, sha256(b"ab")).unlink()
    with pytest.raises(Corrupt, match=r"are missing on the server\. Add the parts again"):
        complete(database, key, upload, parts)


KILLED = """
import os, signal, sys
from pathlib import Path
from milepost.config import Settings
from milepost.resources.uploads import CompleteRequest
from milepost.store import uploads
from milepost.store.database import open_database

folder, url, project, upload, *parts = sys.argv[1:]
database = open_database(Settings(data_dir=Path(folder), database_url=url or None))
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
fine = lambda *_: (None, None)
{how}
uploads.complete(database, project, upload, CompleteRequest(part_ids=tuple(parts)), check={check}, now={now})
"""


@pytest.mark.parametrize(
    ("how", "check", "is_published"),
    [
        ("", "die", False),
        # the blob is in its place, and its folder about to be synced: its row is not yet
        (
            "sys.addaudithook(lambda event, args: event == 'open' and str(args[0]).endswith('/files') and die())",
            "fine",
            True,
        ),
    ],
)
def test_a_server_killed_in_mid_completion_has_lost_nothing(
    database: Database, key: Key, settings: Settings, how: str, check: str, is_published: bool
) -> None:
    upload, parts = begin(database, key, b"ab", b"cd")
    database.close()
    script = KILLED.format(how=how, check=check, now=NOW)
    url = "" if settings.database_url is None else settings.database_url.get_secret_value()
    ended = subprocess.run(
        [sys.executable, "-c", script, str(settings.data_dir), url, key.project_id, upload, *parts],
        env=os.environ,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    reopened = open_database(settings)
    assert (sha256(b"abcd") in hashes(reopened)) is is_published
    blobs.forget_incoming(reopened.folder)
    sweeping.drop_strangers(reopened)
    assert hashes(reopened) == {sha256(b"ab"), sha256(b"cd")}
    assert bytes_of(reopened, key, complete(reopened, key, upload, parts)) == b"abcd"
    reopened.close()
