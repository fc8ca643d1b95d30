"""How much a client may send. Counted as it arrives: a client need not say how much it is going to be."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: For bodies that are JSON, which are held in memory.
MAX_JSON_BYTES = 32 * 1024 * 1024
#: What a multipart form may weigh besides its file.
FORM_BYTES = 64 * 1024

FILES = "/v1/files"


class BodyLimit:
    """Raises 413 out of `receive` when a body is too large, or at once when its Content-Length says it will be."""

    def __init__(self, app: ASGIApp, max_file_bytes: int) -> None:
        self._app = app
        self._max_file_bytes = max_file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_file_bytes + FORM_BYTES if scope["path"] == FILES else MAX_JSON_BYTES
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


def _too_large(limit: int, found: int) -> HTTPException:
    return HTTPException(413, f"Maximum content size limit ({limit}) exceeded ({found} bytes). Send less, or in parts")
