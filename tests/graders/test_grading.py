"""Graders as training will call them: pure, with a judge and a Python runner that the caller gives."""

import time
from contextlib import suppress
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from milepost.errors import Unavailable
from milepost.graders.grading import GRADERS, Means, grade
from milepost.graders.sandbox import Ran
from milepost.graders.score_model import Judged
from milepost.graders.scores import Score
from milepost.resources.graders import AnyGrader, Grader, GraderErrors, SamplingParams, TokenUsage

USAGE = TokenUsage(prompt_tokens=5, completion_tokens=2, total_tokens=7)
ITEM = {"answer": "42", "n": 7, "deep": {"list": [{"x": "é"}, None, True], "odd key": 1}, "none": None}


def read(grader: dict) -> AnyGrader:
    return TypeAdapter(Grader).validate_python({"name": "g", **grader})


def judge_saying(text: str, asked: list | None = None):
    def judge(model, messages, sampling):
        if asked is not None:
            asked.append((model, messages, sampling))
        return Judged(text, f"{model}-resolved", USAGE)

    return judge


def no_judge(model, messages, sampling):
    raise Unavailable("The engine is down. Try again")


def run(grader: dict, sample: str = "42", item: dict = ITEM, *, judge=no_judge, run_python=None) -> Score:
    return grade(read(grader), sample, item, Means(judge=judge, run_python=run_python))


def check(operation, text, reference) -> dict:
    return {"type": "string_check", "operation": operation, "input": text, "reference": reference}


@pytest.mark.parametrize(
    ("operation", "text", "reference", "reward"),
    [
        ("eq", "a", "a", 1), ("eq", "a", "A", 0), ("eq", "", "", 1), ("eq", "a ", "a", 0), ("eq", "é", "e\u0301", 0),
        ("ne", "a", "A", 1), ("ne", "a", "a", 0),
        ("like", "the cat", "cat", 1), ("like", "the cat", "Cat", 0), ("like", "cat", "the cat", 0), ("like", "a", "", 1), ("like", "a%b", "a_b", 0),
        ("ilike", "The CAT", "cat", 1), ("ilike", "STRASSE", "straße", 1), ("ilike", "dog", "cat", 0),
    ],
)  # fmt: skip
def test_texts_are_compared(operation, text, reference, reward):
    assert run(check(operation, text, reference)) == Score(float(reward))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ sample.output_text }}", "42"),
        ("{{sample.output_text}}", "42"),
        ("{{\n item.answer\t}}", "42"),
        ("<{{ item.answer }}|{{ item.n }}>", "<42|7>"),
        ("{{ item.deep.list[0].x }}", "é"),
        ("{{ item.deep.list[0] }}", '{"x":"é"}'),
        ("{{ item.deep['odd key'] }}{{ item['deep'][\"odd key\"] }}", "11"),
        ("{{ item.deep.list[2] }}", "true"),
        ("{{ item.none }}", "null"),
        ("{{ sample.choices[0].message.content }}", "42"),
        ("{{ sample.output_json }}", "42"),
        ("{{ sample.output_tools }}", "[]"),
        (
            "{{ item.deep.list }}{{ item }}",
            '[{"x":"é"},null,true]{"answer":"42","n":7,"deep":{"list":[{"x":"é"},null,true],"odd key":1},"none":null}',
        ),
        ("no template { } } {", "no template { } } {"),
    ],
)
def test_templates_are_filled(template, text):
    assert run(check("eq", template, text)).reward == 1.0


def test_what_is_filled_in_is_not_a_template_itself():
    assert run(check("eq", "{{ sample.output_text }}", "x"), "{{ item.answer }}").reward == 0.0
    assert run(check("like", "{{ sample.output_text }}", "item"), "{{ item.answer }}").reward == 1.0


