import json

import openai
import pytest

from milepost.errors import Unavailable
from milepost.serving.protocol import Chunk, Usage
from tests.api.conftest import BASE, NOW
from tests.api.fakes import token_logprob


async def test_a_prompt_is_continued(client):
    answer = await client.completions.create(model=BASE, prompt="Once")
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model, answer.created) == ("text_completion", BASE, int(NOW))
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [(0, "Hello.", "stop")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert answer.system_fingerprint == "fp_bbbbbbbbbbbb"


async def test_the_engine_is_asked_for_what_the_request_says(client, engine):
    await client.completions.create(
        model=BASE,
        prompt=[1, 2, 3],
        max_tokens=4,
        temperature=0,
        top_p=0.5,
        stop=["a", "b"],
        seed=7,
        echo=True,
        user="u",
    )
    asked = engine.asked[0]
    assert (asked.prompt, asked.messages, asked.max_tokens) == ((1, 2, 3), None, 4)
    assert (asked.temperature, asked.top_p, asked.stop, asked.seed, asked.echo) == (0, 0.5, ("a", "b"), 7, True)


async def test_sixteen_tokens_are_the_most_unless_asked_for(client, engine):
    await client.completions.create(model=BASE, prompt="Once")
    assert engine.asked[0].max_tokens == 16


@pytest.mark.parametrize("prompts", [["a", "b"], [[1, 2], [3]]])
async def test_each_prompt_has_its_choices_in_its_order(client, engine, prompts):
    answer = await client.completions.create(model=BASE, prompt=prompts, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [asked.prompt for asked in engine.asked] == [tuple(p) if isinstance(p, list) else p for p in prompts]
    assert answer.usage.prompt_tokens == 14


async def test_logprobs_have_their_offsets_behind_the_prompt(client):
    answer = await client.completions.create(model=BASE, prompt="Once", logprobs=1)
    told = answer.choices[0].logprobs
    assert told.tokens == ["Hel", "lo", "."]
    assert told.token_logprobs == [-1.5, -1.0, -0.5]
    assert told.text_offset == [4, 7, 9]
    assert told.top_logprobs == [{"Hel": -1.5}, {"lo": -1.0}, {".": -0.5}]


async def test_the_best_of_several_is_the_likeliest(client, engine):
    class Unequal:
        """The second choice has shorter tokens: by the fake's rule they are likelier."""

        async def generate(self, request):
            for index, text in enumerate(("Hello", "Hi", "Hey!")):
                yield Chunk(index=index, text=text, logprobs=(token_logprob(text, 0),), finish_reason="stop")
            yield Usage(prompt_tokens=1, completion_tokens=3)

    engine.generate = Unequal().generate
    answer = await client.completions.create(model=BASE, prompt="a", best_of=3, n=2)
    assert [(choice.index, choice.text, choice.logprobs) for choice in answer.choices] == [
        (0, "Hi", None),
        (1, "Hey!", None),
    ]


@pytest.mark.parametrize("echo", [False, True])
async def test_of_several_an_empty_one_is_the_last_and_the_prompt_counts_for_none(client, engine, echo):
    made = {0: "", 1: "Likelier.", 2: "Hi"}
    logprobs = {1: -0.5, 2: -2.0}

    class Unequal:
        async def generate(self, request):
            for index, text in made.items():
                if echo:
                    prompt = [token_logprob("p", 0).model_copy(update={"logprob": -9.0})] * 5
                    yield Chunk(index=index, text="ppppp", logprobs=tuple(prompt))
                own = token_logprob(text, 0).model_copy(update={"logprob": logprobs.get(index)})
                told = [own] * (3 if index == 2 else 1) if text else []
                yield Chunk(index=index, text=text, logprobs=tuple(told), finish_reason="stop")
            yield Usage(prompt_tokens=5, completion_tokens=3)

    engine.generate = Unequal().generate
    answer = await client.completions.create(model=BASE, prompt="ppppp", best_of=3, n=2, echo=echo)
    begin = "ppppp" if echo else ""
    assert [choice.text for choice in answer.choices] == [f"{begin}Likelier.", f"{begin}Hi"]


async def test_an_empty_suffix_is_none(client):
    assert (await client.completions.create(model=BASE, prompt="a", suffix="")).choices[0].text == "Hello."
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=BASE, prompt="a", suffix=" end")
    assert caught.value.param == "suffix"


async def test_a_stream_is_told_as_completions_and_done(http):
    body = {"model": BASE, "prompt": "a", "stream": True, "stream_options": {"include_usage": True}, "logprobs": 0}
    answer = await http.post("/completions", json=body)
    frames = [frame.removeprefix("data: ") for frame in answer.text.split("\n\n")[:-1]]
    *chunks, usage, done = [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo", ".", ""]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[1], [4], [6], []]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 10)


async def test_an_error_before_the_first_token_has_its_own_status(client, engine):
    engine.error = Unavailable("The engine is coming up. Try again")
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model=BASE, prompt=["a", "b"], stream=True)
    assert caught.value.status_code == 503


async def test_many_prompts_are_let_in_or_refused_as_one(client, engine, key):
    await client.completions.create(model=BASE, prompt=["a", "b", "c"])
    assert [(asked.client, asked.is_admitted) for asked in engine.asked] == [
        (key.project_id, False),
        (key.project_id, True),
        (key.project_id, True),
    ]


async def test_cached_tokens_of_all_prompts_are_added_up(client, engine):
    engine.cached_tokens = 3
    answer = await client.completions.create(model=BASE, prompt=["a", "b"])
    assert answer.usage.prompt_tokens_details.cached_tokens == 6
