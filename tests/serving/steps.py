"""Stepping a `Core` by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from milepost.serving.core import Core
from milepost.serving.protocol import Chunk, Generate, Generation
from milepost.serving.runner import Runner
from milepost.serving.scheduler import Request
from milepost.serving.scheduler import Sequence as Choice


class RecordingRunner(Runner):
    """Keeps the logits each request's first choice was chosen by."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._logits: dict[int, list[torch.Tensor]] = defaultdict(list)

    def prefill(self, request: Request) -> torch.Tensor | None:
        scored = super().prefill(request)
        if request.logits is not None:
            self._logits[request.number].append(request.logits[0])
        return scored

    def decode(self, running: Sequence[Choice]) -> torch.Tensor:
        logits = super().decode(running)
        for choice, row in zip(running, logits, strict=True):
            if choice.index == 0:
                self._logits[choice.request.number].append(row)
        return logits

    def seen(self, number: int) -> tuple[list[int], torch.Tensor]:
        """The greedy tokens of a request and the logits (tokens, vocab) they were chosen by."""
        logits = torch.stack(self._logits[number])
        return logits.argmax(-1).tolist(), logits


def finish(core: Core, requests: Sequence[Generation]) -> list[list[Any]]:
    """Put the requests in line in one go and step until the engine is idle; the answers to each."""
    for number, request in enumerate(requests):
        core.take(Generate(id=number, generation=request))
    found: dict[int, list[Any]] = defaultdict(list)
    with torch.inference_mode():
        while not core.is_idle:
            for answer in core.step():
                found[answer.id].append(answer.body)
    return [found[number] for number in range(len(requests))]


def text_of(answers: Sequence[Any], index: int = 0) -> str:
    return "".join(answer.text for answer in answers if isinstance(answer, Chunk) and answer.index == index)
