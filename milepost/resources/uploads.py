"""The `upload` and `upload.part` objects: a file that comes in parts, which may be sent side by side.

An upload is an hour's work: what is not completed by then is gone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from milepost.errors import Invalid
from milepost.resources.base import Frozen
from milepost.resources.files import UPLOADABLE, ExpiresAfter, File, Purpose

#: How long an upload may be pending.
LIFETIME_S = 3600

#: What JSONL goes by. OpenAI names `text/jsonl`; there is no registered type, so tools guess all of these.
JSONL = frozenset(
    {
        "text/jsonl",
        "application/jsonl",
        "application/jsonlines",
        "application/json-lines",
        "application/x-jsonlines",
        "application/ndjson",
        "application/x-ndjson",
        "application/json",
        "text/plain",
        "application/octet-stream",
    }
)
#: The types that a purpose takes; a purpose that is not here takes any.
MIME_TYPES: dict[Purpose, frozenset[str]] = {
    Purpose.FINE_TUNE: JSONL,
    Purpose.BATCH: JSONL,
    Purpose.EVALS: JSONL,
    Purpose.VISION: frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"}),
}


class UploadStatus(StrEnum):
    """`pending` takes parts; the others are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_EXAMPLE: JsonDict = {
    "id": "upload_jc8ZVTYV5eJbWVZ5dKnvLnXs",
    "object": "upload",
    "bytes": 1_000_000_000,
    "created_at": 1_790_000_000,
    "expires_at": 1_790_003_600,
    "filename": "train.jsonl",
    "purpose": "fine-tune",
    "status": "pending",
    "file": None,
}


class Upload(Frozen):
    """A file that comes in parts."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str = Field(description="What the upload is known by while parts are added: `upload_…`.")
    object: Literal["upload"] = Field("upload", description="Always `upload`.")
    bytes: int = Field(description="The size of the whole file, as it was declared.")
    created_at: int = Field(description="When it was created, in Unix seconds.")
    expires_at: int = Field(
        description="When it expires unless it is completed, in Unix seconds: one hour after its creation."
    )
    filename: str = Field(description="The name the file will have.")
    purpose: Purpose = Field(description="The purpose the file will have.")
    status: UploadStatus = Field(description="`pending` until it is completed or cancelled, or expires.")
    file: File | None = Field(None, description="The file it became; null unless `completed`.")


class UploadPart(Frozen):
    """A piece of the file of an upload."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "part_Zt4kMvWkBkKjPqLxCzQm2V7a",
                    "object": "upload.part",
                    "created_at": 1_790_000_010,
                    "upload_id": "upload_jc8ZVTYV5eJbWVZ5dKnvLnXs",
                }
            ]
        }
    )

    id: str = Field(description="What the part is named by when the upload is completed: `part_…`.")
    object: Literal["upload.part"] = Field("upload.part", description="Always `upload.part`.")
    created_at: int = Field(description="When it was added, in Unix seconds.")
    upload_id: str = Field(description="The upload it was added to.")


class UploadRequest(Frozen):
    """What is known of a file before its first part."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": 1_000_000_000, "mime_type": "text/jsonl"}
            ]
        }
    )

    filename: Annotated[str, Field(min_length=1)] = Field(
        description="The name of the file; folders in it are dropped."
    )
    purpose: Purpose = Field(description="What the file is for; not `fine-tune-results`, which jobs make.")
    bytes: Annotated[int, Field(ge=1, le=2**63 - 1)] = Field(description="The size of the whole file.")
    mime_type: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        description="The type of the file, which must suit the purpose: for `fine-tune`, `text/jsonl` or whatever else "
        "JSONL goes by (`application/jsonl`, `application/x-ndjson`, `application/json`, `text/plain` …)."
    )
    expires_after: ExpiresAfter | None = Field(
        None, description="When the file will go by itself, counted from its completion."
    )


class CompleteRequest(Frozen):
    """Which parts the file is made of, in order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "part_ids": ["part_Zt4kMvWkBkKjPqLxCzQm2V7a", "part_0Hqf5cVYyqWmAeTnJrBd9XsU"],
                    "md5": "d41d8cd98f00b204e9800998ecf8427e",
                }
            ]
        }
    )

    part_ids: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="The ids of the parts, in the order of the file. Parts that are not named are dropped."
    )
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = Field(
        None, description="The md5 of the whole file in hexadecimal, to have it checked."
    )


def require_suitable(request: UploadRequest, max_bytes: int) -> None:
    """Refuse what no part could mend: a purpose that only jobs write, a type that does not suit it, too many bytes."""
    if request.purpose not in UPLOADABLE:
        raise Invalid(f"Files of purpose '{request.purpose}' are made by jobs, not uploaded", param="purpose")
    kind = request.mime_type.partition(";")[0].strip().lower()
    accepted = MIME_TYPES.get(request.purpose)
    if accepted is not None and kind not in accepted:
        raise Invalid(
            f"The mime_type '{request.mime_type}' does not suit the purpose '{request.purpose}'. "
            f"Supported values are: {', '.join(sorted(accepted))}",
            param="mime_type",
        )
    if request.bytes > max_bytes:
        raise Invalid(
            f"The upload would have {request.bytes} bytes; the limit of this server is {max_bytes}. Split the file",
            param="bytes",
        )
