import pytest
from sqlalchemy import event, select

from milepost.config import Settings
from milepost.errors import Denied, Forbidden, NotFound
from milepost.resources.admin import ProjectRequest
from milepost.store import keys, projects, schema
from milepost.store.database import Database
from milepost.store.keys import Key, KeyKind
from tests.store.fixtures import NOW, administrator


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


def used(database: Database, key: Key) -> int | None:
    return next(found.last_used_at for found in keys.list_keys(database) if found.id == key.id)


def test_the_use_of_a_key_is_noted_once_a_minute(database: Database, key: Key) -> None:
    again = "sk-proj-of-the-tests-and-long-enough"
    keys.note_use(database, key, NOW)
    keys.note_use(database, keys.authenticate(database, again), NOW + 59)
    assert used(database, key) == int(NOW)
    keys.note_use(database, keys.authenticate(database, again), NOW + 60)
    assert used(database, key) == int(NOW) + 60


def test_of_two_uses_at_once_the_later_does_not_go_back(database: Database, key: Key) -> None:
    keys.note_use(database, key, NOW + 90)
    keys.note_use(database, key, NOW + 1)  # by what it knew, the key had never been used
    assert used(database, key) == int(NOW) + 90


def test_a_use_that_cannot_be_noted_is_no_reason_to_refuse(
    database: Database, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP TABLE keys")
    keys.note_use(database, key, NOW)
    assert f"the use of key {key.id} could not be noted" in caplog.text


def test_a_full_disk_is_no_reason_to_refuse_either(
    database: Database, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_cursor, statement, *_) -> None:
        if statement.startswith("UPDATE keys"):
            raise database._engine.dialect.loaded_dbapi.OperationalError("database or disk is full")

    event.listen(database._engine, "do_execute", fail)
    keys.note_use(database, key, NOW)
    event.remove(database._engine, "do_execute", fail)
    assert f"the use of key {key.id} could not be noted" in caplog.text
    assert used(database, key) is None


def test_a_key_may_be_of_another_project_by_id_or_name(database: Database, key: Key) -> None:
    boss = administrator(database)
    project = projects.create(database, boss, ProjectRequest(name="nightly"), NOW)
    for wanted in (project.id, "nightly"):
        made, secret = keys.create(database, KeyKind.PROJECT, "mine", NOW, project=wanted)
        assert (made.project_id, made.project_name) == (project.id, "nightly")
        assert keys.authenticate(database, secret).project_id == project.id


def test_a_name_that_two_projects_have_names_none(database: Database, key: Key) -> None:
    boss = administrator(database)
    twins = [projects.create(database, boss, ProjectRequest(name="twin"), NOW).id for _ in range(2)]
    with pytest.raises(NotFound, match=f"2 projects are called 'twin' \\({twins[0]}, {twins[1]}\\)"):
        keys.create(database, KeyKind.PROJECT, "mine", NOW, project="twin")
    with pytest.raises(NotFound, match="No such project: nobody"):
        keys.create(database, KeyKind.PROJECT, "mine", NOW, project="nobody")


def test_a_key_opens_nothing_of_a_kind_that_is_not_taken(database: Database, key: Key) -> None:
    with pytest.raises(Forbidden, match="is a project key, and this route is for admin keys"):
        keys.authenticate(database, "sk-proj-of-the-tests-and-long-enough", {KeyKind.ADMIN})
