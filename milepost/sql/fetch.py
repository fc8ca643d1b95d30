"""Calls sent through the typed SDKs, concurrently; each list is read to its end.

Answers are taken raw: building the SDK's objects costs seven times what the rest does. What the SDK's page classes
say about the next page stands in NEXT_PAGE. Retries are ours and not the SDK's, so that one 429 slows every request to
that provider, and is shown. A request that changes something is sent once.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import orjson

from milepost.errors import Denied, Remote
from milepost.sql.calls import Call, Plan
from milepost.sql.gate import Gate, retry_after_s

if TYPE_CHECKING:
    from milepost.sql.providers import Client

Row = dict[str, Any]

#: The most that every list of the API gives at once.
PAGE_SIZE = 100
#: How often a 429 is waited out, and the longest wait that is not refused.
PATIENCE, LONGEST_WAIT_S = 8, 600.0

#: Page class → the parameter that asks for the next page, and where in an answer its value is.
NEXT_PAGE: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "CursorPage": ("after", lambda answer: answer["data"][-1].get("id")),
    "ConversationCursorPage": ("after", lambda answer: answer.get("last_id")),
    "NextCursorPage": ("after", lambda answer: answer.get("next")),
    "Page": ("after_id", lambda answer: answer.get("last_id")),
    "PageCursor": ("page", lambda answer: answer.get("next_page")),
    "ReportPageCursor": ("page", lambda answer: answer.get("next_page")),
    "TokenPage": ("page", lambda answer: answer.get("next")),
    "envelope": ("page", lambda answer: answer.get("next_page")),
}


#: Page classes of lists that take a `limit`.
SIZED = frozenset({"CursorPage", "ConversationCursorPage", "NextCursorPage", "Page", "PageCursor"})


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Row]
    request_id: str | None


@dataclass(slots=True)
class Spent:
    """What one read has cost so far."""

    requests: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Fetcher:
    """The calls of one statement: what they share is sent once, and all keep to their provider's gate.

    A provider is connected to before its first call, and not at all where there turns out to be none. With `go_on`, a
    call that fails leaves its error in `errors`, and its rows out.
    """

    connect: Callable[[str], Awaitable[tuple[Client, Gate]]]
    shared: frozenset[tuple[str, str]] = frozenset()
    go_on: bool = False
    errors: list[Remote] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)
    _pages: dict[Call, asyncio.Task[list[Page]]] = field(default_factory=dict)
    _connected: dict[str, tuple[Client, Gate]] = field(default_factory=dict)
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def pages(self, call: Call, reader: str) -> AsyncIterator[Page]:
        """The pages of a call, for the relation `reader`."""
        spent = self.spent.setdefault(reader, Spent())
        started = time.monotonic()
        try:
            if (call.provider, call.method.path) in self.shared:
                for page in await self._once(call, spent):
                    spent.rows += len(page.rows)
                    yield page
            else:
                async for page in self._ask(call, spent):
                    spent.rows += len(page.rows)
                    yield page
        except Remote as error:
            if not self.go_on:
                raise
            self.errors.append(error)
        finally:
            spent.seconds = max(spent.seconds, time.monotonic() - started)

    async def send(self, call: Call) -> Any:
        """The answer to one call that is not a list. Raises `Remote` for an error."""
        return (await self._answer(call, dict(call.arguments), Spent()))[0]

    async def connected(self, provider: str) -> tuple[Client, Gate]:
        """The provider's client. Raises `Denied` where there is no key."""
        if provider not in self._connected:
            async with self._connecting:
                if provider not in self._connected:
                    self._connected[provider] = await self.connect(provider)
        return self._connected[provider]

    async def requests_of(self, calls: Iterable[Call]) -> list[tuple[str, str, str]]:
        """Method, URL and body of each, exactly as the SDK would send it; nothing is sent."""
        return [await (await self.connected(call.provider))[0].request_of(call) for call in calls]

    async def aclose(self) -> None:
        """End what is in flight."""
        for task in self._pages.values():
            task.cancel()
        await asyncio.gather(*self._pages.values(), return_exceptions=True)

    async def _once(self, call: Call, spent: Spent) -> list[Page]:
        async def all_pages() -> list[Page]:
            return [page async for page in self._ask(call, spent)]

        if call not in self._pages:
            self._pages[call] = asyncio.create_task(all_pages())
        return await asyncio.shield(self._pages[call])

    async def _ask(self, call: Call, spent: Spent) -> AsyncIterator[Page]:
        if call.limit == 0:
            return
        given, left = dict(call.arguments), call.limit
        if call.method.page in SIZED and call.method.parameter("limit") and "limit" not in given:
            given["limit"] = min(call.limit or PAGE_SIZE, PAGE_SIZE)
        while True:
            answer, request_id = await self._answer(call, given, spent)
            if call.method.page == "object" or answer is None:
                if answer is not None:
                    yield Page([answer], request_id)
                return
            items = answer.get("data") if isinstance(answer, dict) else answer
            if not isinstance(items, list):
                raise Remote(f"{call.method.http} {call.method.url} answered something that is not a list")
            yield Page(items if left is None else items[:left], request_id)
            left = None if left is None else left - len(items)
            if not items or (left is not None and left <= 0):
                return
            step = _next(call, answer, given)
            if step is None:
                return
            given |= step

    async def _answer(self, call: Call, given: Mapping[str, Any], spent: Spent) -> tuple[Any, str | None]:
        """The parsed body and the request's id; None for a 404 that is no row and no error."""
        client, gate = await self.connected(call.provider)
        what = f"{call.method.http} {call.method.url}"
        sdk = sys.modules[client.sdk]
        for attempt in count():
            spent.requests += 1
            try:
                async with gate:
                    response = await client.method(call.method.path)(**given)
                gate.speed_up()
            except sdk.APIStatusError as error:
                if _is_no_row(call, error):
                    return None, error.request_id
                if not await _waits(call, error, attempt, client, gate):
                    raise _remote(what, error, given) from None
            except sdk.APIConnectionError as error:
                if not call.is_safe or attempt >= client.max_retries:
                    reason = error.__cause__ or error
                    raise Remote(f"{what}: cannot reach {client.base_url}: {reason}") from None
                await asyncio.sleep(_backoff_s(attempt))
            except client.error as error:
                raise Denied(f"{what}: {error}") from None
            else:
                return _parsed(what, call, response), response.headers.get("x-request-id")
        raise AssertionError


