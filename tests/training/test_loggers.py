"""Loggers hear each step once and change nothing; TensorBoard's files are read back by its own reader."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from milepost.errors import Unavailable
from milepost.resources.jobs import JobIntegration, WandbRun
from milepost.training.directory import held
from milepost.training.loggers import Opening, reporting
from milepost.training.loop import train
from milepost.training.run import main
from tests.training.conftest import chats
from tests.training.reading import events, outputs
from tests.training.test_resume import abandon

VALIDATION = chats(9, seed=5)


class Heard:
    """A logger that writes down what it hears."""

    def __init__(self):
        self.steps, self.checkpoints, self.ended = [], [], []

    def open(self):
        return self, "here"

    def step(self, step, at, metrics):
        self.steps.append((step, metrics))

    def checkpoint(self, found):
        self.checkpoints.append(found.step)

    def close(self, *, failed):
        self.ended.append(failed)


class Broken(Heard):
    def step(self, step, at, metrics):
        if step == 3:
            raise OSError("the secret disk is full")


class Hanging(Heard):
    def __init__(self):
        super().__init__()
        self.may_end = threading.Event()

    def step(self, step, at, metrics):
        self.may_end.wait()


def run_with(run, *loggers, **options):
    with held(run) as directory:
        openings = [Opening(f"logger {number}", each.open) for number, each in enumerate(loggers)]
        with reporting(directory, openings, **options):
            directory.finish(train(directory))


def notices(run):
    lines = [json.loads(line) for line in (run / "notices.jsonl").read_text().splitlines()]
    return [(line["child_seq"], line["level"], line["message"]) for line in lines]


def told(run):
    """(step, metrics) of the run's own events: what loggers should have heard."""
    data = [event["data"] for event in events(run) if event["type"] == "metrics"]
    return [(each["step"], {k: v for k, v in each.items() if k not in {"step", "total_steps"}}) for each in data]


@pytest.fixture
def undisturbed(make_run):
    run = make_run("undisturbed", validation=VALIDATION)
    main(run)
    return run


def test_each_step_and_checkpoint_is_heard_once_and_the_training_is_the_same(make_run, undisturbed):
    run, heard = make_run(validation=VALIDATION), Heard()
    run_with(run, heard)
    assert heard.steps == told(run)
    assert (heard.checkpoints, heard.ended) == ([6, 12], [False])
    assert outputs(run) == outputs(undisturbed)
    assert notices(run) == [(901, "info", "logger 0: here")]


@pytest.mark.parametrize("after", [5, 6, 8, 12])
def test_a_run_that_was_killed_tells_its_past_first_and_nothing_twice(make_run, undisturbed, after):
    run, heard = make_run("killed", validation=VALIDATION), Heard()
    abandon(run, after)
    run_with(run, heard)
    assert heard.steps == told(undisturbed)
    assert heard.checkpoints == [6, 12]


def test_a_logger_that_fails_is_told_of_once_and_alone(make_run, undisturbed):
    run, heard = make_run(validation=VALIDATION), Heard()
    run_with(run, Broken(), heard)
    assert outputs(run) == outputs(undisturbed)
    assert heard.steps == told(run)
    warned = (
        "logger 0: it has failed (OSError); the server's run.log of this job tells why. The training is not affected"
    )
    assert sorted(notices(run)) == [
        (901, "info", "logger 0: here"),
        (902, "warn", warned),
        (903, "info", "logger 1: here"),
    ]


def test_a_logger_that_cannot_be_opened_says_why(make_run):
    def refuse():
        raise Unavailable("nobody is there")

    run = make_run()
    with held(run) as directory, reporting(directory, [Opening("X", refuse)]):
        train(directory)
    assert notices(run) == [(902, "warn", "X: nobody is there. The training is not affected")]


def test_a_logger_that_hangs_is_left(make_run, undisturbed):
    run, hanging = make_run(validation=VALIDATION), Hanging()
    run_with(run, hanging, close_s=0.05)
    hanging.may_end.set()
    assert outputs(run) == outputs(undisturbed)
    assert notices(run)[1][:2] == (902, "warn")


def test_a_run_that_fails_closes_its_loggers_as_failed(make_run):
    run, heard = make_run(), Heard()
    with held(run) as directory, pytest.raises(RuntimeError), reporting(directory, [Opening("X", heard.open)]):
        raise RuntimeError
    assert heard.ended == [True]


# --- TensorBoard


