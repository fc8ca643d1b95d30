"""Folders that appear whole or not at all, and the hashes they are known by. No torch here: validation starts fast."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Beside a base's files; says what they are, and is no part of their hash.
BASE_CARD = "base.json"


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """sha256 of the canonical JSON of {file name: sha256}, over every file of a base but its card."""
    hashes = {path.name: file_hash(path) for path in folder.iterdir() if path.is_file() and path.name != BASE_CARD}
    return hashlib.sha256(canonical(hashes)).hexdigest()


def canonical(value: object) -> bytes:
    """JSON with one spelling for one value: keys sorted, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends without an error it becomes `target`, on disk and in one step.

    What a process killed in between leaves behind begins with a dot, and the next try clears it away. A `target` that
    is there already is replaced: the caller has found it wanting.
    """
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.iterdir():
            sync(path)
        sync(draft)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    sync(target.parent)
    sync(target.parent.parent)  # which may have just got this parent


def replace(path: Path, text: str | bytes) -> None:
    """Write a whole file in one step: a reader sees the old bytes or the new ones, never a part."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(text.encode() if isinstance(text, str) else text)
    sync(draft)
    draft.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the disk keep what a file or folder holds now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
