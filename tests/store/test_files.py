from pathlib import Path

import pytest

from milepost.errors import NotFound
from milepost.jobs import ledger
from milepost.resources.files import Purpose
from milepost.resources.jobs import JobRequest
from milepost.store import blobs, files
from milepost.store.database import Database
from milepost.store.keys import Key
from tests.store.fixtures import BASE, NOW, stranger, upload


def page(database: Database, key: Key, **wanted: object) -> list[str]:
    asked = {"purpose": None, "limit": 10_000, "order": "desc", "after": None, "now": NOW, **wanted}
    return [file.id for file in files.page(database, key.project_id, **asked).data]


def test_a_file_is_as_it_was_uploaded(database: Database, key: Key) -> None:
    made = upload(database, key, b"four")
    assert made.id.startswith("file-")
    assert (made.bytes, made.filename, made.purpose, made.status) == (4, "a.jsonl", "fine-tune", "processed")
    assert files.get(database, key.project_id, made.id, NOW) == made
    assert files.blob_path(database, key.project_id, made.id, NOW).read_bytes() == b"four"


def test_an_unknown_file_is_not_found(database: Database, key: Key) -> None:
    with pytest.raises(NotFound, match=r"^No such File object: file-x$") as error:
        files.get(database, key.project_id, "file-x", NOW)
    assert error.value.param == "id"


def test_another_projects_file_does_not_exist(database: Database, key: Key) -> None:
    made, other = upload(database, key), stranger(database)
    with pytest.raises(NotFound):
        files.get(database, other.project_id, made.id, NOW)
    with pytest.raises(NotFound):
        files.delete(database, other.project_id, made.id, NOW)
    assert page(database, other) == []


def test_files_are_listed_newest_first_even_within_a_second(database: Database, key: Key) -> None:
    first, second = upload(database, key), upload(database, key)
    assert page(database, key) == [second.id, first.id]
    assert page(database, key, order="asc") == [first.id, second.id]


def test_pages_follow_each_other(database: Database, key: Key) -> None:
    made = [upload(database, key).id for _ in range(3)]
    first = files.page(database, key.project_id, purpose=None, limit=2, order="desc", after=None, now=NOW)
    assert (first.has_more, first.first_id, first.last_id) == (True, made[2], made[1])
    last = files.page(database, key.project_id, purpose=None, limit=2, order="desc", after=first.last_id, now=NOW)
    assert ([file.id for file in last.data], last.has_more) == ([made[0]], False)


def test_an_unknown_cursor_and_a_limit_of_zero_give_empty_pages(database: Database, key: Key) -> None:
    upload(database, key)
    assert page(database, key, after="after") == []
    empty = files.page(database, key.project_id, purpose=None, limit=0, order="desc", after=None, now=NOW)
    assert (empty.data, empty.has_more) == ((), False)


def test_a_list_may_be_of_one_purpose(database: Database, key: Key) -> None:
    upload(database, key)
    other = upload(database, key, purpose=Purpose.BATCH)
    assert page(database, key, purpose="batch") == [other.id]
    assert page(database, key, purpose="whatever") == []


def test_a_client_may_delete_as_it_pages(database: Database, key: Key) -> None:
    made = [upload(database, key).id for _ in range(3)]
    files.delete(database, key.project_id, made[2], NOW)
    assert page(database, key, after=made[2]) == [made[1], made[0]]


def test_a_deleted_file_and_its_bytes_are_gone(database: Database, key: Key) -> None:
    made = upload(database, key)
    path = files.blob_path(database, key.project_id, made.id, NOW)
    assert files.delete(database, key.project_id, made.id, NOW).model_dump() == {
        "id": made.id,
        "object": "file",
        "deleted": True,
    }
    assert not path.exists()
    with pytest.raises(NotFound):
        files.get(database, key.project_id, made.id, NOW)


def test_bytes_stay_while_another_file_is_made_of_them(database: Database, key: Key) -> None:
    one, other = upload(database, key, b"same"), upload(database, key, b"same")
    files.delete(database, key.project_id, one.id, NOW)
    assert files.blob_path(database, key.project_id, other.id, NOW).read_bytes() == b"same"


def bytes_of(database: Database, content: bytes) -> Path:
    import hashlib

    return blobs.path(database.folder, hashlib.sha256(content).hexdigest())


def test_bytes_stay_until_the_job_that_needs_them_has_ended(database: Database, key: Key) -> None:
    made = upload(database, key, b"needed")
    job = ledger.create(database, key, JobRequest(model="tiny", training_file=made.id), BASE, NOW)
    files.delete(database, key.project_id, made.id, NOW)
    assert bytes_of(database, b"needed").exists()
    ledger.cancel(database, key.project_id, job.id, NOW)
    assert not bytes_of(database, b"needed").exists()
