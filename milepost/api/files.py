"""/files: what clients upload, and the results that jobs leave."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from milepost.api.forms import FilePart, Form, parse_fields, received
from milepost.api.parts import Caller, Given, IdempotencyKey, Parts
from milepost.api.reports import examine_upload
from milepost.config import Settings
from milepost.errors import Invalid
from milepost.resources.base import Deleted, Frozen, Page
from milepost.resources.files import UPLOADABLE, ExpirySeconds, File, Purpose, clean_name
from milepost.resources.lines import check_lines, read_lines, refusal
from milepost.resources.reports import FileReport
from milepost.store import blobs, files, idempotency

router = APIRouter(prefix="/files", tags=["Files"])

#: OpenAI's own: only an id a client made up is longer.
MAX_LIMIT = 10_000

FileId = Annotated[str, Path(description="The id of the file, `file-…`.")]


class FileForm(Frozen):
    """The form of an upload but for its file."""

    purpose: Purpose
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    seconds: Annotated[ExpirySeconds | None, Field(alias="expires_after[seconds]")] = None


FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "The file, as a part with a filename; at most 512 MB by default.",
                    },
                    "purpose": {
                        "type": "string",
                        "enum": sorted(UPLOADABLE),
                        "examples": ["fine-tune"],
                        "description": "What the file is for. `fine-tune` wants JSONL, and each line is checked.",
                    },
                    "expires_after[anchor]": {
                        "type": "string",
                        "enum": ["created_at"],
                        "description": "From when the seconds count. With `expires_after[seconds]`, or not at all.",
                    },
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": 3600,
                        "maximum": 2_592_000,
                        "description": "After how many seconds the file goes by itself. Without it a file of purpose "
                        "`batch` goes after 30 days, and every other stays until it is deleted.",
                    },
                },
            }
        }
    },
}

#: How a route that answers bytes is described.
BYTES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
    for status, description in ((200, "The file."), (206, "The range of it that was asked for."))
}


@router.post("", summary="Upload a file", openapi_extra={"requestBody": FORM})
async def create(request: Request, key: Caller, given: Given, idempotency_key: IdempotencyKey = None) -> File:
    """Upload a file. Of training data (`purpose="fine-tune"`) each line is checked at once: it must be a JSON
    dictionary of one of the four shapes of training data, and an answer that refuses the file lists its bad lines.
    What else is wrong with it, and what training it would cost, is in the file's `report`.
    """
    part = FilePart(
        "file", "File", given.settings.max_file_bytes, "Split it, or send it with `client.uploads`, which takes more"
    )
    async with received(request, given.database.folder, part) as form:
        return await run_in_threadpool(_keep, given, key.project_id, form, idempotency_key)


@router.get("", summary="List files")
def page(
    *,
    key: Caller,
    given: Given,
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    limit: Annotated[int, Query(ge=0, le=MAX_LIMIT, description="How many files at most.")] = MAX_LIMIT,
    order: Annotated[Literal["asc", "desc"], Query(description="By `created_at`.")] = "desc",
    after: Annotated[str | None, Query(description="The id of the last file already seen.")] = None,
) -> Page[File]:
    """The files of the key's project, newest first unless `order` says otherwise."""
    found = files.page(
        given.database, key.project_id, purpose=purpose, limit=limit, order=order, after=after, now=given.now()
    )
    return found.model_copy(update={"data": tuple(shown(given.settings, file) for file in found.data)})


@router.get("/{file_id}", summary="Retrieve a file")
def retrieve(file_id: FileId, key: Caller, given: Given) -> File:
    """What is known of a file, without its bytes."""
    return shown(given.settings, files.get(given.database, key.project_id, file_id, given.now()))


@router.delete("/{file_id}", summary="Delete a file")
def delete(file_id: FileId, key: Caller, given: Given) -> Deleted:
    """Delete a file. Jobs that were created with it are not touched."""
    return files.delete(given.database, key.project_id, file_id, given.now())


