"""/files: what clients upload, and the results that jobs leave."""

from __future__ import annotations

import base64
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from milepost.api.parts import Caller, Given, Parts
from milepost.errors import Invalid
from milepost.resources.base import Deleted, Frozen, Page
from milepost.resources.files import UPLOADABLE, File, Purpose
from milepost.resources.lines import check_lines, read_lines, refusal
from milepost.store import blobs, files

router = APIRouter(prefix="/files", tags=["Files"])

#: OpenAI's own: only an id a client made up is longer.
MAX_LIMIT = 10_000
#: As the SDK names the file of a user who passes bytes only.
UNNAMED = "upload"


class Upload(Frozen):
    """The form of an upload but for its file. `expires_after` is checked, not acted on: files stay until deleted."""

    purpose: Purpose
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    seconds: Annotated[int | None, Field(alias="expires_after[seconds]", ge=3600, le=2_592_000)] = None


FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "The bytes, with a filename."},
                    "purpose": {"type": "string", "enum": sorted(UPLOADABLE), "description": "What the file is for."},
                    "expires_after[anchor]": {
                        "type": "string",
                        "enum": ["created_at"],
                        "description": "From when the seconds count.",
                    },
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": 3600,
                        "maximum": 2_592_000,
                        "description": "After how long the file goes.",
                    },
                },
            },
            "example": {"file": "train.jsonl", "purpose": "fine-tune"},
        }
    },
}


BYTES = {
    "schema": {"type": "string", "format": "binary"},
    "example": '{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}',
}


@router.post("", summary="Upload a file", openapi_extra={"requestBody": FORM})
async def create(request: Request, key: Caller, given: Given) -> File:
    """Upload a file. Of training data (`purpose="fine-tune"`) each line is checked at once: it must be a JSON
    dictionary of one of the four shapes of training data, and an answer that refuses the file lists its bad lines.
    """
    form = await _form(request)
    try:
        upload, file = _read(form)
        return await run_in_threadpool(_keep, given, key.project_id, upload, file)
    finally:
        await form.close()


@router.get("", summary="List files")
def page(
    *,
    key: Caller,
    given: Given,
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    limit: Annotated[int, Query(ge=0, le=MAX_LIMIT, description="How many files a page has at most.")] = MAX_LIMIT,
    order: Annotated[Literal["asc", "desc"], Query(description="By `created_at`.")] = "desc",
    after: Annotated[str | None, Query(description="The id of the last file already seen.")] = None,
) -> Page[File]:
    """The files of the key's project, newest first unless `order` says otherwise."""
    return files.page(given.database, key.project_id, purpose=purpose, limit=limit, order=order, after=after)


@router.get("/{file_id}", summary="Retrieve a file")
def retrieve(file_id: str, key: Caller, given: Given) -> File:
    """What is known of a file, without its bytes."""
    return files.get(given.database, key.project_id, file_id)


@router.delete("/{file_id}", summary="Delete a file")
def delete(file_id: str, key: Caller, given: Given) -> Deleted:
    """Delete a file. Jobs that were created with it are not touched."""
    return files.delete(given.database, key.project_id, file_id, given.now())


@router.get(
    "/{file_id}/content",
    summary="Retrieve the bytes of a file",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": BYTES}, "description": "The bytes."}},
)
def content(file_id: str, key: Caller, given: Given) -> Response:
    """The bytes as they were uploaded. A job's `step_metrics.csv` comes as base64 text, as OpenAI's does, unless the
    setting `MILEPOST_RESULT_CSV_BASE64` is false.
    """
    file = files.get(given.database, key.project_id, file_id)
    path = files.blob_path(given.database, key.project_id, file_id)
    answer = FileResponse(path, media_type="application/octet-stream", filename=file.filename)
    if file.purpose is not Purpose.FINE_TUNE_RESULTS or not given.settings.result_csv_base64:
        return answer
    headers = {"content-disposition": answer.headers["content-disposition"]}
    return Response(base64.b64encode(path.read_bytes()), headers=headers, media_type="application/octet-stream")


async def _form(request: Request) -> FormData:
    """The form, its file on disk once it is larger than a megabyte."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Invalid("Expected a multipart/form-data body with the parts 'file' and 'purpose'", param="file")
    try:
        return await request.form(max_files=1, max_fields=len(Upload.model_fields))
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise Invalid(f"We could not parse the multipart form of your request: {error.detail}") from None


def _read(form: FormData) -> tuple[Upload, UploadFile]:
    parts: dict[str, Any] = dict(form)
    file = parts.pop("file", None)
    if not isinstance(file, UploadFile):
        raise Invalid(
            "Missing required parameter: 'file'. Send it as a part with a filename",
            param="file",
            code="missing_required_parameter",
        )
    try:
        upload = Upload.model_validate(parts)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults, body=parts) from None
    if upload.purpose not in UPLOADABLE:
        raise Invalid(f"Files of purpose '{upload.purpose}' are made by jobs, not uploaded", param="purpose")
    return upload, file


def _keep(given: Parts, project: str, upload: Upload, file: UploadFile) -> File:
    lines = _count_lines(file.file) if upload.purpose is Purpose.FINE_TUNE else None
    blob = blobs.put(given.database.folder, file.file, given.settings.max_file_bytes)
    return files.add(
        given.database,
        project,
        filename=file.filename or UNNAMED,
        purpose=upload.purpose,
        blob=blob,
        lines=lines,
        now=given.now(),
    )


def _count_lines(file: BinaryIO) -> int:
    """The number of examples in a file of training data. Leaves the file at its start."""
    report = check_lines(read_lines(file), content=False)
    file.seek(0)
    if report.total_problems:
        raise Invalid(refusal(report), param="file")
    if not report.lines:
        raise Invalid("The file is empty. Expected one JSON dictionary a line", param="file")
    return report.lines
