"""One of everything, made through the SDK: what the path of any route can name. A test that walks all routes fills it in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import openai
from fastapi import FastAPI

from milepost.api.app import described_app
from milepost.jobs import ledger
from milepost.store import keys
from milepost.store.database import Database
from tests.api.conftest import BASE, KEY, NOW
from tests.api.fakes import checkpoint_folder

LINE = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'


@cache
def served_document() -> dict[str, Any]:
    """The OpenAPI document of every application, made once: making it takes longer than most tests."""
    return described_app().openapi()


@dataclass(frozen=True)
class World:
    """`ids` are by the name of the path parameter; `admin` is an admin key."""

    ids: dict[str, str]
    admin: str

    def path(self, template: str) -> str:
        """The path of a route with the ids of this world; KeyError: teach `build` the new parameter."""
        return template.format(**self.ids)

    def key(self, path: str) -> str:
        return self.admin if path.startswith("/v1/organization") else KEY


async def build(app: FastAPI, database: Database, folder: Path) -> World:
    """Needs only what is served: routes that are not there yet are not asked."""
    served = served_document()["paths"]
    _, admin = keys.create(database, keys.KeyKind.ADMIN, "boss", NOW)
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
    async with openai.AsyncOpenAI(
        api_key=KEY, admin_api_key=admin, base_url="http://test/v1", http_client=http, max_retries=0
    ) as sdk:
        ids = await _tuned(sdk, database, folder)
        if "/v1/uploads" in served:
            ids |= await _upload(sdk)
        if "/v1/organization/projects" in served:
            ids |= await _administration(sdk, ids)
    return World(ids, admin)


async def _tuned(sdk: openai.AsyncOpenAI, database: Database, folder: Path) -> dict[str, str]:
    file = await sdk.files.create(file=("train.jsonl", LINE * 12), purpose="fine-tune")
    job = await sdk.fine_tuning.jobs.create(model=BASE, training_file=file.id, metadata={"team": "a"})
    name = ledger.announce_checkpoint(database, job.id, checkpoint_folder(folder, 3), NOW).fine_tuned_model_checkpoint
    return {"file_id": file.id, "fine_tuning_job_id": job.id, "model": name, "fine_tuned_model_checkpoint": name}


async def _upload(sdk: openai.AsyncOpenAI) -> dict[str, str]:
    upload = await sdk.uploads.create(bytes=len(LINE), filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    return {"upload_id": upload.id}


async def _administration(sdk: openai.AsyncOpenAI, ids: dict[str, str]) -> dict[str, str]:
    organization = sdk.admin.organization
    project = await organization.projects.create(name="other")
    account = await organization.projects.service_accounts.create(project.id, name="robot")
    key = await organization.admin_api_keys.create(name="second")
    permissions = sdk.fine_tuning.checkpoints.permissions
    shared = [p async for p in await permissions.create(ids["fine_tuned_model_checkpoint"], project_ids=[project.id])]
    return {
        "project_id": project.id,
        "service_account_id": account.id,
        "api_key_id": account.api_key.id,
        "key_id": key.id,
        "permission_id": shared[0].id,
    }
