import asyncio
import json

import openai
import pytest

from milepost.errors import Exhausted, Invalid, Unavailable
from milepost.jobs import ledger
from milepost.serving.protocol import Generation
from tests.api.conftest import BASE, KEY, NOW
from tests.api.fakes import BugError, Leaver, checkpoint_folder

QUESTION = [{"role": "user", "content": "Who?"}]


@pytest.fixture
async def tuned(client, training_file, database, tmp_path) -> str:
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    return ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW).fine_tuned_model_checkpoint


async def test_a_base_answers(client):
    answer = await client.chat.completions.create(model=BASE, messages=QUESTION)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, answer.created) == ("chat.completion", BASE, int(NOW))
    assert answer.system_fingerprint == "fp_bbbbbbbbbbbb"
    [choice] = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", "Hello.")
    assert (choice.finish_reason, choice.logprobs, choice.message.refusal) == ("stop", None, None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)


async def test_a_checkpoint_answers_with_the_hash_of_its_own_weights(client, tuned, engine):
    answer = await client.chat.completions.create(model=tuned, messages=QUESTION)
    # sha256 of b"weights of step 3"
    assert answer.system_fingerprint == "fp_" + engine.asked[0].adapter.hash[:12]
    assert (answer.model, engine.asked[0].adapter.name, engine.asked[0].base.hash) == (tuned, tuned, "b" * 64)


async def test_every_choice_is_answered(client):
    answer = await client.chat.completions.create(model=BASE, messages=QUESTION, n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (0, "Hello."),
        (1, "Hello."),
        (2, "Hello."),
    ]


async def test_the_engine_is_asked_for_what_the_request_says(client, engine, key):
    await client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[
            {"role": "developer", "content": "Be short."},
            {
                "role": "user",
                "name": "anna",
                "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "user", "content": "Why?"},
        ],
        temperature=0,
        top_p=0.5,
        n=2,
        max_tokens=9,
        max_completion_tokens=5,
        stop="END",
        seed=-3,
    )
    asked = engine.asked[0]
    assert asked == Generation(
        base=asked.base,
        messages=(
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": "Who are you?", "name": "anna"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Why?"},
        ),
        max_tokens=5,
        temperature=0,
        top_p=0.5,
        n=2,
        stop=("END",),
        seed=-3,
        client=key.project_id,
    )
    assert asked.base.name == BASE


async def test_documented_fields_that_change_nothing_are_accepted(client, engine):
    await client.chat.completions.create(
        model=BASE,
        messages=QUESTION,
        store=True,
        metadata={"a": "b"},
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="auto",
        reasoning_effort="low",
        verbosity="low",
        modalities=["text"],
        prediction={"type": "content", "content": "x"},
        parallel_tool_calls=True,
        web_search_options={},
        # and those that ask for nothing
        tools=[],
        tool_choice="auto",
        stop=None,
    )
    assert len(engine.asked) == 1


async def frames_of(http, **body) -> list:
    answer = await http.post("/chat/completions", json={"model": BASE, "messages": QUESTION, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    frames = answer.text.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("data: ") for frame in frames)
    return [frame.removeprefix("data: ") for frame in frames]


async def test_a_stream_has_role_text_end_and_done_in_this_order(http):
    *chunks, done = await frames_of(http)
    chunks = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {"content": "."},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, None, "stop"]
    assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


async def test_usage_comes_last_without_choices_when_it_is_asked_for(http):
    *chunks, last, _ = await frames_of(http, stream_options={"include_usage": True})
    assert [json.loads(chunk)["usage"] for chunk in chunks] == [None] * 5
    last = json.loads(last)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["total_tokens"]) == (7, 10)


async def test_the_sdk_reads_a_stream_of_two_choices(client):
    texts = {0: "", 1: ""}
    async with await client.chat.completions.create(model=BASE, messages=QUESTION, n=2, stream=True) as stream:
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "Hello.", 1: "Hello."}


async def test_the_sdks_stream_helper_works(client):
    async with client.chat.completions.stream(model=BASE, messages=QUESTION) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello."


async def test_an_error_before_the_first_token_has_its_own_status(client, engine):
    engine.error = Invalid(
        "This model's maximum context length is 5 tokens.", param="messages", code="context_length_exceeded"
    )
    with pytest.raises(openai.BadRequestError, match="maximum context length is 5") as caught:
        await client.chat.completions.create(model=BASE, messages=QUESTION, stream=True)
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")


