"""How this server's log is written: for people, or a JSON object a line; each line with what it is about.

What a client sends is in lines here and there: what could begin a line of its own, or move a terminal's cursor, is
written out. No line is given a secret; what looks like a key of ours is cut all the same.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

Form = Literal["human", "json"]
Level = Literal["debug", "info", "warning", "error"]

#: Libraries that have much to say.
NOISY = ("alembic", "asyncio", "httpcore2", "httpx2", "openai", "sqlalchemy", "uvicorn")

_about: ContextVar[dict[str, str] | None] = ContextVar("about", default=None)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_KEY = re.compile(r"\b(sk-(?:[a-z]+-)?)[A-Za-z0-9_-]{12,}")


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Lines logged in the block, in threads and tasks begun in it too, carry these ids: `request_id`, `job_id`."""
    token = _about.set({**(_about.get() or {}), **ids})
    try:
        yield
    finally:
        _about.reset(token)


def configure(form: Form, level: Level) -> None:
    """Write the log of this process to stderr; called once, by the command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMS[form]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


class Human(logging.Formatter):
    """`2026-11-25 12:00:00,000 INFO milepost.jobs.worker [job_id=ftjob-…]: taken to train`; a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name}={value}" for name, value in (_about.get() or {}).items())
        place = f"{record.name} [{ids}]" if ids else record.name
        line = f"{self.formatTime(record)} {record.levelname} {place}: {one_line(record.getMessage())}"
        told = _traceback(self, record)
        return line if told is None else f"{line}\n{told}"


class Json(logging.Formatter):
    """One object a line: `at`, `level`, `logger`, `message`, the ids, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        told = _traceback(self, record)
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_keys(record.getMessage()),
            **(_about.get() or {}),
            **({} if told is None else {"traceback": told}),
        }
        return json.dumps(fields, ensure_ascii=True)


FORMS: dict[Form, type[logging.Formatter]] = {"human": Human, "json": Json}


def one_line(text: str) -> str:
    """A text in which nothing begins a line."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), without_keys(text))


def without_keys(text: str) -> str:
    return _KEY.sub(r"\1***", text)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    if not record.exc_info:
        return None
    return without_keys(formatter.formatException(record.exc_info))
