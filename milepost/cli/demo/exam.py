"""The held-out questions, asked of a model; its SQL is run, and only exactly the expected rows count."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from milepost.cli.demo import tables
from milepost.cli.demo.questions import Pair, prompt
from milepost.errors import Error
from milepost.sql.session import Outcome, Session

if TYPE_CHECKING:
    from openai import AsyncOpenAI

#: Longer than any right answer; a model that has not learnt to stop goes on for ever.
MAX_TOKENS = 80
#: Questions in flight: what the engine shares one forward pass among.
AT_ONCE = 20
#: A query that takes longer is wrong: the tables have a few dozen rows.
PATIENCE_S = 5.0

Table = list[tuple[Any, ...]]


async def grade(client: AsyncOpenAI, model: str, pairs: Sequence[Pair]) -> int:
    """How many of the questions `model` answers with SQL that gives exactly the expected rows."""
    answers = await ask_all(client, model, [pair.question for pair in pairs])
    async with examiner() as session:
        return sum([await is_right(session, pair, answer) for pair, answer in zip(pairs, answers, strict=True)])


async def ask_all(client: AsyncOpenAI, model: str, questions: Sequence[str]) -> list[str]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(question: str) -> str:
        async with places:
            return await ask(client, model, question)

    return list(await asyncio.gather(*map(one, questions)))


async def ask(client: AsyncOpenAI, model: str, question: str) -> str:
    answer = await client.chat.completions.create(
        model=model, messages=prompt(question), max_tokens=MAX_TOKENS, temperature=0
    )
    return (answer.choices[0].message.content or "").strip()


def examiner() -> Session:
    """A session that sees the fixed tables and nothing else, neither files nor networks."""
    return Session({"openai": tables.provider()}, external_access=False, select_only=True)


async def is_right(session: Session, pair: Pair, answer: str) -> bool:
    """Whether `answer` gives the rows of the reference: in its order if that is ordered, else in any."""
    expected, got = await rows(session, pair.sql), await rows(session, answer)
    if got is None or expected is None:
        return False
    return got == expected if "ORDER BY" in pair.sql else Counter(map(repr, got)) == Counter(map(repr, expected))


async def rows(session: Session, sql: str) -> Table | None:
    """What a query gives; None for anything that is no query, or fails, or takes too long."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            result = await session.execute(sql)
            return None if isinstance(result, Outcome) else await result.fetchall()
    except (Error, TimeoutError):
        return None
