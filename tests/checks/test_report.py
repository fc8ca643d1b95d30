"""The report of a file: what it counts, what it samples, and that nothing makes it fall over."""

import io
import json
import random
import tracemalloc
from dataclasses import replace

import pytest

from milepost.checks.report import AT_LEISURE, AT_UPLOAD, Limits, Question, examine
from milepost.resources.methods import MethodType
from milepost.resources.reports import Spread

USER = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Me."}


def chat(*messages, **keys) -> dict:
    return {"messages": list(messages), **keys}


def jsonl(*lines) -> io.BytesIO:
    return io.BytesIO(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))


def different(count: int, letters: int = 40, seed: int = 0) -> list[dict]:
    """Chats that have nothing in common, each of so many letters a message."""
    drawn = random.Random(seed)

    def text() -> str:
        return "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=letters))

    return [chat({"role": "user", "content": text()}, {"role": "assistant", "content": text()}) for _ in range(count)]


@pytest.fixture
def question(tokenizer) -> Question:
    return Question(AT_LEISURE, tokenizer=tokenizer)


def test_tokens_are_those_of_the_bases_own_tokenizer(question):
    report = examine(jsonl(*different(12)), question)
    # <|im_start|>user⏎ 40 letters <|im_end|>⏎, the same for the assistant; a byte is a token
    each = (1 + 5 + 40 + 1 + 1) + (1 + 10 + 40 + 1 + 1)
    assert report.tokens.total == 12 * each
    assert report.tokens.learnt == 12 * (40 + 1)
    assert report.tokens.learnt_share == round(41 / each, 4)
    assert report.tokens.per_example == Spread(min=each, median=each, p95=each, max=each)
    assert (report.tokens.counted, report.tokens.is_estimate, report.tokens_note) == (12, False, None)
    assert report.is_trainable


@pytest.fixture
def mute(tokenizer) -> Question:
    """Of a base without chat template."""
    return Question(AT_LEISURE, tokenizer=replace(tokenizer, chat=replace(tokenizer.chat, template=None)))


def test_chats_for_a_base_without_template_are_one_error_not_one_a_line(mute):
    report = examine(jsonl(*different(12)), mute)
    assert (report.is_trainable, report.bad_lines, report.tokens) == (False, 0, None)
    assert report.error.startswith("This base model has no chat template, so it does not take messages.")
    assert report.tokens_note == "Tokens were not counted: the base has no chat template"


