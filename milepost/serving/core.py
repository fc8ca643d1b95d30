"""The engine without its process: messages in, a step at a time, answers out. One thread; nothing here waits."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence as Sequences
from pathlib import Path
from typing import Literal, TypedDict

import torch

from milepost.errors import Corrupt, Error, Invalid, Unavailable
from milepost.modeling import kernels
from milepost.modeling.base import load_base
from milepost.modeling.cache import bytes_per_row
from milepost.modeling.decode import can_decode
from milepost.modeling.device import memory_bytes
from milepost.modeling.folders import folder_hash
from milepost.modeling.sampling import Draws, adjust, likeliest, sample
from milepost.modeling.template import Chat, load_chat
from milepost.serving.adapters import Adapters
from milepost.serving.guides import Guides
from milepost.serving.protocol import (
    Answer,
    Cancel,
    Chunk,
    Count,
    Counts,
    Failure,
    Generate,
    Generation,
    Likely,
    Limits,
    Load,
    Loaded,
    ToEngine,
    TokenLogprob,
    Usage,
    to_failure,
)
from milepost.serving.runner import ROWS, Runner
from milepost.serving.scheduler import Request, Scheduler, Sequence
from milepost.serving.text import TextStream

log = logging.getLogger(__name__)

#: Sequences decoded at once, if memory allows, and the shares of the machine's memory that are taken if nobody says how
#: much may be: for keys and values, and for adapters.
MOST_ROWS = 32
CACHE_SHARE, ADAPTERS_SHARE = 0.25, 0.0625

#: A prompt is cut behind a system prompt of so many tokens: a pass over fewer costs nearly as much as it saves.
LEAST_HEAD = 32

#: Where compiled kernels are kept, beside the folder of bases.
KERNELS = "kernels"

#: The share of the memory for keys and values in which those of prompts are kept.
PREFIX_SHARE = 0.25


class Core:
    """One base model and the requests it is answering."""

    def __init__(self, chat: Chat, scheduler: Scheduler, runner: Runner) -> None:
        self._chat = chat
        self._scheduler = scheduler
        self._runner = runner
        self._guides = Guides(chat, runner.vocab)
        self._answers: list[Answer] = []
        self.rows = 0  # sequences that got a token in the last step

    @property
    def is_idle(self) -> bool:
        return self._scheduler.is_idle and not self._answers

    def take(self, message: ToEngine) -> None:
        """Put a request in line, or take it out. What is wrong with it is told by the next step."""
        if isinstance(message, Cancel):
            self._cancel(message.id)
            return
        if isinstance(message, Count):
            self._answer(message.id, self._counts())
            return
        try:
            self._scheduler.add(self._request(message))
        except Error as error:
            self._answer(message.id, to_failure(error))
        except Exception:  # one request that cannot be read must not end the answers of all others
            log.exception("request %d could not be read", message.id)
            self._answer(
                message.id, to_failure(Unavailable("The engine could not read this request; its log says why"))
            )

    def step(self) -> list[Answer]:
        """Compute a piece of a prompt and one token of each running sequence; the answers that gives."""
        if request := self._admit():
            scored = self._runner.prefill(request)
            self._score_prompt(request, scored)
        self._start()
        running = list(self._scheduler.running)
        self.rows = len(running)
        if running:
            self._advance(running, self._runner.decode(running))
        answers, self._answers = self._answers, []
        return answers

    def _admit(self) -> Request | None:
        """The request whose prompt is to be computed next; loads, and those whose adapter is wrong, are done with."""
        while True:
            try:
                request = self._scheduler.admit()
            except Error as error:
                failed = self._scheduler.current
                assert failed is not None
                self._scheduler.drop(failed)
                self._answer(failed.number, to_failure(error))
                continue
            if request is None or not request.is_over:
                return request if request and request.logits is None else None
            self._scheduler.drop(request)
            self._answer(request.number, Loaded())

    def _start(self) -> None:
        """Move choices whose prompt is computed into free rows, each with its own first token."""
        first_row = len(self._scheduler.running)
        started = self._scheduler.start()
        if not started:
            return
        for row, sequence in enumerate(started, start=first_row):
            self._runner.place(sequence, row)
            if sequence.asked.echo:
                self._echo(sequence)
        request = started[0].request
        assert request.logits is not None
        if request.max_tokens:
            self._advance(started, request.logits.expand(len(started), -1))
        else:
            self._end_at_once(started)
        self._scheduler.give_way()

    def _end_at_once(self, started: Sequences[Sequence]) -> None:
        """No token was asked for: an echo, or nothing."""
        for sequence in started:
            sequence.tokens.append(0)  # `position` says what is in the cache: the prompt
            self._answer(sequence.request.number, Chunk(index=sequence.index, text="", finish_reason="length"))
            self._leave(sequence)

    def _echo(self, sequence: Sequence) -> None:
        request, given = sequence.request, sequence.asked.prompt
        spelled = b"".join(map(self._chat.token_bytes, request.prompt))
        text = given if isinstance(given, str) else spelled.decode(errors="replace")
        self._answer(request.number, Chunk(index=sequence.index, text=text, logprobs=tuple(request.prompt_logprobs)))

    def _score_prompt(self, request: Request, logits: torch.Tensor | None) -> None:
        """Note what the model gave each token of the piece of a prompt that `logits` (piece, vocab) come after."""
        if logits is None:
            return
        assert request.asked is not None
        count = request.asked.logprobs or 0
        begin = request.computed - len(logits)
        told = request.prompt_logprobs
        known = len(told)
        if not begin:
            told.append(TokenLogprob(**self._named(request.prompt[0]), logprob=None))
        for row, token in zip(logits, request.prompt[begin + 1 : request.computed + 1], strict=False):
            told.append(self._logprob(token, row, count))
        for at in range(known, len(told)):
            told[at] = told[at].model_copy(update={"bytes": tuple(self._spelled(request, at))})

    def _spelled(self, request: Request, at: int) -> bytes:
        """What a token of an echoed prompt adds to its text, special ones too; those put before it add nothing."""
        assert request.asked is not None
        lead = len(self._chat.lead) if isinstance(request.asked.prompt, str) else 0
        spelled = b"" if at < lead else self._chat.token_bytes(request.prompt[at])
        return spelled.removeprefix(b" ") if lead == at and self._chat.strips_space else spelled

    def _advance(self, sequences: Sequences[Sequence], logits: torch.Tensor) -> None:
        """Sample each sequence's next token and tell the text it makes sure; what has ended leaves its row."""
        asked = [sequence.asked for sequence in sequences]
        tokens = sample(
            _adjusted(sequences, logits),
            torch.tensor([each.temperature for each in asked]),
            torch.tensor([each.top_p for each in asked]),
            torch.tensor([sequence.draws.next() for sequence in sequences], dtype=torch.float64),
        ).tolist()
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.tokens.append(token)  # of all, before any leaves: `position` must say what is in the cache
        for sequence, row in zip(sequences, logits, strict=True):
            if sequence.request.running:  # or a neighbour of the same request has failed it
                self._tell(sequence, row)

    def _tell(self, sequence: Sequence, logits: torch.Tensor) -> None:
        """Answer with the text the last token makes sure, and end the sequence if that was its last."""
        request, token = sequence.request, sequence.tokens[-1]
        request.completion_tokens += 1
        is_end = token in self._chat.end_ids
        text = "" if is_end else sequence.text.push(token)
        try:
            if not is_end:
                self._note(sequence, token, logits)
        except Error as error:
            self._answer(request.number, to_failure(error))
            self._cancel(request.number)
            return
        is_full = len(sequence.tokens) == request.max_tokens
        if is_end or is_full or sequence.text.is_stopped:
            text += "" if sequence.text.is_stopped else sequence.text.flush()
            reason: Literal["stop", "length"] = "stop" if is_end or sequence.text.is_stopped else "length"
            self._answer_text(sequence, text, reason)
            self._leave(sequence)
        elif text:
            self._answer_text(sequence, text, None)

    def _note(self, sequence: Sequence, token: int, logits: torch.Tensor) -> None:
        """Remember what later tokens, or the reader, must know of this one."""
        asked = sequence.asked
        if asked.frequency_penalty or asked.presence_penalty:
            sequence.counts[token] += 1
        if sequence.guide:
            sequence.guide.take(token)
        if asked.logprobs is not None:
            told = self._logprob(token, logits, asked.logprobs)
            sequence.logprobs.append((sequence.text.length, told))

    def _answer_text(self, sequence: Sequence, text: str, reason: Literal["stop", "length"] | None) -> None:
        """Text, with the logprobs of those tokens whose text has been told whole by now."""
        sequence.told += len(text)
        is_last = reason is not None and not sequence.text.is_stopped  # what an unfinished character leaves is told
        logprobs = []
        while sequence.logprobs and (is_last or sequence.logprobs[0][0] <= sequence.told):
            logprobs.append(sequence.logprobs.popleft()[1])
        chunk = Chunk(index=sequence.index, text=text, logprobs=tuple(logprobs), finish_reason=reason)
        self._answer(sequence.request.number, chunk)

    def _logprob(self, token: int, logits: torch.Tensor, count: int) -> TokenLogprob:
        logprob, top = likeliest(logits, token, count)
        likely = tuple(Likely(**self._named(other), logprob=value) for other, value in top)
        return TokenLogprob(**self._named(token), logprob=logprob, top=likely)

    def _named(self, token: int) -> _Named:
        name = self._chat.token_bytes(token).decode(errors="replace")
        return _Named(token=name, bytes=tuple(self._chat.text_bytes(token)))

    def _leave(self, sequence: Sequence) -> None:
        empty, gap = self._scheduler.finish(sequence)
        length = sequence.position
        if empty != gap:
            moved = self._scheduler.running[gap]
            self._runner.clear(gap, length)  # what is longer than the moved one would stay behind it
            self._runner.move(moved, empty, gap)
            length = moved.position
        self._runner.clear(empty, length)
        request = sequence.request
        if request.is_over:
            self._answer(
                request.number,
                Usage(
                    prompt_tokens=len(request.prompt),
                    completion_tokens=request.completion_tokens,
                    cached_tokens=request.cached_tokens or 0,
                ),
            )

    def _cancel(self, number: int) -> None:
        for request in [request for request in self._scheduler.waiting() if request.number == number]:
            self._scheduler.drop(request)
        for sequence in [running for running in self._scheduler.running if running.request.number == number]:
            self._leave(sequence)

    def _counts(self) -> Counts:
        found, evicted = self._scheduler.adapters.found, self._scheduler.adapters.evicted
        return Counts(
            running=len(self._scheduler.running),
            waiting=len(list(self._scheduler.waiting())),
            adapters_found=dict(found),
            adapters_evicted=dict(evicted),
        )

    def _answer(self, number: int, body: Chunk | Usage | Loaded | Counts | Failure) -> None:
        self._answers.append(Answer(id=number, body=body))

    def _request(self, message: Generate | Load) -> Request:
        if isinstance(message, Load):
            return Request(message.id, message.adapter)
        asked = message.generation
        self._check_bias(asked)
        prompt = self._prompt(asked)
        head = 0 if asked.messages is None else self._chat.head(asked.messages, prompt)
        head = head if head >= LEAST_HEAD else 0
        room = self._chat.context_length - len(prompt)
        most = room if asked.max_tokens is None else min(asked.max_tokens, room)
        request = Request(message.id, asked.adapter, asked=asked, prompt=prompt, head=head, max_tokens=most)
        seed = secrets.randbits(64) if asked.seed is None else asked.seed
        request.pending = [
            Sequence(
                request,
                index,
                Draws(seed, index),
                TextStream(self._chat.text_bytes, asked.stop, strips_space=self._chat.strips_space),
                self._guides.json_object() if asked.json_object else None,
            )
            for index in range(asked.n)
        ]
        return request

    def _check_bias(self, asked: Generation) -> None:
        if wrong := [token for token in asked.logit_bias if not 0 <= token < self._runner.vocab]:
            raise Invalid(
                f"Invalid key in 'logit_bias': {wrong[0]}. This model's tokens are 0 to {self._runner.vocab - 1}",
                param="logit_bias",
                code="invalid_value",
            )

    def _prompt(self, generation: Generation) -> list[int]:
        """The tokens to go on from; raises `Invalid` if no room is left to answer."""
        if generation.messages is not None:
            tokens, param = self._chat.encode(generation.messages, add_generation_prompt=True), "messages"
        else:
            tokens, param = self._prompt_tokens(generation.prompt or ""), "prompt"
        if not tokens:
            raise Invalid("The prompt is empty; give at least one token to go on from", param=param)
        if len(tokens) >= self._chat.context_length:
            raise Invalid(
                f"This model's maximum context length is {self._chat.context_length} tokens. However, your {param} "
                f"resulted in {len(tokens)} tokens. Please reduce the length of the {param}.",
                param=param,
                code="context_length_exceeded",
            )
        return tokens

    def _prompt_tokens(self, prompt: str | tuple[int, ...]) -> list[int]:
        if isinstance(prompt, str):
            return self._chat.encode_prompt(prompt)
        if wrong := [token for token in prompt if not 0 <= token < self._runner.vocab]:
            raise Invalid(
                f"Invalid token in 'prompt': {wrong[0]}. This model's tokens are 0 to {self._runner.vocab - 1}",
                param="prompt",
                code="invalid_value",
            )
        return list(prompt)


