"""A stand-in that behaves as vLLM's documentation says of its OpenAI-compatible server, over an engine of ours.

It has vLLM's own names for adapters and forgets them when it is started anew; it loads what lies at a path and checks
no hash; it answers 404 for a model it does not know, for a path where no adapter lies and for an adapter it has not
loaded, and 400 for one it has already (OpenAIServingModels in vllm/entrypoints/openai/models/serving.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from milepost.api.answers import EventStream, chain
from milepost.errors import Error
from milepost.resources.runs import ADAPTER_WEIGHTS, Source
from milepost.serving.client import Engine
from milepost.serving.protocol import Chunk, Generation, Usage


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
        names = ("messages", "prompt", "temperature", "top_p", "n", "stop", "seed", "logit_bias", "echo")
        given = {name: body[name] for name in names if name in body}
        most = body.get("max_completion_tokens", body.get("max_tokens"))
        asked = Generation(base=self._base, adapter=self.adapters.get(model), max_tokens=most, **given)
        answers = self._engine.generate(asked)
        try:
            first = await anext(answers)
        except Error as error:
            return _refusal(400, error.message, error.param, error.code)
        stamp = {"id": "cmpl-1", "created": int(time.time()), "model": model, "object": kind}
        return EventStream(_frames(chain(first, answers), stamp), answers)


async def _frames(answers: AsyncIterator[Chunk | Usage], stamp: dict) -> AsyncIterator[bytes]:
    is_chat = stamp["object"] == "chat.completion.chunk"
    try:
        async for answer in answers:
            if isinstance(answer, Chunk):
                said = {"delta": {"content": answer.text}} if is_chat else {"text": answer.text}
                choice = {"index": answer.index, "finish_reason": answer.finish_reason, "logprobs": None, **said}
                yield _event({**stamp, "choices": [choice]})
            else:
                used = answer.model_dump(include={"prompt_tokens", "completion_tokens"})
                yield _event({**stamp, "choices": [], "usage": {**used, "total_tokens": sum(used.values())}})
    except Error as error:
        yield _event({"error": {"message": error.message, "type": "server_error", "param": None, "code": 500}})
    yield b"data: [DONE]\n\n"


def _event(body: dict) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _refusal(
    status: int, message: str, param: str | None = None, code: str | None = None, *, kind: str = "BadRequestError"
) -> JSONResponse:
    body = {"message": message, "type": kind, "param": param, "code": code or status}
    return JSONResponse({"error": body}, status)


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
