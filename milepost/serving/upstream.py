"""What goes wrong at the server behind the proxy, in our words: whose mistake it is, and what can be done.

vLLM answers `{"error": {"message": …, "type": …, "param": …, "code": …}}`, older ones the inner object alone. Its
`code` is the status once more, and its `param` may be a word of its own (`input_tokens`): neither is one of the API's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai

from milepost.errors import Error, Exhausted, Invalid, Unavailable
from milepost.serving.protocol import Generation
from milepost.serving.waiting import LEAST_AWAY_S

log = logging.getLogger(__name__)

#: How servers say that a prompt does not fit the context: vLLM of all versions and SGLang, vLLM's engine, llama.cpp.
TOO_LONG = ("context length", "maximum model length", "context size")


@contextmanager
def as_ours(request: Generation) -> Iterator[None]:
    """Errors of the other server about a request, and of the way to it, as ours."""
    try:
        yield
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        raise _of_request(error, request) from None


def of_adapter(action: str, error: Exception) -> Error:
    """What kept the other server from an `action` on an adapter. Never the client's fault: it asked for an answer."""
    verb = action.partition("_")[0]
    status = error.status_code if isinstance(error, openai.APIStatusError) else 0
    if status == 404 and not _body(error).get("message"):
        return Unavailable(
            f"The engine has no /v1/{action}. Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, "
            "and end MILEPOST_ENGINE_URL with /v1"
        )
    hint = ". It must see this server's data folder" if status == 404 else ""
    if status in {400, 404, 422} or status >= 500:
        log.warning("the engine could not %s an adapter: %s", verb, error)
        return Unavailable(f"The engine could not {verb} an adapter: {_said(error, 'it did not say why')}{hint}")
    return _ours(error)


def is_loaded_already(error: Exception) -> bool:
    return isinstance(error, openai.BadRequestError) and "already" in _said(error, "")


def broken_off() -> Unavailable:
    return Unavailable("The engine broke off in the middle of its answer. Try again")


def _of_request(error: Exception, request: Generation) -> Error:
    said = _said(error, "The engine refused this request and did not say why")
    status = error.status_code if isinstance(error, openai.APIStatusError) else 0
    # Without a status it was a frame of a stream: some vLLMs look at the prompt only when that has begun.
    if status in {0, 400, 422} and any(words in said.lower() for words in TOO_LONG):
        param = "messages" if request.prompt is None else "prompt"
        return Invalid(said, param=param, code="context_length_exceeded")
    if status in {400, 422}:
        return Invalid(said, param=_word(error, "param"), code=_word(error, "code"))
    if status == 404:
        return Unavailable(_not_served(error, request))
    return _ours(error)


def _ours(error: Exception) -> Error:
    if isinstance(error, openai.RateLimitError):
        said = _said(error, "The engine has no place for this request. Try again later")
        away_s = _away_s(error.response.headers.get("retry-after", ""))
        return Exhausted(said, code="rate_limit_exceeded", retry_after_s=away_s)
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return Unavailable("The engine refuses the key it is asked with: set MILEPOST_ENGINE_KEY to one it takes")
    log.warning("the engine failed: %s", error)
    return Unavailable("The engine ended before it had answered, or cannot be reached. Try again")


def _not_served(error: Exception, request: Generation) -> str:
    """FastAPI answers `{"detail": "Not Found"}` where there is no such route; vLLM's own 404 has a message."""
    if not _body(error).get("message"):
        return "The engine does not speak OpenAI's API at MILEPOST_ENGINE_URL: end it with /v1"
    if request.adapter is None:
        name = request.base.name
        return f"The engine does not serve `{name}`: start vLLM with --served-model-name {name}"
    return (
        "The engine does not know an adapter that it has just loaded: MILEPOST_ENGINE_URL must lead to one server, "
        "not to several in turns"
    )


def _away_s(header: str) -> int:
    """`retry-after` in whole seconds; one where there is none, or a date."""
    is_number = header.replace(".", "", 1).isdecimal()
    return max(LEAST_AWAY_S, math.ceil(float(header))) if is_number else LEAST_AWAY_S


def _said(error: Exception, otherwise: str) -> str:
    """What the other server says of it, without the SDK's words around it."""
    return str(_body(error).get("message") or otherwise)


def _word(error: Exception, member: str) -> str | None:
    """`param` or `code`, unless it is a number: that is a status."""
    value = _body(error).get(member)
    return value if isinstance(value, str) and not value.isdecimal() else None


def _body(error: Exception) -> dict[str, Any]:
    body = error.body if isinstance(error, openai.APIError) else None
    return body if isinstance(body, dict) else {}
