"""The `file` object."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

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

    id: Annotated[
        str, Field(description="Identifier of the file, `file-…`.", examples=["file-3KrCqTHvXEFUcHLfCSuZ7Ftd"])
    ]
    object: Annotated[Literal["file"], Field(description="The object type, always `file`.")] = "file"
    bytes: Annotated[int, Field(description="The size of the file, in bytes.", examples=[120_000])]
    created_at: Annotated[
        int, Field(description="When the file was uploaded, in Unix seconds.", examples=[1_790_000_000])
    ]
    filename: Annotated[
        str, Field(description="The name it was uploaded with; `upload` if it had none.", examples=["train.jsonl"])
    ]
    purpose: Annotated[Purpose, Field(description="What the file is for.", examples=["fine-tune"])]
    status: Annotated[
        Literal["uploaded", "processed", "error"],
        Field(
            description="`processed` at once: training data is checked while it is uploaded.", examples=["processed"]
        ),
    ] = "processed"
    expires_at: Annotated[
        int | None,
        Field(description="When the file will be deleted, in Unix seconds; null if it stays.", examples=[None]),
    ] = None
    status_details: Annotated[str | None, Field(description="Deprecated by OpenAI; null here.", examples=[None])] = None
