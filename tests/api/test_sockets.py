"""What only a real socket shows: tokens arrive as they are made, and a client that hangs up stops the engine."""

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
import uvicorn

from milepost.api.connections import patient
from tests.api.conftest import BASE, KEY

QUESTION = [{"role": "user", "content": "Who?"}]


@pytest.fixture
def patience_s():
    """What a client gets to get on."""
    return 60.0


@pytest.fixture
def most():
    """Connections at once."""
    return 1000


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"max_file_bytes": 8_000_000})


@pytest.fixture
async def server(app, patience_s, most):
    return uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, http=patient(patience_s, most)))


@pytest.fixture
async def sdk(server):
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
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


# ------------------------------------------------------------------------------------------------ slow clients


def connect(sdk, receives: int = 2048) -> socket.socket:
    """A client that will read next to nothing, and waits for nothing itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.connect(("127.0.0.1", sdk.base_url.port))
    return client


def is_cut(client: socket.socket) -> bool:
    """Whether the server has cut it, having read what there is."""
    try:
        while client.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def head(method: str, path: str, *more: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: a", f"Authorization: Bearer {KEY}", *more, "", "")
    return "\r\n".join(lines).encode()


#: It is of the connections, whatever the store is.
ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

#: What each kind of slow client sends at once, and what it has to send after it, a byte at a time.
SLOW = {
    "head": (b"", head("GET", "/v1/files")),
    "json": (head("POST", "/v1/fine_tuning/jobs", "Content-Type: application/json", "Content-Length: 900"), b" " * 900),
    "form": (
        head("POST", "/v1/files", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 900"),
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"a" * 800,
    ),
    "chunked": (
        head("POST", "/v1/files", "Content-Type: multipart/form-data; boundary=x", "Transfer-Encoding: chunked"),
        b"1\r\n-\r\n" * 200,
    ),
}


async def trickle(clients: list[socket.socket], texts: list[bytes], times: int) -> None:
    """Have each client send a byte of its text, again and again."""
    for number in range(times):
        for client, text in zip(clients, texts, strict=True):
            with contextlib.suppress(OSError):  # it was cut
                client.send(text[number : number + 1])
        await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.05)
    pytest.fail("waited 20 seconds in vain")


@ONCE
@pytest.mark.parametrize("patience_s", [5.0])
async def test_hundreds_of_slow_clients_keep_nobody_waiting_and_are_cut(sdk, server, patience_s):
    content = os.urandom(4_000_000)
    file = await sdk.files.create(file=("a", content), purpose="user_data")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slow = [(connect(sdk), *SLOW[kind]) for kind in SLOW for _ in range(60)]
    readers = [connect(sdk) for _ in range(60)]
    await asyncio.sleep(0.2)
    for client, at_once, _ in slow:
        client.send(at_once)
    for client in readers:
        client.send(head("GET", f"/v1/files/{file.id}/content"))
    waited, most = [], 0
    async with asyncio.TaskGroup() as sending:
        sending.create_task(trickle([each for each, *_ in slow], [text for *_, text in slow], 100))
        while len(waited) < 40:
            began = time.monotonic()
            assert [each.id for each in (await sdk.files.list()).data] == [file.id]
            waited.append(time.monotonic() - began)
            most = max(most, len(server.server_state.connections))
            await asyncio.sleep(0.01)
        assert most >= 300
        assert sorted(waited)[20] < 0.5
        await until(lambda: all(is_cut(client) for client, *_ in slow))
        await until(lambda: len(server.server_state.connections) <= 1)  # readers are not asked: to read is to get on
    assert (await sdk.files.content(file.id)).content == content
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60 * 1024, f"{grown} KiB for 300 connections"
    for client in (*readers, *(each for each, *_ in slow)):
        client.close()


@ONCE
@pytest.mark.parametrize("patience_s", [1.0])
async def test_a_client_that_gets_on_is_not_cut_however_long_it_takes(sdk, engine):
    engine.waits = True
    content = os.urandom(4_000_000)
    file = await sdk.files.create(file=("a", content), purpose="user_data")
    async with await sdk.chat.completions.create(model=BASE, messages=QUESTION, stream=True) as stream:
        chunks = aiter(stream)
        assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == [
            "",
            "Hel",
        ]  # from here on the engine thinks, and no client is to blame

        async def by_and_by():
            for start in range(0, 400_000, 20_000):
                yield content[start : start + 20_000]
                await asyncio.sleep(0.1)

        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
            sent = await http.post(str(sdk.base_url) + "fine_tuning/jobs", content=by_and_by())
            assert sent.status_code == 400  # it was read to its end
            got = bytearray()
            async with http.stream("GET", f"{sdk.base_url}files/{file.id}/content") as answer:
                async for piece in answer.aiter_bytes(200_000):
                    got += piece
                    await asyncio.sleep(0.1)
        assert bytes(got) == content
        assert not engine.closed.is_set()


@ONCE
@pytest.mark.parametrize("most", [50])
async def test_of_too_many_connections_the_oldest_that_asks_for_nothing_goes(sdk):
    assert (await sdk.files.list()).data == []
    idle = []
    for _ in range(120):
        idle.append(connect(sdk))
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)
    assert [is_cut(client) for client in idle].count(False) <= 50
    assert (await sdk.files.list()).data == []
    for client in idle:
        client.close()