@router.get("/{file_id}/content", summary="Retrieve the bytes of a file", response_class=Response, responses=BYTES)
def content(request: Request, file_id: FileId, key: Caller, given: Given) -> Response:
    """The bytes as they were uploaded, or the `Range` of them that is asked for. A job's `step_metrics.csv` comes as
    base64 text, as OpenAI's does, unless the setting `MILEPOST_RESULT_CSV_BASE64` is false.
    """
    file = files.get(given.database, key.project_id, file_id, given.now())
    path = files.blob_path(given.database, key.project_id, file_id, given.now())
    if "range" not in request.headers:  # a part cannot be checked without reading all
        blobs.check(given.database.folder, path.name)
    answer = FileResponse(path, media_type="application/octet-stream", filename=file.filename)
    if file.purpose is not Purpose.FINE_TUNE_RESULTS or not given.settings.result_csv_base64:
        if wanted := request.headers.get("range"):
            _check_range(wanted, file.bytes)
        return answer
    headers = {"content-disposition": answer.headers["content-disposition"]}
    return Response(base64.b64encode(path.read_bytes()), headers=headers, media_type="application/octet-stream")


def shown(settings: Settings, file: File) -> File:
    """A file as it is answered; strict clients know no purpose `evals` in an answer."""
    if file.purpose is Purpose.EVALS and settings.evals_as_user_data:
        return file.model_copy(update={"purpose": Purpose.USER_DATA})
    return file


def examine(settings: Settings, purpose: Purpose, file: BinaryIO) -> tuple[int | None, FileReport | None]:
    """Check what has been uploaded, at once or in parts; of training data the number of examples and the report."""
    if purpose is not Purpose.FINE_TUNE:
        return None, None
    return _count_lines(file), examine_upload(settings, file)


def _keep(given: Parts, project: str, form: Form, idempotency_key: str | None) -> File:
    asked = parse_fields(FileForm, form.fields)
    if asked.purpose not in UPLOADABLE:
        raise Invalid(f"Files of purpose '{asked.purpose}' are made by jobs, not uploaded", param="purpose")
    if (asked.anchor is None) is not (asked.seconds is None):
        missing = "expires_after[anchor]" if asked.anchor is None else "expires_after[seconds]"
        raise Invalid(f"Missing required parameter: '{missing}'.", param=missing, code="missing_required_parameter")
    filename = clean_name(form.filename, "file")
    blob = form.file.finish()
    with form.file.open() as file:
        lines, report = examine(given.settings, asked.purpose, file)
    now = given.now()

    said = {**form.fields, "filename": filename, "sha256": blob.hash}
    sha256 = idempotency.fingerprint("POST /files", said)
    made = idempotency.once(
        given.database,
        project,
        idempotency_key,
        sha256,
        kind=File,
        now=now,
        make=lambda connection: files.insert_file(
            connection,
            given.database.folder,
            project,
            filename=filename,
            purpose=asked.purpose,
            blob=form.file.publish(),
            lines=lines,
            report=report,
            now=now,
            expires_after_s=asked.seconds,
        ),
    )
    return shown(given.settings, made)


def _count_lines(file: BinaryIO) -> int:
    """The number of examples in a file of training data. Leaves the file at its start."""
    report = check_lines(read_lines(file), content=False)
    file.seek(0)
    if report.total_problems:
        raise Invalid(refusal(report), param="file")
    if not report.lines:
        raise Invalid("The file is empty. Expected one JSON dictionary a line", param="file")
    return report.lines


_RANGE = re.compile(r"(\d{0,18})-(\d{0,18})")


def _check_range(wanted: str, size: int) -> None:
    """Refuse a bad range in the envelope: Starlette would in plain text."""
    unit, _, ranges = wanted.partition("=")
    for each in ranges.split(","):
        found = _RANGE.fullmatch(each.strip())
        if unit.strip().lower() != "bytes" or found is None or found[0] == "-":
            raise Invalid(f"Invalid Range: '{wanted[:100]}'. Ask for 'bytes=0-1023', say", param="Range")
        first, last = found[1], found[2]
        start = int(first) if first else max(size - int(last), 0)
        if start >= size:
            raise HTTPException(416, f"The range '{wanted[:100]}' lies outside the file's {size} bytes")
        if first and last and int(last) < start:
            raise Invalid(f"Invalid Range: '{wanted[:100]}' ends before it begins", param="Range")
