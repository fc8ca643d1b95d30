"""/uploads: files that come in parts, which may be sent side by side."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool

from milepost.api.bodies import StrictRoute
from milepost.api.files import examine, shown
from milepost.api.forms import FilePart, Form, parse_fields, received
from milepost.api.parts import Caller, Given, IdempotencyKey, Parts
from milepost.resources.base import Frozen
from milepost.resources.uploads import CompleteRequest, Upload, UploadPart, UploadRequest, require_suitable
from milepost.store import idempotency, uploads

router = APIRouter(prefix="/uploads", tags=["Uploads"], route_class=StrictRoute)

UploadId = Annotated[str, Path(description="The id of the upload, `upload_…`.")]


class PartForm(Frozen):
    """The form of a part has nothing but the part."""


FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["data"],
                "additionalProperties": False,
                "properties": {
                    "data": {
                        "type": "string",
                        "format": "binary",
                        "description": "The bytes, as a part with any filename; at most 64 MB by default.",
                    }
                },
            }
        }
    },
}


@router.post("", summary="Create an upload")
def create(body: UploadRequest, key: Caller, given: Given, idempotency_key: IdempotencyKey = None) -> Upload:
    """Create an upload, which takes parts for an hour. Completed, it is a file like any other, of at most 8 GB by
    default. `client.uploads.upload_file_chunked` does all of it.
    """
    require_suitable(body, given.settings.max_upload_bytes)
    now = given.now()
    sha256 = idempotency.fingerprint("POST /uploads", body.model_dump(mode="json"))
    return idempotency.once(
        given.database,
        key.project_id,
        idempotency_key,
        sha256,
        kind=Upload,
        now=now,
        make=lambda connection: uploads.create(connection, key.project_id, body, now),
    )


@router.post("/{upload_id}/parts", summary="Add a part to an upload", openapi_extra={"requestBody": FORM})
async def add_part(request: Request, upload_id: UploadId, key: Caller, given: Given) -> UploadPart:
    """Add a piece of the file. Parts may be sent side by side: their order is told when the upload is completed."""
    await run_in_threadpool(uploads.require_pending, given.database, key.project_id, upload_id, given.now())
    part = FilePart("data", "Part", given.settings.max_part_bytes, "Send the file in smaller parts")
    async with received(request, given.database.folder, part) as form:
        return await run_in_threadpool(_keep, given, key.project_id, upload_id, form)


@router.post("/{upload_id}/complete", summary="Complete an upload")
def complete(body: CompleteRequest, upload_id: UploadId, key: Caller, given: Given) -> Upload:
    """Make a file of the parts, in the order they are named. Their sizes must add up to the upload's `bytes`, `md5`
    must be the file's if it is given, and training data is checked as if it were uploaded at once. If any of it fails,
    the upload stays as it was. To complete it again with the same parts is answered with the same file.
    """
    made = uploads.complete(given.database, key.project_id, upload_id, body, check=examine, now=given.now())
    return _shown(given, made)


@router.post("/{upload_id}/cancel", summary="Cancel an upload")
def cancel(upload_id: UploadId, key: Caller, given: Given) -> Upload:
    """Cancel an upload; its parts are dropped, and none may be added."""
    return uploads.cancel(given.database, key.project_id, upload_id, given.now())


def _keep(given: Parts, project: str, upload_id: str, form: Form) -> UploadPart:
    parse_fields(PartForm, form.fields)
    return uploads.add_part(given.database, project, upload_id, form.file, given.now())


def _shown(given: Parts, upload: Upload) -> Upload:
    return upload if upload.file is None else upload.model_copy(update={"file": shown(given.settings, upload.file)})
