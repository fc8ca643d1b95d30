"""A live server, its engine and its training children, on the tiny random model: what a user sees, and what no crash
may change.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

pytestmark = pytest.mark.e2e

KEY = "sk-proj-the-key-of-the-live-server-012345"
BASE = "tiny-random-llama"
QUESTION = [{"role": "user", "content": "Who are you?"}]


def until(condition: Callable[[], object], what: str, *, deadline_s: float = 120) -> None:
    """Wait for a condition; fail by name when it does not come."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(0.05)


class Live:
    """`milepost serve` in a process of its own, and the SDK pointed at it."""

    def __init__(self, folder: Path, bases: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._environment = os.environ | {
            "MILEPOST_BASES_DIR": str(bases),
            "MILEPOST_CONFIG_DIR": str(folder / "config"),
            "MILEPOST_DEFAULT_BASE": BASE,
            "MILEPOST_BOOTSTRAP_KEY": KEY,
            "MILEPOST_TRAINING_THREADS": "1",
            "MILEPOST_ENGINE_THREADS": "1",
        }
        self.start()

    def start(self) -> None:
        local = self.folder / "config" / "local.json"
        local.unlink(missing_ok=True)
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "serve.log").open("ab") as log:
            command = [sys.executable, "-m", "milepost", "serve", "--port", "0", "--data", str(self.data)]
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        until(lambda: local.exists() or self.process.poll() is not None, "the server to start", deadline_s=60)
        assert self.process.poll() is None, (self.folder / "serve.log").read_text()
        self.sdk = openai.OpenAI(api_key=KEY, base_url=json.loads(local.read_text())["url"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def upload(self, lines: int, seed: int) -> str:
        return self.sdk.files.create(file=("chats.jsonl", chats(lines, seed)), purpose="fine-tune").id

    def status(self, job_id: str) -> str:
        return self.sdk.fine_tuning.jobs.retrieve(job_id).status

    def finish(self, job_id: str) -> openai.types.fine_tuning.FineTuningJob:
        until(lambda: self.status(job_id) in {"succeeded", "failed", "cancelled"}, "the job to end", deadline_s=300)
        return self.sdk.fine_tuning.jobs.retrieve(job_id)

    def step(self, job_id: str) -> int:
        progress = self.run(job_id) / "progress.json"
        return json.loads(progress.read_text())["step"] if progress.exists() else 0

    def run(self, job_id: str) -> Path:
        return self.data / "runs" / job_id / "train"

    def answer(self, model: str) -> openai.types.chat.ChatCompletion:
        return self.sdk.chat.completions.create(model=model, messages=QUESTION, max_tokens=8, temperature=0)

    def checkpoints(self, job_id: str) -> list[openai.types.fine_tuning.jobs.FineTuningJobCheckpoint]:
        return list(self.sdk.fine_tuning.jobs.checkpoints.list(job_id))

    def messages(self, job_id: str) -> list[str]:
        """What the job's history says, oldest first."""
        return [event.message for event in self.sdk.fine_tuning.jobs.list_events(job_id)][::-1]

    def losses(self, job_id: str) -> list[tuple[int, float]]:
        """(step, training loss) as the events tell them, oldest first."""
        events = [event for event in self.sdk.fine_tuning.jobs.list_events(job_id) if event.type == "metrics"]
        return [(event.data["step"], event.data["train_loss"]) for event in reversed(events)]

    def outcome(self, job_id: str) -> tuple[list[tuple[int, float]], list[tuple[int, str]]]:
        """All that a job came to: every loss, and of every checkpoint the fingerprint of the weights that answer."""
        prints = [
            (c.step_number, self.answer(c.fine_tuned_model_checkpoint).system_fingerprint)
            for c in self.checkpoints(job_id)
        ]
        return self.losses(job_id), prints


def chats(lines: int, seed: int) -> bytes:
    draw = random.Random(seed)
    words = ["red", "green", "blue", "one", "two", "three", "north", "south", "east", "west"]
    turns = ((" ".join(draw.choices(words, k=6)), " ".join(draw.choices(words, k=4))) for _ in range(lines))
    return b"".join(
        json.dumps({"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]}).encode()
        + b"\n"
        for ask, say in turns
    )


def preferences(lines: int, seed: int) -> bytes:
    """The questions of `chats`, with their answer preferred to one word."""
    told = [json.loads(line)["messages"] for line in chats(lines, seed).splitlines()]
    return b"".join(
        json.dumps(
            {
                "input": {"messages": [ask]},
                "preferred_output": [say],
                "non_preferred_output": [{"role": "assistant", "content": "no"}],
            }
        ).encode()
        + b"\n"
        for ask, say in told
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Live]:
    server = Live(tmp_path_factory.mktemp("live"), tiny_base.parent)
    yield server
    server.stop()


#: Long enough to be caught in the middle, short enough to wait for.
LONG = {"n_epochs": 4, "batch_size": 2}


def create(server: Live, training_file: str, **fields) -> str:
    fields = {"model": BASE, "seed": 7, "hyperparameters": LONG} | fields
    return server.sdk.fine_tuning.jobs.create(training_file=training_file, **fields).id


def test_a_job_from_upload_to_result_file(live):
    training, validation = live.upload(40, seed=1), live.upload(12, seed=2)
    job_id = create(
        live, training, validation_file=validation, suffix="demo", hyperparameters={"n_epochs": 3, "batch_size": 4}
    )
    job = live.finish(job_id)
    assert (job.status, job.error) == ("succeeded", None)
    assert job.fine_tuned_model.startswith(f"ft:{BASE}:personal:demo:")
    assert job.trained_tokens > 0

    found = live.checkpoints(job_id)
    assert [checkpoint.step_number for checkpoint in found] == [30, 20, 10]
    assert found[0].fine_tuned_model_checkpoint == job.fine_tuned_model
    assert all(checkpoint.metrics.full_valid_loss > 0 for checkpoint in found)
    assert [step for step, _ in live.losses(job_id)] == list(range(1, 31))

    messages = live.messages(job_id)
    assert messages[0] == f"Created fine-tuning job: {job_id}"
    assert messages[1] == f"Validating training file: {training} and validation file: {validation}"
    assert f"Checkpoint created at step 10 with Snapshot ID: {found[2].fine_tuned_model_checkpoint}" in messages
    assert messages[-1] == "The job has successfully completed"

    text = base64.b64decode(live.sdk.files.content(job.result_files[0]).text).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 31)]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_preferences_are_trained_and_their_checkpoints_answer(live):
    training = live.sdk.files.create(file=("pairs.jsonl", preferences(40, seed=1)), purpose="fine-tune").id
    given = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 20, "lora_dropout": 0.1, "lora_rank": 4}
    method = {"type": "dpo", "dpo": {"hyperparameters": given}}
    job = live.finish(create(live, training, method=method, hyperparameters=openai.NOT_GIVEN))
    assert (job.status, job.error) == ("succeeded", None)
    assert job.method.dpo.hyperparameters.beta == 0.1
    first, *_, last = live.losses(job.id)
    assert first[1] == pytest.approx(0.6931, abs=1e-3)
    assert last[1] < first[1]
    found = live.checkpoints(job.id)
    assert [checkpoint.step_number for checkpoint in found] == [30, 20, 10]
    assert found[0].metrics.train_reward_accuracy == 1.0
    names = [BASE, *(checkpoint.fine_tuned_model_checkpoint for checkpoint in found)]
    assert len({live.answer(name).system_fingerprint for name in names}) == 4


def test_every_checkpoint_answers_with_its_own_weights_and_streams(live):
    job = live.finish(create(live, live.upload(24, seed=3), hyperparameters={"n_epochs": 3, "batch_size": 4}))
    names = [checkpoint.fine_tuned_model_checkpoint for checkpoint in live.checkpoints(job.id)]
    prints = {live.answer(name).system_fingerprint for name in [BASE, *names]}
    assert len(prints) == 4
    stream = live.sdk.chat.completions.create(
        model=names[0],
        messages=QUESTION,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    whole = live.answer(names[0])
    assert text == whole.choices[0].message.content
    assert last.usage == whole.usage


def test_a_checkpoint_answers_while_its_job_runs_and_after_it_is_cancelled(live):
    job_id = create(live, live.upload(400, seed=4), hyperparameters={"n_epochs": 50, "batch_size": 4})
    until(lambda: live.checkpoints(job_id) or live.status(job_id) == "failed", "the first checkpoint")
    first = live.checkpoints(job_id)[-1]
    answered = live.answer(first.fine_tuned_model_checkpoint)
    assert live.status(job_id) == "running"
    assert live.sdk.fine_tuning.jobs.cancel(job_id).status == "cancelled"
    assert live.answer(first.fine_tuned_model_checkpoint).system_fingerprint == answered.system_fingerprint
    assert first.id in [checkpoint.id for checkpoint in live.checkpoints(job_id)]


def test_bad_data_fails_the_job_with_every_bad_line(live):
    lines = chats(12, seed=5).splitlines(keepends=True)
    lines[3] = b'{"messages": [{"content": "no role"}]}\n'
    lines[7] = b'{"messages": [{"role": "user", "content": "no answer"}]}\n'
    file = live.sdk.files.create(file=("bad.jsonl", b"".join(lines)), purpose="fine-tune")
    job = live.finish(create(live, file.id))
    assert (job.status, job.error.param, job.fine_tuned_model) == ("failed", "training_file", None)
    assert job.error.code in {"invalid_training_file", "invalid_file_format"}
    assert "4" in job.error.message
    assert "8" in job.error.message


@pytest.fixture(scope="module")
def undisturbed(live) -> tuple[str, object]:
    """The training file, and what a job on it comes to if nothing happens."""
    training = live.upload(120, seed=6)
    job = live.finish(create(live, training))
    assert job.status == "succeeded"
    return training, live.outcome(job.id)


def mid_epoch(live: Live, job_id: str) -> None:
    """Wait until the job is well inside its second epoch of 60 steps."""
    until(lambda: live.step(job_id) >= 85, "the middle of the second epoch")
    assert live.status(job_id) == "running"


def test_a_killed_child_ends_with_the_same_losses_and_weights(live, undisturbed):
    training, expected = undisturbed
    job_id = create(live, training)
    mid_epoch(live, job_id)
    os.kill(json.loads((live.run(job_id) / "progress.json").read_text())["pid"], signal.SIGKILL)
    assert live.finish(job_id).status == "succeeded"
    assert any("killed by SIGKILL" in message for message in live.messages(job_id))
    assert live.outcome(job_id) == expected


def test_a_killed_server_leaves_its_child_and_finds_it_again(live, undisturbed):
    training, expected = undisturbed
    job_id = create(live, training)
    mid_epoch(live, job_id)
    child = json.loads((live.run(job_id) / "progress.json").read_text())["pid"]
    live.kill()
    live.start()
    assert live.finish(job_id).status == "succeeded"
    assert json.loads((live.run(job_id) / "progress.json").read_text())["pid"] == child
    assert live.outcome(job_id) == expected


def test_a_stopped_server_saves_its_job_and_goes_on_with_it(live, undisturbed):
    training, expected = undisturbed
    job_id = create(live, training)
    mid_epoch(live, job_id)
    live.stop()
    live.start()
    assert live.finish(job_id).status == "succeeded"
    assert "Fine-tuning job resumed from its last saved state" in live.messages(job_id)
    assert live.outcome(job_id) == expected


def test_a_paused_job_answers_survives_a_restart_and_goes_on_to_the_same_weights(live, undisturbed):
    training, (losses, prints) = undisturbed
    job_id = create(live, training)
    mid_epoch(live, job_id)
    paused = live.sdk.fine_tuning.jobs.pause(job_id)
    assert (paused.status, paused.is_paused, paused.estimated_finish) == ("paused", True, None)
    step = paused_at(live, job_id)
    assert 85 <= step < 240
    snapshot = live.checkpoints(job_id)[0]
    assert snapshot.step_number == step
    assert snapshot.fine_tuned_model_checkpoint.endswith(f":ckpt-step-{step}")
    assert snapshot.metrics.train_loss == dict(losses)[step]
    answered = live.answer(snapshot.fine_tuned_model_checkpoint).system_fingerprint

    live.stop()
    live.start()
    assert live.status(job_id) == "paused"
    assert live.answer(snapshot.fine_tuned_model_checkpoint).system_fingerprint == answered
    assert live.sdk.fine_tuning.jobs.resume(job_id).status == "queued"
    assert live.finish(job_id).status == "succeeded"
    assert live.losses(job_id) == losses
    assert dict(live.outcome(job_id)[1]) == {step: answered, **dict(prints)}


def test_a_job_whose_child_is_killed_as_it_pauses_and_that_is_resumed_at_once_loses_nothing(live, undisturbed):
    training, (losses, prints) = undisturbed
    job_id = create(live, training)
    mid_epoch(live, job_id)
    child = json.loads((live.run(job_id) / "progress.json").read_text())["pid"]
    jobs = live.sdk.fine_tuning.jobs
    jobs.pause(job_id)
    os.kill(child, signal.SIGKILL)
    paused_at(live, job_id)
    assert live.status(job_id) == "paused"
    jobs.resume(job_id)
    until(lambda: live.status(job_id) == "running", "the job to run again")
    jobs.pause(job_id)
    jobs.resume(job_id)  # its child has not even heard of the pause
    assert live.finish(job_id).status == "succeeded"
    assert live.losses(job_id) == losses
    assert dict(prints).items() <= dict(live.outcome(job_id)[1]).items()


def test_a_server_killed_as_a_job_pauses_finds_it_paused(live, undisturbed):
    """Its child may have trained to the end before anybody told it: then too the job waits for its resume."""
    training, (losses, prints) = undisturbed
    job_id = create(live, training)
    mid_epoch(live, job_id)
    live.sdk.fine_tuning.jobs.pause(job_id)
    live.kill()
    live.start()
    step = paused_at(live, job_id)
    job = live.sdk.fine_tuning.jobs.retrieve(job_id)
    assert (job.status, job.fine_tuned_model, live.checkpoints(job_id)[0].step_number) == ("paused", None, step)
    live.sdk.fine_tuning.jobs.resume(job_id)
    assert live.finish(job_id).status == "succeeded"
    assert live.losses(job_id) == losses
    outcome = dict(live.outcome(job_id)[1])
    assert outcome.keys() == {step, *dict(prints)}
    assert dict(prints).items() <= outcome.items()


def paused_at(live: Live, job_id: str) -> int:
    """The step at which a paused job's child has left, its checkpoint in the list of the job's."""
    result = live.run(job_id) / "result.json"
    until(result.exists, "the paused job's child to leave")
    step = json.loads(result.read_text())["step"]
    until(lambda: live.checkpoints(job_id)[0].step_number == step, f"the checkpoint of step {step}")
    return step


def test_training_goes_on_from_a_tuned_model(live):
    training = live.upload(40, seed=8)
    first = live.finish(create(live, training, hyperparameters={"n_epochs": 3, "batch_size": 4}))
    second = live.finish(
        create(live, training, model=first.fine_tuned_model, suffix="more", hyperparameters={"n_epochs": 1})
    )
    assert (second.status, second.model) == ("succeeded", first.fine_tuned_model)
    assert second.fine_tuned_model.startswith(f"ft:{BASE}:personal:more:")
    prints = {live.answer(name).system_fingerprint for name in (BASE, first.fine_tuned_model, second.fine_tuned_model)}
    assert len(prints) == 3
    assert live.losses(second.id)[0][1] < live.losses(first.id)[0][1]
