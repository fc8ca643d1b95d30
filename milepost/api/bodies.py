"""What a client may send: so much, and JSON that is JSON.

Bytes are counted as they arrive, since a client need not say how many there will be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milepost.config import Settings
from milepost.resources.values import has_more_values

#: For bodies that are JSON, which are held in memory.
MAX_JSON_BYTES = 32 * 1024 * 1024
#: The most values of such a body: each takes a hundred bytes of memory, and a thousand if it is wrong.
MAX_JSON_VALUES = 100_000
#: What a multipart form may weigh besides its file.
FORM_BYTES = 64 * 1024

#: The routes whose bodies are forms, which go to disk, and how large a file is in each. Every other body is JSON.
FORMS: tuple[tuple[re.Pattern[str], Callable[[Settings], int]], ...] = (
    (re.compile(r"/v1/files"), lambda settings: settings.max_file_bytes),
    (re.compile(r"/v1/uploads/[^/]+/parts"), lambda settings: settings.max_part_bytes),
)


class BodyLimit:
    """Raises 413 out of `receive` when a body is too large, or at once when its Content-Length says it will be."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._forms = [(path, max_bytes(settings) + FORM_BYTES) for path, max_bytes in FORMS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = next((limit for path, limit in self._forms if path.fullmatch(scope["path"])), MAX_JSON_BYTES)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise _too_large(limit, int(announced))
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit, received)
            return message

        await self._app(scope, receive_counted, send)


class StrictRequest(Request):
    """Python's own parser lets NaN and lone surrogates in, which nothing behind it can write out again."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class StrictRoute(APIRoute):
    """For routers whose routes take JSON: a number in quotes is no number, `true` is not 1."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        body_type: TypeAdapter[Any] | None = None
        if self.body_field and self.body_field.field_info.annotation:
            body_type = TypeAdapter(self.body_field.field_info.annotation)

        async def handle_strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            if self.body_field and has_more_values(await strict.body(), MAX_JSON_VALUES):
                raise HTTPException(413, f"The body holds more than {MAX_JSON_VALUES:,} JSON values. Send fewer")
            if body_type and "json" in request.headers.get("content-type", ""):
                _check_types(body_type, await strict.body())
            return await handle(strict)

        return handle_strictly


#: What pydantic says of a scalar that is another than the one wanted.
_SCALARS = {"int_type", "float_type", "bool_type", "string_type"}


def _check_types(body_type: TypeAdapter[Any], body: bytes) -> None:
    """Refuse a scalar that FastAPI, which reads leniently, would take for another: of JSON nothing need be guessed.

    Everything else that a strict reading finds is left to FastAPI's: a validator that runs before a field's own makes
    JSON into Python, whose lists are no tuples.
    """
    try:
        parsed = orjson.loads(body)
        body_type.validate_json(body, strict=True)
    except orjson.JSONDecodeError:
        return  # FastAPI says so too, and where
    except ValidationError as error:
        faults = error.errors()
        wrong = [
            fault for fault in faults if fault["type"] in _SCALARS and isinstance(fault["input"], str | int | float)
        ]
        if wrong and _is_taken(body_type, parsed):
            # what else the value of a union may be is told with it
            places = {fault["loc"][:-1] for fault in wrong}
            told = [f for f in faults if f in wrong or (f["type"] == "literal_error" and f["loc"][:-1] in places)]
            placed = [{**fault, "loc": ("body", *fault["loc"])} for fault in told]
            raise RequestValidationError(placed, body=parsed) from None


def _is_taken(body_type: TypeAdapter[Any], parsed: object) -> bool:
    try:
        body_type.validate_python(parsed)
    except ValidationError:
        return False
    return True


def _too_large(limit: int, found: int) -> HTTPException:
    return HTTPException(413, f"Maximum content size limit ({limit}) exceeded ({found} bytes). Send less, or in parts")
