"""chat() and graders in SQL: what is asked, how often, and what comes of it."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from milepost.errors import Exhausted, Invalid, Remote
from milepost.sql.session import Session

CHAT, GRADE = "/v1/chat/completions", "/v1/fine_tuning/alpha/graders/run"


@pytest.fixture
def asked(fake):
    """What the model and the graders were asked; the model says the prompt in capitals, one of step 2 the right answer."""
    bodies: list[dict] = []
    answer = fake.answer

    def answers(request: httpx2.Request) -> httpx2.Response:
        if request.url.path not in (CHAT, GRADE):
            return answer(request)
        body = json.loads(request.content)
        bodies.append(body)
        if request.url.path == GRADE:
            same = body["model_sample"] == body.get("item", {}).get("reference")
            return httpx2.Response(200, json={"reward": 1.0 if same else 0.25})
        prompt = body["messages"][-1]["content"]
        if prompt == "fail":
            return httpx2.Response(400, json={"error": {"message": "I will not", "code": "no"}})
        said = f"the answer to {prompt}" if "step-2" in body["model"] else prompt.upper()
        return httpx2.Response(200, json={"choices": [{"message": {"role": "assistant", "content": said}}]})

    fake.answer = answers
    return bodies


async def test_a_checkpoint_is_picked_in_one_statement(ask, asked, tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"q{n}", "answer": f"the answer to q{n}"}) for n in range(20)))
    rows = await ask(
        "SELECT c.step_number, avg(string_check(chat(c.fine_tuned_model_checkpoint, t.prompt), t.answer)) "
        f"FROM openai.fine_tuning.job_checkpoints c, '{path}' t WHERE c.fine_tuning_job_id = 'ftjob-1' GROUP BY 1 ORDER BY 1"
    )
    assert rows == [(1, 0.0), (2, 1.0)]
    assert len(asked) == 40
    assert asked[0] == {"model": asked[0]["model"], "messages": [{"role": "user", "content": "q0"}], "temperature": 0}


async def test_equal_calls_are_made_once(ask, asked):
    assert await ask("SELECT count(DISTINCT chat('m', 'q' || n % 3)) FROM range(5000) t(n)") == [(3,)]
    assert len(asked) == 3


async def test_options_are_the_apis(ask, asked):
    rows = await ask(
        "SELECT chat('m', 'hi', {'max_completion_tokens': 5, 'temperature': 0.5, 'system': 'short', 'ours': 1})"
    )
    assert rows == [("HI",)]
    assert asked == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}],
            "max_completion_tokens": 5,
            "temperature": 0.5,
            "ours": 1,
        }
    ]


async def test_null_asks_nobody(ask, asked):
    assert await ask("SELECT chat('m', NULL), chat(NULL, 'x'), string_check(NULL, 'x')") == [(None, None, None)]
    assert asked == []


async def test_string_check_is_the_graders_and_asks_nobody(ask, asked):
    rows = await ask(
        "SELECT string_check('Abc', 'Abc'), string_check('Abc', 'abc'), string_check('Abc', 'abc', 'ne'), "
        "string_check('xAbcx', 'Abc', 'like'), string_check('xAbcx', 'abc', 'like'), string_check('xAbcx', 'aBC', 'ilike'), string_check(1, '1')"
    )
    assert rows == [(1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0)]
    assert asked == []


async def test_text_similarity_and_grade_are_the_servers(ask, asked):
    rows = await ask(
        "SELECT text_similarity('a', 'a'), text_similarity('a', 'b', 'rouge_l'), "
        "grade({'type': 'string_check', 'name': 'x', 'input': '{{sample.output_text}}', 'reference': 'z', 'operation': 'eq'}, 'z', {'reference': 'z'})",
    )
    assert rows == [(1.0, 0.25, 1.0)]
    assert {body["grader"].get("evaluation_metric") for body in asked} == {"fuzzy_match", "rouge_l", None}
    assert asked[-1]["grader"]["input"] == "{{sample.output_text}}"


async def test_nothing_is_sent_beyond_the_budget(fake, asked):
    async with Session({"openai": fake.provider()}, budget=5) as session:
        rows = await session.execute("SELECT chat('m', 'q' || n) FROM range(6) t(n)")
        with pytest.raises(Exhausted, match="ask a model 6 times; its budget is 5"):
            await rows.fetchall()
        assert asked == []
        rows = await session.execute("SELECT count(chat('m', 'q' || n)) FROM range(5) t(n)")
        assert await rows.fetchall() == [(5,)]


async def test_an_error_of_the_model_is_the_statements(session, asked):
    rows = await session.execute("SELECT chat('m', 'fail')")
    with pytest.raises(Remote, match="I will not"):
        await rows.fetchall()
    rows = await session.execute("SELECT x, chat('m', x) FROM (VALUES ('fail'), ('a')) t(x) ON ERROR CONTINUE")
    assert await rows.fetchall() == [("fail", None), ("a", "A")]
    assert [error.code for error in rows.errors] == ["no"]


async def test_whose_model_is_asked(fake, asked):
    async with Session({"openai": fake.provider(), "local": fake.provider("local")}) as session:
        rows = await session.execute("SELECT count(chat('m', j.id)) FROM local.fine_tuning.jobs j")
        assert await rows.fetchall() == [(3,)]
        with pytest.raises(Invalid, match="`local` or `openai`, cannot be told"):
            await session.execute("SELECT chat('m', j.id) FROM local.fine_tuning.jobs j, openai.files.files f")
        rows = await session.execute("SELECT chat('m', 'a', {'provider': 'local'})")
        assert await rows.fetchall() == [("A",)]
    assert all("provider" not in body for body in asked)


async def test_a_caller_that_gives_up_ends_the_calls(fake):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(request: httpx2.Request) -> httpx2.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    fake.answer = hang
    async with Session({"openai": fake.provider()}) as session:
        rows = await session.execute("SELECT chat('m', 'x')")
        reading = asyncio.create_task(rows.fetchall())
        await begun.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert ended.is_set()


@pytest.mark.parametrize(
    "sql", ["SELECT chat('m')", "SELECT string_check('a', 'b', 'c', 'd')", "SELECT string_check('a', 'b', 'eqq')"]
)
async def test_a_bad_call_is_refused(ask, asked, sql):
    with pytest.raises(Invalid, match=r"takes 2 or 3|is one of"):
        await ask(sql)
