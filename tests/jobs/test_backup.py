"""A backup is taken while the store is in use, and what is restored of it answers the same."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from milepost.config import Settings
from milepost.errors import Conflict, NotFound
from milepost.jobs import backup, leases, ledger, runs, stories
from milepost.resources.jobs import JobRequest, Status
from milepost.resources.runs import RunSpec, Task
from milepost.store import blobs, files, keys, models
from milepost.store.database import FILE, Database
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


def test_what_is_restored_answers_the_same(database: Database, settings: Settings, key: Key, tmp_path: Path) -> None:
    job = a_store(database, settings, key)
    kept = backup.save(database, tmp_path / "kept")
    assert (kept.blobs, kept.jobs, kept.damaged) == (2, 1, [])
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "again", "database_url": None})
    with closing(backup.restore(tmp_path / "kept", elsewhere)) as again:
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
    with closing(backup.restore(tmp_path / "kept", elsewhere)) as again:
        second = upload(again, key).id
        assert all_files(again, key.project_id) == [first, second]
    with pytest.raises(Conflict, match="restore into an empty folder and an empty database"):
        backup.restore(tmp_path / "kept", elsewhere)


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
    with pytest.raises(Conflict, match="is there already"):
        backup.save(database, tmp_path / "there")
    with pytest.raises(NotFound, match=f"it has no {FILE}"):
        backup.restore(tmp_path / "there", settings)
