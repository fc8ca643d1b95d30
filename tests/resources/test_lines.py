"""Each defect of a line, told by number and reason; each of the four shapes, accepted."""

from io import BytesIO

import orjson
import pytest

from milepost.resources.lines import MAX_LINE_BYTES, MAX_VALUES, check_line, check_lines, read_lines, refusal
from milepost.resources.methods import LineShape

USER = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Me."}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}

GOOD = {
    LineShape.CHAT: {
        "messages": [USER, ANSWER],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "parallel_tool_calls": True,
    },
    LineShape.COMPLETION: {"prompt": "Who?", "completion": "Me."},
    LineShape.PREFERENCE: {
        "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [ANSWER],
        "non_preferred_output": [{"role": "assistant", "content": "You."}],
    },
    LineShape.REINFORCEMENT: {"messages": [USER], "answer": "42", "anything": {"nested": 1}},
}


def chat(*messages, **keys) -> bytes:
    return orjson.dumps({"messages": list(messages), **keys})


@pytest.mark.parametrize("shape", list(LineShape))
def test_each_of_the_four_shapes_is_recognised(shape):
    report = check_lines([orjson.dumps(GOOD[shape])])
    assert (report.lines, report.shape, report.total_problems) == (1, shape, 0)


@pytest.mark.parametrize(
    "line",
    [
        chat({"role": "developer", "content": "Be short."}, USER, ANSWER | {"weight": 0}, USER, ANSWER | {"weight": 1}),
        chat(
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "x"},
        ),
        chat(USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}),
        chat({"role": "user", "content": [{"type": "text", "text": "Who?"}]}, ANSWER | {"refusal": None}),
        chat(USER | {"name": "anna"}, ANSWER, functions=[{"name": "f"}]),
    ],
)
def test_what_the_contract_allows_is_accepted(line):
    assert check_line(1, line) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (chat(), '"messages" is empty'),
        (b'{"messages": "hello"}', '"messages" is not a list'),
        (b'{"messages": ["hello"]}', "message 1 is not a dictionary"),
        (chat({"content": "hello"}), "message 1 Discriminator 'role' is missing in value"),
        (chat(USER, {"role": "bot", "content": "x"}), "message 2 has role 'bot'; roles are system, developer"),
        (chat({"role": ["user"], "content": "x"}), "message 1 has role ['user']"),
        (chat(USER), "has no assistant message"),
        (chat(USER, ANSWER | {"weight": 0}), "has weight 0 on every assistant message"),
        (
            chat(USER | {"weight": 1}, ANSWER),
            'message 1 has "weight", which only an assistant message may have; its role is user',
        ),
        (chat(USER, ANSWER | {"weight": 0.5}), "message 2 has weight 0.5; it must be 0 or 1"),
        (chat(USER, ANSWER | {"weight": True}), "message 2 has weight True; it must be 0 or 1"),
        (chat(USER, ANSWER | {"mood": "good"}), 'message 2 contains an extra "mood"'),
        (chat(USER, {"role": "assistant"}), "message 2 has no content"),
        (chat({"role": "user", "content": None}, ANSWER), "message 1 has no content"),
        (chat({"role": "user", "content": 7}, ANSWER), "the content of message 1 is not a string"),
        (
            chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER),
            "message 1 has a content part of type 'image_url'; only text is trained",
        ),
        (
            chat({"role": "user", "content": [{"type": "text"}]}, ANSWER),
            "the text of a content part of message 1 is missing",
        ),
        (chat({"role": "tool", "content": "x"}, ANSWER), 'the "tool_call_id" of message 1 is missing'),
        (chat({"role": "function", "content": "x"}, ANSWER), 'the "name" of message 1 is missing'),
        (chat(USER, ANSWER | {"tool_calls": [{"id": "a"}]}), "the function of a tool call of message 2 is missing"),
        (chat(USER, ANSWER | {"tool_calls": "call"}), 'the "tool_calls" of message 2 is not a list'),
        (chat(USER | {"name": 3}, ANSWER), 'the "name" of message 1 is not a string'),
        (chat(USER, ANSWER, tools={}), 'the "tools" is not a list'),
        (chat(USER, ANSWER, tools="none"), 'the "tools" is not a list'),
        (chat(USER, ANSWER, parallel_tool_calls="yes"), 'the "parallel_tool_calls" is not true or false'),
        (b'{"prompt": "a", "completion": 3}', '"completion" is not a string'),
        (b'{"prompt": "a", "completion": "b", "c": 1}', 'contains an extra "c"'),
        (orjson.dumps(GOOD[LineShape.PREFERENCE] | {"preferred_output": []}), '"preferred_output" is empty'),
        (
            orjson.dumps(GOOD[LineShape.PREFERENCE] | {"preferred_output": [ANSWER, ANSWER]}),
            '"preferred_output" must hold exactly one message, with role "assistant"',
        ),
        (b'{"preferred_output": [], "non_preferred_output": []}', '"input" is missing'),
        (b'{"messages": [], "answer": 1}', '"messages" is empty'),
    ],
)
def test_a_defect_is_named(line, reason):
    problem = check_line(7, line)
    assert problem is not None
    assert problem.number == 7
    assert problem.reason.startswith(reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'messages': []}", "is not a dictionary (HINT: line starts with: \"{'messages': []}\"; not valid JSON"),
        (b"[1, 2]", 'is not a dictionary (HINT: line starts with: "[1, 2]")'),
        (b'"text"', 'is not a dictionary (HINT: line starts with: ""text"")'),
        (b'{"messages": NaN}', "is not a dictionary"),
        (b'{"messages": "\xff\xfe"}', "is not a dictionary"),
        (b'{"messages": "\\ud800"}', "is not a dictionary"),
        (b"[" * 100_000, "is not a dictionary"),
        (
            b"\x00\x01",
            'is not a dictionary (HINT: line starts with: "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"',
        ),
        (b'{"text": "hello"}', "has none of the shapes of training data"),
        (b"{}", "has none of the shapes of training data"),
    ],
)
def test_the_upload_refuses_what_is_no_line_of_training_data(line, reason):
    report = check_lines([line], content=False)
    assert report.total_problems == 1
    assert report.problems[0].reason.startswith(reason)


