"""What the routes are given: the parts that `serve` built, and the key that asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Header, Request, Security
from fastapi.security import HTTPBearer

from milepost.config import Settings
from milepost.serving.client import Engine
from milepost.store.database import Database
from milepost.store.keys import Key

if TYPE_CHECKING:
    from milepost.api.metrics import Metrics, Watched


@dataclass(frozen=True, slots=True)
class Parts:
    """`now` gives unix seconds; `worker` is None where the jobs are left to other processes."""

    settings: Settings
    database: Database
    engines: Engine
    now: Callable[[], float]
    metrics: Metrics
    worker: Watched | None


async def parts(request: Request) -> Parts:
    given: Parts = request.app.state.parts
    return given


#: For the OpenAPI document only: the check itself is `auth.Authentication`, which comes before any route.
BEARER = HTTPBearer(
    scheme_name="ProjectKey",
    auto_error=False,
    description="A project key of this server; `milepost keys` lists and makes them.",
)
ADMIN_BEARER = HTTPBearer(
    scheme_name="AdminKey",
    auto_error=False,
    description="An admin key of this server; `milepost keys create --admin` makes one.",
)


async def caller(request: Request, _documented: Annotated[object, Security(BEARER)]) -> Key:
    """The key that `auth.Authentication` let in; every row a route reads or writes belongs to its project."""
    key: Key = request.state.key
    return key


async def admin(request: Request, _documented: Annotated[object, Security(ADMIN_BEARER)]) -> Key:
    """The admin key that `auth.Authentication` let in; it sees its organisation, and no project from inside."""
    key: Key = request.state.key
    return key


async def either(
    request: Request,
    _documented: Annotated[object, Security(BEARER)],
    _too: Annotated[object, Security(ADMIN_BEARER)],
) -> Key:
    """A key of either kind, on the few routes that take both: what it may do is for the store to say."""
    key: Key = request.state.key
    return key


Given = Annotated[Parts, Depends(parts)]
Caller = Annotated[Key, Depends(caller)]
Admin = Annotated[Key, Depends(admin)]
Either = Annotated[Key, Depends(either)]
#: On routes that make something. What is answered to it: `store.idempotency`.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A word of your own, of at most 255 characters. The same request sent again with it, within a day, "
        "makes nothing and is answered as before. With the SDKs: `extra_headers`.",
    ),
]
