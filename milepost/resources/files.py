"""The `file` object."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from milepost.resources.base import Frozen


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


class File(Frozen):
    """A document that has been uploaded."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    status: Literal["uploaded", "processed", "error"] = "processed"
    expires_at: int | None = None
    status_details: str | None = None