def test_a_base_without_template_counts_pairs_of_texts(mute):
    report = examine(
        jsonl(
            *({"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(2, 9)),
            *[{"prompt": "a", "completion": str(n)} for n in range(3)],
        ),
        mute,
    )
    assert (report.is_trainable, report.error) == (True, None)
    assert report.tokens.total == 7 * (4 + 1 + 1) + 3 * (1 + 1 + 1)


def test_what_the_limit_cuts_is_told_with_the_lines_that_have_nothing_left_to_learn(question, tokenizer):
    late = chat({"role": "user", "content": "q" * 3000}, ANSWER)
    long = chat(USER, {"role": "assistant", "content": "a" * 3000})
    report = examine(jsonl(*different(10), late, long), question)
    lengths = [(1 + 5 + 3000 + 2) + (1 + 10 + 3 + 2), (1 + 5 + 4 + 2) + (1 + 10 + 3000 + 2)]
    assert (report.tokens.limit, report.tokens.cut_examples, report.tokens.cut_lines) == (2048, 2, (11, 12))
    assert report.tokens.cut_tokens == sum(lengths) - 2 * 2048
    assert report.tokens.unlearnt_lines == (11,)


def test_preferences_count_both_answers_and_learn_only_them(question):
    line = {
        "input": {"messages": [USER]},
        "preferred_output": [ANSWER],
        "non_preferred_output": [ANSWER | {"content": "No"}],
    }
    report = examine(jsonl(*[line] * 10), question)
    asked = 1 + 5 + 4 + 2
    assert report.tokens.total == 10 * ((asked + 11 + 3 + 2) + (asked + 11 + 2 + 2))
    assert report.tokens.learnt == 10 * ((3 + 1) + (2 + 1))
    assert report.methods == ("dpo",)


def test_reinforcement_learns_from_answers_that_are_not_there_yet(question):
    report = examine(jsonl(*[chat(USER, answer=str(n)) for n in range(10)]), question)
    assert (report.tokens.total, report.tokens.learnt, report.tokens.learnt_share) == (
        10 * (1 + 5 + 4 + 2 + 11),
        None,
        None,
    )
    assert report.methods == ("reinforcement",)


def test_a_large_file_is_sampled_with_a_seed_and_says_so(tokenizer):
    limits = Limits(counted_bytes=2_000, counted=10, compared=50, told=10)
    question = Question(limits, tokenizer=tokenizer)
    lines = different(200)
    report = examine(jsonl(*lines), question)
    assert report == examine(jsonl(*lines), question)
    assert report.tokens.counted == 10
    assert report.tokens.is_estimate
    assert report.tokens_note.startswith("Counted 10 of 200 examples, drawn at random with a fixed seed")
    assert report.tokens.total == 200 * 101
    assert report.duplicates.compared == 50


def test_without_a_tokenizer_tokens_are_null_and_the_note_says_why():
    report = examine(jsonl(*different(10)), Question(AT_UPLOAD, note="Tokens were not counted: no base"))
    assert (report.tokens, report.tokens_note, report.forecast) == (None, "Tokens were not counted: no base", None)
    assert report.is_trainable


def test_exact_duplicates_are_found_whatever_their_blanks_and_order_of_keys(question):
    line = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}'
    other = b'{ "messages": [{"content": "Who?", "role": "user"}, {"role": "assistant", "content": "M\\u0065."}] }'
    report = examine(jsonl(line, *different(10), other, line), question)
    assert report.duplicates.exact == 2
    assert [group.lines for group in report.duplicates.exact_groups] == [(1, 12, 13)]
    assert report.duplicates.near == 0


def test_near_duplicates_are_grouped(question):
    lines = different(30, letters=200)
    twin = json.loads(json.dumps(lines[4]))
    twin["messages"][1]["content"] = twin["messages"][1]["content"][:-10] + " and more."
    report = examine(jsonl(*lines, twin), question)
    assert report.duplicates.exact == 0
    assert [group.lines for group in report.duplicates.near_groups] == [(5, 31)]
    assert 0.85 <= report.duplicates.near_groups[0].similarity < 1


def test_a_system_message_that_all_share_makes_nothing_alike(question):
    system = {"role": "system", "content": "You are a helpful and very careful assistant. " * 40}
    lines = [chat(system, *line["messages"]) for line in different(50)]
    assert examine(jsonl(*lines), question).duplicates.near == 0


def test_validation_examples_that_are_trained_on_are_told(question):
    training, others = different(40, letters=200), different(5, letters=200, seed=1)
    nearly = chat(
        {"role": "user", "content": training[7]["messages"][0]["content"].upper()}, training[7]["messages"][1]
    )
    report = examine(jsonl(*training), question, jsonl(others[0], training[3], others[1], nearly))
    assert (report.validation.exact, report.validation.near, report.validation.examples) == (1, 1, 4)
    assert [(pair.validation_line, pair.training_line) for pair in report.validation.pairs] == [(2, 4), (4, 8)]


def test_every_fault_of_a_line_is_told_with_what_mends_it(question):
    spoilt = chat({"role": "human", "content": "Who?"}, {"role": "assistant", "contents": "Me.", "weight": 2})
    report = examine(jsonl(*different(10), spoilt), question)
    [bad] = report.bad
    assert bad.line == 11
    assert bad.kinds == ("unknown_role", "extra_key", "bad_weight", "missing_content")
    assert 'Write "role": "user"' in bad.fix
    assert 'Rename "contents" to "content"' in bad.fix
    assert not report.is_trainable


def test_a_misspelt_key_of_the_first_line_does_not_decide_for_all(question):
    report = examine(jsonl(chat(USER, ANSWER, sorce="x"), *different(20)), question)
    assert report.format == "fine-tune-chat"
    assert [(bad.line, bad.reason) for bad in report.bad] == [(1, 'contains an extra "sorce"')]


def test_a_file_of_another_method_is_an_error_of_the_file(question):
    line = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}
    asked = Question(AT_LEISURE, method=MethodType.SUPERVISED)
    report = examine(jsonl(*[line] * 10), asked)
    assert report.error == "The file is in the fine-tune-preference format, which is not that of the method supervised"
    assert not report.is_trainable


