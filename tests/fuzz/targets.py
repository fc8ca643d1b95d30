"""What reads bytes of strangers, and what each reader promises of any bytes at all.

A target takes bytes and returns, or raises if the promise is broken. Errors of ours, and the doors' own refusals, are
answers; every other exception is a fault, and so is an answer that what comes after it cannot use.
"""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import httpx2
import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import SecretStr, ValidationError
from starlette.exceptions import HTTPException

from milepost.api import files as files_door
from milepost.api.app import create_app
from milepost.api.forms import FilePart, parse_fields, received
from milepost.api.refusals import bad_request
from milepost.checks.report import AT_UPLOAD, Question, examine
from milepost.checks.tokens import Tokenizer, load_tokenizer
from milepost.config import Settings
from milepost.errors import Corrupt, Error, Invalid
from milepost.jobs import runs
from milepost.modeling.folders import file_hash
from milepost.modeling.pull import pull
from milepost.modeling.template import compile_template
from milepost.resources.chat import ChatRequest
from milepost.resources.files import clean_name
from milepost.resources.lines import check_line, check_lines, parse_line, read_lines, refusal
from milepost.resources.methods import TRAINED, LineShape, MethodType, line_shape
from milepost.resources.runs import EVENTS, JOB, NOTICES, DataFile
from milepost.sql.execute import Rows
from milepost.sql.session import Session
from milepost.store import blobs, keys
from milepost.store.database import open_database
from milepost.training import data as training_data
from milepost.training.directory import held
from tests.api.fakes import ScriptedEngine
from tests.sql.conftest import FakeOpenAI

KEY = "sk-proj-of-the-fuzzed-server-0123456789ab"
BASE = "tiny-random-llama"
NOW = 1_790_000_000.0
#: A statement may ask DuckDB for more than fits in any time; what is promised is that it can be given up.
PATIENCE_S = 5.0


class Lab:
    """What the targets read with: a tiny base, a server in memory, a folder that each call leaves empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()

    @cached_property
    def base(self) -> Path:
        target = self.folder / "bases" / BASE
        if not target.exists():
            pull(target, BASE, from_dir=None, on_progress=lambda *_: None)
        return target

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.base, BASE, 512)

    @cached_property
    def door(self) -> httpx2.AsyncClient:
        """The API over a store of its own, with a key."""
        settings = Settings(
            data_dir=self.folder / "data",
            bases_dir=self.base.parent,
            config_dir=self.folder,
            default_base=BASE,
            bootstrap_key=SecretStr(KEY),
        )
        database = open_database(settings)
        keys.bootstrap(database, settings, NOW)
        transport = httpx2.ASGITransport(app=create_app(settings, database, ScriptedEngine()))
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx2.AsyncClient(transport=transport, base_url="http://test/v1", headers=headers)

    @contextmanager
    def empty(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            yield Path(name)


Target = Callable[[Lab, bytes], None]


# ------------------------------------------------------------------------------------------------ training data


def lines(lab: Lab, raw: bytes) -> None:
    """A file of training data: what a report lets pass can be trained on, and what is said of it can be sent."""
    upload = check_lines(read_lines(io.BytesIO(raw)), content=False)
    if upload.total_problems:
        refusal(upload).encode()
    report = examine(io.BytesIO(raw), Question(AT_UPLOAD, tokenizer=lab.tokenizer))
    orjson.dumps(report.model_dump(mode="json"))
    assert upload.total_problems <= report.bad_lines
    with lab.empty() as folder:
        path = folder / "data.jsonl"
        path.write_bytes(raw)
        file = DataFile(file_id="file-1", path=str(path), hash=file_hash(path), param="training_file")
        for method in sorted(TRAINED):
            try:
                training_data.load(file, MethodType(method), lab.tokenizer.chat, 512)
            except Invalid as error:
                error.message.encode()
                assert not (report.is_trainable and report.methods == (method,)), error.message


# ------------------------------------------------------------------------------------------------ forms


def forms(lab: Lab, raw: bytes) -> None:
    """A multipart form: the first byte says in how large pieces it comes, the first line is its Content-Type."""
    with lab.empty() as folder:
        blobs.make_folders(folder)
        lab.loop.run_until_complete(_receive(folder, raw))
        assert list((folder / "incoming").iterdir()) == []


async def _receive(folder: Path, raw: bytes) -> None:
    size = raw[0] + 1 if raw else 1
    kind, _, body = raw[1:].partition(b"\n")
    pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    messages = [{"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]} for piece in pieces]
    messages[-1]["more_body"] = False
    left = iter(messages)

    async def receive() -> dict:
        return next(left, {"type": "http.disconnect"})

    scope = {"type": "http", "method": "POST", "path": "/v1/files", "query_string": b"", "headers": []}
    scope["headers"].append((b"content-type", kind.strip()))
    request = Request(scope, receive)
    try:
        async with received(request, folder, FilePart("file", "File", 1024, "Split it")) as form:
            clean_name(form.filename, "file").encode()
            form.file.finish()
            parse_fields(files_door.FileForm, form.fields)
    except RequestValidationError as error:
        bad_request(request, error).message.encode()
    except (Invalid, HTTPException):
        pass


# ------------------------------------------------------------------------------------------------ chat templates


def template(lab: Lab, raw: bytes) -> None:
    """A line that passed its check, or a chat request, is rendered by the base's template or refused in a sentence."""
    chat = lab.tokenizer.chat
    if check_line(1, raw) is None and raw.strip():
        line = parse_line(raw.removeprefix(b"\xef\xbb\xbf"))
        if line_shape(line) is LineShape.CHAT:
            try:
                tokens, learnt = chat.example(line["messages"], line.get("tools"))
            except Invalid as error:
                error.message.encode()
            else:
                assert len(tokens) == len(learnt)
    try:
        request = ChatRequest.model_validate_json(raw)
    except ValidationError:
        return
    messages = [{"role": message.role, "content": message.content or ""} for message in request.messages]
    if all(isinstance(message["content"], str) for message in messages):
        chat.decode(chat.encode(messages, True))


