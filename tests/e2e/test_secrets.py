"""Everything a run wrote, and everything its processes were given, has none of the secrets in it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import openai
import psutil
import pytest

from tests.e2e.test_server import BASE, KEY, QUESTION, Live, until

pytestmark = pytest.mark.e2e

#: As an operator's environment has them; the names are what a careless program would pass on.
GIVEN = {
    "MILEPOST_WANDB_API_KEY": "wandb-key-of-the-operator-0123456789abcdef",
    "MILEPOST_METRICS_KEY": "metrics-key-of-the-operator-0123456789",
    "OPENAI_API_KEY": "sk-proj-somewhere-else-0123456789",
    "HF_TOKEN": "hf_token-of-the-operator-0123456789",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-of-the-operator-0123456789",
    "DATABASE_PASSWORD": "password-of-the-operator-0123456789",
}
WRONG = "sk-proj-a-wrong-key-that-was-tried-0123456789"
GRADER = "def grade(sample, item):\n    import os\n    print(dict(os.environ))\n    return 1.0"


@pytest.fixture
def live(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MILEPOST_LOG_LEVEL", "debug")
    server = Live(tmp_path / "live", tiny_base.parent)
    yield server
    server.stop()


def of_children(server: Live) -> dict[str, bytes]:
    """What every process under the server was started with."""
    found = {}
    for child in psutil.Process(server.process.pid).children(recursive=True):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found[f"{child.pid}/{name}"] = Path(f"/proc/{child.pid}/{name}").read_bytes()
    return found


def test_no_secret_is_written_or_handed_on(live):
    started = (live.folder / "serve.log").read_text()
    admin = next(line.split()[-1] for line in started.splitlines() if "admin key" in line)
    secrets = {"project": KEY, "admin": admin, "wrong": WRONG, **GIVEN}

    training = live.upload(60, seed=1)
    job = live.sdk.fine_tuning.jobs.create(
        model=BASE,
        training_file=training,
        seed=7,
        hyperparameters={"n_epochs": 4, "batch_size": 2},
        integrations=[{"type": "wandb", "wandb": {"project": "p"}}],
    )
    live.answer(BASE)  # an engine is up
    until(lambda: live.step(job.id) > 2, "training to be under way")
    children = of_children(live)
    grader = {"type": "python", "name": "g", "source": GRADER}
    with contextlib.suppress(openai.APIStatusError):
        graded = live.sdk.fine_tuning.alpha.graders.run(grader=grader, model_sample="x")
        assert not [name for name, secret in secrets.items() if secret in graded.model_dump_json()]
    told = []
    for attempt in (
        live.sdk.with_options(api_key=WRONG).models.list,
        lambda: live.sdk.files.retrieve(f"file-{WRONG}"),
        lambda: live.sdk.chat.completions.create(model=WRONG, messages=QUESTION),
        lambda: live.sdk.models.list(extra_query={"api_key": KEY}),
    ):
        try:
            attempt()
        except openai.APIStatusError as error:
            told.append(str(error))
    assert WRONG not in told[0]
    live.finish(job.id)
    events = [event.model_dump_json() for event in live.sdk.fine_tuning.jobs.list_events(job.id)]
    until(lambda: live.sdk.fine_tuning.jobs.retrieve(job.id).status == "succeeded", "the job to succeed")
    live.stop()

    assert any("milepost.training" in place.decode(errors="replace") for place in children.values())
    assert any("milepost.serving" in place.decode(errors="replace") for place in children.values())
    leaks = []
    for name, secret in secrets.items():
        mark = secret.encode()
        for place, content in children.items():
            is_its_own = name == "MILEPOST_WANDB_API_KEY" and b"WANDB_API_KEY=" + mark in content
            if mark in content.replace(b"WANDB_API_KEY=" + mark, b"") or (is_its_own and "environ" not in place):
                leaks.append((name, place))
        leaks += [(name, "events") for event in events if secret in event]
        for path in live.folder.rglob("*"):
            if path.is_file() and path.name != "local.json" and mark in _without_greeting(path):
                leaks.append((name, str(path.relative_to(live.folder))))
    assert leaks == []
    note = live.folder / "config" / "local.json"
    assert note.stat().st_mode & 0o077 == 0
    assert os.environ["HF_TOKEN"]  # they were there to be taken


def _without_greeting(path: Path) -> bytes:
    """The log, but for the lines that show the first keys, this once and on purpose."""
    content = path.read_bytes()
    if path.name != "serve.log":
        return content
    shown = (b"  project key", b"  admin key", b"export OPENAI_API_KEY=")
    return b"\n".join(line for line in content.splitlines() if not line.startswith(shown))