@pytest.mark.parametrize(
    ("template", "details"),
    [
        ("{{ item.nothing }}", "`{{ item.nothing }}` cannot be filled in: there is no `nothing`; there is `answer`, `n`, `deep`, `none`"),
        ("{{ item.deep.list[3] }}", "`{{ item.deep.list[3] }}` cannot be filled in: there is no [3]: the list has 3 elements"),
        ("{{ item.answer.length }}", "`{{ item.answer.length }}` cannot be filled in: `length` is asked of something that has no parts"),
        ("{{ item.deep.list.x }}", "`{{ item.deep.list.x }}` cannot be filled in: `x` is asked of something that has no parts"),
        ("{{ sample.text }}", "`{{ sample.text }}` cannot be filled in: there is no `text`; there is `output_text`, `output_json`, `output_tools`, `choices`, `output_audio`"),
    ],
)  # fmt: skip
def test_an_unknown_variable_is_no_reward_and_said(template, details):
    assert run(check("ne", template, "x")) == Score(0.0, GraderErrors(invalid_variable_error=True, details=details))


def test_an_answer_that_is_no_json_has_no_output_json():
    score = run(check("eq", "{{ sample.output_json.x }}", "1"), '{"x": 1')
    assert (score.errors.invalid_variable_error, score.errors.sample_parse_error) == (True, True)
    assert run(check("eq", "{{ sample.output_json.x }}", "1"), '{"x": 1}').reward == 1.0


@pytest.mark.parametrize("grader", [check("eq", "{{ item.long }}" * 9, ""), check("eq", "", "{{ item }}" * 1_000_000)])
def test_templates_that_become_too_long_are_not_filled(grader):
    score = run(grader, item={"long": "x" * 1_000_000})
    assert (score.reward, score.errors.other_error) == (0.0, True)
    assert score.errors.details == (
        "Filled in, the templates are longer than 8000000 characters. Name a part of the item"
    )


def test_an_item_that_is_nested_too_deep_is_told():
    deep = []
    for _ in range(500):
        deep = [deep]
    assert run(check("eq", "{{ item.x }}", ""), item={"x": deep}).errors.details == (
        "`{{ item.x }}` cannot be filled in: it is nested too deep"
    )


@pytest.mark.parametrize(
    "template", ["{{" * 2_000_000, "{{ item.x " * 500_000, "}}" * 2_000_000, "{{ item" + ".x" * 1_000_000 + " }}"]
)
def test_a_template_is_read_in_time_that_grows_with_its_length(template):
    began = time.process_time()
    with suppress(ValidationError):
        read(check("eq", template, ""))
    assert time.process_time() - began < 3


JUDGE = {
    "type": "score_model",
    "model": "judge",
    "input": [
        {"role": "developer", "content": "Be strict."},
        {
            "role": "user",
            "type": "message",
            "content": [{"type": "input_text", "text": "Is {{ sample.output_text }}"}, " right?"],
        },
        {"role": "assistant", "content": {"type": "output_text", "text": "Hm."}},
    ],
}


def test_the_judge_is_asked_what_the_grader_says():
    asked = []
    sampling = {"temperature": 0, "top_p": None, "seed": 5, "max_completions_tokens": 9, "reasoning_effort": "low"}
    run(JUDGE | {"sampling_params": sampling, "range": [1, 5]}, judge=judge_saying("3", asked))
    [(model, messages, params)] = asked
    assert (model, params) == ("judge", SamplingParams(**sampling))
    assert messages == [
        {
            "role": "developer",
            "content": "Be strict.\n\nGrade as the conversation asks you to. Answer with one JSON object and nothing else: "
            '{"steps": [{"description": "...", "conclusion": "..."}], "result": NUMBER}, where NUMBER is the score, from 1 to 5.',
        },
        {"role": "user", "content": "Is 42 right?"},
        {"role": "assistant", "content": "Hm."},
    ]


def test_without_a_system_message_the_judge_is_given_one():
    asked = []
    run(JUDGE | {"input": [{"role": "user", "content": "Good?"}]}, judge=judge_saying("1", asked))
    assert [message["role"] for message in asked[0][1]] == ["system", "user"]


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ('{"steps": [], "result": 0.25}', 0.25),
        ('Sure:\n```json\n{"steps": [{"description": "a", "conclusion": "{b}"}], "result": 1}\n```', 1.0),
        ('{"note": {}} {"result": "0.5"}', 0.5),
        ("0.75", 0.75),
        (" 1\n", 1.0),
        ('{"result": 7}', 1.0),
        ("-3", 0.0),
    ],
)
def test_the_judges_number_is_the_reward_within_the_range(answer, reward):
    score = run(JUDGE, judge=judge_saying(answer))
    assert score == Score(reward, judges={"judge-resolved": USAGE})


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "good",
        '{"result": "high"}',
        '{"result": null}',
        '{"result": true}',
        '{"result": NaN}',
        '{"score": 1}',
        "{" * 5000,
        "inf",
    ],
)
def test_a_judge_without_a_number_gives_no_reward(answer):
    score = run(JUDGE | {"range": [2, 4]}, judge=judge_saying(answer))
    assert (score.reward, score.errors.model_grader_parse_error, score.judges) == (0.0, True, {"judge-resolved": USAGE})
    assert score.errors.details.startswith("The judge `judge-resolved` gave no number: ")


