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


def keys_of(tokens: Sequence[int], size: int, *, adapter: str | None, client: str) -> Iterator[bytes]:
    """A key for each whole piece of `size` tokens, made of all that its keys and values depend on."""
    key = hashlib.sha256(f"{size}\0{adapter or ''}\0{client}".encode()).digest()
    for end in range(size, len(tokens) + 1, size):
        key = hashlib.sha256(key + struct.pack(f"<{size}I", *tokens[end - size : end])).digest()
        yield key
