"""A small OpenAI in memory: it pages as the real one does and remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from milepost.sql.catalog import Root
from milepost.sql.session import Provider, Rows, Session, openai_provider


def a_job(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"ftjob-{number}",
        "object": "fine_tuning.job",
        "created_at": 1_700_000_000 + number,
        "model": "base",
        "status": "succeeded",
        "trained_tokens": number,
        "method": {"type": "supervised"},
        "hyperparameters": {"n_epochs": 3, "batch_size": "auto"},
        "result_files": [f"file-{number}"],
        "a_fact_of_ours": "unknown to the SDK",
    } | fields


def a_checkpoint(job: str, step: int) -> dict[str, Any]:
    return {
        "id": f"ftckpt_{job}_{step}",
        "created_at": 2**33 + step,
        "fine_tuned_model_checkpoint": f"ft:base:{job}:ckpt-step-{step}",
        "fine_tuning_job_id": job,
        "metrics": {"step": step, "train_loss": 10.0 / step, "full_valid_loss": 9.5 if step == 1 else 10.1},
        "object": "fine_tuning.job.checkpoint",
        "step_number": step,
    }


def an_event(number: int) -> dict[str, Any]:
    return {
        "id": f"ftevent-{number}",
        "object": "fine_tuning.job.event",
        "created_at": number,
        "level": "info",
        "message": f"step {number}",
        "type": "metrics",
        "data": {"train_loss": 1.5},
    }


class FakeOpenAI:
    """Lists by path; a list's page has at most `limit` items, 20 unless asked."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.makes: set[str] = set()
        self.lists: dict[str, list[dict[str, Any]]] = {
            "/v1/fine_tuning/jobs": [a_job(number) for number in (3, 2, 1)],
            "/v1/fine_tuning/jobs/ftjob-1/checkpoints": [a_checkpoint("ftjob-1", step) for step in (2, 1)],
            "/v1/fine_tuning/jobs/ftjob-2/checkpoints": [a_checkpoint("ftjob-2", 1)],
            "/v1/fine_tuning/jobs/ftjob-3/checkpoints": [],
            "/v1/fine_tuning/jobs/ftjob-1/events": [an_event(number) for number in range(250, 0, -1)],
            "/v1/files": [
                {"id": "file-1", "purpose": "fine-tune", "bytes": 1048576, "created_at": 2, "filename": "a.jsonl"},
                {"id": "file-2", "purpose": "batch", "bytes": 5, "created_at": 1, "filename": "b.jsonl"},
            ],
            "/v1/vector_stores": [
                {"id": "vs_1", "name": "one", "usage_bytes": 10, "metadata": {"a": "b"}},
                {"id": "vs_2", "name": "two", "usage_bytes": 20, "metadata": {}},
            ],
        }
        self.broken: dict[str, httpx2.Response] = {}

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(f"{request.method} {request.url.raw_path.decode()}")
        path = request.url.path
        if path in self.broken:
            return self.broken[path]
        if path.endswith("/cancel"):
            return httpx2.Response(200, json=a_job(1, status="cancelled"))
        if path.endswith("/content"):
            return httpx2.Response(200, text='{"messages": []}\n')
        if request.method != "GET":
            return self._change(request)
        if path in self.lists:
            return httpx2.Response(200, json=self._page(path, request.url.params))
        parent, _, wanted = path.rpartition("/")
        for item in self.lists.get(parent, []):
            if item["id"] == wanted:
                return httpx2.Response(200, json=item)
        message = {
            "message": f"No such object: {wanted}",
            "type": "invalid_request_error",
            "code": "not_found",
            "param": None,
        }
        return httpx2.Response(404, json={"error": message}, headers={"x-request-id": "req_7"})

    def _change(self, request: httpx2.Request) -> httpx2.Response:
        """POST to a list makes an item, to an item changes it; DELETE takes it away."""
        path, kind = request.url.path, request.headers.get("content-type", "")
        sent = request.content.decode()
        body = json.loads(sent or "{}") if kind == "application/json" else {"form": sent}
        self.bodies.append(body)
        parent, _, wanted = path.rpartition("/")
        if path in self.lists or path in self.makes:
            made = {"id": f"new-{len(self.bodies)}", "object": "made", "created_at": 7, **body}
            return httpx2.Response(200, json=made)
        found = next((item for item in self.lists.get(parent, []) if item["id"] == wanted), None)
        if found is None:
            return httpx2.Response(404, json={"error": {"message": f"No such object: {wanted}", "code": "not_found"}})
        if request.method == "DELETE":
            self.lists[parent].remove(found)
            return httpx2.Response(200, json={"id": wanted, "object": "file", "deleted": True})
        found |= body
        return httpx2.Response(200, json=found)

    def _page(self, path: str, asked: httpx2.QueryParams) -> dict[str, Any]:
        items = [item for item in self.lists[path] if asked.get("purpose") in (None, item.get("purpose"))]
        start = next((n + 1 for n, item in enumerate(items) if item["id"] == asked.get("after")), 0)
        size = int(asked.get("limit", 20))
        return {"object": "list", "data": items[start : start + size], "has_more": start + size < len(items)}

    def provider(self, name: str = "openai", max_retries: int = 0) -> Provider:
        transport = httpx2.MockTransport(lambda request: self.answer(request))  # noqa: PLW0108 (tests replace it)
        client = httpx2.AsyncClient(transport=transport)
        root: Root = "openai_admin" if name == "openai_admin" else "openai"
        return openai_provider(
            name,
            base_url=f"http://{name}.test/v1",
            api_key="sk-test",
            http_client=client,
            root=root,
            max_retries=max_retries,
        )


@pytest.fixture
def fake() -> FakeOpenAI:
    return FakeOpenAI()


@pytest.fixture
async def session(fake: FakeOpenAI) -> AsyncIterator[Session]:
    async with Session({"openai": fake.provider(), "openai_admin": fake.provider("openai_admin")}) as session:
        yield session


@pytest.fixture
def ask(session: Session) -> Callable[..., Any]:
    """Run a query and give its rows as tuples."""

    async def rows(sql: str, **params: str) -> list[tuple[Any, ...]]:
        result = await session.execute(sql, params)
        assert isinstance(result, Rows)
        return await result.fetchall()

    return rows