def scalars(folder):
    read = EventAccumulator(str(folder / "ftjob-test")).Reload()
    return {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def texts(folder, tag):
    read = EventAccumulator(str(folder / "ftjob-test")).Reload()
    return [(each.step, each.tensor_proto.string_val[0].decode()) for each in read.Tensors(tag)]


def as_float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def test_tensorboard_reads_what_was_written(make_run, tmp_path):
    run = make_run(validation=VALIDATION, tensorboard=str(tmp_path / "tb"))
    assert main(run) == 0
    expected = {}
    for step, metrics in told(run):
        for name, value in metrics.items():
            expected.setdefault(name, []).append((step, as_float32(value)))
    assert scalars(tmp_path / "tb") == expected
    assert texts(tmp_path / "tb", "checkpoints") == [(6, "step 6, epoch 1.00"), (12, "step 12, epoch 2.00, the last")]
    assert "| learning_rate | 0.01 |" in texts(tmp_path / "tb", "hyperparameters")[0][1]
    assert notices(run) == [(901, "info", "TensorBoard: event files are in ftjob-test")]


def test_a_killed_runs_file_has_each_step_once(make_run, tmp_path, undisturbed):
    run = make_run(validation=VALIDATION, tensorboard=str(tmp_path / "tb"))
    with held(run) as directory, reporting(directory):
        pass  # a life that has told nothing
    abandon(run, 8)
    main(run)
    assert [step for step, _ in scalars(tmp_path / "tb")["train_loss"]] == list(range(1, 13))
    assert outputs(run) == outputs(undisturbed)


def test_a_folder_that_cannot_be_written_fails_no_run(make_run, tmp_path, undisturbed):
    (tmp_path / "tb").write_text("a file")
    run = make_run(validation=VALIDATION, tensorboard=str(tmp_path / "tb"))
    assert main(run) == 0
    assert outputs(run) == outputs(undisturbed)
    assert [level for _, level, _ in notices(run)] == ["warn"]


# --- Weights & Biases, offline: what its own library keeps to be sent later


WANDB = JobIntegration(type="wandb", wandb=WandbRun(project="p", name="n", tags=("t",), run_id="ftjob-test"))


def child(run, tmp_path, **environment):
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
    quiet = {"HOME": str(tmp_path), "NETRC": os.devnull}
    done = subprocess.run(
        [sys.executable, "-m", "milepost.training", str(run)],
        env=kept | quiet | environment,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def records(run):
    """The records of every offline run: LevelDB's log format, in blocks of 32 KiB, behind seven bytes of W&B's."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        data, at, whole = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, kind = struct.unpack_from("<HB", data, at + 4)
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in {1, 4}:
                found.append(Record.FromString(whole))
                whole = b""
    return found


def history(run):
    """(step, train_loss) of all that was logged."""
    logged = [
        {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(run)
        if record.HasField("history")
    ]
    return [(each["_step"], each["train_loss"]) for each in logged if "train_loss" in each]


def losses(run):
    return [(step, metrics["train_loss"]) for step, metrics in told(run)]


@pytest.mark.e2e
def test_wandb_keeps_each_step_once_and_the_training_is_the_same(make_run, tmp_path):
    run, plain = make_run(validation=VALIDATION, integrations=(WANDB,)), make_run("plain", validation=VALIDATION)
    child(run, tmp_path, WANDB_MODE="offline")
    main(plain)
    assert outputs(run) == outputs(plain)
    assert history(run) == losses(run)
    (begun,) = [record.run for record in records(run) if record.HasField("run")][:1]
    assert (begun.run_id, begun.project, begun.display_name, list(begun.tags)) == ("ftjob-test", "p", "n", ["t"])
    assert {"learning_rate", "model", "seed"} <= {item.key for item in begun.config.update}


@pytest.mark.e2e
def test_wandb_is_not_told_a_step_again_by_a_run_that_goes_on(make_run, tmp_path):
    run = make_run(validation=VALIDATION, integrations=(WANDB,))
    abandon(run, 8)  # told nobody: a life without loggers
    child(run, tmp_path, WANDB_MODE="offline")
    (run / "result.json").unlink()
    child(run, tmp_path, WANDB_MODE="offline")
    assert history(run) == losses(run)


@pytest.mark.e2e
def test_without_a_key_nothing_is_sent_and_the_job_says_so(make_run, tmp_path):
    run = make_run(integrations=(WANDB,))
    child(run, tmp_path)
    assert notices(run) == [
        (902, "warn", "Weights & Biases: nothing is sent, since this server has no key for it (MILEPOST_WANDB_API_KEY) or its library refuses the run; the server's run.log of this job tells which. The training is not affected")
    ]  # fmt: skip


@pytest.mark.e2e
def test_a_server_that_cannot_be_reached_fails_no_run_and_the_key_is_nowhere(make_run, tmp_path):
    secret = "5ec7e7" * 6 + "abcd"
    run = make_run(integrations=(WANDB,))
    said = child(run, tmp_path, WANDB_API_KEY=secret, WANDB_BASE_URL="http://127.0.0.1:9")
    assert notices(run)[-1][:2] == (902, "warn")
    files = [file for file in run.rglob("*") if file.is_file()]
    assert secret not in said
    assert [file for file in files if secret.encode() in file.read_bytes()] == []
