"""What every answer wears: the headers OpenAI sends, and one envelope for all errors.

    {"error": {"message": …, "type": …, "param": …, "code": …}}

The SDKs show a user nothing but `message`, and retry 409, 429 and every 5xx: so a state that will not change is 400,
and a fault of ours (500) or a full disk (507) tells them not to try again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milepost import errors, logs
from milepost.api.refusals import Refusal, bad_request, http_refusal
from milepost.resources.base import Frozen
from milepost.store.keys import Key, KeyKind

log = logging.getLogger(__name__)

#: From what the domain raises to what HTTP calls it. Never 409 or 422: SDKs retry the one, clients know not the other.
STATUS: dict[type[errors.Error], int] = {
    errors.Invalid: 400,
    errors.NotFound: 404,
    errors.Denied: 401,
    errors.Forbidden: 403,
    errors.Conflict: 400,
    errors.Exhausted: 429,
    errors.Unavailable: 503,
    errors.Full: 507,
    errors.Corrupt: 500,
    errors.Remote: 502,
    errors.TimedOut: 504,
}

#: Faults that may come after something was done, so that doing it again might do it twice: SDKs, which retry every 5xx,
#: are told not to. A 503 is none of them: nothing of such a request was kept (`errors.Unavailable`).
DONE_WITH = frozenset(range(500, 600)) - {503}

TYPES = {429: "requests", 500: "server_error", 502: "server_error", 503: "server_error", 507: "server_error"}

FAULT = "The server had an error while processing your request. Sorry about that! Its log has the cause, under {}."


class ErrorBody(Frozen):
    """What went wrong, with which value, and what to do. `param` names the field, `code` is for programs."""

    message: Annotated[str, Field(description="A sentence for people: what was wrong, which value, what to do.")]
    type: Annotated[str, Field(description="`invalid_request_error`, `requests` or `server_error`.")]
    param: Annotated[str | None, Field(description="The field of the request at fault; null if none is.")]
    code: Annotated[str | None, Field(description="A word for programs; null where OpenAI has none.")]


class ErrorAnswer(Frozen):
    """The body of every answer that is not a success."""

    error: Annotated[ErrorBody, Field(description="What went wrong.")]


class Envelope:
    """The outermost layer of ours: nothing gets past it without its headers, no exception without an envelope.

    `organization` is the server's, for answers to those who have shown no key.
    """

    def __init__(self, app: ASGIApp, organization: str | None) -> None:
        self._app = app
        self._organization = organization

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = "req_" + token_hex(16)
        began = time.monotonic()
        is_started = False

        async def send_dressed(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                headers = MutableHeaders(raw=message["headers"])
                self._dress(headers, scope, message["status"], time.monotonic() - began)
                log.debug(
                    "%s: %s %s %d", scope["state"]["request_id"], scope["method"], scope["path"], message["status"]
                )
            await send(message)

        try:
            with logs.about(request_id=scope["state"]["request_id"]):
                await self._app(scope, receive, send_dressed)
        except ClientDisconnect:
            log.info("%s: the client left", scope["state"]["request_id"])
        except Exception as error:
            if is_started:
                raise  # half an answer is out: cutting the connection is the only way left to say so
            await answer(Request(scope), error)(scope, receive, send_dressed)

    def _dress(self, headers: MutableHeaders, scope: Scope, status: int, seconds: float) -> None:
        headers["x-request-id"] = scope["state"]["request_id"]
        headers["openai-version"] = "2020-10-01"
        headers["openai-processing-ms"] = str(round(seconds * 1000))
        if self._organization:
            headers["openai-organization"] = self._organization
        key: Key | None = scope["state"].get("key")
        if key and key.kind is KeyKind.PROJECT:
            headers["openai-project"] = key.project_id
        if status in DONE_WITH:
            headers["x-should-retry"] = "false"


def answer(request: Request, error: Exception) -> JSONResponse:
    """The answer that an exception becomes."""
    refusal = explain(request, error)
    return JSONResponse(error_answer(refusal).model_dump(), refusal.status, dict(refusal.headers))


def error_answer(refusal: Refusal) -> ErrorAnswer:
    kind = TYPES.get(refusal.status, "invalid_request_error")
    return ErrorAnswer(error=ErrorBody(message=refusal.message, type=kind, param=refusal.param, code=refusal.code))


def explain(request: Request, error: Exception) -> Refusal:
    """What HTTP says of an exception; of one that nobody meant to raise, only that it happened."""
    for kind, words in WORDS:
        if isinstance(error, kind):
            return words(request, error)
    log.error("%s: %s %s", request.state.request_id, request.method, request.url.path, exc_info=error)
    return Refusal(500, FAULT.format(request.state.request_id))


def _of_the_domain(request: Request, error: errors.Error) -> Refusal:
    status = STATUS[type(error)]
    headers = {}
    if isinstance(error, errors.Exhausted) and error.retry_after_s is not None:
        headers["retry-after"] = f"{error.retry_after_s:g}"
    elif isinstance(error, errors.Exhausted):  # nobody knows when: an SDK's second try, in a second, is in vain
        headers["x-should-retry"] = "false"
    if status >= 500:
        log.error("%s: %s", request.state.request_id, error.message)
    return Refusal(status, error.message, error.param, error.code, headers)


WORDS: tuple[tuple[type[Exception], Callable[[Request, Any], Refusal]], ...] = (
    (errors.Error, _of_the_domain),
    (RequestValidationError, bad_request),
    (HTTPException, http_refusal),
)
