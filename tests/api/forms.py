"""Multipart forms byte by byte, and what is left of them on disk."""

from __future__ import annotations

from milepost.store.database import Database

FORM = "multipart/form-data; boundary=x"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> dict:
    """What to give to `http.post`."""
    return {"content": b"".join(parts) + b"--x--\r\n", "headers": {"content-type": FORM}}


def kept(database: Database) -> list[str]:
    """The names of all blobs, and of whatever is on its way in."""
    return sorted(path.name for name in ("files", "incoming") for path in (database.folder / name).iterdir())


PURPOSE = part("purpose", b"user_data")
FILE = part("file", b"abc", "a.txt")
