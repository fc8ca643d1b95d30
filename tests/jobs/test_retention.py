"""`keep_checkpoints`: what a job does not keep is a deleted model, and its weights go when nobody needs them."""

from pathlib import Path

import pytest

from milepost.config import Settings
from milepost.errors import NotFound
from milepost.jobs import ledger
from milepost.resources.jobs import Job, JobRequest
from milepost.store import blobs, models, permissions, sweeping
from milepost.store.database import Database
from milepost.store.keys import Key
from tests.jobs.children import Stage, validates, write_checkpoint
from tests.jobs.test_worker import World
from tests.store.fixtures import BASE, NOW, stranger, upload


def keeping(count: int | None) -> dict[str, object]:
    given = {} if count is None else {"keep_checkpoints": count}
    return {"type": "supervised", "supervised": {"hyperparameters": given}}


def create(database: Database, key: Key, count: int | None, **request: object) -> Job:
    asked = {"model": "tiny", "training_file": upload(database, key).id, "method": keeping(count), **request}
    return ledger.create(database, key, JobRequest.model_validate(asked), BASE, NOW)


class Story:
    """A job whose checkpoints are announced as the test says."""

    def __init__(self, database: Database, settings: Settings, key: Key, folder: Path, count: int | None) -> None:
        self.database, self.settings, self.key, self.folder = database, settings, key, folder
        self.job = create(database, key, count)
        self.names: dict[int, str] = {}

    def announce(self, step: int, **checkpoint: object) -> str:
        folder = write_checkpoint(self.folder / self.job.id / f"step-{step}", step=step, **checkpoint)
        made = ledger.announce_checkpoint(self.database, self.job.id, folder, NOW)
        self.names[step] = made.fine_tuned_model_checkpoint
        return self.names[step]

    def announce_all(self, *steps: int) -> None:
        for step in steps:
            self.announce(step)

    def answers(self, step: int) -> bool:
        try:
            models.resolve(self.database, self.settings, self.key.project_id, self.names[step])
        except NotFound:
            return False
        return True

    @property
    def kept(self) -> list[int]:
        return [step for step in self.names if self.answers(step)]

    def has_weights(self, step: int) -> bool:
        manifest = self.folder / self.job.id / f"step-{step}" / "adapter_model.safetensors"
        return blobs.adapter_folder(self.database.folder, blobs.sha256_of(manifest)).exists()

    def messages(self) -> list[str]:
        page = ledger.events_page(self.database, self.key.project_id, self.job.id, after=None, limit=100)
        return [event.message for event in reversed(page.data)]


@pytest.fixture
def story(database: Database, settings: Settings, key: Key, tmp_path: Path) -> Story:
    return Story(database, settings, key, tmp_path, 2)


def test_the_newest_are_kept(story: Story) -> None:
    story.announce_all(1, 2, 3, 4)
    assert story.kept == [3, 4]


def test_all_are_kept_unless_it_was_asked_otherwise(
    database: Database, settings: Settings, key: Key, tmp_path: Path
) -> None:
    story = Story(database, settings, key, tmp_path, None)
    story.announce_all(1, 2, 3, 4)
    assert story.kept == [1, 2, 3, 4]


def test_what_is_dropped_is_told_and_says_when_it_went(story: Story) -> None:
    story.announce_all(1, 2, 3)
    name = story.names[1]
    assert f"Checkpoint of step 1 is dropped, as keep_checkpoints is 2: `{name}` answers no more" in story.messages()
    with pytest.raises(NotFound, match=r"was deleted on 2026-11-18 at \d\d:\d\d:\d\d UTC") as error:
        models.resolve(story.database, story.settings, story.key.project_id, name)
    assert error.value.code == "model_not_found"


def test_the_job_goes_on_listing_what_it_dropped(story: Story) -> None:
    story.announce_all(1, 2, 3)
    page = ledger.checkpoints_page(story.database, story.key.project_id, story.job.id, after=None, limit=10)
    assert [each.step_number for each in page.data] == [3, 2, 1]


def test_the_best_is_kept_beside_them_until_there_is_a_better_one(story: Story) -> None:
    for step, loss in enumerate([2.0, 1.0, 1.5, 1.6, 1.7], start=1):
        story.announce(step, full_valid_loss=loss)
    assert story.kept == [2, 4, 5]
    story.announce(6, full_valid_loss=0.5)
    assert story.kept == [5, 6]


