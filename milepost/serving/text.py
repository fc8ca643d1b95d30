"""Tokens → text as it is made: never half a character, never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

#: The bytes a token adds to the text; none of a special one.
Spell = Callable[[int], bytes]


class TextStream:
    """The text of one choice. What has been handed out is never taken back; joined, it is all tokens' bytes as UTF-8,
    with U+FFFD for those that are no character. With `strips_space` it does not begin with the space that tokenizers
    of the SentencePiece kind write before a text's first word.
    """

    def __init__(self, spell: Spell, stops: Sequence[str], *, strips_space: bool = False) -> None:
        self._spell = spell
        self._stops = stops
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._strips_space = strips_space
        self._held = ""  # text that may be the beginning of a stop string
        self.length = 0  # characters so far: handed out, held back, or behind a stop string
        self.is_stopped = False

    def push(self, token: int) -> str:
        """The text that is sure after this token; once a stop string was found, all before it and nothing after."""
        return self._scan(self._characters.decode(self._spell(token)))

    def flush(self) -> str:
        """What is left when no token follows: an unfinished character as U+FFFD, the beginning of a stop string."""
        fresh = self._scan(self._characters.decode(b"", final=True))
        held, self._held = self._held, ""
        return fresh + held

    def _scan(self, fresh: str) -> str:
        if self._strips_space and fresh:
            fresh, self._strips_space = fresh.removeprefix(" "), False
        self.length += len(fresh)
        text, self._held = self._held + fresh, ""
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return text[: min(found)]
        held = _begun(text, self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _begun(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
