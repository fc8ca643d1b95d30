"""What a client may send: so much, and JSON that is JSON.

Bytes are counted as they arrive, since a client need not say how many there will be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milepost.config import Settings

#: For bodies that are JSON, which are held in memory.
MAX_JSON_BYTES = 32 * 1024 * 1024
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
    """For routers whose routes take JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def _too_large(limit: int, found: int) -> HTTPException:
    return HTTPException(413, f"Maximum content size limit ({limit}) exceeded ({found} bytes). Send less, or in parts")
