"""The `file` object, and what may be asked of a file that is made: its purpose, its name, when it goes."""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from milepost.errors import Invalid
from milepost.resources.base import Frozen

#: As the SDK names the file of a user who passes bytes only.
UNNAMED = "upload"
MAX_NAME = 255
#: Control characters, halves of surrogates, line and paragraph separators: they split headers, and name no file.
_NOT_IN_NAMES = {"Cc", "Cs", "Zl", "Zp"}

#: OpenAI keeps what is not for a batch until it is deleted.
BATCH_EXPIRES_AFTER_S = 30 * 24 * 3600
#: An hour to thirty days.
ExpirySeconds = Annotated[int, Field(ge=3600, le=2_592_000)]


class Purpose(StrEnum):
    """What a file is for. `fine-tune-results` is ours to write, never to upload."""

    ASSISTANTS = "assistants"
    BATCH = "batch"
    FINE_TUNE = "fine-tune"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"
    FINE_TUNE_RESULTS = "fine-tune-results"


#: The purposes a client may upload with.
UPLOADABLE = frozenset(Purpose) - {Purpose.FINE_TUNE_RESULTS}


class ExpiresAfter(Frozen):
    """When a file goes by itself. Without it a file of purpose `batch` goes after 30 days, and every other stays."""

    anchor: Literal["created_at"] = Field(description="From when the seconds count: the file's creation.")
    seconds: ExpirySeconds = Field(description="From one hour to 30 days.")


class File(Frozen):
    """A document that has been uploaded, or that a job left."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "file-3KrCqTHvXEFUcHLfCSuZ7Ftd",
                    "object": "file",
                    "bytes": 120_000,
                    "created_at": 1_790_000_000,
                    "filename": "train.jsonl",
                    "purpose": "fine-tune",
                    "status": "processed",
                    "expires_at": None,
                    "status_details": None,
                }
            ]
        }
    )

    id: str = Field(description="What the file is known by in every other call: `file-…`.")
    object: Literal["file"] = Field("file", description="Always `file`.")
    bytes: int = Field(description="Its size.")
    created_at: int = Field(description="When it was uploaded, in Unix seconds.")
    filename: str = Field(description="The name it was uploaded with, without any folders.")
    purpose: Purpose = Field(description="What it is for.")
    status: Literal["uploaded", "processed", "error"] = Field(
        "processed",
        description="Always `processed`: a file is checked before its upload is answered. Deprecated.",
    )
    expires_at: int | None = Field(None, description="When it will be gone, in Unix seconds; null if it stays.")
    status_details: str | None = Field(
        None, description="Always null: a file that fails its check is refused, and the answer says why."
    )


def clean_name(given: str, param: str) -> str:
    """The last part of a path, as old browsers send it. What names no file is refused. It is shown, never opened."""
    name = given.replace("\\", "/").rpartition("/")[2]
    if name in {"", ".", ".."}:
        return UNNAMED
    for place, letter in enumerate(name):
        if unicodedata.category(letter) in _NOT_IN_NAMES:
            raise Invalid(
                f"The filename has U+{ord(letter):04X}, a control character, at its place {place}. Leave it out",
                param=param,
            )
    if len(name) > MAX_NAME:
        raise Invalid(
            f"The filename has {len(name)} characters; {MAX_NAME} are the most. It begins with '{name[:40]}'",
            param=param,
        )
    return name


def expires_at(purpose: Purpose, seconds: int | None, created_at: int) -> int | None:
    """When a file will be gone: what its maker asked for, or else what its purpose says."""
    if seconds is None and purpose is Purpose.BATCH:
        seconds = BATCH_EXPIRES_AFTER_S
    return None if seconds is None else created_at + seconds
