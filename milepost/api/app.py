"""The HTTP door: a list of routers, and the layers every request passes, outermost first.

Routes that only touch the store are plain `def`: FastAPI runs them in its thread pool, so that nothing slow is ever on
the event loop. Only what streams (an upload's body, a chat's tokens) is `async`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from milepost import __version__
from milepost.api import (
    admin_api_keys,
    chat,
    completions,
    files,
    fine_tuning,
    graders,
    models,
    permissions,
    projects,
    uploads,
)
from milepost.api.auth import PREFIX, Authentication
from milepost.api.bodies import BodyLimit
from milepost.api.envelope import Envelope, ErrorAnswer, answer
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

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        ("4XX", "The request cannot be answered as it is; the message says why and what to do."),
        ("5XX", "A fault of the server's, or a part of it that is still coming up (503: try again)."),
    )
}

DESCRIPTION = """\
The OpenAI fine-tuning API on your own machines. Routes, fields, ids, errors and paging are OpenAI's; point the
unmodified `openai` SDK here with `OPENAI_BASE_URL` and `OPENAI_API_KEY`.
"""


def create_app(
    settings: Settings, database: Database, engines: Engine, *, now: Callable[[], float] = time.time
) -> FastAPI:
    """Build the application over parts that the caller made and will close."""
    app = FastAPI(
        title="Milepost",
        version=__version__,
        description=DESCRIPTION,
        middleware=[
            Middleware(Envelope, organization=keys.organization(database)),
            Middleware(Authentication, database=database, now=now),
            Middleware(BodyLimit, settings=settings),
        ],
        # these two have default handlers of FastAPI's; every other exception comes out at the Envelope
        exception_handlers={HTTPException: _answer, RequestValidationError: _answer},
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = Parts(settings, database, engines, now)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX, responses=REFUSALS)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    return answer(request, error)
