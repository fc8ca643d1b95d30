"""Another server as the engine: what it is asked, and what its answers and errors become. Its wire is a script here."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import httpx2
import openai
import pytest

from milepost.errors import Corrupt, Error, Exhausted, Invalid, Unavailable
from milepost.resources.runs import ADAPTER_WEIGHTS
from milepost.serving.protocol import Chunk, Generation, Usage
from milepost.serving.proxy import OpenAIProxy

WHO = ({"role": "user", "content": "Who?"},)
DONE = "data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


def frame(model, **members):
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": []} | members
    return f"data: {json.dumps(body)}\n\n"


def said(text, index=0):
    return {"index": index, "delta": {"content": text}, "finish_reason": None}


def end(index=0, reason="stop"):
    return {"index": index, "delta": {}, "finish_reason": reason}


def stream(*frames):
    return httpx2.Response(200, text="".join(frames), headers={"content-type": "text/event-stream"})


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
        choices = [
            frame(model, choices=[each]) for index in range(body["n"]) for each in (said("Hi", index), end(index))
        ]
        return stream(*choices, frame(model, usage=USAGE), DONE)

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
    request = Generation(base=base, **{"messages": WHO} | given)
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
    server.answers = [None, stream(frame(base.name, choices=[said("Hi")]), DONE)]
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


async def refused(proxy, server, base, *answers, **given):
    """The error that a request ends with when the server answers so."""
    server.answers = list(answers)
    with pytest.raises(Error) as caught:
        await ask(proxy, base, **given)
    error = caught.value
    return type(error), error.message, error.param, error.code


TOO_LONG = "This model's maximum context length is 8192 tokens. However, your request has 9000 input tokens."
TOO_LONG_NOW = "You passed 9000 input tokens. However, the model's context length is only 8192 tokens."
TOO_LONG_THERE = "The decoder prompt (length 9000) is longer than the maximum model length of 8192."


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, TOO_LONG, type="BadRequestError", param=None, code=400),
        refusal(400, TOO_LONG, type="BadRequestError", param="input_tokens", code=400),
        httpx2.Response(400, json={"object": "error", "message": TOO_LONG, "param": None, "code": 400}),
        stream(f"data: {json.dumps({'error': {'message': TOO_LONG, 'param': None, 'code': 400}})}\n\n", DONE),
    ],
    ids=["vLLM", "vLLM with param", "old vLLM", "in the stream"],
)
async def test_a_prompt_that_is_too_long_has_the_contracts_code_and_param(proxy, server, base, answer):
    assert await refused(proxy, server, base, answer) == (Invalid, TOO_LONG, "messages", "context_length_exceeded")


@pytest.mark.parametrize("words", [TOO_LONG, TOO_LONG_NOW, TOO_LONG_THERE])
async def test_a_prompt_that_is_too_long_is_known_by_all_words_vllm_has_for_it(proxy, server, base, words):
    answer = refusal(400, words, type="BadRequestError", code=400)
    found = await refused(proxy, server, base, answer, messages=None, prompt="Who?")
    assert found == (Invalid, words, "prompt", "context_length_exceeded")


async def test_a_refusals_number_is_no_code(proxy, server, base):
    answer = refusal(400, "top_p must be in (0, 1], got 0.0.", type="BadRequestError", param="top_p", code=400)
    assert await refused(proxy, server, base, answer) == (Invalid, "top_p must be in (0, 1], got 0.0.", "top_p", None)


async def test_a_refusals_word_is_passed_on(proxy, server, base):
    answer = refusal(400, "too long", param="messages", code="context_length_exceeded")
    assert await refused(proxy, server, base, answer) == (Invalid, "too long", "messages", "context_length_exceeded")


async def test_a_refusal_without_a_word_is_a_sentence_of_ours(proxy, server, base):
    found = await refused(proxy, server, base, httpx2.Response(400, text="<html>"))
    assert found == (Invalid, "The engine refused this request and did not say why", None, None)


async def test_a_base_that_is_not_served_there_is_not_the_clients_mistake(proxy, server, base):
    answer = refusal(404, "The model `x` does not exist.", type="NotFoundError", param="model", code=404)
    kind, message, param, code = await refused(proxy, server, base, answer)
    assert (kind, param, code) == (Unavailable, None, None)
    assert message == f"The engine does not serve `{base.name}`: start vLLM with --served-model-name {base.name}"


async def test_an_adapter_that_is_forgotten_at_once_tells_of_several_servers(proxy, server, base, make_adapter):
    missing = refusal(404, "The model `x` does not exist.", code=404)
    kind, message, *_ = await refused(proxy, server, base, None, missing, None, missing, adapter=make_adapter(1))
    assert (kind, message.rpartition(": ")[2]) == (
        Unavailable,
        "MILEPOST_ENGINE_URL must lead to one server, not to several in turns",
    )


async def test_a_url_that_lacks_v1_is_told(proxy, server, base):
    kind, message, *_ = await refused(proxy, server, base, httpx2.Response(404, json={"detail": "Not Found"}))
    assert (kind, message) == (
        Unavailable,
        "The engine does not speak OpenAI's API at MILEPOST_ENGINE_URL: end it with /v1",
    )


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("2.5", 3), ("0", 1), ("Fri, 31 Dec 1999 23:59:59 GMT", 1)])
async def test_a_server_that_is_busy_says_when_to_come_again(proxy, server, base, header, seconds):
    server.answers = [refusal(429, "busy", headers={"retry-after": header})]
    with pytest.raises(Exhausted, match="busy") as caught:
        await ask(proxy, base)
    assert (caught.value.code, caught.value.retry_after_s) == ("rate_limit_exceeded", seconds)


@pytest.mark.parametrize(("status", "words"), [(401, "MILEPOST_ENGINE_KEY"), (500, "Try again"), (502, "Try again")])
async def test_its_failures_are_not_the_clients(proxy, server, base, status, words):
    server.answers = [refusal(status)]
    with pytest.raises(Unavailable, match=words):
        await ask(proxy, base)


@pytest.mark.parametrize(
    "last",
    [
        [],
        [DONE],
        [frame("tiny-random-llama", choices=[end(index=1)]), DONE],
        [frame("tiny-random-llama", choices=[end(reason="abort"), end(index=1)]), DONE],
        [f"data: {json.dumps({'error': {'message': 'dead', 'code': 500}})}\n\n", DONE],
        ["data: {broken\n\n"],
        ["data: 1\n\n"],
        ['data: {"model": "tiny-ran'],
    ],
    ids=[
        "cut",
        "done at once",
        "one of two",
        "aborted",
        "an error",
        "no JSON",
        "no object",
        "half a frame",
    ],
)
async def test_an_answer_that_breaks_off_is_an_error_after_what_came(proxy, server, base, last):
    server.answers = [stream(frame(base.name, choices=[said("Hi")]), *last)]
    async with aclosing(proxy.generate(Generation(base=base, messages=WHO, n=2))) as answers:
        assert await anext(answers) == Chunk(index=0, text="Hi")
        with pytest.raises(Unavailable):
            [answer async for answer in answers]


async def test_an_answer_of_nothing_is_an_error(proxy, server, base):
    server.answers = [stream()]
    with pytest.raises(Unavailable, match="broke off in the middle"):
        await ask(proxy, base)


async def test_a_server_that_counts_nothing_is_counted_by_its_frames(proxy, server, base):
    choices = [said("Hel"), said("lo"), end()]
    server.answers = [stream(*(frame(base.name, choices=[choice]) for choice in choices), DONE)]
    assert (await ask(proxy, base))[-1] == Usage(prompt_tokens=0, completion_tokens=2)


async def test_usage_beside_the_last_choice_counts_too(proxy, server, base):
    server.answers = [stream(frame(base.name, choices=[said("Hi"), end()], usage=USAGE), DONE)]
    assert (await ask(proxy, base))[1:] == [
        Chunk(index=0, text="", finish_reason="stop"),
        Usage(prompt_tokens=3, completion_tokens=1),
    ]


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
