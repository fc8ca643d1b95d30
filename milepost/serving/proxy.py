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
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream
from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice

from milepost.errors import Corrupt, Error, Exhausted, Invalid, Unavailable
from milepost.modeling.adapter_files import read_bytes
from milepost.resources.runs import ADAPTER_WEIGHTS, Source
from milepost.serving.protocol import Chunk, Counts, Generation, Likely, TokenLogprob, Usage
from milepost.serving.waiting import Flights, Waiting, stopping

log = logging.getLogger(__name__)

#: Adapters that are registered there at the same time, but for those that running requests hold.
MOST_LOADED = 64

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
            async with self._held(request.base, request.adapter) as name:
                frames = await self._unless_over(self._ask(request, name))
                async with frames:
                    frame = await self._next(frames)
                    while frame is not None:
                        answered()
                        if frame.model != name:
                            raise Corrupt(f"The engine was asked as `{name}` and answered as `{frame.model}`")
                        for answer in _answers(frame):
                            yield answer
                        frame = await self._next(frames)

    # --- the other server

    async def _ask(self, request: Generation, name: str) -> Frames:
        try:
            return await self._send(request, name)
        except Invalid as error:
            if error.code != _NO_MODEL or request.adapter is None:
                raise
        # It has been started anew since, and has forgotten its adapters.
        self._loaded.pop(request.adapter.hash, None)
        await self._load(request.base, request.adapter)
        return await self._send(request, name)

    async def _send(self, request: Generation, name: str) -> Frames:
        body = _body(request, name)
        with _as_ours():
            if request.messages is not None:
                chats: Any = self._client.chat.completions
                return await chats.create(messages=list(request.messages), **body)  # type: ignore[no-any-return]
            completions: Any = self._client.completions
            prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt or ())
            return await completions.create(prompt=prompt, echo=request.echo, **body)  # type: ignore[no-any-return]

    async def _next(self, frames: Frames) -> ChatCompletionChunk | Completion | None:
        with _as_ours():
            try:
                return await self._unless_over(anext(aiter(frames)))
            except StopAsyncIteration:
                return None

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
        except openai.BadRequestError as error:
            if action == "load_lora_adapter" and "already" in str(error.body or error.message):
                return  # by an earlier life of this server, under a name that only these bytes have
            raise Unavailable(f"The engine could not {_verb(action)} an adapter: {_said(error)}") from None
        except openai.NotFoundError as error:
            raise Unavailable(_not_found(action, error)) from None
        except openai.InternalServerError as error:
            log.warning("the engine failed: %s", error)
            raise Unavailable(f"The engine could not {_verb(action)} an adapter: {_said(error)}") from None
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            raise _ours(error) from None


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


def _answers(frame: ChatCompletionChunk | Completion) -> Iterator[Chunk | Usage]:
    for choice in frame.choices:
        text = (choice.delta.content or "") if isinstance(choice, Choice) else choice.text
        logprobs = _chat_logprobs(choice) if isinstance(choice, Choice) else _logprobs(choice)
        reason = choice.finish_reason and ("length" if choice.finish_reason == "length" else "stop")
        if text or logprobs or reason:
            yield Chunk(index=choice.index, text=text, logprobs=logprobs, finish_reason=reason or None)
    if frame.usage is not None and not frame.choices:
        details = frame.usage.prompt_tokens_details
        yield Usage(
            prompt_tokens=frame.usage.prompt_tokens,
            completion_tokens=frame.usage.completion_tokens,
            cached_tokens=(details.cached_tokens if details else None) or 0,
        )


def _chat_logprobs(choice: Choice) -> tuple[TokenLogprob, ...]:
    told = choice.logprobs.content if choice.logprobs else None
    return tuple(
        TokenLogprob(
            **_named(token.token, token.bytes, token.logprob),
            top=tuple(Likely(**_named(likely.token, likely.bytes, likely.logprob)) for likely in token.top_logprobs),
        )
        for token in told or ()
    )


def _logprobs(choice: CompletionChoice) -> tuple[TokenLogprob, ...]:
    told = choice.logprobs
    if told is None:
        return ()
    tokens, logprobs = told.tokens or [], told.token_logprobs or []
    tops: list[Any] = list(told.top_logprobs or [])
    tops += [None] * (len(tokens) - len(tops))
    return tuple(
        TokenLogprob(
            **_named(token, None, logprob),
            top=tuple(Likely(**_named(text, None, value)) for text, value in (top or {}).items()),
        )
        for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
    )


def _named(token: str, content: list[int] | None, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "bytes": tuple(token.encode() if content is None else content), "logprob": logprob}


# --- errors -----------------------------------------------------------------------------------------------------------

_NO_MODEL = "model_not_loaded"


@contextmanager
def _as_ours() -> Iterator[None]:
    """Errors of the other server, and of the way to it, as ours."""
    try:
        yield
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        raise _ours(error) from None


def _ours(error: Exception) -> Error:
    if isinstance(error, openai.APIStatusError):
        if error.status_code == 404:
            return Invalid(error.message, param="model", code=_NO_MODEL)
        if error.status_code in {400, 422}:
            return Invalid(_said(error), param=error.param, code=error.code)
        if error.status_code == 429:
            away = error.response.headers.get("retry-after", "")
            return Exhausted(_said(error), retry_after_s=float(away) if away.isdecimal() else 1)
        if error.status_code in {401, 403}:
            return Unavailable("The engine refuses the key it is asked with: set MILEPOST_ENGINE_KEY to one it takes")
    log.warning("the engine failed: %s", error)
    return Unavailable("The engine ended before it had answered, or cannot be reached. Try again")


def _verb(action: str) -> str:
    return action.partition("_")[0]


def _not_found(action: str, error: openai.NotFoundError) -> str:
    """FastAPI answers `{"detail": "Not Found"}` where there is no such route; vLLM's own 404 has a message."""
    if isinstance(error.body, dict) and "message" in error.body:
        return f"The engine could not {_verb(action)} an adapter: {_said(error)}. It must see this server's data folder"
    return (
        f"The engine has no /v1/{action}. Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, "
        "and end MILEPOST_ENGINE_URL with /v1"
    )


def _said(error: openai.APIStatusError) -> str:
    """What the other server says of it, without the SDK's words around it."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)
