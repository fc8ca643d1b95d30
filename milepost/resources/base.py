"""Ids, the frozen model all resources are, and pages.

Every object is sent with every documented key, null where empty (reference/openai-contract.md §8.18): so dump with
`model_dump(mode="json")`, never with `exclude_none`.
"""

from __future__ import annotations

import secrets
import string
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

ALPHANUMERIC = string.ascii_letters + string.digits

#: What an id begins with, and how many alphanumerics follow (reference/openai-contract.md §3.7).
ID_SHAPES = {
    "file": ("file-", 24),
    "job": ("ftjob-", 24),
    "event": ("ftevent-", 24),
    "checkpoint": ("ftckpt_", 24),
    "organization": ("org-", 24),
    "project": ("proj_", 24),
    "key": ("key_", 24),
    "service_account": ("svc_acct_", 24),
    "upload": ("upload_", 24),
    "part": ("part_", 24),
    "permission": ("cp_", 24),
    "chat_completion": ("chatcmpl-", 29),
    "completion": ("cmpl-", 29),
}


class Frozen(BaseModel):
    """A value: parsed once, trusted afterwards. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


def new_id(kind: str) -> str:
    """A fresh id of this kind, such as `ftjob-…`: opaque to clients, unguessable."""
    prefix, length = ID_SHAPES[kind]
    return prefix + random_alphanumeric(length)


def random_alphanumeric(length: int) -> str:
    return "".join(secrets.choice(ALPHANUMERIC) for _ in range(length))


Item = TypeVar("Item")


class Page(Frozen, Generic[Item]):
    """One page of a list. `has_more` is always sent: without it Python's SDK pages on until an empty page."""

    model_config = ConfigDict(json_schema_extra={"description": "One page of a list."})

    object: Annotated[Literal["list"], Field(description="The object type, always `list`.")] = "list"
    data: Annotated[tuple[Item, ...], Field(description="The items of this page, in the list's order.")]
    has_more: Annotated[
        bool, Field(description="Whether there is a next page: ask for it with `after`.", examples=[False])
    ]
    first_id: Annotated[str | None, Field(description="The id of the page's first item; null if it has none.")] = None
    last_id: Annotated[str | None, Field(description="The id of the page's last item; null if it has none.")] = None


class Deleted(Frozen):
    """What has been deleted."""

    id: Annotated[str, Field(description="The id of what was deleted.", examples=["file-3KrCqTHvXEFUcHLfCSuZ7Ftd"])]
    object: Annotated[str, Field(description="Its object type.", examples=["file"])]
    deleted: Annotated[Literal[True], Field(description="Always true: what cannot be deleted is an error.")] = True
