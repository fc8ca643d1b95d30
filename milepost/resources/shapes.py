"""The faults of a line, by the shape it has: every one of them, errors and warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from milepost.resources.faults import Fault, Faults, extra, names, wrong
from milepost.resources.messages import (
    check_answers,
    check_end,
    check_messages,
    check_prompt_end,
    check_text,
    check_turns,
)
from milepost.resources.methods import CHAT_KEYS, LineShape
from milepost.resources.tools import check_calls, check_tools


def line_faults(line: Mapping[str, Any], shape: LineShape) -> Faults:
    """Everything that is wrong with a line of this shape."""
    yield from CHECKS[shape](line)


def _check_chat(line: Mapping[str, Any]) -> Faults:
    declared = yield from check_tools(line)
    messages = yield from check_messages(line["messages"])
    if messages:
        yield from check_answers(messages)
        yield from check_calls(messages, declared)
        yield from check_turns(messages)
        yield from check_end(messages)


def _check_completion(line: Mapping[str, Any]) -> Faults:
    yield from extra(line, frozenset({"prompt", "completion"}), "")
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        bad = list(wrong(line[key], str, f'"{key}"', f'Write "{key}": "…"'))
        yield from bad
        if not bad:
            for fault in check_text(line[key], f'"{key}"', role):
                if fault.kind != "blank_edges":  # a completion may well begin with one
                    yield fault


def _check_preference(line: Mapping[str, Any]) -> Faults:
    yield from extra(line, frozenset({"input", "preferred_output", "non_preferred_output"}), "")
    question = line.get("input")
    bad = list(wrong(question, dict, '"input"', 'Write "input": {"messages": [{"role": "user", "content": "…"}]}'))
    yield from bad
    if not bad:
        assert isinstance(question, dict)
        yield from extra(question, CHAT_KEYS - {"functions"}, '"input" ')
        declared = yield from check_tools(question)
        messages = yield from check_messages(question.get("messages"))
        if messages:
            yield from check_calls(messages, declared)
            yield from check_turns(messages)
            yield from check_prompt_end(messages, '"input"')
    for key in ("preferred_output", "non_preferred_output"):
        value = line.get(key)
        answers = yield from check_messages(value, name=key)
        if isinstance(value, list) and value and (len(value) > 1 or (answers and answers[0]["role"] != "assistant")):
            reason = f'"{key}" must hold exactly one message, with role "assistant"'
            yield Fault("not_one_answer", reason, f'Write "{key}": [{{"role": "assistant", "content": "…"}}]')
    if line.get("preferred_output") is not None and line.get("preferred_output") == line.get("non_preferred_output"):
        reason = "prefers an answer to itself: both outputs are the same"
        yield Fault("same_outputs", reason, "Remove the line, or write two different answers", True)


def _check_reinforcement(line: Mapping[str, Any]) -> Faults:
    declared = yield from check_tools(line)
    messages = yield from check_messages(line["messages"])
    if messages:
        yield from check_calls(messages, declared)
        yield from check_turns(messages)
        if messages[-1]["role"] == "assistant":
            keys = names(key for key in line if key not in CHAT_KEYS)
            reason = f"ends with an answer, and has {keys} beside its messages"
            fix = f"For supervised training remove {keys}; for reinforcement remove the answer"
            yield Fault("prompt_ends_with_answer", reason, fix, True)


CHECKS: dict[LineShape, Callable[[Mapping[str, Any]], Faults]] = {
    LineShape.CHAT: _check_chat,
    LineShape.COMPLETION: _check_completion,
    LineShape.PREFERENCE: _check_preference,
    LineShape.REINFORCEMENT: _check_reinforcement,
}
