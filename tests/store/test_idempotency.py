from __future__ import annotations

import pytest

from milepost.errors import Invalid
from milepost.resources.base import Deleted
from milepost.store import idempotency
from milepost.store.database import Database
from milepost.store.keys import Key
from tests.store.fixtures import NOW, stranger


def test_what_is_remembered_is_recalled(database: Database, key: Key) -> None:
    with database.transaction() as connection:
        assert idempotency.recall(connection, key.project_id, "k", "sha") is None
        idempotency.remember(connection, key.project_id, "k", "sha", {"id": "a", "n": [1, None]}, NOW)
    with database.transaction() as connection:
        assert idempotency.recall(connection, key.project_id, "k", "sha") == {"id": "a", "n": [1, None]}


def test_another_request_under_the_same_key_is_refused(database: Database, key: Key) -> None:
    with database.transaction() as connection:
        idempotency.remember(connection, key.project_id, "k", "sha", {}, NOW)
        with pytest.raises(Invalid, match="The Idempotency-Key 'k' was used with another request") as error:
            idempotency.recall(connection, key.project_id, "k", "other")
    assert error.value.param == "Idempotency-Key"


def test_the_keys_of_projects_are_their_own(database: Database, key: Key) -> None:
    other = stranger(database)
    with database.transaction() as connection:
        idempotency.remember(connection, key.project_id, "k", "sha", {"id": "mine"}, NOW)
        assert idempotency.recall(connection, other.project_id, "k", "sha") is None
        idempotency.remember(connection, other.project_id, "k", "other", {"id": "theirs"}, NOW)


@pytest.mark.parametrize("word", ["", "k" * 256])
def test_what_can_be_no_key_is_refused(database: Database, key: Key, word: str) -> None:
    with database.transaction() as connection, pytest.raises(Invalid, match="it must have 1 to 255"):
        idempotency.recall(connection, key.project_id, word, "sha")


def test_once_makes_once_and_forgets_what_failed(database: Database, key: Key) -> None:
    made = []

    def once(word: str | None, fails: bool = False) -> Deleted:
        def make(_connection: object) -> Deleted:
            if fails:
                raise Invalid("no")
            made.append(word)
            return Deleted(id=str(len(made)), object="thing")

        return idempotency.once(database, key.project_id, word, "sha", kind=Deleted, now=NOW, make=make)

    with pytest.raises(Invalid):
        once("k", fails=True)
    assert [once("k").id, once("k").id, once(None).id, once(None).id] == ["1", "1", "2", "3"]
    assert made == ["k", None, None]


def test_a_fingerprint_is_of_what_is_said_not_of_how() -> None:
    assert idempotency.fingerprint("POST /a", {"a": 1, "b": "é"}) == idempotency.fingerprint(
        "POST /a", {"b": "é", "a": 1}
    )
    different = {
        idempotency.fingerprint("POST /a", {"a": 1}),
        idempotency.fingerprint("POST /b", {"a": 1}),
        idempotency.fingerprint("POST /a", {"a": "1"}),
        idempotency.fingerprint("POST /a", {}),
    }
    assert len(different) == 4
