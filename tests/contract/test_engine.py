"""What is expected of every engine (`milepost.serving.client.Engine`), asked of each implementation."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from milepost.errors import Corrupt, Invalid
from milepost.modeling import adapters
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.base import load_config
from milepost.resources.models import Base
from milepost.resources.runs import ADAPTER_WEIGHTS, Source
from milepost.serving.client import Engine, Engines, launcher
from milepost.serving.protocol import Chunk, Generation, Usage
from milepost.serving.proxy import OpenAIProxy
from tests.serving.vllm import StandIn, listening, local_client

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUESTION = ({"role": "user", "content": "Which?"},)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Source:
    card = Base.model_validate_json((tiny_base / "base.json").read_bytes())
    return Source(name=card.name, path=str(tiny_base), hash=card.hash)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["milepost", "openai_proxy"])
async def engine(request, base: Source, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    log_file = tmp_path_factory.mktemp("logs") / "engine.log"
    async with Engines(launcher(threads=1, log_file=log_file, environment=os.environ)) as engines:
        if request.param == "milepost":
            yield engines
            return
        async with listening(StandIn(engines, base).app) as url, OpenAIProxy(local_client(url)) as proxy:
            yield proxy


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


async def test_a_prompt_longer_than_the_context_is_invalid(engine, base):
    with pytest.raises(Invalid, match="maximum context length is 2048 tokens") as caught:
        await answers(engine, base, messages=({"role": "user", "content": "x" * 3000},))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


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
