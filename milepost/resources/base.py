"""Ids, the frozen model all resources are, and pages.

Every object is sent with every documented key, null where empty (reference/openai-contract.md §8.18): so dump with
`model_dump(mode="json")`, never with `exclude_none`.
"""

from __future__ import annotations

import secrets
import string
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

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

    model_config = ConfigDict(frozen=True, extra="forbid")


def new_id(kind: str) -> str:
    """A fresh id of this kind, such as `ftjob-…`: opaque to clients, unguessable."""
    prefix, length = ID_SHAPES[kind]
    return prefix + random_alphanumeric(length)


def random_alphanumeric(length: int) -> str:
    return "".join(secrets.choice(ALPHANUMERIC) for _ in range(length))


Item = TypeVar("Item")


class Page(Frozen, Generic[Item]):
    """One page of a list. `has_more` is always sent: without it Python's SDK pages on until an empty page."""

    object: Literal["list"] = "list"
    data: tuple[Item, ...]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


class Deleted(Frozen):
    id: str
    object: str
    deleted: Literal[True] = True
