"""TensorBoard's event files, written by hand: six protobuf messages in TFRecords, where its library is a web server.

A file is a picture of the run's events: a run that was killed writes it anew from the first step, byte for byte as it
was, so that no step is in it twice and a TensorBoard that reads it meanwhile notices nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from milepost.resources.runs import CheckpointMetrics, RunSpec


class EventFile:
    """One file per job. It is opened empty; each record is whole when it is flushed."""

    def __init__(self, path: Path, spec: RunSpec) -> None:
        self._file = path.open("wb")
        self._spec = spec
        self._at: int | None = None

    def step(self, step: int, at: int, metrics: Mapping[str, float]) -> None:
        if self._at is None:
            self._write(_event(at, 0, file_version=b"brain.Event:2"))
            self._write(_event(at, 0, summary=_text("hyperparameters", _table(self._spec))))
        self._at = at
        self._write(_event(at, step, summary=b"".join(_scalar(name, value) for name, value in metrics.items())))
        self._file.flush()

    def checkpoint(self, found: CheckpointMetrics) -> None:
        """Told at the time of its step: what is written depends on the run's events only."""
        text = f"step {found.step}, epoch {found.epoch:.2f}{', the last' if found.final else ''}"
        self._write(_event(self._at or 0, found.step, summary=_text("checkpoints", text)))
        self._file.flush()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 (a file does not end badly)
        self._file.close()

    def _write(self, record: bytes) -> None:
        length = struct.pack("<Q", len(record))
        self._file.write(length + _checksum(length) + record + _checksum(record))


def open_file(spec: RunSpec, folder: Path) -> tuple[EventFile, str]:
    """The job's file in its own folder, as TensorBoard wants it."""
    path = folder / spec.job_id
    path.mkdir(parents=True, exist_ok=True)
    return EventFile(path / "events.out.tfevents.0000000000.milepost", spec), f"event files are in {spec.job_id}"


def _table(spec: RunSpec) -> str:
    """What the run was given, as Markdown."""
    given = {"model": spec.base.name, "method": spec.method, "seed": spec.seed, **spec.hyperparameters.model_dump()}
    return "\n".join(["| name | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in given.items())])


# --- messages: github.com/tensorflow/tensorboard, compat/proto: event, summary, tensor


def _event(at: float, step: int, *, file_version: bytes | None = None, summary: bytes | None = None) -> bytes:
    told = _bytes(3, file_version) if file_version is not None else _bytes(5, summary or b"")
    return _key(1, 1) + struct.pack("<d", at) + _key(2, 0) + _varint(step) + told


def _scalar(tag: str, value: float) -> bytes:
    return _bytes(1, _bytes(1, tag.encode()) + _key(2, 5) + struct.pack("<f", value))


def _text(tag: str, text: str) -> bytes:
    """A tensor of one string, for the plugin that shows text."""
    string = 7
    tensor = _key(1, 0) + _varint(string) + _bytes(2, _bytes(2, _key(1, 0) + _varint(1))) + _bytes(8, text.encode())
    metadata = _bytes(1, _bytes(1, b"text"))
    return _bytes(1, _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, metadata))


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


# --- TFRecord's checksum: CRC-32C, rotated and shifted, so that a checksum of checksums is none


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_table() -> Iterator[int]:
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        yield crc


_CRC = tuple(_crc_table())
