"""What the API and an engine say to each other: frames over a Unix socket, torch-free.

A frame is four bytes of length, big-endian, and one JSON object. The client numbers its requests; the engine answers
each with any number of chunks and one usage, or with a failure; its very first frame is Ready, or a failure to start.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, TypeAdapter, model_validator

from milepost import errors
from milepost.resources.base import Frozen
from milepost.resources.runs import Source

#: Bytes of a frame's length.
LENGTH = struct.Struct(">I")


class Limits(Frozen):
    """What an engine may take of its machine. What is None it decides by the machine's memory.

    `cache_bytes` bounds keys and values, those of running sequences and those kept of prompts; `adapter_bytes` the
    adapters that are kept in memory; `slots` how many of them can share a forward pass. When a token takes longer than
    `token_budget_ms`, `busy_file` tells those who train to give way. While those in the folder `trainers` train, a
    token takes up to `pace` times its fastest (`serving.beside`).
    """

    cache_bytes: int | None = None
    adapter_bytes: int | None = None
    slots: Annotated[int, Field(ge=1)] = 8
    busy_file: str | None = None
    token_budget_ms: int = 0
    device: str = "auto"
    trainers: str | None = None
    pace: Annotated[float, Field(ge=1)] = 1.0


NO_LIMITS = Limits()


class Generation(Frozen):
    """One request, for `n` choices. `adapter` is the folder of adapter_model.safetensors and that file's sha256.

    Exactly one of `messages` (rendered by the base's chat template, to be answered by the assistant) and `prompt`
    (text or tokens to be continued) is given. `max_tokens` None is the rest of the context.

    `logprobs` is how many of the likeliest tokens are told beside each that was taken; None tells nothing. Penalties
    and `logit_bias` (token → what is added to its logit) act on what is drawn, never on what is told. With
    `json_object` an answer that ends by itself is one JSON object. `echo` begins each choice with the prompt.

    `client` is whose request it is: clients take turns, and no answer is made of what another one's left behind. One
    that `is_admitted` is a part of a request that was let in, and is not refused for a full line.
    """

    base: Source
    adapter: Source | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=4)] = ()
    seed: int | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field(default_factory=dict)
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    json_object: bool = False
    echo: bool = False
    client: str = ""
    is_admitted: bool = False

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint` of the answer: which weights gave it."""
        return f"fp_{(self.adapter or self.base).hash[:12]}"

    @model_validator(mode="after")
    def _one_input(self) -> Generation:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give exactly one of messages and prompt")
        return self


class Likely(Frozen):
    """A token and its logprob, in nats: what the model itself gave it, before temperature, penalties and bias.

    `bytes` is what the token adds to the text, nothing if it is a special one; `token` what it is called. The first
    token of a prompt has no logprob: nothing stands before it.
    """

    token: str
    bytes: tuple[int, ...]
    logprob: float | None


class TokenLogprob(Likely):
    """A token that was taken, and the likeliest in its place, likeliest first."""

    top: tuple[Likely, ...] = ()


class Chunk(Frozen):
    """Text a choice went on with, and its tokens if they were asked for: those whose text has been told by now.

    The last chunk of each choice, and only that, has a finish reason.
    """

    type: Literal["chunk"] = "chunk"
    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: Literal["stop", "length"] | None = None


class Usage(Frozen):
    """The last answer to a generation. The prompt counts once, whatever `n`; so do its tokens that were not computed
    again, since an earlier prompt of the same client began alike.
    """

    type: Literal["usage"] = "usage"
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Loaded(Frozen):
    """The answer to a load: the adapter is in its slot."""

    type: Literal["loaded"] = "loaded"


class Counts(Frozen):
    """What an engine does, and what it has done since it started. Keys of `adapters_found` say where a request found
    its adapter (`slot`, `memory`, `disk`), those of `adapters_evicted` out of where one gave way.
    """

    type: Literal["counts"] = "counts"
    running: int
    waiting: int
    adapters_found: dict[str, int]
    adapters_evicted: dict[str, int]


class Failure(Frozen):
    """The last answer to a request that could not be met. `kind` is the name of a class in `milepost.errors`."""

    type: Literal["failure"] = "failure"
    kind: str
    message: str
    param: str | None = None
    code: str | None = None


class Ready(Frozen):
    type: Literal["ready"] = "ready"
    dtype: str
    threads: int


class Generate(Frozen):
    type: Literal["generate"] = "generate"
    id: int
    generation: Generation


class Load(Frozen):
    """Load an adapter ahead of its first request."""

    type: Literal["load"] = "load"
    id: int
    adapter: Source


class Count(Frozen):
    """Say how things are; answered between two steps."""

    type: Literal["count"] = "count"
    id: int


class Cancel(Frozen):
    """Nobody reads the answers to this request any more; there is no reply."""

    type: Literal["cancel"] = "cancel"
    id: int


class Answer(Frozen):
    type: Literal["answer"] = "answer"
    id: int
    body: Annotated[Chunk | Usage | Loaded | Counts | Failure, Field(discriminator="type")]


ToEngine = Generate | Load | Count | Cancel
FromEngine = Ready | Answer | Failure

TO_ENGINE: TypeAdapter[ToEngine] = TypeAdapter(Annotated[ToEngine, Field(discriminator="type")])
FROM_ENGINE: TypeAdapter[FromEngine] = TypeAdapter(Annotated[FromEngine, Field(discriminator="type")])


def frame(message: ToEngine | FromEngine) -> bytes:
    body = orjson.dumps(message.model_dump(mode="json"))
    return LENGTH.pack(len(body)) + body


def to_failure(error: errors.Error) -> Failure:
    return Failure(kind=type(error).__name__, message=error.message, param=error.param, code=error.code)


def to_error(failure: Failure) -> errors.Error:
    """The exception again on this side of the socket."""
    kind: type[errors.Error] = getattr(errors, failure.kind)
    return kind(failure.message, param=failure.param, code=failure.code)
