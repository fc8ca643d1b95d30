"""A file sent whole in one statement: the upload is created, takes the parts, and is completed.

The SDK's own helper would pass by the provider's gate, and could not be shown beforehand; so its requests are made
here, one after another. One part is in memory at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from milepost.errors import Invalid, Remote
from milepost.sql.calls import Call
from milepost.sql.catalog import Method, shipped

#: The method of the SDK that does the same.
PATH = "uploads.upload_file_chunked"
#: The most that a part may have, in bytes.
PART_BYTES = 64 * 1024 * 1024
#: What stands in a preview for ids that only an answer gives.
UPLOAD_ID, PART_ID = "UPLOAD_ID", "PART_ID_{}"

#: A file's name, and its bytes or where they are.
Source = tuple[str, bytes | Path]


class Sends(Protocol):
    async def send(self, call: Call) -> Any: ...


def requests(call: Call) -> Iterator[Call]:
    """The calls that a call is sent as, for a preview: it is one itself, but for an upload in parts."""
    if call.method.path != PATH:
        yield call
        return
    starts = _starts(call)
    name, _ = _source(call)
    yield _create(call)
    for start in starts:
        length = min(_part_bytes(call), _size(call) - start)
        yield _part(call, UPLOAD_ID, (name, bytes(length)))  # as many, not the same: they are not for the eye
    yield _complete(call, UPLOAD_ID, [PART_ID.format(number) for number in range(1, len(starts) + 1)])


async def send(sends: Sends, call: Call, on_part: Callable[[str], None]) -> Any:
    """The answer to the call. Raises `Remote` for an error; what was sent before is said then."""
    if call.method.path != PATH:
        return await sends.send(call)
    starts = _starts(call)
    name, _ = _source(call)
    upload_id = _id(await sends.send(_create(call)))
    part_ids: list[str] = []
    try:
        for start in starts:
            piece = await asyncio.to_thread(_read, call, start)
            part_ids.append(_id(await sends.send(_part(call, upload_id, (name, piece)))))
            on_part(f"{name}: part {len(part_ids)} of {len(starts)}")
        return await sends.send(_complete(call, upload_id, part_ids))
    except Remote as error:
        left = f"; upload `{upload_id}` has {len(part_ids)} of {len(starts)} parts and is not completed"
        raise error.with_more(left) from None


# --- the three --------------------------------------------------------------------------------------------------------


@cache
def _method(resource: str, name: str) -> Method:
    return shipped().method(shipped().table("openai", "uploads", resource), name)


def _create(call: Call) -> Call:
    given = dict(call.arguments)
    name, _ = _source(call)
    made = {"bytes": given.get("bytes", _size(call)), "filename": name}
    made |= {key: given[key] for key in ("mime_type", "purpose", "extra_body") if key in given}
    return Call(call.provider, _method("uploads", "create"), tuple(sorted(made.items())))


def _part(call: Call, upload_id: str, data: tuple[str, bytes]) -> Call:
    """It may be sent again: the parts of a file are named when it is completed (so the SDK, on this method and on
    `complete`), and one that is not named is in none.
    """
    arguments = (("data", data), ("upload_id", upload_id))
    return Call(call.provider, _method("parts", "create"), arguments, is_repeatable=True)


def _complete(call: Call, upload_id: str, part_ids: Sequence[str]) -> Call:
    given = dict(call.arguments)
    made = {"upload_id": upload_id, "part_ids": part_ids} | ({"md5": given["md5"]} if "md5" in given else {})
    return Call(call.provider, _method("uploads", "complete"), tuple(sorted(made.items())))


# --- its bytes --------------------------------------------------------------------------------------------------------


def _source(call: Call) -> Source:
    source: Source = dict(call.arguments)["file"]
    return source


def _size(call: Call) -> int:
    _, held = _source(call)
    return held.stat().st_size if isinstance(held, Path) else len(held)


def _part_bytes(call: Call) -> int:
    size = dict(call.arguments).get("part_size", PART_BYTES)
    if not isinstance(size, int) or size < 1:
        raise Invalid(f"`part_size` wants a number of bytes, at least 1, got {size!r}", param="part_size")
    return size


def _starts(call: Call) -> range:
    return range(0, _size(call), _part_bytes(call))


def _read(call: Call, start: int) -> bytes:
    _, held = _source(call)
    if isinstance(held, bytes):
        return held[start : start + _part_bytes(call)]
    with held.open("rb") as file:
        file.seek(start)
        return file.read(_part_bytes(call))


def _id(answer: Any) -> str:
    """The id of what was made. Raises `Remote` for an answer without one."""
    if isinstance(answer, dict) and isinstance(found := answer.get("id"), str):
        return found
    raise Remote(f"The answer has no id: {answer!r:.80}")
