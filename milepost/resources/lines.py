"""What can be said of a file of training data without a tokenizer.

The upload asks of each line only whether it is JSON, a dictionary, and one of the four shapes; a file that fails is
refused at once. The job also looks at roles, content and types, and fails with what it finds. The line between the two
is OpenAI's (reference/openai-contract.md §2.6); naming every bad line is ours, OpenAI names the first.

Blank lines are no examples and no errors; numbers are those of the file's lines, counted from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import orjson

from milepost.resources.methods import CHAT_KEYS, LineShape, line_shape

#: Problems that are told one by one; the rest are counted.
MAX_PROBLEMS = 50

#: The longest line that is read. Longer ones are a file without line breaks, not an example.
MAX_LINE_BYTES = 32 * 1024 * 1024

BOM = b"\xef\xbb\xbf"

MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "function_call", "tool_calls", "tool_call_id", "weight", "refusal"}
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

#: Keys of a message that only an assistant may carry.
ASSISTANT_KEYS = ("weight", "tool_calls", "function_call", "refusal")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line cannot be used. `str()` gives the sentence to show: "Line 7: message 2 …"."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"Line {self.number}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a file holds: examples (`lines`), the shape of the first good one, and what is wrong with the others."""

    lines: int
    shape: LineShape | None
    problems: tuple[Problem, ...]
    total_problems: int


class Bad(Exception):  # noqa: N818 (never leaves this module: a reason on its way to its Problem)
    """Why this line is wrong; `check_lines` adds the number."""


def check_line(number: int, text: bytes) -> Problem | None:
    """Everything that can be wrong with one line; None if nothing is. The first fault found is the one told."""
    report = check_lines([text])
    return Problem(number, report.problems[0].reason) if report.problems else None


def check_lines(lines: Iterable[bytes], *, expected: LineShape | None = None, content: bool = True) -> Report:
    """Check a whole file, one line in memory at a time.

    With `content` every line must have the shape `expected`, or else that of the first good line. Without it only what
    refuses an upload is looked for, and shapes may mix: an upload does not know its method.
    """
    count, total = 0, 0
    found: LineShape | None = None
    problems: list[Problem] = []
    for number, text in examples(lines):
        count += 1
        try:
            line, shape = _read(text)
            found = found or shape
            if content:
                _require(expected or found, line, shape)
                CHECKS[shape](line)
        except Bad as bad:
            total += 1
            if total <= MAX_PROBLEMS:
                problems.append(Problem(number, str(bad)))
    return Report(count, found, tuple(problems), total)


def examples(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that count, numbered as in the file: blank ones left out, a byte order mark and line ends removed."""
    for number, line in enumerate(lines, start=1):
        text = (line.removeprefix(BOM) if number == 1 else line).strip(b" \t\r\n")
        if text:
            yield number, text


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is too long only as much as shows that it is."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)


def parse_line(text: bytes) -> dict[str, Any]:
    """A line that has passed its check, as Python values."""
    line: dict[str, Any] = orjson.loads(text)
    return line


def refusal(report: Report) -> str:
    """What the answer to a refused upload says: OpenAI's sentence about the first bad line, then all of them."""
    first = report.problems[0]
    sentence = (
        "Expected file to have JSONL format, where every line is a JSON dictionary. "
        f"Line {first.number} {first.reason}."
    )
    if report.total_problems == 1:
        return sentence
    rest = "; ".join(map(str, report.problems))
    cut = f" (the first {MAX_PROBLEMS} are listed)" if report.total_problems > MAX_PROBLEMS else ""
    return f"{sentence} {report.total_problems} bad lines in all{cut}: {rest}."


def _read(text: bytes) -> tuple[dict[str, Any], LineShape]:
    if len(text) > MAX_LINE_BYTES:
        raise Bad(f"is longer than {MAX_LINE_BYTES // 2**20} MiB: are its line breaks missing?")
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # orjson is strict where Python's own parser is not: NaN, invalid UTF-8 and lone surrogates end here
        raise Bad(
            f"is not a dictionary ({_hint(text)}; not valid JSON: {error.msg} at character {error.pos})"
        ) from None
    if not isinstance(line, dict):
        raise Bad(f"is not a dictionary ({_hint(text)})")
    shape = line_shape(line)
    if shape is None:
        raise Bad(
            "has none of the shapes of training data: expected "
            '"messages", "prompt" and "completion", or "input" with "preferred_output" and "non_preferred_output"; '
            f"found {_names(line)}"
        )
    return line, shape


def _hint(text: bytes) -> str:
    start = text[:40].decode("utf-8", errors="replace")
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in start)
    return f'HINT: line starts with: "{shown}{"…" if len(text) > len(start.encode()) else ""}"'


def _names(keys: Iterable[str]) -> str:
    names = [f'"{key}"' for key in keys]
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "no keys"


def _require(expected: LineShape, line: dict[str, Any], shape: LineShape) -> None:
    if shape is expected:
        return
    if expected is LineShape.CHAT and shape is LineShape.REINFORCEMENT:
        extra = next(key for key in line if key not in CHAT_KEYS)
        raise Bad(f'contains an extra "{extra}"')
    raise Bad(f"is in the {shape} format, but expected is the {expected} format")


