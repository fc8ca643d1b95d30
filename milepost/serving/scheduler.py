"""Who computes next, as rows of the cache and slots of adapters become free.

Each client has a line of its own, first come, first served; the lines take turns, so that who sends hundreds of prompts
does not keep another's one waiting. A request whose turn it is waits until its adapter has a slot, then its prompt is
computed, once for all its choices, then each choice takes a row and decodes along with the others. A choice that ends
leaves its row at once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from milepost.modeling.sampling import Draws
from milepost.resources.runs import Source
from milepost.serving.adapters import Adapters
from milepost.serving.guides import Guide
from milepost.serving.protocol import Generation, TokenLogprob
from milepost.serving.text import TextStream


@dataclass(slots=True, eq=False)
class Request:
    """A prompt, how far it is computed, and the choices it still owes. A load is a request for no choice."""

    number: int
    adapter: Source | None
    asked: Generation | None = None  # None for a load
    prompt: list[int] = field(default_factory=list)
    head: int = 0  # tokens of the prompt that other prompts are likely to begin with too: it is cut behind them
    max_tokens: int = 0
    pending: list[Sequence] = field(default_factory=list)
    running: int = 0
    slot: int | None = None
    is_admitted: bool = False
    computed: int = 0
    logits: Tensor | None = None  # (1, vocab) after the prompt's last token
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # of an echo that tells them
    completion_tokens: int = 0
    cached_tokens: int | None = None  # of the prompt; None until its computing has begun

    @property
    def client(self) -> str:
        return self.asked.client if self.asked else ""

    @property
    def is_scored(self) -> bool:
        """Whether the logprobs of its prompt's own tokens are told."""
        return self.asked is not None and self.asked.echo and self.asked.logprobs is not None

    @property
    def is_over(self) -> bool:
        return not self.pending and not self.running


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice: its tokens so far, of which the last is not in the cache yet."""

    request: Request
    index: int
    draws: Draws
    text: TextStream
    guide: Guide | None = None
    tokens: list[int] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)  # of each token so far, if penalties need them
    logprobs: deque[tuple[int, TokenLogprob]] = field(
        default_factory=deque
    )  # not told yet: where the token's text ends
    told: int = 0  # characters

    @property
    def asked(self) -> Generation:
        assert self.request.asked is not None
        return self.request.asked

    @property
    def is_adjusted(self) -> bool:
        """Whether its tokens are drawn by other logits than the model's."""
        return bool(self.guide or self.counts or self.asked.logit_bias)

    @property
    def position(self) -> int:
        """Where the last token stands; as many tokens of this sequence are in the cache."""
        return len(self.request.prompt) + len(self.tokens) - 1


class Scheduler:
    """`running[row]` is the sequence in that row of the cache: rows in use have no gap (modeling/cache.py).

    `current` is the request whose turn it is. Only one prompt is computed at a time.
    """

    def __init__(self, adapters: Adapters, *, rows: int) -> None:
        self.adapters = adapters
        self._rows = rows
        self._lines: dict[str, deque[Request]] = {}  # by client, none empty; the first is next
        self.current: Request | None = None
        self.running: list[Sequence] = []

    @property
    def is_idle(self) -> bool:
        return not (self.current or self._lines or self.running)

    def waiting(self) -> Iterator[Request]:
        """Those that still owe a choice its row."""
        if self.current:
            yield self.current
        for line in self._lines.values():
            yield from line

    def add(self, request: Request) -> None:
        self._lines.setdefault(request.client, deque()).append(request)

    def admit(self) -> Request | None:
        """The request whose turn it is, once its adapter lies in a slot. Raises what is wrong with its adapter."""
        request = self.current = self.current or self._next()
        if request is None:
            return None
        if request.adapter and not request.is_admitted:
            request.slot = self.adapters.hold(request.adapter)
        request.is_admitted = request.adapter is None or request.slot is not None
        return request if request.is_admitted else None

    def start(self) -> list[Sequence]:
        """Give free rows, in order, to choices of the request whose turn it is, if its prompt is computed."""
        request = self.current
        if request is None or request.logits is None:
            return []
        free = self._rows - len(self.running)
        started, request.pending = request.pending[:free], request.pending[free:]
        request.running += len(started)
        self.running.extend(started)
        if not request.pending:
            self.current = None
        return started

    def give_way(self) -> None:
        """Put a request of which choices have started behind all that wait, its own client's too, before it gets more
        rows.

        Its prompt gives way too, and is computed again.
        """
        request = self.current
        if request is None or not self._lines:
            return
        request.computed, request.logits = 0, None
        request.prompt_logprobs = []
        self._lines[request.client] = deque([*self._lines.pop(request.client, ()), request])
        self.current = None

    def finish(self, sequence: Sequence) -> tuple[int, int]:
        """Take a sequence from its row; (the row that is empty now, the row its sequence must be moved to)."""
        row = self.running.index(sequence)
        last = self.running.pop()
        if last is not sequence:
            self.running[row] = last
        sequence.request.running -= 1
        self._release_if_over(sequence.request)
        return len(self.running), row

    def drop(self, request: Request) -> None:
        """Take a request out of the line: it has failed, is cancelled, or owes nothing."""
        request.pending = []
        if request is self.current:
            self.current = None
        elif request in (line := self._lines.get(request.client, deque())):
            line.remove(request)
            if not line:
                del self._lines[request.client]
        self._release_if_over(request)

    def _next(self) -> Request | None:
        """The first of the line whose turn it is; that line's next turn is after all others'."""
        if not self._lines:
            return None
        client = next(iter(self._lines))
        line = self._lines.pop(client)
        request = line.popleft()
        if line:
            self._lines[client] = line
        return request

    def _release_if_over(self, request: Request) -> None:
        if request.is_over and request.slot is not None:
            self.adapters.release(request.slot)
            request.slot = None