def test_the_upload_leaves_content_and_mixed_shapes_to_the_job():
    report = check_lines([chat(USER), b'{"prompt": 1, "completion": 2}'], content=False)
    assert (report.lines, report.shape, report.total_problems) == (2, LineShape.CHAT, 0)


def test_mixed_shapes_are_a_problem_of_the_job():
    report = check_lines([chat(USER, ANSWER), b'{"prompt": "a", "completion": "b"}', chat(USER, ANSWER)])
    assert [str(problem) for problem in report.problems] == [
        "Line 2: is in the prompt/completion format, but expected is the fine-tune-chat format"
    ]


def test_an_unknown_key_of_a_chat_line_is_an_extra_to_a_job_that_expects_chat():
    report = check_lines([chat(USER, ANSWER, weight=1)], expected=LineShape.CHAT)
    assert report.problems[0].reason == 'contains an extra "weight"'


def test_byte_order_mark_crlf_and_blank_lines_are_no_errors():
    line = chat(USER, ANSWER)
    report = check_lines([b"\xef\xbb\xbf" + line + b"\r\n", b"\r\n", line + b"\r\n", b"  \n", b"\n"])
    assert (report.lines, report.total_problems) == (2, 0)


def test_numbers_are_those_of_the_file():
    report = check_lines([chat(USER, ANSWER), b"\n", b"oops\n"])
    assert report.problems[0].number == 3


def test_fifty_problems_are_listed_and_all_are_counted():
    report = check_lines([b"oops\n"] * 70)
    assert (len(report.problems), report.total_problems, report.lines) == (50, 70, 70)
    assert "70 bad lines in all (the first 50 are listed)" in refusal(report)


def test_the_refusal_begins_with_openais_sentence_and_lists_every_bad_line():
    report = check_lines([b"oops\n", chat(USER, ANSWER), b"[]"], content=False)
    assert refusal(report).startswith(
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        'Line 1 is not a dictionary (HINT: line starts with: "oops"'
    )
    assert 'Line 3: is not a dictionary (HINT: line starts with: "[]")' in refusal(report)


def test_a_file_without_line_breaks_is_one_bad_line_and_is_not_read_whole():
    file = BytesIO(b"x" * 3 * MAX_LINE_BYTES + b"\n" + chat(USER, ANSWER) + b"\n")
    read = list(read_lines(file))
    assert [len(line) for line in read] == [MAX_LINE_BYTES + 1, len(chat(USER, ANSWER)) + 1]
    assert check_lines(read, content=False).problems[0].reason.startswith("is longer than")


def test_values_are_counted_outside_strings_and_before_the_line_is_parsed():
    text = b'{"prompt": "' + b"a, [b], {c} " * MAX_VALUES + b'", "completion": "b"}'
    assert check_line(1, text) is None
    numbers = b'{"prompt": "a", "completion": [' + b"1," * MAX_VALUES + b"1]}"
    assert str(check_line(3, numbers)) == "Line 3: holds more than 500,000 values: are several examples on one line?"


def test_of_a_line_with_thousands_of_faults_some_are_told_and_not_all_are_looked_for():
    text = b'{"messages": [' + b"{}," * 5000 + b"{}]}"
    assert check_line(1, text).reason.endswith("; at least 990 more")
