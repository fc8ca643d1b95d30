"""Multipart forms, read as they arrive: the one file of a form goes to disk at once, hashed on its way.

The file never lies in memory, and its bytes are written once, where they will stay. The parser is python-multipart's,
in a thread, a megabyte at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from anyio import CancelScope
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from milepost.api.bodies import FORM_BYTES
from milepost.errors import Invalid
from milepost.store.blobs import Incoming

if TYPE_CHECKING:  # it exists for type checkers only
    from python_multipart.multipart import MultipartCallbacks

_BLOCK = 1024 * 1024
#: Parts of a form: more than any route takes, so that the parser never keeps many.
_MAX_PARTS = 32
BROKEN = (
    "We could not parse the multipart form of your request: {}. Let your HTTP library build the body and its headers"
)
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class FilePart:
    """The part of a form that is a file: what it is called on the wire, and in a sentence."""

    name: str
    noun: str
    max_bytes: int
    remedy: str


@dataclass(frozen=True, slots=True)
class Form:
    """What has arrived. `file` is on disk, and goes when the form does unless it was published."""

    fields: Mapping[str, str]
    filename: str
    file: Incoming


@asynccontextmanager
async def received(request: Request, folder: Path, part: FilePart) -> AsyncIterator[Form]:
    """Read a request's form, its file into the data folder."""
    boundary = _boundary(request.headers.get("content-type"), part)
    incoming = await run_in_threadpool(Incoming, folder)
    try:
        reader = _Reader(part, incoming)
        await _feed(request, boundary, reader)
        yield reader.form()
    finally:
        with CancelScope(shield=True):  # a server that stops cancels its requests
            await run_in_threadpool(incoming.close)


def parse_fields(model: type[Model], fields: Mapping[str, str]) -> Model:
    """The fields of a form as a model; what does not fit is refused as in a JSON body."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults, body=dict(fields)) from None


def _boundary(content_type: str | None, part: FilePart) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise Invalid(
            f"Expected a multipart/form-data body with the file in its part '{part.name}', but the Content-Type is "
            f"{'missing' if content_type is None else repr(content_type)}",
            param=part.name,
        )
    if not options.get(b"boundary"):
        raise Invalid(BROKEN.format("its Content-Type has no boundary"))
    return options[b"boundary"]


async def _feed(request: Request, boundary: bytes, reader: _Reader) -> None:
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= _BLOCK:
                await run_in_threadpool(parser.write, bytes(pending))
                pending.clear()
        await run_in_threadpool(parser.write, bytes(pending))
    except FormParserError as error:
        raise Invalid(BROKEN.format(error)) from None


class _Reader:
    """Told by the parser what it finds, piece by piece. `_take` is where the current part's bytes go."""

    def __init__(self, part: FilePart, incoming: Incoming) -> None:
        self._part = part
        self._incoming = incoming
        self._filename: str | None = None
        self._fields: dict[str, bytearray] = {}
        self._other_files: list[str] = []
        self._parts = 0
        self._is_whole = False
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._take: Callable[[bytes], None] = self._ignore

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def form(self) -> Form:
        if not self._is_whole:
            raise Invalid(BROKEN.format("it ends before its last boundary"))
        if self._filename is None:
            raise Invalid(
                f"Missing required parameter: '{self._part.name}'. Send it as a part with a filename",
                param=self._part.name,
                code="missing_required_parameter",
            )
        if self._other_files:
            name = self._other_files[0]
            raise Invalid(
                f"'{name}' was sent with a filename, but only '{self._part.name}' is a file. Send it as a plain field, "
                "or leave it out",
                param=name,
            )
        return Form({name: _text(value) for name, value in self._fields.items()}, self._filename, self._incoming)

    # --- what the parser calls

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise Invalid(BROKEN.format(f"it has more than {_MAX_PARTS} parts"))
        self._headers = {}

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise Invalid(BROKEN.format("a part has no name in its Content-Disposition"))
        self._name = _text(options[b"name"])
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in _PLAIN:
            raise Invalid(
                f"The part '{self._name}' has the Content-Transfer-Encoding {_text(encoding)!r}, which forms do not "
                "have. Send its bytes as they are",
                param=self._name,
            )
        if self._name in self._fields or (self._name == self._part.name and self._filename is not None):
            raise Invalid(f"'{self._name}' was sent twice. Send one a request", param=self._name)
        if b"filename" not in options:
            self._fields[self._name] = bytearray()
            self._take = self._add_to_field
        elif self._name == self._part.name:
            self._filename = _text(options[b"filename"])
            self._take = self._write
        else:
            self._other_files.append(self._name)
            self._take = self._ignore

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._take(data[start:end])

    def _end(self) -> None:
        self._is_whole = True

    # --- where a part's bytes go

    def _write(self, chunk: bytes) -> None:
        if self._incoming.bytes + len(chunk) > self._part.max_bytes:
            raise HTTPException(
                413, f"{self._part.noun} is larger than the limit of {self._part.max_bytes} bytes. {self._part.remedy}"
            )
        self._incoming.write(chunk)

    def _add_to_field(self, chunk: bytes) -> None:
        self._fields[self._name] += chunk
        if sum(map(len, self._fields.values())) > FORM_BYTES:
            raise Invalid(
                f"The field '{self._name}' is larger than {FORM_BYTES} bytes. A file is sent as a part with a filename",
                param=self._name,
            )

    def _ignore(self, chunk: bytes) -> None:
        """A file that the route does not take; the answer will say so."""


#: What a Content-Transfer-Encoding says of bytes that are sent as they are.
_PLAIN = {b"binary", b"8bit", b"7bit"}


def _text(raw: bytes | bytearray) -> str:
    """UTF-8, as browsers and SDKs send it, or else what old tools send."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
