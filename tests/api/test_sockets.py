"""What only a real socket shows: tokens arrive as they are made, and a client that hangs up stops the engine."""

import asyncio
import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
import uvicorn

from tests.api.conftest import BASE, KEY

QUESTION = [{"role": "user", "content": "Who?"}]


@pytest.fixture
async def sdk(app):
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        async with openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0) as sdk:
            yield sdk
        server.should_exit = True
        await serving


async def test_a_token_arrives_before_the_next_is_made(sdk, engine):
    engine.waits = True
    async with (
        asyncio.timeout(10),
        await sdk.chat.completions.create(model=BASE, messages=QUESTION, stream=True) as stream,
    ):
        chunks = aiter(stream)
        texts = [(await anext(chunks)).choices[0].delta.content for _ in range(2)]
    assert texts == ["", "Hel"]
    await asyncio.wait_for(engine.closed.wait(), 10)


async def test_a_client_that_hangs_up_on_its_answer_stops_the_engine(sdk, engine):
    engine.waits = True
    asking = asyncio.create_task(sdk.chat.completions.create(model=BASE, messages=QUESTION))
    await asyncio.wait_for(engine.began.wait(), 10)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(engine.closed.wait(), 10)


async def test_other_requests_are_answered_while_the_engine_works(sdk, engine):
    engine.waits = True
    async with asyncio.timeout(10), await sdk.chat.completions.create(model=BASE, messages=QUESTION, stream=True):
        assert (await sdk.files.list()).data == []


async def test_an_upload_refused_by_its_size_is_an_answer_not_a_broken_connection(sdk):
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.files.create(file=("a", b"x" * 30_000_000), purpose="user_data")
    assert caught.value.status_code == 413


def upload_side_by_side(url: str, pieces: list[bytes]) -> tuple[str, bytes]:
    """As a script with threads does it: the file's id, and what it holds."""
    with openai.OpenAI(api_key=KEY, base_url=url, max_retries=0) as client, ThreadPoolExecutor(4) as pool:
        upload = client.uploads.create(
            bytes=sum(map(len, pieces)), filename="a.bin", mime_type="application/octet-stream", purpose="user_data"
        )
        parts = pool.map(lambda piece: client.uploads.parts.create(upload.id, data=piece), pieces)
        file = client.uploads.complete(upload.id, part_ids=[part.id for part in parts]).file
        return file.id, client.files.content(file.id).content


async def test_parts_come_from_threads(sdk):
    pieces = [bytes([number]) * 500_000 for number in range(8)]
    _, content = await asyncio.to_thread(upload_side_by_side, str(sdk.base_url), pieces)
    assert content == b"".join(pieces)


async def test_no_key_is_an_answer_though_a_body_is_on_its_way(sdk):
    url = str(sdk.base_url) + "files"
    async with httpx2.AsyncClient() as http:
        answer = await http.post(url, data={"purpose": "user_data"}, files={"file": ("a", b"x" * 1_000_000)})
    assert answer.status_code == 401
