"""The client against engines that are tasks of the test: starting, sharing, cancelling, dying."""

import asyncio
import subprocess
import sys
from contextlib import aclosing

import pytest

from milepost.errors import Corrupt, Exhausted, Invalid, Unavailable
from milepost.resources.runs import Source
from milepost.serving.client import Engines
from milepost.serving.protocol import Answer, Cancel, Chunk, Failure, Generate, Generation, Load, Usage
from tests.serving.fakes import FakeLauncher

ONE, TWO = (Source(name=name, path=f"/bases/{name}", hash=name * 32) for name in ("1b", "2b"))


@pytest.fixture
def launch():
    return FakeLauncher()


@pytest.fixture
async def engines(launch):
    async with Engines(launch) as engines:
        yield engines


async def ask(engines, prompt, base=ONE):
    answers = [answer async for answer in engines.generate(Generation(base=base, prompt=prompt))]
    return "".join(answer.text for answer in answers if isinstance(answer, Chunk))


async def test_answers_come_in_order_and_the_usage_last(engines):
    answers = [answer async for answer in engines.generate(Generation(base=ONE, prompt="a"))]
    assert answers == [
        Chunk(index=0, text="a"),
        Chunk(index=0, text="", finish_reason="stop"),
        Usage(prompt_tokens=1, completion_tokens=1),
    ]


async def test_those_who_ask_at_once_share_one_engine_and_get_their_own_answers(engines, launch):
    texts = await asyncio.gather(*(ask(engines, prompt) for prompt in ("a", "b", "c")))
    assert (texts, len(launch.started)) == (["a", "b", "c"], 1)


async def test_each_base_has_its_engine(engines, launch):
    await asyncio.gather(ask(engines, "a", ONE), ask(engines, "b", TWO))
    assert [process.base for process in launch.started] == [ONE, TWO]


async def test_leaving_early_cancels(engines, launch):
    async with aclosing(engines.generate(Generation(base=ONE, prompt="…"))) as answers:
        await anext(answers)
    (process,) = launch.started
    heard = [await process.heard.get(), await process.heard.get()]
    assert [type(message) for message in heard] == [Generate, Cancel]
    assert heard[0].id == heard[1].id


async def test_an_answer_that_ended_is_not_cancelled(engines, launch):
    await ask(engines, "a")
    await ask(engines, "b")
    heard = launch.started[0].heard
    assert [type(heard.get_nowait()) for _ in range(heard.qsize())] == [Generate, Generate]


async def test_a_dead_engine_fails_what_it_was_answering(engines, launch):
    async with aclosing(engines.generate(Generation(base=ONE, prompt="…"))) as answers:
        await anext(answers)
        launch.started[0].crash()
        with pytest.raises(Unavailable, match="Try again"):
            await anext(answers)


async def test_after_a_death_the_next_request_is_answered_by_a_new_engine(engines, launch):
    await ask(engines, "a")
    launch.started[0].crash()
    await launch.started[0].ended.wait()
    while (text := await retried(engines, "b")) is None:
        pass  # the end of the socket may not have been seen yet
    assert (text, len(launch.started)) == ("b", 2)


async def retried(engines, prompt):
    try:
        return await ask(engines, prompt)
    except Unavailable:
        return None


async def test_what_hinders_a_start_is_raised_and_tried_again_next_time(launch, engines):
    launch.firsts = [Failure(kind="Invalid", message="rope_scaling is not supported", param="model")]
    with pytest.raises(Invalid, match="rope_scaling"):
        await ask(engines, "a")
    assert await ask(engines, "b") == "b"


async def test_an_engine_that_dies_before_it_is_ready_is_unavailable(launch, engines):
    launch.firsts = [None]
    with pytest.raises(Unavailable):
        await engines.warm(ONE)


async def test_who_gives_up_waiting_for_a_start_does_not_stop_it_for_others(engines, launch):
    impatient = asyncio.create_task(ask(engines, "a"))
    patient = asyncio.create_task(ask(engines, "b"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient, len(launch.started)) == ("b", 1)


async def test_an_error_of_the_engine_is_raised_as_itself(engines, launch):
    async with aclosing(engines.generate(Generation(base=ONE, prompt="…"))) as answers:
        await anext(answers)
        asked = await launch.started[0].heard.get()
        launch.started[0].say(Answer(id=asked.id, body=Failure(kind="Corrupt", message="changed")))
        with pytest.raises(Corrupt, match="changed"):
            await anext(answers)


async def test_warming_loads_the_adapter(engines, launch):
    adapter = Source(name="ft:x", path="/runs/1", hash="ad" * 32)
    await engines.warm(ONE, adapter)
    assert await launch.started[0].heard.get() == Load(id=1, adapter=adapter)


async def test_leaving_ends_every_engine(launch):
    async with Engines(launch) as engines:
        await asyncio.gather(ask(engines, "a", ONE), ask(engines, "b", TWO))
    assert [process.ended.is_set() for process in launch.started] == [True, True]


def test_the_client_imports_no_torch():
    code = "import sys, milepost.serving.client; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


async def test_a_full_line_refuses_before_the_engine_hears_of_it(launch):
    async with Engines(launch, most_waiting=1) as engines:
        await engines.warm(ONE)
        first = asyncio.create_task(ask(engines, "a"))
        await asyncio.sleep(0)
        with pytest.raises(Exhausted):
            await ask(engines, "b")
        assert await first == "a"
        assert await ask(engines, "c") == "c"
    heard = launch.started[0].heard
    assert [heard.get_nowait().generation.prompt for _ in range(heard.qsize())] == ["a", "c"]


async def test_when_the_server_stops_an_answer_may_end(launch, engines):
    asked = engines.generate(Generation(base=ONE, prompt="…"))
    async with aclosing(asked) as answers:
        await anext(answers)
        stopping = asyncio.create_task(engines.stop(60))
        await asyncio.sleep(0)
        number = (await launch.started[0].heard.get()).id
        launch.started[0].say(Answer(id=number, body=Usage(prompt_tokens=1, completion_tokens=1)))
        assert [type(answer) async for answer in answers] == [Usage]
    await stopping


async def test_an_answer_that_takes_longer_than_the_grace_ends_with_an_error(launch, engines):
    async with aclosing(engines.generate(Generation(base=ONE, prompt="…"))) as answers:
        await anext(answers)
        await engines.stop(0)
        with pytest.raises(Unavailable, match="The server is stopping"):
            await anext(answers)


async def test_who_waits_for_an_engine_to_start_is_told_that_the_server_stops(engines):
    waiting = asyncio.create_task(ask(engines, "a"))
    await asyncio.sleep(0)
    await engines.stop(0)
    with pytest.raises(Unavailable, match="The server is stopping"):
        await waiting


async def test_a_server_that_stops_takes_no_more_requests(launch, engines):
    await ask(engines, "a")
    await engines.stop(60)
    with pytest.raises(Unavailable, match="The server is stopping"):
        await ask(engines, "b")
    assert launch.started[0].heard.qsize() == 1