def _check_chat(line: dict[str, Any]) -> None:
    _check_tools(line)
    messages = _check_messages(line["messages"])
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise Bad("has no assistant message: there is nothing to learn from it")
    if all(message.get("weight") == 0 for message in answers):
        raise Bad("has weight 0 on every assistant message: there is nothing to learn from it")


def _check_completion(line: dict[str, Any]) -> None:
    _no_extra(line, frozenset({"prompt", "completion"}), "")
    for key in ("prompt", "completion"):
        _expect(line[key], str, f'"{key}"')


def _check_preference(line: dict[str, Any]) -> None:
    _no_extra(line, frozenset({"input", "preferred_output", "non_preferred_output"}), "")
    question = _expect(line.get("input"), dict, '"input"')
    _no_extra(question, CHAT_KEYS - {"functions"}, '"input" ')
    _check_tools(question)
    _check_messages(question.get("messages"))
    for key in ("preferred_output", "non_preferred_output"):
        answers = _check_messages(line.get(key), name=key)
        if len(answers) != 1 or answers[0]["role"] != "assistant":
            raise Bad(f'"{key}" must hold exactly one message, with role "assistant"')


def _check_reinforcement(line: dict[str, Any]) -> None:
    _check_tools(line)
    _check_messages(line["messages"])


CHECKS: dict[LineShape, Callable[[dict[str, Any]], None]] = {
    LineShape.CHAT: _check_chat,
    LineShape.COMPLETION: _check_completion,
    LineShape.PREFERENCE: _check_preference,
    LineShape.REINFORCEMENT: _check_reinforcement,
}


def _check_messages(value: Any, *, name: str = "messages") -> list[dict[str, Any]]:
    messages = _expect(value, list, f'"{name}"')
    if not messages:
        raise Bad(f'"{name}" is empty')
    for index, message in enumerate(messages, start=1):
        place = f"message {index}" if name == "messages" else f"{name} message {index}"
        _check_message(_expect(message, dict, place), place)
    return messages


def _check_message(message: dict[str, Any], name: str) -> None:
    if "role" not in message:
        raise Bad(f"{name} Discriminator 'role' is missing in value")
    role = message["role"]
    if role not in ROLES:
        raise Bad(f"{name} has role {role!r}; roles are {', '.join(ROLES)}")
    _no_extra(message, MESSAGE_KEYS, f"{name} ")
    for key in ASSISTANT_KEYS:
        if role != "assistant" and message.get(key) is not None:
            raise Bad(f'{name} has "{key}", which only an assistant message may have; its role is {role}')
    _check_weight(message, name)
    _check_calls(message, name)
    _check_content(message, name)
    _check_identity(message, name)


def _check_weight(message: dict[str, Any], name: str) -> None:
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise Bad(f"{name} has weight {weight!r}; it must be 0 or 1")


def _check_content(message: dict[str, Any], name: str) -> None:
    content = message.get("content")
    if content is None:
        if not (message.get("tool_calls") or message.get("function_call")):
            raise Bad(f"{name} has no content")
    elif isinstance(content, list):
        for part in content:
            _check_part(part, name)
    else:
        _expect(content, str, f"the content of {name}")


def _check_part(part: Any, name: str) -> None:
    kind = _expect(part, dict, f"a content part of {name}").get("type")
    if kind != "text":
        raise Bad(f"{name} has a content part of type {kind!r}; only text is trained")
    _expect(part.get("text"), str, f"the text of a content part of {name}")


def _check_identity(message: dict[str, Any], name: str) -> None:
    """Who speaks: an optional name, and for the answer of a tool the call it answers."""
    _optional(message, "name", str, f" of {name}")
    needed = {"tool": "tool_call_id", "function": "name"}.get(message["role"])
    if needed is not None:
        _expect(message.get(needed), str, f'the "{needed}" of {name}')


def _check_calls(message: dict[str, Any], name: str) -> None:
    for call in _optional(message, "tool_calls", list, f" of {name}") or ():
        function = _expect(call, dict, f"a tool call of {name}").get("function")
        _check_call(function, f"a tool call of {name}")
    if message.get("function_call") is not None:
        _check_call(message["function_call"], f'the "function_call" of {name}')


def _check_call(call: Any, name: str) -> None:
    function = _expect(call, dict, f"the function of {name}")
    for key in ("name", "arguments"):
        _expect(function.get(key), str, f'"{key}" of {name}')


def _check_tools(line: dict[str, Any]) -> None:
    for key in ("tools", "functions"):
        for tool in _optional(line, key, list) or ():
            _expect(tool, dict, f'a member of "{key}"')
    _optional(line, "parallel_tool_calls", bool)


def _no_extra(value: dict[str, Any], known: frozenset[str], name: str) -> None:
    for key in value:
        if key not in known:
            raise Bad(f'{name}contains an extra "{key}"')


Kind = TypeVar("Kind")
JSON_NAMES: dict[type, str] = {str: "a string", list: "a list", dict: "a dictionary", bool: "true or false"}


def _expect(value: Any, kind: type[Kind], name: str) -> Kind:
    if value is None:
        raise Bad(f"{name} is missing")
    if not isinstance(value, kind):
        raise Bad(f"{name} is not {JSON_NAMES[kind]}")
    return value


def _optional(value: dict[str, Any], key: str, kind: type[Kind], where: str = "") -> Kind | None:
    return None if value.get(key) is None else _expect(value[key], kind, f'the "{key}"{where}')
