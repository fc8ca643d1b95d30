"""Tokens → text as it is made: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What stands for bytes that are no character, and for the beginning of one whose end is still to come.
UNFINISHED = "\ufffd"

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """The text of one choice. What has been handed out is never taken back; joined, it is `decode` of all tokens.

    Only the last tokens are decoded again: one before the new one, since some tokenizers write a token otherwise at
    the beginning of a text, and those of a character whose end is still to come.
    """

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = stops
        self._tokens: list[int] = []  # the window that is decoded again
        self._told = 0  # characters of the window's text that have left it
        self._held = ""  # text that may be the beginning of a stop string
        self.length = 0  # characters so far: handed out, held back, or behind a stop string
        self.is_stopped = False

    def push(self, token: int) -> str:
        """The text that is sure after this token; once a stop string was found, all before it and nothing after."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(UNFINISHED):
            fresh, self._told = text[self._told : -1], len(text) - 1
        else:
            fresh = text[self._told :]
            self._tokens = self._tokens[-1:]
            self._told = len(self._decode(self._tokens))
        return self._scan(fresh)

    def flush(self) -> str:
        """What is left when no token follows: an unfinished character as U+FFFD, the beginning of a stop string."""
        fresh = self._scan(self._decode(self._tokens)[self._told :])
        held, self._held, self._tokens, self._told = self._held, "", [], 0
        return fresh + held

    def _scan(self, fresh: str) -> str:
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