def test_the_final_one_is_kept(database: Database, settings: Settings, key: Key, tmp_path: Path) -> None:
    story = Story(database, settings, key, tmp_path, 1)
    story.announce(1)
    story.announce(2, final=True)
    assert story.kept == [2]


def test_one_that_a_job_goes_on_from_is_kept(story: Story) -> None:
    parent = models.checkpoint_for_training(story.database, story.key.project_id, story.announce(1))
    request = JobRequest(model=story.names[1], training_file=upload(story.database, story.key).id)
    ledger.create(story.database, story.key, request, BASE, NOW, parent=parent)
    story.announce_all(2, 3, 4)
    assert story.kept == [1, 3, 4]


def test_one_that_is_shared_is_kept_while_it_is(story: Story) -> None:
    name = story.announce(1)
    project = stranger(story.database).project_id
    shared = permissions.create(story.database, story.key, name, [project], NOW).data[0].id
    story.announce_all(2, 3)
    assert story.kept == [1, 2, 3]
    permissions.delete(story.database, story.key, name, shared, NOW)
    story.announce(4)
    assert story.kept == [3, 4]


def test_another_jobs_checkpoints_are_none_of_its_business(story: Story, tmp_path: Path) -> None:
    other = Story(story.database, story.settings, story.key, tmp_path / "other", None)
    other.announce_all(1, 2)
    story.announce_all(1, 2, 3)
    assert other.kept == [1, 2]


# --- the weights


def test_dropped_weights_are_removed_when_nobody_can_be_reading_them(story: Story) -> None:
    story.announce_all(1, 2, 3)
    sweeping.sweep(story.database, NOW + sweeping.ADAPTER_GRACE_S - 1)
    assert story.has_weights(1)
    sweeping.sweep(story.database, NOW + sweeping.ADAPTER_GRACE_S)
    assert [story.has_weights(step) for step in (1, 2, 3)] == [False, True, True]


def test_weights_that_another_checkpoint_has_too_are_kept(story: Story, tmp_path: Path) -> None:
    other = Story(story.database, story.settings, story.key, tmp_path / "other", None)
    other.announce(1, weights="the same")
    story.announce(1, weights="the same")
    story.announce_all(2, 3)
    sweeping.sweep(story.database, NOW + 9999)
    assert (story.kept, other.kept) == ([2, 3], [1])
    assert other.has_weights(1)


def test_weights_swept_before_come_back_with_a_checkpoint_that_has_them(story: Story, tmp_path: Path) -> None:
    story.announce(1, weights="the same")
    story.announce_all(2, 3)
    sweeping.sweep(story.database, NOW + 9999)
    other = Story(story.database, story.settings, story.key, tmp_path / "other", None)
    other.announce(1, weights="the same")
    assert other.has_weights(1)


def test_a_model_that_somebody_deleted_leaves_its_weights(
    database: Database, settings: Settings, key: Key, tmp_path: Path
) -> None:
    story = Story(database, settings, key, tmp_path, None)
    models.delete(database, settings, key.project_id, story.announce(1), NOW)
    sweeping.sweep(database, NOW + 9999)
    assert story.has_weights(1)


def test_a_model_that_somebody_deleted_leaves_the_runs_copy(database: Database, settings: Settings, key: Key) -> None:
    world = World(database, settings, key, Stage(validates))
    job = world.create()
    world.look(3)
    child = world.stage.children[-1]
    child.save(1)
    world.look()
    models.delete(database, settings, key.project_id, world.checkpoints(job)[0], NOW)
    child.save(2)
    world.look()
    assert sorted(folder.name for folder in (child.directory / "checkpoints").iterdir()) == ["step-1", "step-2"]


def test_the_worker_removes_the_runs_copy_too_also_after_a_crash(
    database: Database, settings: Settings, key: Key
) -> None:
    world = World(database, settings, key, Stage(validates))
    job = world.create(method=keeping(1))
    world.look(3)
    child = world.stage.children[-1]
    for step in (1, 2):
        child.save(step)
        world.look()
    copies = child.directory / "checkpoints"
    assert [folder.name for folder in copies.iterdir()] == ["step-2"]
    child.save(3)
    ledger.announce_checkpoint(database, job.id, copies / "step-3", NOW)  # and the server dies
    world.restart()
    world.look()
    assert [folder.name for folder in copies.iterdir()] == ["step-3"]
    assert len(world.checkpoints(job)) == 3