def shared_by(plan: Plan) -> frozenset[tuple[str, str]]:
    """The methods that several tables of a query call: only their answers are kept for another."""
    reads = [one for read in plan.reads for one in (read, read.otherwise) if one]
    counted = Counter((read.provider, read.method.path) for read in reads)
    return frozenset(method for method, times in counted.items() if times > 1)


async def all_or_none(tasks: Iterable[asyncio.Task[Any]]) -> list[Any]:
    """What the tasks give; the first error ends the others, and so does a caller that gives up."""
    tasks = list(tasks)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _waits(call: Call, error: Any, attempt: int, client: Client, gate: Gate) -> bool:
    """Wait before the next attempt, if there may be one: a write only where the server says that it is safe."""
    headers = error.response.headers
    said = headers.get("x-should-retry")
    is_safe = call.is_safe or said == "true" or bool(client.idempotency_header)
    is_limit = error.status_code == 429 and _code(error) != "insufficient_quota"
    tries = 0 if said == "false" else PATIENCE if is_limit and client.max_retries else client.max_retries
    wait_s = retry_after_s(headers) or _backoff_s(attempt)
    if not is_safe or attempt >= tries or wait_s > LONGEST_WAIT_S:
        return False
    if is_limit:
        gate.slow_down(wait_s, error.request_id)
        return True
    if error.status_code not in (408, 409) and error.status_code < 500:
        return False
    await asyncio.sleep(wait_s)
    return True


def _next(call: Call, answer: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameter of the next page; None at the end. To say that a list goes on, and not how, is an error."""
    has_more = answer.get("has_more") if isinstance(answer, dict) else False
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


def _is_no_row(call: Call, error: Any) -> bool:
    """A wrong URL is a 404 with neither code nor param: that is an error, and not no such row."""
    return bool(
        (call.method.own_id or call.may_be_missing)
        and error.status_code == 404
        and (_code(error) or _body(error).get("param"))
    )


def _backoff_s(attempt: int) -> float:
    return float(min(0.5 * 2**attempt, 8.0))


def _parsed(what: str, call: Call, response: Any) -> Any:
    content = response.http_response.content
    if call.method.http == "GET" and not call.method.page:
        return {"content": _text(content)}
    try:
        return orjson.loads(content) if content else {}
    except orjson.JSONDecodeError:
        raise Remote(f"{what} answered something that is not JSON: {content[:80]!r}") from None


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _body(error: Any) -> dict[str, Any]:
    return error.body if isinstance(error.body, dict) else {}


def _code(error: Any) -> Any:
    return _body(error).get("code")


def _remote(what: str, error: Any, given: Mapping[str, Any]) -> Remote:
    body = _body(error)
    said = body.get("message") or error.response.text[:200] or "no message"
    facts = {"code": body.get("code"), "request id": error.request_id}
    listed = "".join(f", {name} {value}" for name, value in facts.items() if value)
    asked = ", ".join(f"{name}={_short(value)}" for name, value in given.items())
    return Remote(
        f"{what} ({asked}): {said} (status {error.status_code}{listed})",
        status=error.status_code,
        request_id=error.request_id,
        code=body.get("code"),
        param=body.get("param"),
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
