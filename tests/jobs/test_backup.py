"""A backup is taken while the store is in use, and what is restored of it answers the same."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from milepost.config import Settings
from milepost.errors import Conflict, Corrupt, Invalid, NotFound
from milepost.jobs import backup, leases, ledger, restoring, runs, stories
from milepost.resources.jobs import JobRequest, Status
from milepost.resources.runs import RunSpec, Task
from milepost.store import blobs, drafts, files, keys, models
from milepost.store.database import FILE, UNFINISHED, Database, open_database
from milepost.store.keys import Key
from tests.jobs.children import write_checkpoint
from tests.postgres import Cluster
from tests.store.fixtures import BASE, NOW, upload


def a_store(database: Database, settings: Settings, key: Key) -> str:
    """A file, a job that runs, its run directory and a checkpoint; returns the job's id."""
    request = JobRequest(model="tiny", training_file=upload(database, key, b'{"a": 1}\n').id)
    job = ledger.create(database, key, request, BASE, NOW)
    ledger.queue(database, job.id, NOW, stories.VALIDATED)
    leases.claim(database, "host-1", Status.QUEUED, NOW)
    run = runs.prepare(database, settings, job.id, Task.TRAIN)
    (run / "events.jsonl").write_text("")
    (run / "state" / "step-2").mkdir(parents=True)
    (run / "state" / "step-2" / "state.json").write_text("{}")
    write_checkpoint(run / "checkpoints" / "step-2", step=2)
    ledger.announce_checkpoint(database, job.id, run / "checkpoints" / "step-2", NOW)
    return job.id


def all_files(database: Database, project: str) -> list[str]:
    page = files.page(database, project, purpose=None, after=None, limit=100, order="asc", now=NOW)
    return [file.id for file in page.data]


def listed(database: Database, project: str) -> list[object]:
    """All that lists answer."""
    jobs = ledger.page(database, project, after=None, limit=100).data
    found: list[object] = [jobs, all_files(database, project)]
    for job in jobs:
        found.append(ledger.events_page(database, project, job.id, after=None, limit=100).data)
        found.append(ledger.checkpoints_page(database, project, job.id, after=None, limit=100).data)
    return found


@contextmanager
def restored(folder: Path, settings: Settings) -> Iterator[Database]:
    assert restoring.restore(folder, settings) == []
    with closing(open_database(settings)) as again:
        yield again


def test_what_is_restored_answers_the_same(database: Database, settings: Settings, key: Key, tmp_path: Path) -> None:
    job = a_store(database, settings, key)
    kept = backup.save(database, tmp_path / "kept")
    assert (kept.blobs, kept.jobs, kept.damaged) == (2, 1, [])
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "again", "database_url": None})
    with restored(tmp_path / "kept", elsewhere) as again:
        assert listed(again, key.project_id) == listed(database, key.project_id)
        assert keys.authenticate(again, settings.bootstrap_key.get_secret_value()).id == key.id
        file = ledger.get(again, key.project_id, job).training_file
        assert files.blob_path(again, key.project_id, file, NOW).read_bytes() == b'{"a": 1}\n'
        checkpoint = ledger.checkpoints_page(again, key.project_id, job, after=None, limit=1).data[0]
        _, adapter = models.sources(again, elsewhere, checkpoint.fine_tuned_model_checkpoint)
        assert blobs.sha256_of(Path(adapter.path) / "adapter_model.safetensors") == adapter.hash
        run = runs.directory(again.folder, job, Task.TRAIN)
        spec = RunSpec.model_validate_json((run / "job.json").read_bytes())
        assert spec.training.path == str(again.folder / "files" / spec.training.hash)
        assert (run / "state" / "step-2" / "state.json").read_text() == "{}"
        assert [claim.job_id for claim in leases.held(again, "local")] == [job]


def test_new_rows_come_after_restored_ones(
    database: Database, settings: Settings, key: Key, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = upload(database, key).id
    backup.save(database, tmp_path / "kept")
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "again"})
    if settings.database_url is not None:
        cluster: Cluster = request.getfixturevalue("cluster")
        url = cluster.url(cluster.create())
        elsewhere = Settings.model_validate({**elsewhere.model_dump(), "database_url": url})
    with restored(tmp_path / "kept", elsewhere) as again:
        second = upload(again, key).id
        assert all_files(again, key.project_id) == [first, second]
    with pytest.raises(Conflict, match=r"There is something in .*again already"):
        restoring.restore(tmp_path / "kept", elsewhere)
    if settings.database_url is not None:
        with pytest.raises(Conflict, match="restore into an empty folder and an empty database"):
            restoring.restore(tmp_path / "kept", elsewhere.model_copy(update={"data_dir": tmp_path / "third"}))
        assert not (tmp_path / "third").exists()


def test_bytes_that_are_not_whole_are_told_of_and_not_kept(database: Database, key: Key, tmp_path: Path) -> None:
    upload(database, key, b"whole")
    upload(database, key, b"gone")
    path = next(path for path in (database.folder / "files").iterdir() if path.read_bytes() == b"gone")
    path.write_bytes(b"rotten")
    assert backup.save(database, tmp_path / "kept").damaged == [path.name]
    assert [each.read_bytes() for each in (tmp_path / "kept" / "files").iterdir()] == [b"whole"]


def test_a_backup_writes_over_nothing_and_is_not_made_of_nothing(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "of-mine").touch()
    with pytest.raises(Conflict, match=r"There is something in .*there already"):
        backup.save(database, tmp_path / "there")
    with pytest.raises(NotFound, match=f"it has no {FILE}"):
        restoring.restore(tmp_path / "there", settings)


# ------------------------------------------------------------------------------------------------ whole or not at all