class _Named(TypedDict):
    """What a token is called, whatever its logprob."""

    token: str
    bytes: tuple[int, ...]


def _adjusted(sequences: Sequences[Sequence], logits: torch.Tensor) -> torch.Tensor:
    """The logits (rows, vocab) to draw by: those of the model, but where a request asks for penalties, bias or JSON."""
    if not any(sequence.is_adjusted for sequence in sequences):
        return logits
    drawn = logits.clone()
    for sequence, row in zip(sequences, drawn, strict=True):
        asked = sequence.asked
        adjust(row, sequence.counts, frequency=asked.frequency_penalty, presence=asked.presence_penalty)
        if asked.logit_bias:
            row[list(asked.logit_bias)] += torch.tensor(list(asked.logit_bias.values()))
        if sequence.guide:
            sequence.guide.restrict(row)
    return drawn


def load_core(base: Path, base_hash: str, dtype: torch.dtype, limits: Limits) -> Core:
    """The engine of the base in this folder. Raises `Corrupt` unless its files are those of the hash."""
    if not base.is_dir():
        raise Corrupt(f"The base model {base.name} is not in the cache any more: `milepost pull {base.name}`")
    if (found := folder_hash(base)) != base_hash:
        raise Corrupt(f"The base model {base.name} has hash {found}, not {base_hash}: its files were changed")
    model = load_base(base, dtype)
    device = torch.get_default_device()
    cache_bytes = limits.cache_bytes or int(memory_bytes(device) * CACHE_SHARE)
    prefix_bytes = int(cache_bytes * PREFIX_SHARE)
    rows = _affordable_rows(base.name, cache_bytes - prefix_bytes, bytes_per_row(model.config, dtype), limits)
    adapter_bytes = limits.adapter_bytes or int(memory_bytes(torch.device("cpu")) * ADAPTERS_SHARE)
    is_compiled = device.type == "cpu" and can_decode(model)
    compiled = kernels.load(base.parent.parent / KERNELS) if is_compiled else None
    adapters = Adapters(model, base_hash=base_hash, slots=limits.slots, kept_bytes=adapter_bytes, kernels=compiled)
    runner = Runner(model, adapters, rows=rows, prefix_bytes=prefix_bytes, kernels=compiled)
    log.info(
        "%d conversations at once, %d MB of prompts and %d MB of adapters are kept",
        rows,
        prefix_bytes // 2**20,
        adapter_bytes // 2**20,
    )
    return Core(load_chat(base), Scheduler(adapters, rows=rows), runner)


def _affordable_rows(name: str, most_bytes: int, row_bytes: int, limits: Limits) -> int:
    """Sequences that may run at once, each of them as long as the context; one more row is the prompt's."""
    affordable = most_bytes // row_bytes - 1
    if limits.cache_bytes is None:
        return max(ROWS, min(MOST_ROWS, affordable) // ROWS * ROWS)
    if affordable < 1:
        least = int(2 * row_bytes / (1 - PREFIX_SHARE)) + 1
        raise Invalid(
            f"MILEPOST_ENGINE_CACHE_BYTES is {limits.cache_bytes}, but one conversation with {name} as long as its "
            f"context needs {least}. Give as much, or leave it out"
        )
    return min(MOST_ROWS, affordable)
