"""/healthz and /readyz: each thing that can be amiss is made so, and told."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass

import httpx2
import pytest

from milepost.api.app import create_app
from milepost.api.health import STUCK_S

OK = {"database": "ok", "data_folder": "ok", "disk": "ok", "worker": "ok"}


@dataclass
class Watched:
    looked_at: float
    runs: int = 0


@pytest.fixture
def ready(settings, database, engine):
    async def ready(worker=None, **changes) -> tuple[int, dict]:
        app = create_app(settings.model_copy(update=changes), database, engine, worker=worker)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as http:
            answer = await http.get("/readyz")
        return answer.status_code, answer.json()

    return ready


async def test_the_process_lives(outside):
    answer = await outside.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_all_is_well(ready):
    assert await ready(Watched(time.monotonic())) == (200, {"status": "ready", "checks": OK})


async def test_a_worker_that_is_stuck(ready):
    looked_at = time.monotonic() - STUCK_S - 1
    status, said = await ready(Watched(looked_at))
    assert (status, said["status"]) == (503, "not ready")
    silent_s = int(re.fullmatch(r"has not looked at its jobs for (\d+) s", said["checks"]["worker"])[1])
    assert 61 <= silent_s <= round(time.monotonic() - looked_at)
    assert said["checks"] == OK | {"worker": said["checks"]["worker"]}


async def test_a_full_disk(ready):
    status, said = await ready(min_free_bytes=2**60)
    assert status == 503
    assert said["checks"]["disk"].endswith(f"MiB are free, less than {2**40} MiB")


async def test_a_data_folder_that_cannot_be_written_and_no_path_is_told(settings, database, engine):
    app = create_app(settings, database, engine)
    database.close()
    shutil.rmtree(settings.data_dir)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["data_folder"] == "cannot be written: No such file or directory"
    assert str(settings.data_dir) not in answer.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is broken as a file
async def test_a_database_that_is_none_any_more(settings, database, engine):
    app = create_app(settings, database, engine)
    database.close()
    (settings.data_dir / "milepost.db").write_bytes(b"no database" * 1000)
    (settings.data_dir / "milepost.db-wal").unlink(missing_ok=True)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "failed; the server's log says how"
