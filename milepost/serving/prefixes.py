"""What prompts that begin alike have in common, computed once: keys and values of whole pieces of earlier prompts.

A piece is used again only where it would be computed again: the same tokens before it, in it, the same cut, the same
adapter by its hash, and the same client, since how much was reused is told to who asks. So a reused piece has the bits
it would have anyway. What is cut differently is rounded differently; therefore only whole pieces are kept.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor


class Prefixes:
    """The least recently used go first, and of one prompt's pieces the last: those before are of use without it."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._pieces: OrderedDict[bytes, Tensor] = OrderedDict()
        self.bytes = 0

    def find(self, keys: Sequence[bytes]) -> list[Tensor]:
        """The pieces of these keys, from the first on, up to one that is not there."""
        found: list[Tensor] = []
        for key in keys:
            if (piece := self._pieces.get(key)) is None:
                break
            found.append(piece)
        for key in reversed(keys[: len(found)]):
            self._pieces.move_to_end(key)
        return found

    def keep(self, key: bytes, piece: Tensor) -> None:
        if key in self._pieces or piece.nbytes > self._most_bytes:
            return
        self._pieces[key] = piece
        self._pieces.move_to_end(key, last=True)
        self.bytes += piece.nbytes
        while self.bytes > self._most_bytes:
            self.bytes -= self._pieces.popitem(last=False)[1].nbytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt that is computed at once. `key` is of all that its keys and values depend on, None where it
    is not kept: it ends with the prompt, not where another's would be cut too.
    """

    start: int
    end: int
    key: bytes | None


def pieces_of(tokens: Sequence[int], size: int, head: int, *, adapter: str | None, client: str) -> Iterator[Piece]:
    """Where a prompt is cut: every `size` tokens, and behind its `head` of a system prompt, from which it counts anew.

    The places follow from the prompt alone, never from what is kept, so a prompt's bits are always the same.
    """
    key = hashlib.sha256(f"{adapter or ''}\0{client}".encode()).digest()
    start = 0
    while start < len(tokens):
        end = min(start + size, head if start < head else len(tokens))
        is_kept = end in {start + size, head}
        key = hashlib.sha256(key + struct.pack(f"<{end - start}I", *tokens[start:end])).digest()
        yield Piece(start, end, key if is_kept else None)
        start = end
