"""A stand-in that behaves as vLLM's documentation says of its OpenAI-compatible server, over an engine of ours.

It has vLLM's own names for adapters and forgets them when it is started anew; it loads what lies at a path and checks
no hash; it answers 404 for a model it does not know, for a path where no adapter lies and for an adapter it has not
loaded, and 400 for one it has already (OpenAIServingModels in vllm/entrypoints/openai/models/serving.py). The `code` of
an error is its status, and a prompt that is too long is refused in vLLM's words (engine/serving.py, `_validate_input`).
Of the likeliest tokens it tells the one that was taken first, and a completion's logprobs as dicts by a token's text.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from milepost.api.answers import EventStream, chain
from milepost.errors import Error, Invalid
from milepost.resources.runs import ADAPTER_WEIGHTS, Source
from milepost.serving.client import Engine
from milepost.serving.protocol import Chunk, Generation, Likely, TokenLogprob, Usage


class StandIn:
    """Its routes, and the adapters that were loaded into it, by their names."""

    def __init__(self, engine: Engine, base: Source) -> None:
        self._engine = engine
        self._base = base
        self.adapters: dict[str, Source] = {}
        self.app = FastAPI()
        self.app.post("/v1/load_lora_adapter")(self.load)
        self.app.post("/v1/unload_lora_adapter")(self.unload)
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/v1/completions")(self.complete)

    async def load(self, request: Request) -> Response:
        body = await request.json()
        name = body["lora_name"]
        if name in self.adapters:
            return _refusal(
                400,
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter "
                "in place, set 'load_inplace' to True.",
                kind="InvalidUserInput",
            )
        try:
            content = (Path(body["lora_path"]) / ADAPTER_WEIGHTS).read_bytes()
        except FileNotFoundError:
            return _refusal(404, f"No adapter found for {body['lora_path']}", kind="NotFoundError")
        sha256 = hashlib.sha256(content).hexdigest()
        self.adapters[name] = Source(name=name, path=body["lora_path"], hash=sha256)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _refusal(404, f"The lora adapter '{name}' cannot be found.", kind="NotFoundError")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def chat(self, request: Request) -> Response:
        return await self._answer(await request.json(), "chat.completion.chunk")

    async def complete(self, request: Request) -> Response:
        return await self._answer(await request.json(), "text_completion")

    async def _answer(self, body: dict, kind: str) -> Response:
        model = body["model"]
        if model != self._base.name and model not in self.adapters:
            return _refusal(404, f"The model `{model}` does not exist.", "model", kind="NotFoundError")
        most = body.get("max_completion_tokens", body.get("max_tokens"))
        asked = Generation(base=self._base, adapter=self.adapters.get(model), max_tokens=most, **_given(body))
        answers = self._engine.generate(asked)
        try:
            first = await anext(answers)
        except Error as error:
            return _refused(error)
        stamp = {"id": "cmpl-1", "created": int(time.time()), "model": model, "object": kind}
        return EventStream(_frames(chain(first, answers), asked, stamp), answers)


#: Members of a request that are the engine's own.
SAME = (
    *("messages", "prompt", "echo", "n", "stop", "seed", "temperature", "top_p"),
    *("frequency_penalty", "presence_penalty", "logit_bias"),
)


def _given(body: dict) -> dict:
    given = {name: body[name] for name in SAME if name in body}
    is_json = body.get("response_format") == {"type": "json_object"}
    logprobs = body.get("logprobs")
    if "messages" in body:
        logprobs = body.get("top_logprobs", 0) if logprobs else None
    return given | {"json_object": is_json, "logprobs": logprobs}


async def _frames(answers: AsyncIterator[Chunk | Usage], asked: Generation, stamp: dict) -> AsyncIterator[bytes]:
    try:
        if asked.messages is not None:
            delta = {"role": "assistant", "content": ""}
            for index in range(asked.n):
                yield _event({**stamp, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        async for answer in answers:
            if isinstance(answer, Chunk):
                yield _event({**stamp, "choices": [_choice(answer, asked)]})
            else:
                used = answer.model_dump(include={"prompt_tokens", "completion_tokens"})
                yield _event({**stamp, "choices": [], "usage": {**used, "total_tokens": sum(used.values())}})
    except Error as error:
        body = {"message": error.message, "type": "InternalServerError", "param": None, "code": 500}
        yield _event({"error": body})
    yield b"data: [DONE]\n\n"


def _choice(chunk: Chunk, asked: Generation) -> dict:
    is_chat = asked.messages is not None
    said = {"delta": {"content": chunk.text}} if is_chat else {"text": chunk.text}
    logprobs = None
    if asked.logprobs is not None and chunk.logprobs:
        logprobs = (_chat_logprobs if is_chat else _logprobs)(chunk.logprobs, asked.logprobs)
    return {"index": chunk.index, "finish_reason": chunk.finish_reason, "logprobs": logprobs, **said}


def _chat_logprobs(tokens: Sequence[TokenLogprob], count: int) -> dict:
    return {"content": [_named(each) | {"top_logprobs": [*map(_named, _top(each)[:count])]} for each in tokens]}


def _logprobs(tokens: Sequence[TokenLogprob], count: int) -> dict:
    lengths = [len(each.token) for each in tokens]
    return {
        "text_offset": [sum(lengths[:place]) for place in range(len(tokens))],
        "tokens": [each.token for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [
            None if each.logprob is None else {top.token: top.logprob for top in _top(each)[: count + 1]}
            for each in tokens
        ],
    }


def _named(token: Likely) -> dict:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.token.encode())}


def _top(taken: TokenLogprob) -> list[Likely]:
    return [taken, *(each for each in taken.top if each.bytes != taken.bytes)]


def _event(body: dict) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _refused(error: Error) -> JSONResponse:
    if error.code == "context_length_exceeded":
        most, found = re.findall(r"\d+", error.message)
        message = (
            f"This model's maximum context length is {most} tokens. However, your request has {found} input tokens. "
            "Please reduce the length of the input messages."
        )
        return _refusal(400, message, "input_tokens")
    if isinstance(error, Invalid):
        return _refusal(400, error.message)
    return _refusal(500, error.message, kind="InternalServerError")


def _refusal(status: int, message: str, param: str | None = None, *, kind: str = "BadRequestError") -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """The app on a free port of this machine, in this loop; its base URL."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as port:  # who comes before the server has begun waits in its backlog
        serving = asyncio.create_task(server.serve(sockets=[port]))
        try:
            yield f"http://127.0.0.1:{port.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            await serving


def local_client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="none", base_url=url, http_client=DefaultAsyncHttpxClient(trust_env=False), max_retries=0
    )
