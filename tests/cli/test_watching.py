"""`milepost jobs watch` on a scripted API: what is said of each look at it, and how it is asked."""

from __future__ import annotations

import io
import re

import httpx2
import pytest
from openai import AsyncOpenAI
from rich.console import Console

from milepost.cli.jobs.watching import watch_job
from milepost.cli.screen import Screen

NAME = "ft:base:org:demo:AAAA"


def event(number, message, level="info", **data):
    kind = "metrics" if "step" in data else "message"
    return {
        "id": f"ftevent-{number}",
        "object": "fine_tuning.job.event",
        "created_at": 1000 + number,
        "level": level,
        "message": message,
        "type": kind,
        "data": data,
    }


def step(number, of=4, **losses):
    return event(number, f"Step {number}/{of}", step=number, total_steps=of, train_loss=1.0 / number, **losses)


class Account:
    """`jobs` and `events` are what each request in turn is answered; the last stays."""

    def __init__(self, jobs, events):
        self.jobs, self.events = jobs, events
        self.asked = []

    def client(self):
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        return AsyncOpenAI(base_url="http://test/v1", api_key="key", http_client=http, max_retries=0)

    def answer(self, request):
        what = "events" if request.url.path.endswith("/events") else "job"
        before = self.asked.count(what)
        self.asked.append(what)
        script = self.events if what == "events" else self.jobs
        found = script[min(before, len(script) - 1)]
        if what == "events":
            return httpx2.Response(200, json={"object": "list", "data": found[::-1], "has_more": False})
        return httpx2.Response(200, json={"id": "ftjob-1", "model": "base", **found})


RUNNING = {"status": "running", "progress": {"step": 1, "total_steps": 4, "tokens_per_s": 612.4, "phase": "training"}}
DONE = {"status": "succeeded", "trained_tokens": 1234, "fine_tuned_model": NAME}


@pytest.fixture
def printed():
    return io.StringIO()


async def watch(account, printed, *, moving=False):
    screen = Screen(Console(file=printed, width=200, force_terminal=moving), moving=moving)
    return await watch_job(account.client(), "ftjob-1", screen, look_s=0)


async def test_steps_checkpoints_and_the_end_are_a_line_each(printed):
    first = [event(0, "Fine-tuning job started"), step(1)]
    second = [
        *first,
        step(2, full_valid_loss=0.75),
        event(10, f"Checkpoint created at step 2 with Snapshot ID: {NAME}:ckpt-step-2"),
    ]
    third = [*second, step(3), step(4, valid_loss=0.5), event(11, f"New fine-tuned model created: {NAME}")]
    job = await watch(Account([RUNNING, RUNNING, DONE], [first, second, third]), printed)
    assert job.status == "succeeded"
    assert printed.getvalue().splitlines() == [
        "ftjob-1 · base · running",
        "Fine-tuning job started",
        "  step 1/4 · loss 1.000 · 612 tokens/s",
        "  step 2/4 · loss 0.500 · 612 tokens/s",
        f"✓ checkpoint · step 2 · full_valid_loss 0.7500 · {NAME}:ckpt-step-2",
        "  step 3/4 · loss 0.333",
        "  step 4/4 · loss 0.250",
        f"✓ checkpoint · step 4 · valid_loss 0.5000 · {NAME}",
        f"succeeded · 1,234 tokens trained · {NAME}",
    ]


@pytest.mark.parametrize("measured", [True, False])
async def test_a_last_step_that_was_skipped_is_the_last_checkpoints(printed, measured):
    """Of a skipped step there is no training loss, and no metrics at all if nothing was validated."""
    skipped = event(5, "Step 4/4 is skipped: its loss is not a finite number", level="warn", step=4, total_steps=4)
    skipped["type"] = "message"
    last = event(6, "Step 4/4", step=4, total_steps=4, full_valid_loss=0.25)
    told = [step(3), skipped, *([last] if measured else []), event(7, f"New fine-tuned model created: {NAME}")]
    await watch(Account([RUNNING, DONE], [told]), printed)
    loss = " · full_valid_loss 0.2500" if measured else ""
    assert f"checkpoint · step 4{loss} · {NAME}" in printed.getvalue()


async def test_a_look_is_one_request_and_the_job_is_asked_for_after_messages_and_now_and_then(printed):
    told = [event(0, "Fine-tuning job started")]
    account = Account([RUNNING, RUNNING, RUNNING, DONE], [*[told] * 7, [*told, event(1, "The end")]])
    await watch(account, printed)
    quiet = ["events"] * 5
    assert account.asked == ["job", "events", "job", *quiet, "job", "events", "events", "job", "events"]


async def test_why_a_job_failed_is_said(printed):
    failed = {"status": "failed", "error": {"code": "c", "message": "The file is bad", "param": None}}
    job = await watch(Account([failed], [[event(1, "The file is bad", level="error")]]), printed)
    assert job.status == "failed"
    assert printed.getvalue().splitlines() == [
        "ftjob-1 · base · failed", "error: The file is bad", "failed: The file is bad"
    ]  # fmt: skip


async def test_another_servers_metrics_are_told_in_its_own_words(printed):
    other = {**event(1, "Step 1/4: training loss=1.05", step=1), "data": {"step": 1}}
    await watch(Account([{"status": "cancelled"}], [[other]]), printed)
    assert printed.getvalue().splitlines()[1:] == ["Step 1/4: training loss=1.05", "cancelled"]


async def test_where_it_can_move_there_are_a_bar_and_a_curve(printed):
    await watch(
        Account([RUNNING, DONE], [[step(1), step(2)], [step(1), step(2), step(3), step(4)]]), printed, moving=True
    )
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.getvalue())
    assert [line.rstrip() for line in shown.splitlines()[1:3]] == [
        f"training {'━' * 30} step 4/4",
        "         █▃▂▁                           loss 0.250",
    ]