def template_source(lab: Lab, raw: bytes) -> None:
    """A chat template of a stranger's base: it renders, or its failure is told in a sentence."""
    messages = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    ]
    try:
        compiled = compile_template(raw.decode("utf-8", "replace"))
        chat = type(lab.tokenizer.chat)
        given = {name: getattr(lab.tokenizer.chat, name) for name in chat.__slots__}
        chat(**(given | {"template": compiled})).render(messages, add_generation_prompt=True, tools=[{"a": 1}]).encode()
    except Invalid as error:
        error.message.encode()


# ------------------------------------------------------------------------------------------------ SQL


def sql(lab: Lab, raw: bytes) -> None:
    """Any text is rows or an error of ours. Bytes that are no UTF-8 are what Python makes of a command line's."""
    lab.loop.run_until_complete(_ask(raw.decode("utf-8", "surrogateescape")))


async def _ask(text: str) -> None:
    provider = FakeOpenAI().provider()
    async with Session({"openai": provider}, external_access=False) as session:
        try:
            async with asyncio.timeout(PATIENCE_S):
                told = await session.execute(text)
                if isinstance(told, Rows):
                    await told.fetchall()
        except TimeoutError:
            pass
        except Error as error:
            assert error.message


# ------------------------------------------------------------------------------------------------ JSON bodies

#: The first byte of a body chooses among them.
ROUTES = (
    "/fine_tuning/jobs",
    "/chat/completions",
    "/completions",
    "/uploads",
    "/fine_tuning/alpha/graders/validate",
    "/fine_tuning/alpha/graders/run",
    "/uploads/upload_1/complete",
)


def bodies(lab: Lab, raw: bytes) -> None:
    """A body is answered, never with a fault of ours, and every refusal in the envelope."""
    path = ROUTES[raw[0] % len(ROUTES)] if raw else ROUTES[0]
    post = lab.door.post(path, content=raw[1:], headers={"content-type": "application/json"})
    answer = lab.loop.run_until_complete(post)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and answer.status_code != 404:
        assert answer.json()["error"]["message"]


# ------------------------------------------------------------------------------------------------ run directories


def directory(lab: Lab, raw: bytes) -> None:
    """The files of a run directory as a bad disk leaves them: both sides go on, and what is told anew is read once."""
    with lab.empty() as folder:
        (folder / JOB).write_text(_JOB)
        for name in (runs.PROGRESS, runs.RESULT, runs.CONTROL, EVENTS, NOTICES):
            (folder / name).write_bytes(raw)
        runs.progress(folder)
        runs.result(folder)
        tail = runs.Tail(folder)
        before = tail.read()
        tail.accept()
        try:
            tail.require_all()
        except Corrupt as error:
            assert str(folder) in error.message
        runs.Tail(folder, NOTICES).read()
        with held(folder) as mine:
            mine.earlier_result()
            mine.interruption()
            mine.tell("on")
            told = mine.told()
        assert told[-1].message == "on" or mine.seq <= told[-1].child_seq
        assert before + tail.read() == runs.Tail(folder).read() == told
        tail.accept()
        tail.require_all()


_SOURCE = {"name": "a", "path": "/nowhere", "hash": "0" * 64}
_JOB = json.dumps(
    {
        "task": "train",
        "job_id": "ftjob-1",
        "method": "supervised",
        "hyperparameters": {"n_epochs": 1, "batch_size": 1, "learning_rate": 0.1},
        "seed": 1,
        "threads": 1,
        "base": _SOURCE,
        "training": {"file_id": "file-1", "path": "/nowhere", "hash": "0" * 64, "param": "training_file"},
    }
)

TARGETS: dict[str, Target] = {
    each.__name__: each for each in (lines, forms, template, template_source, sql, bodies, directory)
}
