"""The demo's data is deterministic, well formed, and its test questions share nothing with training."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

import orjson
import pytest

from milepost.cli.demo import questions

#: What the SQL of the test questions asks for: ids, names and numbers in quotes, after LIMIT or after >.
VALUES = re.compile(r"'%?:?([^'%:]+):?%?'|LIMIT (\d+)|> (\d+)")
#: Values that belong to the kind of question, not to the question; LIMIT 1 is "the best".
FIXED = {"failed", "1"}


def values(pairs: tuple[questions.Pair, ...]) -> set[str]:
    return {next(filter(None, found)) for pair in pairs for found in VALUES.findall(pair.sql)} - FIXED


def wording(pair: questions.Pair) -> str:
    """The question without its values, capitals and marks."""
    text = pair.question.lower()
    for value in sorted(values((pair,)), key=len, reverse=True):
        text = text.replace(value.lower(), "…")
    return " ".join(re.findall(r"[a-z…'_-]+", text))


def test_there_are_400_training_60_validation_and_40_test_pairs():
    counts = (len(questions.training()), len(questions.validation()), len(questions.held_out()))
    assert counts == (400, 60, 40)


def test_no_test_wording_occurs_in_training_or_validation():
    seen = {wording(pair) for pair in (*questions.training(), *questions.validation())}
    assert [pair.question for pair in questions.held_out() if wording(pair) in seen] == []


def test_no_validation_wording_occurs_in_training():
    seen = {wording(pair) for pair in questions.training()}
    assert [pair.question for pair in questions.validation() if wording(pair) in seen] == []


def test_no_test_value_occurs_in_training_or_validation():
    seen = values(questions.training()) | values(questions.validation())
    assert values(questions.held_out()) & seen == set()


def test_every_test_value_stands_in_its_question():
    strangers = [
        (pair.question, value)
        for pair in questions.held_out()
        for value in values((pair,))
        if value not in pair.question
    ]
    assert strangers == []


def test_no_question_is_asked_twice():
    asked = Counter(
        pair.question.lower() for pair in (*questions.training(), *questions.validation(), *questions.held_out())
    )
    assert [question for question, times in asked.items() if times > 1] == []


def test_each_kind_is_trained_alike():
    kinds = Counter(pair.kind for pair in questions.training())
    assert len(kinds) == 10
    assert set(kinds.values()) == {40}


def test_a_line_is_a_chat_whose_answer_is_the_sql():
    first = orjson.loads(questions.jsonl(questions.held_out()).splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert first["messages"][1:] == [
        {
            "role": "user",
            "content": "Looking at validation loss over the whole file, which checkpoint wins for ftjob-m7t2?",
        },
        {
            "role": "assistant",
            "content": "SELECT step_number, fine_tuned_model_checkpoint FROM openai.fine_tuning.job_checkpoints "
            "WHERE fine_tuning_job_id = 'ftjob-m7t2' ORDER BY metrics.full_valid_loss LIMIT 1",
        },
    ]


def test_the_data_is_the_same_in_every_process(tmp_path):
    """Python hashes strings with another seed in each process: an order taken from a set would show here."""
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "milepost.cli.demo.questions", str(tmp_path / seed)]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    first, second = (
        [(tmp_path / seed / f"{name}.jsonl").read_bytes() for name in ("training", "validation", "test")]
        for seed in ("1", "2")
    )
    assert first == second


def test_too_few_patterns_are_an_error_and_no_endless_search():
    with pytest.raises(ValueError, match="write more of them"):
        questions._drawn("validation", 5000)
