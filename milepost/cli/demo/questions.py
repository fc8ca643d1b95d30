"""The demo's data: questions about fine-tuning jobs in English, and the SQL that answers each.

wordings.toml says how each kind of question is asked. Nothing here is drawn from a clock or the system's randomness:
the same bytes come out on every machine. `python -m milepost.cli.demo.questions FOLDER` writes the three files.
"""

from __future__ import annotations

import random
import re
import string
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

TRAINING, VALIDATION = 400, 60
SEED = 20261122

#: Draws after which a kind is said to have no more questions; without a bound, too few patterns would hang.
ATTEMPTS = 10_000


@dataclass(frozen=True, slots=True)
class Pair:
    kind: str
    question: str
    sql: str


def training() -> tuple[Pair, ...]:
    return _drawn("train", TRAINING)


def validation() -> tuple[Pair, ...]:
    return _drawn("validation", VALIDATION)


def held_out() -> tuple[Pair, ...]:
    """The forty test questions: literal, and about the rows of `tables`."""
    return tuple(
        Pair(name, test["ask"], kind["sql"].format(**test))
        for name, kind in _wordings()["kind"].items()
        for test in kind["test"]
    )


def prompt(question: str) -> list[ChatCompletionMessageParam]:
    """The messages that ask for the SQL of `question`, the same in training and in use."""
    return [{"role": "system", "content": _wordings()["system"]}, {"role": "user", "content": question}]


def jsonl(pairs: Iterable[Pair]) -> bytes:
    """The pairs as a file for `purpose="fine-tune"`."""
    return b"".join(
        orjson.dumps({"messages": [*prompt(pair.question), {"role": "assistant", "content": pair.sql}]}) + b"\n"
        for pair in pairs
    )


@cache
def _wordings() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("wordings.toml").read_text(encoding="utf-8"))


def _drawn(split: str, count: int) -> tuple[Pair, ...]:
    """`count` pairs with no question twice, the kinds in turn, then shuffled."""
    rng = random.Random(f"{SEED} {split}")  # noqa: S311 (data that must be the same everywhere, not a secret)
    streams = [_stream(rng, name, split) for name in _wordings()["kind"]]
    pairs = [next(stream) for stream in islice(cycle(streams), count)]
    rng.shuffle(pairs)
    return tuple(pairs)


def _stream(rng: random.Random, name: str, split: str) -> Iterator[Pair]:
    """Pairs of one kind, its patterns in turn, each question once."""
    kind = _wordings()["kind"][name]
    seen = set()
    for pattern in islice(cycle(kind[split]), ATTEMPTS):
        slots = _slots(rng, kind["sql"])
        asked = _choose(rng, pattern)
        asked = _dressed(rng, asked) if split == "train" else asked
        question = _casual(rng, asked.format(**slots))
        if question.lower() not in seen:
            seen.add(question.lower())
            yield Pair(name, question, kind["sql"].format(**slots))
    raise ValueError(
        f"[kind.{name}] has no more than {len(seen)} questions in its {split} patterns: write more of them"
    )


def _slots(rng: random.Random, sql: str) -> dict[str, Any]:
    names = {field for _, field, _, _ in string.Formatter().parse(sql) if field}
    return {name: _job_id(rng) if name == "job" else rng.choice(_wordings()["values"][name]) for name in sorted(names)}


def _job_id(rng: random.Random) -> str:
    """Letter, digit, letter, digit: short enough to read aloud, and none that a test question asks about."""
    taken = {test.get("job") for kind in _wordings()["kind"].values() for test in kind["test"]}
    while True:
        mark = "".join(rng.choice(alphabet) for alphabet in (string.ascii_lowercase, string.digits) * 2)
        if f"ftjob-{mark}" not in taken:
            return f"ftjob-{mark}"


def _choose(rng: random.Random, pattern: str) -> str:
    return re.sub(r"\[([^\]]*)\]", lambda match: rng.choice(match[1].split("|")), pattern)


def _dressed(rng: random.Random, question: str) -> str:
    """One question in three with something around it that says nothing."""
    return rng.choice(_wordings()["frames"]).format(question) if rng.random() < 1 / 3 else question


def _casual(rng: random.Random, question: str) -> str:
    """One question in four as typed in a hurry: no capital at its start, no mark at its end."""
    return question if rng.random() < 3 / 4 else question[0].lower() + question[1:].rstrip("?")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in (("training", training()), ("validation", validation()), ("test", held_out())):
        (folder / f"{name}.jsonl").write_bytes(jsonl(pairs))
