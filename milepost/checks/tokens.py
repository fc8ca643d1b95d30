"""Tokens of examples, as a base's own tokenizer and chat template give them. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milepost.errors import Invalid
from milepost.resources.faults import Fault
from milepost.resources.messages import text_of
from milepost.resources.methods import LineShape
from milepost.resources.reports import Spread

if TYPE_CHECKING:
    from milepost.modeling.template import Chat  # tokenizers: what checks lines alone needs none


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How a base reads text, and after how many tokens an example is cut."""

    model: str
    chat: Chat
    limit: int


@dataclass(frozen=True, slots=True)
class Counted:
    """An example's sequences: of one chat or pair there is one, of a preference there are two.

    `lengths` are those before the limit, `rows` and `learnt` what is left after it.
    """

    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    learnt: tuple[int, ...]


def load_tokenizer(folder: Path, model: str, limit: int) -> Tokenizer:
    """Raises `Invalid` if the folder is no base with a tokenizer."""
    from milepost.modeling.template import load_chat

    missing = [
        name for name in ("tokenizer.json", "tokenizer_config.json", "config.json") if not (folder / name).exists()
    ]
    if missing:
        raise Invalid(f"The base model {model} has no {' and no '.join(missing)}", param="model")
    chat = load_chat(folder)
    return Tokenizer(model, chat, min(limit, chat.context_length))


def control_token_faults(messages: Sequence[Mapping[str, Any]], chat: Chat) -> Iterator[Fault]:
    """Text that the tokenizer would read as the template's own marks: a turn's end in the middle of a turn."""
    pattern = "|".join(map(re.escape, chat.control_tokens)) or "(?!)"
    for index, message in enumerate(messages, start=1):
        if found := re.search(pattern, text_of(message.get("content"))):
            reason = f"message {index} contains an invalid token: {found[0]}"
            yield Fault("control_token", reason, f"Remove {found[0]} from the text, or write it otherwise")


def shows_tools(chat: Chat) -> bool:
    """Whether the chat template writes calls of tools; of one that does not, the model learns empty answers."""
    call = {"id": "call_1", "type": "function", "function": {"name": _PROBE, "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": _PROBE, "parameters": {"type": "object", "properties": {}}}}
    asked: list[Mapping[str, Any]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    try:
        return (
            chat.render(asked, add_generation_prompt=False).count(_PROBE) > 0
            or chat.render(asked, add_generation_prompt=False, tools=[tool]).count(_PROBE) > 1
        )
    except Invalid:
        return False


_PROBE = "zq_probe"


def refuse_control_tokens(messages: Sequence[Mapping[str, Any]], chat: Chat) -> None:
    if fault := next(control_token_faults(messages, chat), None):
        raise Invalid(fault.reason)


def said_to(line: Mapping[str, Any], shape: LineShape) -> tuple[Sequence[Mapping[str, Any]], ...]:
    """The conversations of a line: a preference has two, a pair of texts none."""
    if shape is LineShape.PREFERENCE:
        asked = line["input"]["messages"]
        return [*asked, *line["preferred_output"]], [*asked, *line["non_preferred_output"]]
    return () if shape is LineShape.COMPLETION else (line["messages"],)


def count(line: Mapping[str, Any], shape: LineShape, tokenizer: Tokenizer) -> Counted:
    """Raises `Invalid` if the chat template will not have the messages."""
    chat = tokenizer.chat
    if shape is LineShape.REINFORCEMENT:
        tokens = chat.encode_text(chat.render(line["messages"], add_generation_prompt=True, tools=line.get("tools")))
        return _counted([(len(tokens), [])], tokenizer.limit)
    if shape is LineShape.COMPLETION:
        _, learnt = chat.pair(line["prompt"], line["completion"])
        return _counted([(len(learnt), learnt)], tokenizer.limit)
    tools = (line["input"] if shape is LineShape.PREFERENCE else line).get("tools")
    found = []
    for messages in said_to(line, shape):
        answers = messages if shape is LineShape.CHAT else _last_learnt(messages)
        _, learnt = chat.example(answers, tools)
        found.append((len(learnt), learnt))
    return _counted(found, tokenizer.limit)


def spread(lengths: Sequence[int]) -> Spread:
    """Of at least one length; the percentile is the nearest rank's."""
    ordered = sorted(lengths)
    rank = -(-95 * len(ordered) // 100) - 1
    return Spread(min=ordered[0], median=ordered[(len(ordered) - 1) // 2], p95=ordered[rank], max=ordered[-1])


def _last_learnt(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a preference only the output is learnt, not what the assistant said before."""
    return [{**message, "weight": 0} for message in messages[:-1]] + [dict(messages[-1])]


def _counted(sequences: Sequence[tuple[int, Sequence[bool]]], limit: int) -> Counted:
    """Nothing stands before the first token to predict it from: it is never learnt."""
    return Counted(
        lengths=tuple(length for length, _ in sequences),
        rows=tuple(min(length, limit) for length, _ in sequences),
        learnt=tuple(sum(learnt[1:limit]) for _, learnt in sequences),
    )
