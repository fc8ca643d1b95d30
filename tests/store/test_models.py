from pathlib import Path

import pytest

from milepost.config import Settings
from milepost.errors import Forbidden, Invalid, NotFound
from milepost.jobs import ledger
from milepost.resources.jobs import Job, JobRequest
from milepost.store import models, permissions
from milepost.store.database import Database
from milepost.store.keys import Key
from tests.jobs.children import write_checkpoint
from tests.store.fixtures import BASE, NOW, stranger, upload


@pytest.fixture
def job(database: Database, key: Key) -> Job:
    request = JobRequest(model="tiny", training_file=upload(database, key).id, suffix="Demo One")
    return ledger.create(database, key, request, BASE, NOW)


@pytest.fixture
def tuned(database: Database, job: Job, tmp_path: Path) -> str:
    folder = write_checkpoint(tmp_path / "step-4", step=4, final=True)
    return ledger.announce_checkpoint(database, job.id, folder, NOW).fine_tuned_model_checkpoint


def test_a_base_answers_by_its_name(database: Database, settings: Settings, key: Key) -> None:
    found = models.resolve(database, settings, key.project_id, "tiny")
    assert (found.model, found.base.hash, found.adapter) == ("tiny", "b" * 64, None)
    assert found.base.path == str(settings.bases_dir / "tiny")


def test_an_alias_answers_as_the_base_it_stands_for(database: Database, settings: Settings, key: Key) -> None:
    found = models.resolve(database, settings, key.project_id, "gpt-4o-mini")
    assert (found.model, found.base.name) == ("tiny", "tiny")


def test_a_checkpoint_answers_with_its_own_weights(
    database: Database, settings: Settings, key: Key, tuned: str
) -> None:
    found = models.resolve(database, settings, key.project_id, tuned)
    assert (found.model, found.base.name, found.base.hash) == (tuned, "tiny", "b" * 64)
    assert found.adapter.path == str(database.folder / "adapters" / found.adapter.hash)


def test_a_name_that_only_looks_like_a_checkpoints_is_not_found(
    database: Database, settings: Settings, key: Key, tuned: str
) -> None:
    with pytest.raises(
        NotFound, match=r"^The model `.*:ckpt-step-1` does not exist or you do not have access to it\.$"
    ) as error:
        models.resolve(database, settings, key.project_id, f"{tuned}:ckpt-step-1")
    assert (error.value.param, error.value.code) == (None, "model_not_found")


def test_another_projects_checkpoint_does_not_exist(
    database: Database, settings: Settings, key: Key, tuned: str
) -> None:
    with pytest.raises(NotFound):
        models.resolve(database, settings, stranger(database).project_id, tuned)


def test_the_list_has_bases_aliases_and_checkpoints(
    database: Database, settings: Settings, key: Key, tuned: str
) -> None:
    listed = {model.id: model.owned_by for model in models.page(database, settings, key.project_id)}
    assert listed["tiny"] == "system"
    assert listed["gpt-4o-mini"] == "alias of tiny"
    assert listed[tuned] == key.organization_id


def test_with_aliases_off_there_are_none(database: Database, settings: Settings, key: Key) -> None:
    plain = settings.model_copy(update={"aliases": False})
    assert [model.id for model in models.page(database, plain, key.project_id)] == ["tiny"]
    with pytest.raises(NotFound):
        models.resolve(database, plain, key.project_id, "gpt-4o-mini")


def test_a_deleted_model_says_when_it_went(database: Database, settings: Settings, key: Key, tuned: str) -> None:
    models.delete(database, settings, key.project_id, tuned, 1_795_000_001)
    with pytest.raises(NotFound, match=r"was deleted on 2026-11-18 at \d\d:\d\d:\d\d UTC") as error:
        models.resolve(database, settings, key.project_id, tuned)
    assert error.value.code == "model_not_found"
    assert tuned not in [model.id for model in models.page(database, settings, key.project_id)]


def test_the_job_goes_on_listing_a_deleted_checkpoint(
    database: Database, settings: Settings, key: Key, job: Job, tuned: str
) -> None:
    models.delete(database, settings, key.project_id, tuned, NOW)
    listed = ledger.checkpoints_page(database, key.project_id, job.id, after=None, limit=10)
    assert [checkpoint.fine_tuned_model_checkpoint for checkpoint in listed.data] == [tuned]


def test_a_base_is_not_deleted(database: Database, settings: Settings, key: Key) -> None:
    with pytest.raises(Invalid, match="'gpt-4o-mini' is not a tuned model"):
        models.delete(database, settings, key.project_id, "gpt-4o-mini", NOW)


def test_deleting_an_unknown_model_is_an_error(database: Database, settings: Settings, key: Key) -> None:
    with pytest.raises(NotFound, match=r"^The model 'ft:123' does not exist$") as error:
        models.delete(database, settings, key.project_id, "ft:123", NOW)
    assert (error.value.param, error.value.code) == ("model", "model_not_found")


def share(database: Database, key: Key, name: str, project: str) -> str:
    return permissions.create(database, key, name, [project], NOW).data[0].id


def test_training_goes_on_from_a_checkpoint_of_ones_own(
    database: Database, key: Key, job: Job, tuned: str, settings: Settings
) -> None:
    found = models.checkpoint_for_training(database, key.project_id, tuned)
    assert (found.name, found.base, found.base_hash, found.project_id) == (tuned, "tiny", "b" * 64, key.project_id)
    assert found.adapter_sha256 == models.resolve(database, settings, key.project_id, tuned).adapter.hash
    assert found.id == ledger.checkpoints_page(database, key.project_id, job.id, after=None, limit=1).data[0].id


def test_training_goes_on_from_a_checkpoint_that_is_shared_while_it_is(
    database: Database, key: Key, tuned: str
) -> None:
    other = stranger(database).project_id
    assert models.checkpoint_for_training(database, other, tuned) is None
    permission = share(database, key, tuned, other)
    assert models.checkpoint_for_training(database, other, tuned).project_id == key.project_id
    permissions.delete(database, key, tuned, permission, NOW)
    assert models.checkpoint_for_training(database, other, tuned) is None


def test_training_does_not_go_on_from_a_deleted_checkpoint(
    database: Database, settings: Settings, key: Key, tuned: str
) -> None:
    models.delete(database, settings, key.project_id, tuned, NOW)
    with pytest.raises(NotFound, match="was deleted on 2026-11-18"):
        models.checkpoint_for_training(database, key.project_id, tuned)


@pytest.mark.parametrize("name", ["tiny", "gpt-4o-mini", "nobody", "ft:tiny:milepost::abcdefgh"])
def test_what_is_no_checkpoint_is_none_to_go_on_from(database: Database, key: Key, name: str) -> None:
    assert models.checkpoint_for_training(database, key.project_id, name) is None


def test_a_shared_model_is_not_deleted_by_whom_it_is_shared_with(
    database: Database, settings: Settings, key: Key, tuned: str
) -> None:
    other = stranger(database).project_id
    share(database, key, tuned, other)
    with pytest.raises(Forbidden, match=f"belongs to project `{key.project_id}`"):
        models.delete(database, settings, other, tuned, NOW)


def test_deleting_again_keeps_the_first_time(database: Database, settings: Settings, key: Key, tuned: str) -> None:
    models.delete(database, settings, key.project_id, tuned, 1_795_000_001)
    with pytest.raises(NotFound, match="was deleted on 2026-11-18 at 11:06:41 UTC"):
        models.delete(database, settings, key.project_id, tuned, 1_795_000_999)
