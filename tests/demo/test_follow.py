"""A job is followed through the API alone; here the API is a script of what each look at it shows."""

from __future__ import annotations

import httpx2
import pytest
from openai import AsyncOpenAI

from milepost.cli.demo.follow import Pace, follow

STEP = "ft:base:org:demo:AAAA:ckpt-step-5"
LAST = "ft:base:org:demo:BBBB"


def event(number, message="told", **data):
    kind = "metrics" if "step" in data else "message"
    return {
        "id": f"ftevent-{number}",
        "object": "fine_tuning.job.event",
        "created_at": 1000 + number,
        "level": "info",
        "message": message,
        "type": kind,
        "data": data,
    }


def checkpoint(name, step):
    return {
        "id": f"ftckpt_{step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": 1000,
        "fine_tuned_model_checkpoint": name,
        "step_number": step,
        "fine_tuning_job_id": "ftjob-1",
        "metrics": {"step": step, "full_valid_loss": 0.5},
    }


class Account:
    """`looks` are (status, events so far, checkpoints so far), the last one stays. Listing events begins the next."""

    def __init__(self, *looks):
        self.looks = (looks[0], *looks)
        self.at = 0

    def client(self):
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        return AsyncOpenAI(base_url="http://test/v1", api_key="key", http_client=http, max_retries=0)

    def answer(self, request):
        path = request.url.path
        self.at += path.endswith("/events")
        status, events, checkpoints = self.looks[min(self.at, len(self.looks) - 1)]
        if path.endswith("/events"):
            return self.page(events)
        if path.endswith("/checkpoints"):
            return self.page(checkpoints)
        if path.endswith("/completions"):
            chunk = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"SELECT 1"}}]}'
            return httpx2.Response(
                200, content=f"data: {chunk}\n\ndata: [DONE]\n\n", headers={"content-type": "text/event-stream"}
            )
        return httpx2.Response(200, json={"id": "ftjob-1", "status": status})

    @staticmethod
    def page(items):
        return httpx2.Response(200, json={"object": "list", "data": items[::-1], "has_more": False})


@pytest.fixture
def told():
    return []


async def run(account, told):
    async def tried(_):
        pass

    return await follow(account.client(), "ftjob-1", ["How many?"], lambda each: told.append(each.id), tried)


async def test_each_event_is_told_once_oldest_first(told):
    account = Account(
        ("running", [event(1), event(2)], []),
        ("succeeded", [event(1), event(2), event(3), event(4)], []),
    )
    await run(account, told)
    assert told == ["ftevent-1", "ftevent-2", "ftevent-3", "ftevent-4"]


async def test_a_checkpoint_is_asked_when_a_message_tells_of_it(told):
    account = Account(
        ("running", [event(1)], []),
        ("running", [event(1), event(2)], [checkpoint(STEP, 5)]),
        ("succeeded", [event(1), event(2), event(3)], [checkpoint(STEP, 5), checkpoint(LAST, 10)]),
    )
    tried = await run(account, told)
    assert [(each.facts.model, each.answers) for each in tried] == [(STEP, ["SELECT 1"]), (LAST, ["SELECT 1"])]
    assert all(each.facts.ready_s > 0 for each in tried)


async def test_nobody_knows_how_long_an_old_checkpoint_took(told):
    account = Account(("succeeded", [event(1)], [checkpoint(LAST, 10)]))
    (tried,) = await run(account, told)
    assert (tried.facts.ready_s, tried.facts.answered_while_running) == (None, False)


def metrics(client_event):
    from openai.types.fine_tuning import FineTuningJobEvent

    return FineTuningJobEvent.model_validate(client_event)


def test_the_pace_counts_the_tokens_the_job_told():
    pace = Pace("file-1", n_epochs=4)
    pace.hear(metrics(event(0, file="file-1", tokens=1000)))
    pace.hear(metrics(event(0, file="file-2", tokens=77)))
    assert pace.at(metrics(event(1, step=1, total_steps=100, train_loss=2.0))) == (1, 100, 2.0, None, None)
    # 20 steps of 40 tokens in 10 seconds; 79 steps are left
    assert pace.at(metrics(event(11, step=21, total_steps=100, train_loss=1.0))) == (21, 100, 1.0, 80.0, 39.5)
