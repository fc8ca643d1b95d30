"""An engine that is another server: any that speaks OpenAI's API and loads adapters at run time, as vLLM does.

Names, keys and hashes stay ours. An adapter is verified here, then loaded there under a name made of its hash, so that
the name in an answer tells which weights gave it; an answer under another name is an error. The base's weights are the
other server's affair: it must serve them under the name they have here (vLLM: `--served-model-name`).

    POST /v1/load_lora_adapter    {"lora_name": …, "lora_path": …}
    POST /v1/unload_lora_adapter  {"lora_name": …}

As vLLM documents and does it (docs/features/lora.md, "Dynamically serving LoRA Adapters"; its OpenAIServingModels):
200 with a sentence as plain text; 400 for a name that is loaded already; 404 for a path where it finds no adapter, for
a name that it has not loaded, and for the routes themselves unless VLLM_ALLOW_RUNTIME_LORA_UPDATING=True was set; 500
for what its engine cannot load, such as a rank above `--max-lora-rank`. It may drop an adapter from memory
(`--max-cpu-loras`) and read its path anew, so a file that has changed here is refused before it is asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream
from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice

from milepost.errors import Corrupt, Error, Unavailable
from milepost.modeling.adapter_files import read_bytes
from milepost.resources.runs import ADAPTER_WEIGHTS, Source
from milepost.serving.protocol import Chunk, Counts, Generation, Likely, TokenLogprob, Usage
from milepost.serving.upstream import as_ours, broken_off, is_loaded_already, of_adapter
from milepost.serving.waiting import Flights, Waiting, stopping

log = logging.getLogger(__name__)

#: Adapters that are registered there at the same time, but for those that running requests hold.
MOST_LOADED = 64

#: Reasons to finish that are none: the server gave the answer up. vLLM says so when it is shut down.
BROKEN_OFF = {"abort", "error"}

Frames = AsyncStream[ChatCompletionChunk] | AsyncStream[Completion]
Item = TypeVar("Item")
#: What tells that a file is still the one that was verified.
Stamp = tuple[int, int, int]


class OpenAIProxy:
    """Answers by asking the server of `client`, which it closes when its `async with` is left."""

    def __init__(self, client: AsyncOpenAI, *, most_waiting: int = 256, most_loaded: int = MOST_LOADED) -> None:
        self._client = client
        self._waiting = Waiting(most_waiting)
        self._flights = Flights()
        self._is_over = asyncio.Event()
        self._most_loaded = most_loaded
        self._loaded: dict[str, Stamp] = {}  # by the hash of an adapter, least recently asked for first
        self._holders: Counter[str] = Counter()
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def is_up(self, base: Source) -> bool:  # noqa: ARG002 (it serves whatever it serves)
        return True

    async def stop(self, grace_s: float) -> None:
        await self._flights.land(grace_s)
        self._is_over.set()

    async def counts(self) -> dict[str, Counts]:
        """None: that server has numbers of its own."""
        return {}

    async def warm(self, base: Source, adapter: Source | None = None) -> None:
        async with self._held(base, adapter):
            pass

    async def generate(self, request: Generation) -> AsyncGenerator[Chunk | Usage]:
        with self._flights.one(), self._waiting.place(request) as answered:
            async with (
                self._held(request.base, request.adapter) as name,
                await self._unless_over(self._ask(request, name)) as frames,
            ):
                ended, tokens, usage = set(), 0, None
                while (frame := await self._next(frames, request)) is not None:
                    answered()
                    if frame.model != name:
                        raise Corrupt(f"The engine was asked as `{name}` and answered as `{frame.model}`")
                    usage = frame.usage or usage
                    for chunk in _chunks(frame, request.logprobs or 0):
                        tokens += len(chunk.logprobs) or bool(chunk.text)
                        if chunk.finish_reason:
                            ended.add(chunk.index)
                        yield chunk
                if not ended.issuperset(range(request.n)):  # a connection that was cut may look like a good end
                    raise broken_off()
                yield _usage(usage, tokens)

    # --- the other server

    async def _ask(self, request: Generation, name: str) -> Frames:
        with as_ours(request):
            try:
                return await self._send(request, name)
            except openai.NotFoundError:
                if request.adapter is None:
                    raise
            # It has been started anew since, and has forgotten its adapters.
            self._loaded.pop(request.adapter.hash, None)
            await self._load(request.base, request.adapter)
            return await self._send(request, name)

    async def _send(self, request: Generation, name: str) -> Frames:
        body = _body(request, name)
        if request.messages is not None:
            chats: Any = self._client.chat.completions
            return await chats.create(messages=list(request.messages), **body)  # type: ignore[no-any-return]
        completions: Any = self._client.completions
        prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt or ())
        return await completions.create(prompt=prompt, echo=request.echo, **body)  # type: ignore[no-any-return]

    async def _next(self, frames: Frames, request: Generation) -> ChatCompletionChunk | Completion | None:
        with as_ours(request):
            try:
                frame = await self._unless_over(anext(aiter(frames)))
                if isinstance(frame, ChatCompletionChunk | Completion):
                    return frame
                log.warning("the engine sent a frame that is no object: %r", frame)
            except StopAsyncIteration:
                return None
            except ValueError as error:  # what is no JSON or no UTF-8 comes through the SDK as it is
                log.warning("the engine sent a frame that cannot be read: %s", error)
        raise Unavailable("The engine sent something else than OpenAI's frames; this server's log says what")

    async def _unless_over(self, work: Awaitable[Item]) -> Item:
        """Wait for the other server, but not when this one's grace is over."""
        working, over = asyncio.ensure_future(work), asyncio.ensure_future(self._is_over.wait())
        try:
            await asyncio.wait({working, over}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise stopping()
            return working.result()
        finally:
            working.cancel()
            over.cancel()
            await asyncio.gather(working, over, return_exceptions=True)

    # --- adapters

    @asynccontextmanager
    async def _held(self, base: Source, adapter: Source | None) -> AsyncIterator[str]:
        """The name to ask by; the adapter is loaded there, and stays while it is held."""
        if adapter is None:
            yield base.name
            return
        self._holders[adapter.hash] += 1
        try:
            await self._load(base, adapter)
            yield _name(adapter.hash)
        finally:
            self._holders[adapter.hash] -= 1

    async def _load(self, base: Source, adapter: Source) -> None:
        """Verify an adapter's file and have it loaded; one that is loaded is verified again when its file changed."""
        path = Path(adapter.path) / ADAPTER_WEIGHTS
        async with self._loading:
            stamp = _stamp(path)
            if stamp is not None and self._loaded.get(adapter.hash) == stamp:
                self._loaded[adapter.hash] = self._loaded.pop(adapter.hash)
                return
            try:
                await asyncio.to_thread(read_bytes, path, sha256=adapter.hash, base_hash=base.hash)
            except Error:
                was_loaded = self._loaded.pop(adapter.hash, None) is not None
                if was_loaded and self._holders[adapter.hash] == 1:  # nobody's but the request that is refused
                    await self._unload(adapter.hash)
                raise
            assert stamp is not None
            if adapter.hash not in self._loaded:
                await self._post("load_lora_adapter", lora_name=_name(adapter.hash), lora_path=adapter.path)
            self._loaded[adapter.hash] = stamp
            idle = [digest for digest in self._loaded if not self._holders[digest]]
            for digest in idle[: max(0, len(self._loaded) - self._most_loaded)]:
                del self._loaded[digest]
                await self._unload(digest)

    async def _unload(self, sha256: str) -> None:
        try:
            await self._post("unload_lora_adapter", lora_name=_name(sha256))
        except Error as error:  # nobody asks for it by that name without loading it first
            log.warning("the engine has not unloaded %s: %s", _name(sha256), error.message)

    async def _post(self, action: str, **body: str) -> None:
        try:
            await self._client.post(f"/{action}", body=body, cast_to=str)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            if action == "load_lora_adapter" and is_loaded_already(error):
                return  # by an earlier life of this server, under a name that only these bytes have
            raise of_adapter(action, error) from None


def _name(sha256: str) -> str:
    return f"milepost-{sha256}"


def _stamp(path: Path) -> Stamp | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


# --- words: ours into OpenAI's, and back ------------------------------------------------------------------------------


def _body(request: Generation, name: str) -> dict[str, Any]:
    is_chat = request.messages is not None
    body: dict[str, Any] = {
        "model": name,
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": request.n,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
    }
    if request.max_tokens is not None:
        body["max_completion_tokens" if is_chat else "max_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs} if is_chat else {"logprobs": request.logprobs}
    if request.json_object:
        body["response_format"] = {"type": "json_object"}
    return body


def _chunks(frame: ChatCompletionChunk | Completion, count: int) -> Iterator[Chunk]:
    """What a frame says of each choice; of the likeliest tokens `count`."""
    for choice in frame.choices:
        text = (choice.delta.content or "") if isinstance(choice, Choice) else choice.text
        logprobs = _chat_logprobs(choice, count) if isinstance(choice, Choice) else _logprobs(choice, count)
        reason: str | None = choice.finish_reason
        if reason in BROKEN_OFF:
            raise broken_off()
        if text or logprobs or reason:
            ending: Literal["stop", "length"] = "length" if reason == "length" else "stop"
            yield Chunk(index=choice.index, text=text, logprobs=logprobs, finish_reason=ending if reason else None)


def _usage(told: CompletionUsage | None, tokens: int) -> Usage:
    """What the server counted. If it told nothing, though asked to: the tokens seen here, and no prompt.

    A frame with text counts as one token where no logprobs tell more. It may have been several, so that is the least
    that the answer can have been; the prompt cannot be counted without the tokenizer.
    """
    if told is None:
        return Usage(prompt_tokens=0, completion_tokens=tokens)
    details = told.prompt_tokens_details
    return Usage(
        prompt_tokens=told.prompt_tokens,
        completion_tokens=told.completion_tokens,
        cached_tokens=(details.cached_tokens if details else None) or 0,
    )


def _chat_logprobs(choice: Choice, count: int) -> tuple[TokenLogprob, ...]:
    told = choice.logprobs.content if choice.logprobs else None
    return tuple(
        TokenLogprob(
            **_named(token.token, token.bytes, token.logprob),
            top=_likeliest([_named(each.token, each.bytes, each.logprob) for each in token.top_logprobs], count),
        )
        for token in told or ()
    )


def _logprobs(choice: CompletionChoice, count: int) -> tuple[TokenLogprob, ...]:
    told = choice.logprobs
    if told is None:
        return ()
    tokens, logprobs = told.tokens or [], told.token_logprobs or []
    tops: list[Any] = list(told.top_logprobs or [])
    tops += [None] * (len(tokens) - len(tops))
    return tuple(
        TokenLogprob(
            **_named(token, None, logprob),
            top=_likeliest([_named(text, None, value) for text, value in (top or {}).items()], count),
        )
        for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
    )


def _likeliest(told: list[dict[str, Any]], count: int) -> tuple[Likely, ...]:
    """Likeliest first: vLLM begins with the token that was taken, and tells one more for a completion."""
    return tuple(sorted((Likely(**each) for each in told), key=lambda each: -(each.logprob or 0.0))[:count])


def _named(token: str, content: list[int] | None, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "bytes": tuple(token.encode() if content is None else content), "logprob": logprob}