def test_a_judge_that_cannot_answer_is_the_servers_fault():
    score = run(JUDGE)
    assert (score.reward, score.errors.model_grader_server_error) == (0.0, True)
    assert score.errors.model_grader_server_error_details == "The engine is down. Try again"


PYTHON = {"type": "python", "source": "def grade(sample, item): ..."}


def test_a_python_grader_is_given_the_sample_and_the_item():
    given = []
    run(PYTHON, '{"x": 1}', run_python=lambda *arguments: given.append(arguments) or Ran(reward=0.5))
    [(source, sample, item)] = given
    assert (source, item) == (PYTHON["source"], ITEM)
    assert sample == {
        "output_text": '{"x": 1}',
        "output_json": {"x": 1},
        "output_tools": [],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": '{"x": 1}'}}],
        "output_audio": None,
    }


def test_how_a_python_grader_ended_is_told():
    ended = {
        "good": Ran(reward=0.5, output="hello\n"),
        "bad": Ran(error="Traceback:\nKeyError: 'x'\n"),
        "lost": Ran(fault="sandbox_start_failed"),
    }
    scores = {name: run(PYTHON, run_python=lambda *_, ran=ran: ran) for name, ran in ended.items()}
    assert scores["good"] == Score(0.5, output="hello\n")
    assert scores["bad"].errors == GraderErrors(
        python_grader_runtime_error=True,
        python_grader_runtime_error_details="Traceback:\nKeyError: 'x'",
        details="KeyError: 'x'",
    )
    assert scores["lost"].errors.python_grader_server_error_type == "sandbox_start_failed"
    assert scores["lost"].errors.python_grader_server_error


def named(**grader) -> dict:
    return {"name": "inner", **grader}


EXACT = named(**check("eq", "{{ sample.output_text }}", "{{ item.answer }}"))
BROKEN = named(**check("eq", "{{ item.nothing }}", "x"))


def multi(graders, formula: str) -> dict:
    return {"type": "multi", "graders": graders, "calculate_output": formula}


@pytest.mark.parametrize(
    ("graders", "formula"),
    [({"exact": EXACT}, "exact / 2"), ([EXACT], "inner / 2"), (EXACT, "inner / 2")],
)
def test_graders_are_variables_by_key_or_by_name(graders, formula):
    score = run(multi(graders, formula))
    assert (score.reward, list(score.sub_rewards.values())) == (0.5, [1.0])


def test_one_that_fails_counts_as_nothing_and_is_named():
    score = run(multi({"exact": EXACT, "type": BROKEN}, "exact + type"))
    assert (score.reward, score.sub_rewards) == (1.0, {"exact": 1.0, "type": 0.0})
    assert score.errors.invalid_variable_error
    assert score.errors.details.startswith("type: `{{ item.nothing }}` cannot be filled in")


def test_the_tokens_of_all_judges_are_added_up():
    two = multi({"a": named(**JUDGE), "b": named(**JUDGE), "c": named(**JUDGE | {"model": "other"})}, "a + b + c")
    score = run(two, judge=judge_saying("1"))
    assert score.reward == 3.0
    assert score.judges == {
        "judge-resolved": TokenUsage(prompt_tokens=10, completion_tokens=4, total_tokens=14),
        "other-resolved": USAGE,
    }


@pytest.mark.parametrize("formula", ["exact +", "exact / 0", "inexact"])
def test_a_formula_that_fails_is_no_reward_and_said(formula):
    score = run(multi({"exact": EXACT}, formula))
    assert (score.reward, score.errors.formula_parse_error) == (0.0, True)
    assert score.errors.details


def test_every_type_is_graded():
    assert set(GRADERS) == set(get_args(AnyGrader))
