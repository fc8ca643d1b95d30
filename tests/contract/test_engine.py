"""What is expected of every engine (`milepost.serving.client.Engine`), asked of each implementation."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from milepost.errors import Corrupt, Invalid, Unavailable
from milepost.modeling import adapters
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.base import load_config
from milepost.resources.models import Base
from milepost.resources.runs import ADAPTER_WEIGHTS, Source
from milepost.serving.client import Engine, Engines, launcher
from milepost.serving.protocol import Cancel, Chunk, Generate, Generation, TokenLogprob, Usage
from milepost.serving.proxy import OpenAIProxy
from tests.serving.fakes import FakeLauncher
from tests.serving.vllm import StandIn, listening, local_client

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUESTION = ({"role": "user", "content": "Which?"},)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Source:
    card = Base.model_validate_json((tiny_base / "base.json").read_bytes())
    return Source(name=card.name, path=str(tiny_base), hash=card.hash)


@asynccontextmanager
async def behind(door: str, engines: Engines, base: Source) -> AsyncIterator[Engine]:
    if door == "milepost":
        yield engines
        return
    async with listening(StandIn(engines, base).app) as url, OpenAIProxy(local_client(url)) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["milepost", "openai_proxy"])
def door(request) -> str:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ours(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engines]:
    """What computes, whichever the door."""
    log_file = tmp_path_factory.mktemp("logs") / "engine.log"
    async with Engines(launcher(threads=1, log_file=log_file, environment=os.environ)) as engines:
        yield engines


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(door: str, ours: Engines, base: Source) -> AsyncIterator[Engine]:
    async with behind(door, ours, base) as engine:
        yield engine


@pytest.fixture
def adapter(base: Source, tmp_path: Path) -> Source:
    config = AdapterConfig(rank=4, alpha=8.0, base_hash=base.hash)
    generator = torch.Generator().manual_seed(1)
    shapes = adapters.shapes(load_config(Path(base.path)), config.rank)
    content = adapters.adapter_bytes(
        {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes}, config
    )
    (tmp_path / ADAPTER_WEIGHTS).write_bytes(content)
    return Source(name="ft:tiny", path=str(tmp_path), hash=hashlib.sha256(content).hexdigest())


async def answers(engine: Engine, base: Source, **given) -> list[Chunk | Usage]:
    request = Generation(base=base, **{"messages": QUESTION, "temperature": 0, "max_tokens": 8} | given)
    return [answer async for answer in engine.generate(request)]


def text_of(found: list[Chunk | Usage], index: int = 0) -> str:
    return "".join(answer.text for answer in found if isinstance(answer, Chunk) and answer.index == index)


def logprobs_of(found: list[Chunk | Usage]) -> list[TokenLogprob]:
    return [each for answer in found if isinstance(answer, Chunk) for each in answer.logprobs]


async def test_usage_comes_once_and_last(engine, base):
    found = await answers(engine, base)
    assert [type(answer) for answer in found[-2:]] == [Chunk, Usage]
    assert (found[-1].completion_tokens, sum(isinstance(answer, Usage) for answer in found)) == (8, 1)


async def test_the_last_chunk_of_each_choice_and_only_that_has_a_finish_reason(engine, base):
    found = await answers(engine, base, n=3, temperature=1.0, logit_bias={258: -100})  # no end token
    reasons = {0: [], 1: [], 2: []}
    for answer in found[:-1]:
        reasons[answer.index].append(answer.finish_reason)
    assert [each[-1] for each in reasons.values()] == ["length"] * 3
    assert {reason for each in reasons.values() for reason in each[:-1]} <= {None}


async def test_text_comes_as_it_is_made(engine, base):
    request = Generation(base=base, prompt="a", temperature=0, max_tokens=2000)
    async with aclosing(engine.generate(request)) as found:
        first = await anext(found)
    assert first.finish_reason is None


async def test_a_greedy_answer_comes_again(engine, base):
    assert await answers(engine, base) == await answers(engine, base)


async def test_those_who_ask_at_once_get_the_answers_they_get_alone(engine, base, adapter):
    alone = [await answers(engine, base), await answers(engine, base, adapter=adapter)]
    assert await asyncio.gather(answers(engine, base), answers(engine, base, adapter=adapter)) == alone


async def test_an_adapter_answers_otherwise_than_its_base(engine, base, adapter):
    assert text_of(await answers(engine, base)) != text_of(await answers(engine, base, adapter=adapter))


async def test_a_missing_adapter_is_an_error_never_the_base(engine, base, adapter):
    (Path(adapter.path) / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(Corrupt):
        await answers(engine, base, adapter=adapter)


async def test_a_changed_adapter_is_an_error_also_when_it_has_answered_before(engine, base, adapter):
    await answers(engine, base, adapter=adapter)
    file = Path(adapter.path) / ADAPTER_WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Corrupt):
        await answers(engine, base, adapter=adapter)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"messages": ({"role": "user", "content": "x" * 3000},)}, "messages"),
        ({"messages": None, "prompt": "x" * 3000}, "prompt"),
    ],
    ids=["chat", "completion"],
)
async def test_a_prompt_longer_than_the_context_is_invalid(engine, base, given, param):
    with pytest.raises(Invalid, match="maximum context length is 2048 tokens") as caught:
        await answers(engine, base, **given)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


async def test_an_answer_ends_before_a_stop_string(engine, base):
    given = {"temperature": 1.0, "seed": 2, "max_tokens": 40}
    whole = text_of(await answers(engine, base, **given))
    stop = whole[4:6]
    found = await answers(engine, base, **given, stop=("no such words", stop))
    assert (text_of(found), found[-2].finish_reason) == (whole.partition(stop)[0], "stop")


async def test_a_seed_gives_the_same_text_again_and_another_seed_another(engine, base):
    first, second, other = [
        text_of(await answers(engine, base, temperature=1.0, seed=seed, max_tokens=40)) for seed in (1, 1, 2)
    ]
    assert first == second != other


async def test_a_frequency_penalty_makes_a_repeated_token_give_way(engine, base):
    plain = await answers(engine, base)
    assert len(set(text_of(plain))) == 1
    assert len(set(text_of(await answers(engine, base, frequency_penalty=2.0)))) > 1


async def test_a_presence_penalty_changes_what_is_drawn(engine, base):
    given = {"temperature": 1.0, "seed": 1, "max_tokens": 40}
    plain = text_of(await answers(engine, base, **given))
    assert text_of(await answers(engine, base, **given, presence_penalty=2.0)) != plain


async def test_a_json_object_is_one_where_the_same_request_would_not_be(engine, base):
    given = {"logit_bias": {ord("}") - ord("!"): 100}}  # the tiny base's letters are its tokens, from `!` on
    assert text_of(await answers(engine, base, **given)) == "}" * 8
    found = await answers(engine, base, **given, json_object=True)
    assert (json.loads(text_of(found)), found[-2].finish_reason) == ({}, "stop")


async def test_logprobs_are_told_with_the_likeliest_first(engine, ours, base):
    given = {"logprobs": 3, "temperature": 1.0, "seed": 2}
    told = logprobs_of(await answers(engine, base, **given))
    assert [(each.logprob, each.top[0].logprob) for each in told] == [
        (each.logprob, each.top[0].logprob) for each in logprobs_of(await answers(ours, base, **given))
    ]
    assert [len(each.top) for each in told] == [3] * 8
    assert all(sorted(each.top, key=lambda likely: -likely.logprob) == list(each.top) for each in told)


async def test_a_greedy_answer_takes_the_likeliest(engine, base):
    told = logprobs_of(await answers(engine, base, logprobs=2))
    assert [each.logprob for each in told] == [each.top[0].logprob for each in told]
    assert [each.token for each in told] == [each.top[0].token for each in told]


async def test_a_completion_tells_logprobs_of_its_prompt_too(engine, ours, base):
    given = {"messages": None, "prompt": "abc", "echo": True, "max_tokens": 2, "logprobs": 2}
    told = [each.logprob for each in logprobs_of(await answers(engine, base, **given))]
    assert told == [each.logprob for each in logprobs_of(await answers(ours, base, **given))]
    assert (told[0], len(told)) == (None, 5)


async def test_messages_the_template_does_not_take_are_invalid(engine, base):
    with pytest.raises(Invalid):
        await answers(engine, base, messages=({"role": "user", "content": 7},))


async def test_an_answer_left_early_makes_room(engine, base):
    for _ in range(40):  # more than there are rows
        async with aclosing(engine.generate(Generation(base=base, prompt="a", max_tokens=2000))) as found:
            await anext(found)
    assert len(await answers(engine, base)) > 1


async def test_warming_raises_what_a_request_would(engine, base, adapter):
    await engine.warm(base)
    await engine.warm(base, adapter)
    (Path(adapter.path) / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(Corrupt):
        await engine.warm(base, adapter)


# --- an engine that does what the test says: a prompt of `…` is begun and never ended


@pytest_asyncio.fixture(loop_scope="module")
async def scripted(door: str, base: Source) -> AsyncIterator[tuple[Engine, FakeLauncher]]:
    launch = FakeLauncher()
    async with Engines(launch) as engines, behind(door, engines, base) as engine:
        yield engine, launch


async def test_leaving_an_answer_early_ends_its_work(scripted, base):
    engine, launch = scripted
    async with aclosing(engine.generate(Generation(base=base, prompt="…"))) as found:
        assert await anext(found) == Chunk(index=0, text="…")
    heard = launch.started[0].heard
    async with asyncio.timeout(30):
        assert [type(await heard.get()), type(await heard.get())] == [Generate, Cancel]


async def test_an_engine_that_dies_in_mid_answer_is_unavailable(scripted, base):
    engine, launch = scripted
    async with aclosing(engine.generate(Generation(base=base, prompt="…"))) as found:
        assert await anext(found) == Chunk(index=0, text="…")
        launch.started[0].crash()
        with pytest.raises(Unavailable):
            await anext(found)