def killed(at: int | None, act: Callable[[], object], within: Path) -> int:
    """Act in a process that is killed before it has done so many things with files of this folder, or lives; returns
    how many it has done.
    """
    told = within.with_name("done")
    done = itertools.count()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.partition(".")[0] in {"open", "os", "shutil"} and str(within) in str(arguments):
            if (number := next(done)) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            os.truncate(told, number + 1)

    told.touch()
    if not (child := os.fork()):
        sys.addaudithook(hook)
        try:
            act()
        finally:
            os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == (0 if at is None else -signal.SIGKILL)
    return told.stat().st_size


def test_a_restore_that_is_killed_anywhere_leaves_nothing_and_the_next_one_makes_all(
    database: Database,
    settings: Settings,
    key: Key,
    tmp_path: Path,
    empty_url: Callable[[], str | None],
) -> None:
    a_store(database, settings, key)
    expected = listed(database, key.project_id)
    backup.save(database, tmp_path / "kept")
    found = Counter[str]()

    def restore(place: Path, url: str | None) -> Settings:
        elsewhere = Settings.model_validate({**settings.model_dump(), "data_dir": place / "data", "database_url": url})
        restoring.restore(tmp_path / "kept", elsewhere)
        return elsewhere

    total = killed(None, partial(restore, tmp_path / "whole", empty_url()), tmp_path / "whole")
    assert total > 40
    every = 5 if settings.database_url is None else 15
    for at in [*range(0, total - 6, every), *range(total - 6, total)]:
        place, url = tmp_path / str(at), empty_url()
        killed(at, partial(restore, place, url), place)
        if (place / "data" / UNFINISHED).exists():
            found["in the last moment"] += 1
            with pytest.raises(Conflict, match=r"A restore into .* was interrupted"):
                open_database(Settings(data_dir=place / "data"))
        if (place / "data").exists() and not (place / "data" / UNFINISHED).exists():
            found["after it was whole"] += 1
            elsewhere = Settings.model_validate(
                {**settings.model_dump(), "data_dir": place / "data", "database_url": url}
            )
        else:
            elsewhere = restore(place, url)
            assert [path.name for path in place.iterdir()] == ["data"]
        with closing(open_database(elsewhere)) as again:
            assert listed(again, key.project_id) == expected
        shutil.rmtree(place)
    assert (found["in the last moment"] > 0) == (settings.database_url is not None)
    assert found["after it was whole"] > 0


@pytest.fixture
def empty_url(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Callable[[], str | None]]:
    """A database that is empty but for its tables, each time; None where the store is in SQLite."""
    if settings.database_url is None:
        yield lambda: None
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    template = request.getfixturevalue("blank_postgres")
    lent: list[str] = []

    def another() -> str:
        while lent:
            cluster.take_back(lent.pop(), template)
        lent.append(cluster.lend(template))
        return cluster.url(lent[-1])

    yield another
    while lent:
        cluster.take_back(lent.pop(), template)


def test_nothing_is_restored_of_a_backup_that_is_damaged_unless_it_is_asked_for(
    database: Database, settings: Settings, key: Key, tmp_path: Path
) -> None:
    a_store(database, settings, key)
    kept = tmp_path / "kept"
    backup.save(database, kept)
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "again" / "data", "database_url": None})
    files_there = sorted(path for path in kept.rglob("*") if path.is_file() and path.name != "adapter_config.json")
    assert len(files_there) > 8
    for path in files_there:
        whole = path.read_bytes()
        path.write_bytes(bytes([255 - whole[0]]) + whole[1:] if whole else b"\0")
        with pytest.raises(Corrupt, match="damaged"):
            restoring.restore(kept, elsewhere)
        assert list((tmp_path / "again").iterdir()) == []
        path.write_bytes(whole)
    listed_in = (kept / "backup.json").read_bytes()
    (kept / "backup.json").unlink()  # as of a Milepost that made none
    rows = (kept / FILE).read_bytes()
    (kept / FILE).write_bytes(b"\0" * 100 + rows[100:])
    with pytest.raises(Corrupt, match="file is not a database"):
        restoring.restore(kept, elsewhere)
    (kept / FILE).write_bytes(rows)
    (kept / "backup.json").write_bytes(listed_in)
    blob = next((kept / "files").iterdir())
    blob.unlink()
    (state,) = kept.glob("runs/*/train/state/step-2/state.json")
    state.write_text("rotten")
    with pytest.raises(Corrupt, match=f"{blob.name}, {state.relative_to(kept)} missing, or not as kept"):
        restoring.restore(kept, elsewhere)
    left_out = restoring.restore(kept, elsewhere, despite_damage=True)
    assert left_out == [blob.name, str(state.relative_to(kept))]
    with closing(open_database(elsewhere)) as again:
        assert listed(again, key.project_id) == listed(database, key.project_id)


def test_a_mounted_disk_is_not_replaced() -> None:
    with pytest.raises(
        Invalid, match=r"/proc is where a disk is mounted.* name a folder in it, such as /proc/milepost"
    ):
        drafts.require_free(Path("/proc"))


def test_a_place_that_cannot_be_written_is_told(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match=r"this user must be able to write in .*file"):
        backup.save(database, tmp_path / "file" / "kept")


def test_two_who_restore_into_one_folder_do_not_mix(database: Database, settings: Settings, tmp_path: Path) -> None:
    backup.save(database, tmp_path / "kept")
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "again", "database_url": None})
    with (
        drafts.beside(tmp_path / "again"),
        pytest.raises(Conflict, match=r"Another process is making .*again now. Wait until it has ended"),
    ):
        restoring.restore(tmp_path / "kept", elsewhere)
