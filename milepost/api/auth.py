"""Who asks. One check, before anything else of a request is looked at: no route can forget it, no body is read."""

from __future__ import annotations

import base64
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from milepost.store import keys
from milepost.store.database import Database
from milepost.store.keys import Key, KeyKind

#: All that is served under it needs a key. Outside it there is only what describes the API.
PREFIX = "/v1"

#: Which keys open what begins so. Whatever is not here takes project keys only: a new route is closed to admin keys
#: until someone says otherwise. Beginnings, not patterns: a route's `$` lets a newline through where a pattern may not.
TAKES = {
    PREFIX + "/organization/": frozenset({KeyKind.ADMIN}),
    PREFIX + "/projects/": frozenset({KeyKind.ADMIN}),
    PREFIX + "/fine_tuning/checkpoints/": frozenset(KeyKind),
}
OTHERWISE = frozenset({KeyKind.PROJECT})


class Authentication:
    """Puts the key of a request into `request.state.key`, or raises `Denied` or `Forbidden`."""

    def __init__(self, app: ASGIApp, database: Database, now: Callable[[], float]) -> None:
        self._app = app
        self._database = database
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"] + "/").startswith(PREFIX + "/"):
            secret = secret_of(Headers(scope=scope).get("authorization"))
            scope["state"]["key"] = await run_in_threadpool(self._admit, secret, scope["path"])
        await self._app(scope, receive, send)

    def _admit(self, secret: str | None, path: str) -> Key:
        key = keys.authenticate(self._database, secret, taken_by(path), now=self._now)
        keys.note_use(self._database, key, self._now())
        return key


def taken_by(path: str) -> frozenset[KeyKind]:
    """The kinds of keys that open a path."""
    return next((kinds for beginning, kinds in TAKES.items() if path.startswith(beginning)), OTHERWISE)


def secret_of(authorization: str | None) -> str | None:
    """The key in an Authorization header: `Bearer KEY`, or the password of `Basic`, as OpenAI takes it too."""
    scheme, _, rest = (authorization or "").partition(" ")
    read = SCHEMES.get(scheme.lower())
    return read(rest.strip()) if read else None


def _password(credentials: str) -> str | None:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2] or None
    except ValueError:  # not base64, not ASCII or not UTF-8
        return None


SCHEMES = {"bearer": lambda key: key or None, "basic": _password}
