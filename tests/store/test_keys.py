import pytest
from sqlalchemy import select

from milepost.config import Settings
from milepost.errors import Denied, Forbidden, NotFound
from milepost.store import keys, schema
from milepost.store.database import Database
from milepost.store.keys import Key, KeyKind
from tests.store.fixtures import NOW


def test_the_first_start_makes_an_organisation_a_project_and_two_keys(database: Database, settings: Settings) -> None:
    drawn = settings.model_copy(update={"bootstrap_key": None})
    secrets = keys.bootstrap(database, drawn, NOW)
    assert secrets.project_key.startswith("sk-proj-")
    assert secrets.admin_key.startswith("sk-admin-")
    assert [key.kind for key in keys.list_keys(database)] == [KeyKind.PROJECT, KeyKind.ADMIN]
    assert keys.list_keys(database)[0].project_id.startswith("proj_")
    assert keys.list_keys(database)[0].organization_id.startswith("org-")


def test_the_second_start_makes_nothing(database: Database, settings: Settings, key: Key) -> None:
    assert keys.bootstrap(database, settings, NOW) is None
    assert len(keys.list_keys(database)) == 2


def test_the_first_key_may_be_given(database: Database, settings: Settings) -> None:
    keys.bootstrap(database, settings, NOW)
    assert keys.authenticate(database, "sk-proj-of-the-tests-and-long-enough").name == "first"


def test_no_secret_is_in_the_store(database: Database, key: Key) -> None:
    _, secret = keys.create(database, KeyKind.PROJECT, "mine", NOW)
    with database.reading() as connection:
        stored = " ".join(str(row) for row in connection.execute(select(schema.keys)))
    assert secret not in stored
    assert secret[12:-4] not in stored


def test_without_a_key_one_is_asked_for(database: Database, key: Key) -> None:
    with pytest.raises(Denied, match="You didn't provide an API key") as denied:
        keys.authenticate(database, None)
    assert denied.value.code is None


def test_a_wrong_key_is_shown_masked(database: Database, key: Key) -> None:
    with pytest.raises(Denied) as denied:
        keys.authenticate(database, "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz")
    assert denied.value.message.startswith("Incorrect API key provided: sk-proj-***wxyz. ")
    assert denied.value.code == "invalid_api_key"


def test_of_a_short_wrong_key_next_to_nothing_is_shown(database: Database, key: Key) -> None:
    with pytest.raises(Denied, match=r"Incorrect API key provided: pas\*\*\*\. "):
        keys.authenticate(database, "password1234")


def test_an_admin_key_opens_no_project_route(database: Database, key: Key) -> None:
    _, secret = keys.create(database, KeyKind.ADMIN, "boss", NOW)
    with pytest.raises(Forbidden, match="is an admin key"):
        keys.authenticate(database, secret)


def test_a_revoked_key_is_like_none(database: Database, key: Key) -> None:
    made, secret = keys.create(database, KeyKind.PROJECT, "brief", NOW)
    assert keys.revoke(database, made.id, NOW + 1).revoked_at == int(NOW + 1)
    with pytest.raises(Denied, match="Incorrect API key provided"):
        keys.authenticate(database, secret)


def test_revoking_again_keeps_the_first_time(database: Database, key: Key) -> None:
    keys.revoke(database, key.id, NOW + 1)
    assert keys.revoke(database, key.id, NOW + 9).revoked_at == int(NOW + 1)


def test_revoking_an_unknown_key_is_an_error(database: Database, key: Key) -> None:
    with pytest.raises(NotFound, match="No such key: key_x"):
        keys.revoke(database, "key_x", NOW)
