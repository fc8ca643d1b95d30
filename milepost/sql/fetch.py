"""The calls of a query, sent concurrently through the typed SDK; each list is read to its end.

Answers are taken raw: building the SDK's objects costs seven times what the rest does. What the SDK's page classes
say about the next page stands in NEXT_PAGE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from milepost.errors import Denied, Remote
from milepost.sql.calls import Call

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Row = dict[str, Any]

#: Requests in flight; more gained nothing when it was measured.
AT_ONCE = 32
#: The most that every list of the API gives at once.
PAGE_SIZE = 100

#: Page class → the parameter that asks for the next page, and where in an answer its value is.
NEXT_PAGE: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "CursorPage": ("after", lambda answer: answer["data"][-1].get("id")),
    "ConversationCursorPage": ("after", lambda answer: answer.get("last_id")),
    "NextCursorPage": ("after", lambda answer: answer.get("next")),
    "TokenPage": ("page", lambda answer: answer.get("next")),
    "envelope": ("page", lambda answer: answer.get("next_page")),
}


async def fetch(calls: Iterable[Call], clients: Mapping[str, AsyncOpenAI]) -> dict[Call, list[Row]]:
    """The rows of each call; equal calls are sent once. The first error ends the others."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def rows_of(call: Call) -> list[Row]:
        async with gate:
            return await _rows(call, clients[call.provider])

    wanted = list(dict.fromkeys(calls))
    tasks = [asyncio.create_task(rows_of(call)) for call in wanted]
    try:
        return dict(zip(wanted, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def send(call: Call, client: AsyncOpenAI) -> dict[str, Any]:
    """The answer to one call that is not a list. Raises `Remote` for an error."""
    answer = await _answer(call, client, dict(call.arguments))
    return answer if isinstance(answer, dict) else {"result": answer}


async def _rows(call: Call, client: AsyncOpenAI) -> list[Row]:
    rows: list[Row] = []
    given = dict(call.arguments)
    if call.limit == 0:
        return rows
    if call.method.page.endswith("CursorPage") and call.method.parameter("limit") and "limit" not in given:
        given["limit"] = min(call.limit or PAGE_SIZE, PAGE_SIZE)
    while True:
        answer = await _answer(call, client, given)
        if call.method.page == "object":
            return [] if answer is None else [answer]
        items = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise Remote(f"{call.method.http} {call.method.url} answered something that is not a list")
        rows += items
        if not items or (call.limit is not None and len(rows) >= call.limit):
            return rows if call.limit is None else rows[: call.limit]
        step = _next(call, answer, given)
        if step is None:
            return rows
        given |= step


def _next(call: Call, answer: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameter of the next page; None at the end. To say that a list goes on, and not how, is an error."""
    has_more = answer.get("has_more")
    if call.method.page not in NEXT_PAGE or has_more is False:
        return None
    parameter, cursor_in = NEXT_PAGE[call.method.page]
    cursor = cursor_in(answer)
    if cursor and cursor != given.get(parameter):
        return {parameter: cursor}
    if has_more:
        raise Remote(
            f"{call.method.http} {call.method.url} says that it has more, and gives no new cursor (`{parameter}`)"
        )
    return None


async def _answer(call: Call, client: AsyncOpenAI, given: Mapping[str, Any]) -> Any:
    """The parsed body; None for a 404 of a resource's own id, which is no row and not an error."""
    import openai

    target: Any = client
    *path, name = call.method.path.split(".")
    for part in path:
        target = getattr(target, part)
    what = f"{call.method.http} {call.method.url}"
    try:
        response = await getattr(target.with_raw_response, name)(**given)
    except openai.NotFoundError as error:
        if call.method.own_id and (error.code or error.param):  # a wrong URL is a 404 with neither
            return None
        raise _remote(what, error, given) from None
    except openai.APIStatusError as error:
        raise _remote(what, error, given) from None
    except openai.APIConnectionError as error:
        raise Remote(f"{what}: cannot reach {client.base_url}: {error.__cause__ or error}") from None
    except openai.OpenAIError as error:
        raise Denied(f"{what}: {error}") from None
    return _parsed(what, response.content)


def _parsed(what: str, content: bytes) -> Any:
    try:
        return orjson.loads(content) if content else {}
    except orjson.JSONDecodeError:
        raise Remote(f"{what} answered something that is not JSON: {content[:80]!r}") from None


def _remote(what: str, error: Any, given: Mapping[str, Any]) -> Remote:
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or error.response.text[:200] or "no message"
    facts = {"code": body.get("code"), "request id": error.request_id}
    listed = "".join(f", {name} {value}" for name, value in facts.items() if value)
    asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return Remote(
        f"{what} ({asked}): {said} (status {error.status_code}{listed})",
        status=error.status_code,
        request_id=error.request_id,
        code=body.get("code"),
        param=body.get("param"),
    )
