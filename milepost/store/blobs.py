"""Bytes on disk, named by what they are: uploaded files by their sha256, adapters by that of their weights.

Written to a temporary name, fsynced, renamed, the folder fsynced: a blob is whole or absent, whenever the power goes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from milepost.errors import Corrupt, Invalid
from milepost.resources.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, Manifest

FILES = "files"
ADAPTERS = "adapters"
_INCOMING = "incoming"  # on the same file system as the others, so that a rename is a rename
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blob:
    """`hash` is the sha256 of its bytes, in hex."""

    hash: str
    bytes: int


def make_folders(folder: Path) -> None:
    for name in (FILES, ADAPTERS, _INCOMING):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # training data and keys' hashes are the owner's only


def forget_incoming(folder: Path) -> None:
    """Remove what a crash cut short. Only for who holds the data folder's lock: it would cut uploads short itself."""
    shutil.rmtree(folder / _INCOMING)
    (folder / _INCOMING).mkdir()


def path(folder: Path, sha256: str) -> Path:
    return folder / FILES / sha256


def put(folder: Path, file: BinaryIO, limit: int) -> Blob:
    """Keep what `file` yields, in constant memory. Raises `Invalid` as soon as it is more than `limit` bytes."""
    digest = hashlib.sha256()
    size = 0
    with _incoming(folder) as temporary:
        target = temporary / "blob"
        with target.open("xb") as out:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise Invalid(f"File is larger than the limit of {limit} bytes", param="file")
                digest.update(chunk)
                out.write(chunk)
            _sync_file(out)
        blob = Blob(digest.hexdigest(), size)
        target.replace(path(folder, blob.hash))
    _sync_folder(folder / FILES)
    return blob


def adapter_folder(folder: Path, sha256: str) -> Path:
    return folder / ADAPTERS / sha256


def publish_adapter(folder: Path, checkpoint: Path) -> str:
    """Keep the adapter of a run's checkpoint folder, verified against its manifest; return the sha256 of its weights.

    Publishing the same weights twice is one folder. Files are linked, not copied, where the file system can: a
    checkpoint answers the sooner. Nobody writes to them again on either side.
    """
    manifest = Manifest.model_validate_json((checkpoint / MANIFEST).read_bytes())
    for name, expected in manifest.sha256.items():
        found = sha256_of(checkpoint / name)
        if found != expected:
            raise Corrupt(f"{checkpoint / name} has sha256 {found}, but its manifest says {expected}")
    sha256 = manifest.sha256[ADAPTER_WEIGHTS]
    target = adapter_folder(folder, sha256)
    if target.exists():
        _sync_folder(folder / ADAPTERS)  # an earlier life may have been killed between the rename and this
        return sha256
    with _incoming(folder) as temporary:
        whole = temporary / "adapter"
        whole.mkdir()
        for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
            _link(checkpoint / name, whole / name)
        _sync_folder(whole)
        whole.rename(target)
    _sync_folder(folder / ADAPTERS)
    return sha256


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_whole(target: Path, text: str, mode: int = 0o600) -> None:
    """Replace a small file atomically: a reader sees the old text or the new, and so does the next start."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        _sync_file(out)
    temporary.replace(target)
    _sync_folder(target.parent)


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """A folder of one's own to write in; gone afterwards, with whatever was not moved out of it."""
    temporary = Path(tempfile.mkdtemp(dir=folder / _INCOMING))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_file(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
