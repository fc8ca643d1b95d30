"""Another server as the engine: what it is asked, and what its answers and errors become. Its wire is a script here."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import httpx2
import openai
import pytest

from milepost.errors import Corrupt, Exhausted, Invalid, Unavailable
from milepost.resources.runs import ADAPTER_WEIGHTS
from milepost.serving.protocol import Chunk, Generation, Usage
from milepost.serving.proxy import OpenAIProxy

DONE = "data: [DONE]\n\n"


def frame(model, **members):
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": []} | members
    return f"data: {json.dumps(body)}\n\n"


class Server:
    """Answers each request by `answers`, in order, then well."""

    def __init__(self):
        self.asked = []
        self.answers = []

    def __call__(self, request):
        body = json.loads(request.content)
        path = request.url.path.removeprefix("/v1/")
        self.asked.append((path, body))
        if self.answers and (answer := self.answers.pop(0)) is not None:
            return answer
        if path.endswith("adapter"):
            return httpx2.Response(200, text="Success")
        model = body["model"]
        choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        text = frame(model, choices=[choice]) + frame(model, choices=[last]) + frame(model, usage=usage) + DONE
        return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})

    @property
    def paths(self):
        return [path for path, _ in self.asked]


def refusal(status, message="no", headers=None, **members):
    return httpx2.Response(status, json={"error": {"message": message, **members}}, headers=headers)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
async def proxy(server):
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(server))
    client = openai.AsyncOpenAI(api_key="k", base_url="http://vllm/v1", http_client=http, max_retries=0)
    async with OpenAIProxy(client, most_loaded=2) as proxy:
        yield proxy


async def ask(proxy, base, **given):
    request = Generation(base=base, **{"messages": ({"role": "user", "content": "Who?"},)} | given)
    return [answer async for answer in proxy.generate(request)]


async def test_an_adapter_is_loaded_once_and_asked_for_by_its_hash(proxy, server, base, make_adapter):
    adapter = make_adapter(1)
    for _ in range(2):
        assert await ask(proxy, base, adapter=adapter) == [
            Chunk(index=0, text="Hi"),
            Chunk(index=0, text="", finish_reason="stop"),
            Usage(prompt_tokens=3, completion_tokens=1),
        ]
    name = f"milepost-{adapter.hash}"
    assert server.paths == ["load_lora_adapter", "chat/completions", "chat/completions"]
    assert server.asked[0][1] == {"lora_name": name, "lora_path": adapter.path}
    assert server.asked[1][1]["model"] == name


async def test_the_whole_request_is_passed_on(proxy, server, base):
    await ask(
        proxy,
        base,
        max_tokens=9,
        temperature=0.5,
        top_p=0.25,
        n=2,
        stop=("END",),
        seed=7,
        frequency_penalty=1,
        presence_penalty=-1,
        logit_bias={5: 3},
        logprobs=2,
        json_object=True,
    )
    assert server.asked[0][1] == {
        "model": base.name,
        "messages": [{"role": "user", "content": "Who?"}],
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.25,
        "n": 2,
        "stop": ["END"],
        "seed": 7,
        "frequency_penalty": 1,
        "presence_penalty": -1,
        "logit_bias": {"5": 3},
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_object"},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_an_answer_under_another_name_is_an_error(proxy, server, base, make_adapter):
    text = frame(base.name, choices=[{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]) + DONE
    server.answers = [None, httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})]
    with pytest.raises(Corrupt, match=f"answered as `{base.name}`"):
        await ask(proxy, base, adapter=make_adapter(1))


async def test_a_server_that_forgot_its_adapters_is_given_them_again(proxy, server, base, make_adapter):
    adapter = make_adapter(1)
    await ask(proxy, base, adapter=adapter)
    server.answers = [refusal(404, "The model does not exist")]
    await ask(proxy, base, adapter=adapter)
    assert server.paths[2:] == ["chat/completions", "load_lora_adapter", "chat/completions"]


async def test_an_adapter_that_is_there_already_is_no_error(proxy, server, base, make_adapter):
    server.answers = [refusal(400, "The lora adapter 'x' has already been loaded.")]
    assert len(await ask(proxy, base, adapter=make_adapter(1))) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            httpx2.Response(404, json={"detail": "Not Found"}),
            (
                "The engine has no /v1/load_lora_adapter. Start vLLM with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and end MILEPOST_ENGINE_URL with /v1"
            ),
        ),
        (
            refusal(404, "No adapter found for /data/x", type="NotFoundError"),
            "The engine could not load an adapter: No adapter found for /data/x. It must see this server's data folder",
        ),
        (
            refusal(500, "LoRA rank 64 is greater than max_lora_rank 16.", type="InternalServerError"),
            "The engine could not load an adapter: LoRA rank 64 is greater than max_lora_rank 16.",
        ),
    ],
    ids=["no route", "no file", "too large"],
)
async def test_an_adapter_that_cannot_be_loaded_there_is_not_the_clients_fault(
    proxy, server, base, make_adapter, answer, said
):
    server.answers = [answer]
    with pytest.raises(Unavailable) as caught:
        await ask(proxy, base, adapter=make_adapter(1))
    assert caught.value.message == said
    assert server.paths == ["load_lora_adapter"]


async def test_a_changed_file_is_an_error_and_its_adapter_is_unloaded(proxy, server, base, make_adapter):
    adapter = make_adapter(1)
    await ask(proxy, base, adapter=adapter)
    file = Path(adapter.path) / ADAPTER_WEIGHTS
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(Corrupt):
        await ask(proxy, base, adapter=adapter)
    assert server.paths[2:] == ["unload_lora_adapter"]


async def test_the_least_recently_asked_for_is_unloaded_when_there_are_too_many(proxy, server, base, make_adapter):
    adapters = [make_adapter(seed) for seed in range(3)]
    for adapter in (*adapters[:2], adapters[0], adapters[2]):
        await ask(proxy, base, adapter=adapter)
    gone = [body["lora_name"] for path, body in server.asked if path == "unload_lora_adapter"]
    assert gone == [f"milepost-{adapters[1].hash}"]


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (refusal(400, "too long", param="messages", code="context_length_exceeded"), Invalid, "^too long$"),
        (refusal(401), Unavailable, "MILEPOST_ENGINE_KEY"),
        (refusal(429, "busy", headers={"retry-after": "7"}), Exhausted, "busy"),
        (refusal(500), Unavailable, "Try again"),
    ],
    ids=["400", "401", "429", "500"],
)
async def test_its_errors_become_ours(proxy, server, base, answer, kind, said):
    server.answers = [answer]
    with pytest.raises(kind, match=said) as caught:
        await ask(proxy, base)
    if kind is Exhausted:
        assert caught.value.retry_after_s == 7
    if kind is Invalid:
        assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")


async def test_a_server_that_is_not_there_is_unavailable(base):
    def refuse(request):
        raise httpx2.ConnectError("refused", request=request)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(refuse))
    client = openai.AsyncOpenAI(api_key="k", base_url="http://vllm/v1", http_client=http, max_retries=0)
    async with OpenAIProxy(client) as proxy:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await ask(proxy, base)


async def test_when_the_server_stops_answers_that_take_too_long_end_with_an_error(base):
    asked = asyncio.Event()

    async def silent(request):
        asked.set()
        await asyncio.Event().wait()

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(silent))
    client = openai.AsyncOpenAI(api_key="k", base_url="http://vllm/v1", http_client=http, max_retries=0)
    async with OpenAIProxy(client) as proxy:
        waiting = asyncio.create_task(ask(proxy, base))
        await asked.wait()
        await proxy.stop(0)
        with pytest.raises(Unavailable, match="The server is stopping"):
            await waiting
        async with aclosing(proxy.generate(Generation(base=base, prompt="a"))) as answers:
            with pytest.raises(Unavailable, match="The server is stopping"):
                await anext(answers)
