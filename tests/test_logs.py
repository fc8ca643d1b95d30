"""The log: what each line carries, in both forms, and what can never be in one."""

from __future__ import annotations

import io
import json
import logging
import threading
from contextvars import copy_context

import pytest

from milepost import logs


@pytest.fixture
def written():
    """Logs as a server does, into a text."""

    def written(form: logs.Form, log, **ids: str) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logs.FORMS[form]())
        logger = logging.Logger("milepost.test")  # noqa: LOG001 (nobody else writes to it)
        logger.addHandler(handler)
        with logs.about(**ids):
            log(logger)
        return stream.getvalue()

    return written


def test_a_line_for_people_says_what_it_is_about(written):
    line = written("human", lambda log: log.info("taken to %s", "train"), job_id="ftjob-a")
    assert line.endswith(" INFO milepost.test [job_id=ftjob-a]: taken to train\n")


def test_a_line_for_programs_is_one_object(written):
    told = json.loads(written("json", lambda log: log.warning("é\n%d", 7), request_id="req_1", job_id="ftjob-a"))
    assert told.pop("at").endswith("+00:00")
    assert told == {
        "level": "warning",
        "logger": "milepost.test",
        "message": "é\n7",
        "request_id": "req_1",
        "job_id": "ftjob-a",
    }


@pytest.mark.parametrize("sent", ["a\nFORGED", "a\r\nFORGED", "a\x1b[2JFORGED", "a\u2028FORGED", "a\x85FORGED"])
def test_what_a_client_sends_begins_no_line_and_moves_no_cursor(written, sent):
    for form in logs.FORMS:
        line = written(form, lambda log: log.info("GET %s", sent))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


def test_what_looks_like_a_key_is_cut_in_messages_and_tracebacks(written):
    secret = "sk-proj-0123456789abcdefghij"

    def fail(log):
        try:
            int(secret)
        except ValueError:
            log.exception("with %s", secret)

    for form in logs.FORMS:
        line = written(form, fail)
        assert secret not in line
        assert "sk-proj-***" in line
        assert "ValueError" in line


def test_threads_begun_inside_know_what_they_are_about_and_others_do_not(written):
    def log_there(log):
        thread = threading.Thread(target=copy_context().run, args=(log.info, "there"))
        thread.start()
        thread.join()

    assert "[job_id=a]" in written("human", log_there, job_id="a")
    assert "[" not in written("human", lambda log: log.info("after"))
