"""Bytes on disk, named by what they are: uploaded files by their sha256, adapters by that of their weights.

Written to a temporary name, fsynced, renamed, the folder fsynced: a blob is whole or absent, whenever the power goes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from milepost.errors import Corrupt, Full, Invalid
from milepost.resources.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, NO_ROOM, Manifest

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


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for certain."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def forget_incoming(folder: Path) -> None:
    """Remove what a crash cut short. Only for who holds the data folder's lock: it would cut uploads short itself."""
    shutil.rmtree(folder / _INCOMING)
    (folder / _INCOMING).mkdir()


def path(folder: Path, sha256: str) -> Path:
    return folder / FILES / sha256


class Incoming:
    """Bytes on their way in: on disk once, hashed as they are written. A blob when published, gone when closed.

    Whoever publishes makes the row that tells of the blob in the same transaction, so that nobody sweeps it meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _room():
            descriptor, name = tempfile.mkstemp(dir=folder / _INCOMING)
        self._path = Path(name)
        self._out = os.fdopen(descriptor, "wb")
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.bytes += len(chunk)
        with _room():
            self._out.write(chunk)

    def finish(self) -> Blob:
        """Have all that was written on the disk for certain; nothing is written after it."""
        if not self._out.closed:
            with _room():
                _sync_file(self._out)
                self._out.close()
        return Blob(self._digest.hexdigest(), self.bytes)

    def open(self) -> BinaryIO:
        """What was written, from its start. After `finish`."""
        return self._path.open("rb")

    def publish(self) -> Blob:
        """After `finish`, which is what takes long."""
        blob = self.finish()
        with _room():
            self._path.replace(path(self._folder, blob.hash))
            sync(self._folder / FILES)
        return blob

    def close(self) -> None:
        with suppress(OSError):  # what could not be written cannot be flushed either
            self._out.close()
        self._path.unlink(missing_ok=True)


def put(folder: Path, file: BinaryIO, limit: int) -> Blob:
    """Keep what `file` yields, in constant memory. Raises `Invalid` as soon as it is more than `limit` bytes."""
    with closing(Incoming(folder)) as incoming:
        while chunk := file.read(_CHUNK):
            if incoming.bytes + len(chunk) > limit:
                raise Invalid(f"File is larger than the limit of {limit} bytes", param="file")
            incoming.write(chunk)
        return incoming.publish()


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
        sync(folder / ADAPTERS)  # an earlier life may have been killed between the rename and this
        return sha256
    with _incoming(folder) as temporary:
        whole = temporary / "adapter"
        whole.mkdir()
        for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
            _link(checkpoint / name, whole / name)
        sync(whole)
        whole.rename(target)
    sync(folder / ADAPTERS)
    return sha256


def drop_adapter(folder: Path, sha256: str) -> None:
    """Remove an adapter that nothing needs: out of sight in one step, so that it is whole or absent."""
    with _incoming(folder) as temporary:
        adapter_folder(folder, sha256).rename(temporary / sha256)


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(folder: Path, sha256: str) -> Path:
    """Where a blob lies, having read it. Raises `Corrupt` unless its bytes are those it is named by."""
    blob = path(folder, sha256)
    found = sha256_of(blob) if blob.exists() else "none: it is gone"
    if found != sha256:
        raise Corrupt(
            f"The file's bytes on the server's disk are not those that were uploaded: their sha256 is {found}, not "
            f"{sha256}. Upload it again"
        )
    return blob


def write_whole(target: Path, text: str, mode: int = 0o600) -> None:
    """Replace a small file atomically: a reader sees the old text or the new, and so does the next start."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        _sync_file(out)
    temporary.replace(target)
    sync(target.parent)


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """A folder of one's own to write in; gone afterwards, with whatever was not moved out of it."""
    temporary = Path(tempfile.mkdtemp(dir=folder / _INCOMING))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _room() -> Iterator[None]:
    """Writing, where the disk may turn out to be full."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise Full(
            f"The server's disk has no room for this ({error.strerror}); nothing of it was kept. Free some in its data "
            "folder, then send it again"
        ) from error


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


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk for certain."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
