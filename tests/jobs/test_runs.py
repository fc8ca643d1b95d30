import json
from pathlib import Path

from milepost.config import Settings
from milepost.jobs import ledger, runs
from milepost.resources.jobs import JobRequest
from milepost.resources.runs import EVENTS, JOB, LOG, RunEvent, RunSpec, Task, Wanted
from milepost.store import files, models
from milepost.store.database import Database
from milepost.store.keys import Key
from tests.jobs.children import write_checkpoint
from tests.store.fixtures import BASE, NOW, upload


def line(seq: int) -> str:
    return RunEvent(child_seq=seq, at=1, message=f"event {seq}").model_dump_json() + "\n"


def test_a_child_is_told_all_it_needs(database: Database, settings: Settings, key: Key) -> None:
    training, validation = upload(database, key, b"training"), upload(database, key, b"validation")
    request = JobRequest(model="tiny", training_file=training.id, validation_file=validation.id, seed=7)
    job = ledger.create(database, key, request, BASE, NOW)
    path = runs.prepare(database, settings.model_copy(update={"training_threads": 3}), job.id, Task.TRAIN)
    spec = RunSpec.model_validate_json((path / JOB).read_bytes())
    assert path == database.folder / "runs" / job.id / "train"
    assert (spec.task, spec.job_id, spec.seed, spec.threads) == (Task.TRAIN, job.id, 7, 3)
    assert (spec.base.path, spec.base.hash) == (str(settings.bases_dir / "tiny"), "b" * 64)
    assert Path(spec.training.path).read_bytes() == b"training"
    assert (spec.validation.file_id, spec.validation.param) == (validation.id, "validation_file")
    assert spec.hyperparameters.learning_rate == 0.001
    assert (path / JOB).stat().st_mode & 0o777 == 0o600


def test_what_a_child_was_told_stays(database: Database, settings: Settings, key: Key) -> None:
    job = ledger.create(database, key, JobRequest(model="tiny", training_file=upload(database, key).id), BASE, NOW)
    for threads in (1, 2):
        path = runs.prepare(database, settings.model_copy(update={"training_threads": threads}), job.id, Task.TRAIN)
    assert json.loads((path / JOB).read_text())["threads"] == 1


def test_data_deleted_before_its_job_began_is_still_trained_on(
    database: Database, settings: Settings, key: Key
) -> None:
    training = upload(database, key, b"training")
    job = ledger.create(database, key, JobRequest(model="tiny", training_file=training.id), BASE, NOW)
    files.delete(database, key.project_id, training.id, NOW)
    path = runs.prepare(database, settings, job.id, Task.VALIDATE)
    spec = RunSpec.model_validate_json((path / JOB).read_bytes())
    assert Path(spec.training.path).read_bytes() == b"training"


def test_a_child_is_told_what_it_goes_on_from_though_it_was_deleted_since(
    database: Database, settings: Settings, key: Key, tmp_path: Path
) -> None:
    request = JobRequest(model="tiny", training_file=upload(database, key).id)
    first = ledger.create(database, key, request, BASE, NOW)
    folder = write_checkpoint(tmp_path / "step-2", step=2)
    name = ledger.announce_checkpoint(database, first.id, folder, NOW).fine_tuned_model_checkpoint
    parent = models.checkpoint_for_training(database, key.project_id, name)
    more = ledger.create(database, key, request.model_copy(update={"model": name}), BASE, NOW, parent=parent)
    models.delete(database, settings, key.project_id, name, NOW)
    path = runs.prepare(database, settings, more.id, Task.TRAIN)
    spec = RunSpec.model_validate_json((path / JOB).read_bytes())
    assert (spec.adapter.name, spec.adapter.hash) == (name, parent.adapter_sha256)
    weights = Path(spec.adapter.path) / "adapter_model.safetensors"
    assert weights.read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    assert (spec.base.name, spec.hyperparameters.lora_rank) == ("tiny", None)


def test_what_is_wanted_is_replaced_whole(tmp_path: Path) -> None:
    runs.want(tmp_path, Wanted.RUN)
    runs.want(tmp_path, Wanted.STOP)
    assert json.loads((tmp_path / "control.json").read_text()) == {
        "wanted": "stop",
        "lease_until": None,
        "lease_s": 0.0,
    }


def test_events_are_read_as_they_come(tmp_path: Path) -> None:
    tail = runs.Tail(tmp_path)
    assert tail.read() == []
    (tmp_path / EVENTS).write_text(line(1) + line(2))
    assert [event.child_seq for event in tail.read()] == [1, 2]
    tail.accept()
    with (tmp_path / EVENTS).open("a") as events:
        events.write(line(3))
    assert [event.child_seq for event in tail.read()] == [3]
    assert [event.child_seq for event in tail.read()] == [3]  # as long as they are not accepted
    tail.accept()
    assert tail.read() == []


def test_a_torn_line_is_left_until_its_child_has_mended_it(tmp_path: Path) -> None:
    tail = runs.Tail(tmp_path)
    (tmp_path / EVENTS).write_text(line(1) + line(2)[:20])
    assert [event.child_seq for event in tail.read()] == [1]
    tail.accept()
    (tmp_path / EVENTS).write_text(line(1) + line(2) + line(3))
    assert [event.child_seq for event in tail.read()] == [2, 3]


def test_only_whole_checkpoints_are_seen_in_order_of_their_steps(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints" / "step-10", step=10)
    write_checkpoint(tmp_path / "checkpoints" / "step-9", step=9)
    (tmp_path / "checkpoints" / "step-11").mkdir()
    assert [step for step, _ in runs.checkpoints(tmp_path)] == [9, 10]


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("first\n" + "x" * 100 + "\nlast words\n")
    assert runs.log_tail(tmp_path, size=15) == "xxx\nlast words"
    assert runs.log_tail(tmp_path).startswith("first\n")