def test_fewer_than_ten_examples_are_an_error_of_the_file(question):
    report = examine(jsonl(*different(3)), question)
    assert report.error == "Training file has 3 example(s), but must have at least 10 examples"


def test_of_very_many_bad_lines_some_are_told_and_all_are_counted(tokenizer):
    question = Question(Limits(counted_bytes=10**6, counted=10, compared=10, told=7), tokenizer=tokenizer)
    report = examine(jsonl(*[b"oops"] * 500), question)
    assert (report.bad_lines, len(report.bad)) == (500, 7)


def test_a_base_whose_template_knows_no_tools_is_told_of(question):
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "look"}}]
    line = chat(
        USER,
        {"role": "assistant", "content": "Wait.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "x"},
        ANSWER,
        tools=tools,
    )
    report = examine(jsonl(*different(10), line), question)
    assert [(each.kind, each.examples) for each in report.warnings if each.kind != "missing_system"] == [
        ("template_ignores_tools", (11,))
    ]


#: Lines that have brought parsers down.
HOSTILE = [
    b'{"messages": NaN}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": "\xff\xfe"}',
    b"\x00\x01\x02",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"messages": [], "answer": ' + b"9" * 5_000 + b"}",
    b'{"messages": [{"role": "user", "content": "x"}], "n": 1e999}',
    b'{"messages": [{"role": "user", "content": "x"}], "n": 123456789012345678901234567890}',
    b'{"messages": [{"role": "user", "content": "a\\u0000b"}, {"role": "assistant", "content": "\\u202e\\ufeff"}]}',
    b'"' * 60_000,
    b'{"' + b'\\"' * 30_000,
    b"/*" * 30_000,
    b"{" + b",".join(b'"k%d": 1' % n for n in range(5_000)) + b"}",
    b'{"messages": [' + b",".join([b'{"role": "bot"}'] * 5_000) + b"]}",
    b'{"prompt": "' + "é".encode() * 300_000 + b'", "completion": "x"}',
    b'{"messages": [{"role": {"a": [1]}, "content": {"b": {}}}], "tools": [[[]], null, 1, {"function": []}]}',
    b"-" * 50_000 + b"1",
    b"\xef\xbb\xbf" * 100,
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("method", [None, *MethodType])
def test_hostile_lines_are_told_of_and_bring_nothing_down(tokenizer, line, method):
    report = examine(jsonl(*different(10), line), Question(AT_UPLOAD, method=method, tokenizer=tokenizer))
    assert report.examples == 11
    assert len(report.model_dump_json()) < 100_000
    told = {bad.line for bad in report.bad} | {line for warning in report.warnings for line in warning.examples}
    assert 11 in told or report.error


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_survived(tokenizer, seed):
    """Bytes changed at random in good lines, and lines of JSON's own letters."""
    drawn = random.Random(seed)
    good = json.dumps(different(1, seed=seed)[0]).encode()
    lines = []
    for _ in range(200):
        spoilt = bytearray(good)
        for _ in range(drawn.randint(1, 8)):
            spoilt[drawn.randrange(len(spoilt))] = drawn.choice(b'{}[]",:\\x0 \xff\n\r\t')
        lines.append(bytes(spoilt))
        lines.append(bytes(drawn.choices(b'{}[]",:\\tfn019.e-+ ', k=drawn.randint(1, 60))))
    report = examine(jsonl(*lines), Question(AT_LEISURE, tokenizer=tokenizer))
    assert report.examples > 0


def test_memory_stays_bounded():
    """Of a long line the first 32 MiB are looked at; of each line of many, 12 bytes are kept."""
    limits = Limits(counted_bytes=10**5, counted=50, compared=100, told=10)
    line = json.dumps(different(1)[0]).encode() + b"\n"
    whole, many = io.BytesIO(b"x" * (64 * 2**20)), io.BytesIO(line * 15_000)
    tracemalloc.start()
    try:
        assert examine(whole, Question(limits)).bad[0].kinds == ("too_long_line",)
        one_line = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert examine(many, Question(limits)).duplicates.exact == 14_999
        lines = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one_line < 100 * 2**20
    assert lines < 4 * 2**20
