"""The HTTP door: a list of routers, and the layers every request passes, outermost first.

Routes that only touch the store are plain `def`: FastAPI runs them in its thread pool, so that nothing slow is ever on
the event loop. Only what streams (an upload's body, a chat's tokens) is `async`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from milepost import __version__
from milepost.api import (
    admin_api_keys,
    chat,
    completions,
    docs,
    files,
    fine_tuning,
    graders,
    health,
    metrics,
    models,
    permissions,
    projects,
    uploads,
)
from milepost.api.auth import PREFIX, Authentication
from milepost.api.bodies import BodyLimit
from milepost.api.document import TITLE, document, operation_id
from milepost.api.envelope import Envelope, ErrorAnswer, answer
from milepost.api.metrics import Counting, Measured, Metrics, Watched
from milepost.api.parts import Parts
from milepost.config import Settings
from milepost.serving.client import Engine
from milepost.store import keys
from milepost.store.database import Database

ROUTERS = (
    files.router,
    uploads.router,
    fine_tuning.router,
    permissions.router,
    graders.router,
    models.router,
    chat.router,
    completions.router,
    projects.router,
    admin_api_keys.router,
)

#: So that FastAPI knows the shape of refusals and documents none of its own; `document` says which may come where.
REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}


def create_app(
    settings: Settings,
    database: Database,
    engines: Engine,
    *,
    now: Callable[[], float] = time.time,
    counted: Metrics | None = None,
    worker: Watched | None = None,
) -> FastAPI:
    """Build the application over parts that the caller made and will close."""
    counted = counted or Metrics()
    counted.begin(database)
    app = described_app(
        Middleware(Counting, metrics=counted),
        Middleware(Envelope, organization=keys.organization(database)),
        Middleware(Authentication, database=database, now=now),
        Middleware(BodyLimit, settings=settings),
    )
    app.state.parts = Parts(settings, database, Measured(engines, counted), now, counted, worker)
    return app


def described_app(*middleware: Middleware) -> FastAPI:
    """All routes, with nothing behind them: enough for the document."""
    app = FastAPI(
        title=TITLE,
        version=__version__,
        routes=list(_routes()),
        middleware=middleware,
        # these two have default handlers of FastAPI's; every other exception comes out at the Envelope
        exception_handlers={HTTPException: _answer, RequestValidationError: _answer},
        generate_unique_id_function=operation_id,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # FastAPI's own way to add to it
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """The same ones for every application: FastAPI works them out when a router is first asked, in some 3 ms each.
    Tests make thousands of applications, and would spend a third of their time on it.
    """
    whole = FastAPI(generate_unique_id_function=operation_id, openapi_url=None, docs_url=None, redoc_url=None)
    for router in ROUTERS:
        whole.include_router(router, prefix=PREFIX, responses=REFUSALS)
    for router in (docs.router, health.router, metrics.router):
        whole.include_router(router)
    return tuple(whole.routes)


async def _answer(request: Request, error: Exception) -> Response:
    return answer(request, error)