async def test_an_error_in_a_running_stream_is_a_frame(client, engine):
    engine.error, engine.raise_after = Unavailable("The engine ended. Try again"), 1
    chunks = aiter(await client.chat.completions.create(model=BASE, messages=QUESTION, stream=True))
    assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == ["", "Hel"]
    with pytest.raises(openai.APIError, match=r"The engine ended. Try again"):
        await anext(chunks)


async def test_a_bug_in_a_running_stream_is_a_fixed_sentence_and_its_traceback_is_logged(http, engine, caplog):
    engine.error, engine.raise_after = BugError("the secret path"), 1
    frames = await frames_of(http)
    error = json.loads(frames[-1])["error"]
    assert error["type"] == "server_error"
    assert "the secret path" not in error["message"]
    assert "BugError: the secret path" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_down_is_503_and_worth_a_retry(client, engine, stream):
    engine.error = Unavailable("The engine ended. Try again")
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model=BASE, messages=QUESTION, stream=stream)
    assert caught.value.status_code == 503
    assert "x-should-retry" not in caught.value.response.headers


async def test_a_full_engine_says_when_to_come_back(client, engine):
    engine.error = Exhausted("Too many requests are running. Try again in 1.5 s", retry_after_s=1.5)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model=BASE, messages=QUESTION)
    assert caught.value.response.headers["retry-after"] == "1.5"


async def test_an_unknown_model_is_openais_sentence(client):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="x", messages=QUESTION)
    assert caught.value.body == {
        "message": "The model `x` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }


async def test_logprobs_stand_beside_the_text(client):
    answer = await client.chat.completions.create(model=BASE, messages=QUESTION, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert [(token.token, token.logprob, token.bytes) for token in content] == [
        ("Hel", -1.5, [72, 101, 108]),
        ("lo", -1.0, [108, 111]),
        (".", -0.5, [46]),
    ]
    assert [(likely.token, likely.logprob) for likely in content[0].top_logprobs] == [("Hel", -1.5), ("?", -9999.0)]


async def test_logprobs_are_told_in_a_stream_too(http):
    frames = await frames_of(http, logprobs=True)
    chunks = [json.loads(frame)["choices"][0] for frame in frames[:-1]]
    assert [chunk["logprobs"] and chunk["logprobs"]["content"][0]["token"] for chunk in chunks] == [
        None,
        "Hel",
        "lo",
        ".",
        None,
    ]


async def test_the_engine_is_asked_for_penalties_bias_and_json(client, engine):
    await client.chat.completions.create(
        model=BASE,
        messages=QUESTION,
        frequency_penalty=0.5,
        presence_penalty=-1,
        logit_bias={"5": -100},
        response_format={"type": "json_object"},
    )
    asked = engine.asked[0]
    assert (asked.frequency_penalty, asked.presence_penalty) == (0.5, -1)
    assert (asked.logit_bias, asked.json_object, asked.logprobs) == ({5: -100}, True, None)


async def test_a_client_that_leaves_a_stream_stops_the_engine(app, engine):
    engine.waits = True
    client = Leaver(app, "/chat/completions", {"model": BASE, "messages": QUESTION, "stream": True}, KEY)
    while b"Hel" not in (await asyncio.wait_for(client.sent.get(), 5)).get("body", b""):
        pass
    client.left.set()
    await asyncio.wait_for(engine.closed.wait(), 5)
    await asyncio.wait_for(client.done, 5)


async def test_a_client_that_leaves_before_its_answer_stops_the_engine(app, engine):
    engine.waits = True
    client = Leaver(app, "/chat/completions", {"model": BASE, "messages": QUESTION}, KEY)
    await asyncio.wait_for(engine.began.wait(), 5)
    client.left.set()
    await asyncio.wait_for(engine.closed.wait(), 5)
    await asyncio.wait_for(client.done, 5)
    assert client.sent.empty()


async def test_the_usage_tells_what_of_the_prompt_was_not_computed_again(client, engine):
    engine.cached_tokens = 5
    answer = await client.chat.completions.create(model=BASE, messages=QUESTION)
    assert answer.usage.prompt_tokens_details.cached_tokens == 5
