"""/healthz and /readyz: whether the process lives, and whether it could do its work now. Both need no key, and tell no
paths, names or numbers of what is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from milepost.api.parts import Given, Parts
from milepost.jobs import counting
from milepost.store import room

router = APIRouter()
log = logging.getLogger(__name__)

#: What has not answered by then is not ready. Those who ask wait a few seconds at most.
PATIENCE_S = 3.0
#: The worker looks at its runs ten times a second, and never waits long for anything.
STUCK_S = 60.0


@router.get("/healthz", include_in_schema=False)
async def healthz() -> JSONResponse:
    """The process lives: whoever gets no answer may start it again."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", include_in_schema=False)
async def readyz(given: Given) -> JSONResponse:
    """Whether requests and jobs would be served; if not, 503 and why not."""
    said = await asyncio.gather(*(_said(name, check, given) for name, check in CHECKS.items()))
    checks = dict(zip(CHECKS, said, strict=True))
    is_ready = all(word == "ok" for word in said)
    return JSONResponse({"status": "ready" if is_ready else "not ready", "checks": checks}, 200 if is_ready else 503)


async def _said(name: str, check: Callable[[Parts], str | None], given: Parts) -> str:
    try:
        word = await asyncio.wait_for(asyncio.to_thread(check, given), PATIENCE_S)
    except TimeoutError:
        word = f"did not answer within {PATIENCE_S:g} s"
    except Exception:
        log.exception("readiness: %s", name)
        word = "failed; the server's log says how"
    return word or "ok"


def _database(given: Parts) -> str | None:
    counting.by_status(given.database)
    return None


def _data_folder(given: Parts) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=given.database.folder) as probe:
            probe.write(b"milepost")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return None


def _disk(given: Parts) -> str | None:
    free, least = room.free_bytes(given.database.folder), given.settings.min_free_bytes
    return None if free >= least else f"{free >> 20} MiB are free, less than {least >> 20} MiB"


def _worker(given: Parts) -> str | None:
    if given.worker is None:  # this server leaves the jobs to others
        return None
    silent_s = time.monotonic() - given.worker.looked_at
    return None if silent_s < STUCK_S else f"has not looked at its jobs for {silent_s:.0f} s"


#: What must be so for work to be done.
CHECKS: Mapping[str, Callable[[Parts], str | None]] = {
    "database": _database,
    "data_folder": _data_folder,
    "disk": _disk,
    "worker": _worker,
}
