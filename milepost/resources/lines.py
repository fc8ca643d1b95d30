"""What can be said of a file of training data without a tokenizer.

The upload asks of each line only whether it is JSON, a dictionary, and one of the four shapes; a file that fails is
refused at once. The job also looks at roles, content and types, and fails with what it finds. The line between the two
is OpenAI's (reference/openai-contract.md §2.6); naming every bad line is ours, OpenAI names the first.

Blank lines are no examples and no errors; numbers are those of the file's lines, counted from 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from milepost.resources import repairs
from milepost.resources.faults import Fault, extra, names, near
from milepost.resources.methods import CHAT_KEYS, LineShape, line_shape
from milepost.resources.shapes import line_faults
from milepost.resources.values import has_more_values

#: Problems that are told one by one; the rest are counted.
MAX_PROBLEMS = 50

#: The longest line that is read. Longer ones are a file without line breaks, not an example.
MAX_LINE_BYTES = 32 * 1024 * 1024

#: The most values of a line. A value of three bytes takes a hundred in memory, and each may have its faults.
MAX_VALUES = 500_000

BOM = b"\xef\xbb\xbf"


#: Lines that a warning names; it counts them all. Faults that are told of one line, and those that are looked for.
MAX_WARNED, MAX_FAULTS, MAX_SOUGHT = 20, 10, 1000

#: Lines that are looked at to tell the shape of a file.
MAX_SHAPED = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line cannot be used. `str()` gives the sentence to show: "Line 7: message 2 …"."""

    number: int
    reason: str
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        return f"Line {self.number}: {self.reason}"

    @property
    def fix(self) -> str:
        """What would mend the line, each step once."""
        return "; ".join(dict.fromkeys(fault.fix for fault in self.faults))


@dataclass(frozen=True, slots=True)
class Warned:
    """Lines that can be used, but hardly as they were meant: how many, which, and what is said of the first."""

    kind: str
    lines: int
    numbers: tuple[int, ...]
    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a file holds: examples (`lines`), the shape of the first good one, and what is wrong with the others.

    `hint` is what the whole file is, if it is no JSONL at all.
    """

    lines: int
    shape: LineShape | None
    problems: tuple[Problem, ...]
    total_problems: int
    warnings: tuple[Warned, ...] = ()
    hint: Fault | None = None


#: Asked of each line without errors so far: its number, its text, what it holds, and its shape.
Also = Callable[[int, bytes, dict[str, Any], LineShape], Iterable[Fault]]


def check_line(number: int, text: bytes) -> Problem | None:
    """Everything that keeps one line from being used; None if nothing does."""
    report = check_lines([text])
    return dataclasses.replace(report.problems[0], number=number) if report.problems else None


def check_lines(
    lines: Iterable[bytes],
    *,
    expected: LineShape | None = None,
    content: bool = True,
    most: int = MAX_PROBLEMS,
    also: Also | None = None,
) -> Report:
    """Check a whole file, one line in memory at a time. `most` problems are told, and all counted.

    With `content` every line must have the shape `expected`, or else that of the first good line. Without it only what
    refuses an upload is looked for, and shapes may mix: an upload does not know its method. `also` finds more.
    """
    count, total = 0, 0
    found: LineShape | None = None
    problems: list[Problem] = []
    warned, fields, head = _Warnings(), _Fields(), b""
    for number, text in examples(lines):
        count += 1
        if len(head) < _HEAD_BYTES:
            head += text[:_HEAD_BYTES] + b"\n"
        faults: Iterable[Fault] = ()
        try:
            line, shape = _read(text, is_told=total < most)
            found = found or shape
            if content:
                shape = _as_expected(shape, expected or found)
                faults = itertools.islice(_faults(text, line, shape, expected or found), MAX_SOUGHT)
        except Bad as bad:
            faults = (bad.fault,)
        errors = warned.add(number, faults)
        if not errors and also is not None:
            errors = warned.add(number, also(number, text, line, shape))
        if errors:
            total += 1
            if total <= most:
                problems.append(_problem(number, errors))
            continue
        if content:
            fields.add(number, line, shape)
    hint = repairs.of_file(head) if problems else None
    return Report(count, found, tuple(problems), total, (*warned.told(), *fields.told()), hint)


def shape_of(lines: Iterable[bytes], shapes: Container[LineShape] = tuple(LineShape)) -> LineShape | None:
    """The shape most of a file's first lines have, of those asked for; where two are even, the one seen first."""
    found: Counter[LineShape] = Counter()
    for _, text in itertools.islice(examples(lines), MAX_SHAPED):
        with contextlib.suppress(Bad):
            found[_read(text, is_told=False)[1]] += 1
    return next((shape for shape, _ in found.most_common() if shape in shapes), None)


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
        f"Line {first.number} {first.reason}. "
        f"Suggested fix: {f'{report.hint.reason}. {report.hint.fix}' if report.hint else first.fix}."
    )
    if report.total_problems == 1:
        return sentence
    rest = "; ".join(map(str, report.problems))
    cut = f" (the first {len(report.problems)} are listed)" if report.total_problems > len(report.problems) else ""
    return f"{sentence} {report.total_problems} bad lines in all{cut}: {rest}."


#: How much of a file's start tells what the file is.
_HEAD_BYTES = 1024


class Bad(Exception):  # noqa: N818 (never leaves this module: a fault on its way to its Problem)
    """A line of which nothing more can be said."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class _Warnings:
    """The warnings of a file by their kind, in the order they came up."""

    def __init__(self) -> None:
        self._first: dict[str, Fault] = {}
        self._numbers: dict[str, list[int]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, number: int, faults: Iterable[Fault]) -> list[Fault]:
        """Count a line's warnings, each kind once; returns its errors. Of a line with errors none is counted."""
        errors: list[Fault] = []
        warnings: dict[str, Fault] = {}
        for fault in faults:
            if fault.is_warning:
                warnings.setdefault(fault.kind, fault)
            else:
                errors.append(fault)
        if not errors:
            for kind, fault in warnings.items():
                self._first.setdefault(kind, fault)
                self._counts[kind] += 1
                if self._counts[kind] <= MAX_WARNED:
                    self._numbers.setdefault(kind, []).append(number)
        return errors

    def told(self) -> Iterator[Warned]:
        for kind, fault in self._first.items():
            yield Warned(kind, self._counts[kind], tuple(self._numbers[kind]), fault.reason, fault.fix)


class _Fields:
    """Which keys reinforcement lines have beside their messages: graders read them, so all lines should have them."""

    MOST = 100  # different sets of keys; a file with more has no fields that all lines share

    def __init__(self) -> None:
        self._counts: Counter[frozenset[str]] = Counter()
        self._numbers: dict[frozenset[str], list[int]] = {}

    def add(self, number: int, line: Mapping[str, Any], shape: LineShape) -> None:
        if shape is not LineShape.REINFORCEMENT:
            return
        keys = frozenset(line) - CHAT_KEYS
        if keys in self._counts or len(self._counts) < self.MOST:
            self._counts[keys] += 1
            numbers = self._numbers.setdefault(keys, [])
            if len(numbers) < MAX_WARNED:
                numbers.append(number)

    def told(self) -> Iterator[Warned]:
        total = self._counts.total()
        having: Counter[str] = Counter()
        for keys, count in self._counts.items():
            having.update(dict.fromkeys(keys, count))
        for key in sorted(key for key, count in having.items() if total / 2 < count < total):
            lacking = sorted(n for keys, numbers in self._numbers.items() if key not in keys for n in numbers)
            reason = f"lacks {names([key])}, which {having[key]} of {total} lines have"
            fix = "Add it: a grader that reads it fails without"
            yield Warned("missing_field", total - having[key], tuple(lacking[:MAX_WARNED]), reason, fix)


def _problem(number: int, errors: list[Fault]) -> Problem:
    least = "at least " if len(errors) == MAX_SOUGHT else ""
    rest = f"; {least}{len(errors) - MAX_FAULTS} more" if len(errors) > MAX_FAULTS else ""
    told = tuple(errors[:MAX_FAULTS])
    return Problem(number, "; ".join(fault.reason for fault in told) + rest, told)


def _read(text: bytes, *, is_told: bool) -> tuple[dict[str, Any], LineShape]:
    """A line and its shape. Where the fault `is_told`, what would mend it is looked for."""
    if len(text) > MAX_LINE_BYTES:
        reason = f"is longer than {MAX_LINE_BYTES // 2**20} MiB: are its line breaks missing?"
        raise Bad(Fault("too_long_line", reason, "Write each example on a line of its own: jq -c . FILE > NEW.jsonl"))
    if has_more_values(text, MAX_VALUES):
        reason = f"holds more than {MAX_VALUES:,} values: are several examples on one line?"
        raise Bad(Fault("too_many_values", reason, "Write each example on a line of its own: jq -c . FILE > NEW.jsonl"))
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # orjson is strict where Python's own parser is not: NaN, invalid UTF-8 and lone surrogates end here
        reason = f"is not a dictionary ({_hint(text)}; not valid JSON: {error.msg} at character {error.pos})"
        raise Bad(repairs.diagnose(text, reason) if is_told else Fault("not_json", reason, "")) from None
    if not isinstance(line, dict):
        fix = "Write each object on a line of its own: jq -c '.[]' FILE > NEW.jsonl"
        if not (isinstance(line, list) and line and isinstance(line[0], dict)):
            fix = "Write each line as an object: {…}"
        raise Bad(Fault("not_a_dictionary", f"is not a dictionary ({_hint(text)})", fix))
    shape = line_shape(line)
    if shape is None:
        reason = (
            "has none of the shapes of training data: expected "
            '"messages", "prompt" and "completion", or "input" with "preferred_output" and "non_preferred_output"; '
            f"found {names(line)}"
        )
        raise Bad(Fault("no_shape", reason, _shape_fix(line)))
    return line, shape


def _shape_fix(line: Mapping[str, Any]) -> str:
    meant = {key: near(key, [name for name in _SHAPE_KEYS if name not in line]) for key in line}
    renames = [f'Rename "{key[:60]}" to "{name}"' for key, name in meant.items() if name]
    if renames:
        return ", ".join(renames[:4])
    if "role" in line and "content" in line:
        return 'Put the messages of one conversation into one line: {"messages": […]}'
    missing = [f'"{key}"' for key in ("prompt", "completion") if key not in line]
    return f"Add {' and '.join(missing)}" if len(missing) == 1 else 'Write {"messages": […]}'


_SHAPE_KEYS = ("messages", "prompt", "completion", "input", "preferred_output", "non_preferred_output")


def _hint(text: bytes) -> str:
    start = text[:40].decode("utf-8", errors="replace")
    told = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in start)
    return f'HINT: line starts with: "{told}{"…" if len(text) > len(start.encode()) else ""}"'


def _faults(text: bytes, line: dict[str, Any], shape: LineShape, expected: LineShape) -> Iterator[Fault]:
    """The faults of what a line holds. One of another shape, or too deep to look at, has no others."""
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_deeper(line, MAX_DEPTH):
        yield Fault("too_deep", f"nests more than {MAX_DEPTH} levels deep", "Write it flatter")
        return
    if shape is not expected:
        yield from _of_another_shape(line, shape, expected)
        return
    yield from _repeated_keys(text, line)
    yield from line_faults(line, shape)


#: Said where lines or requests are chats, and the base has nothing to write them with.
NO_TEMPLATE = (
    "This base model has no chat template, so it does not take messages. Use texts instead (`/v1/completions`; "
    "prompt/completion lines for training), or give it a template on the server: "
    "`milepost pull NEW-NAME --from FOLDER --chat-template FILE`"
)

#: Deeper values can be parsed, but not written again, nor shown to a chat template.
MAX_DEPTH = 100


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _as_expected(shape: LineShape, expected: LineShape) -> LineShape:
    """A reinforcement line need have no more than its messages."""
    return expected if (shape, expected) == (LineShape.CHAT, LineShape.REINFORCEMENT) else shape


def _of_another_shape(line: dict[str, Any], shape: LineShape, expected: LineShape) -> Iterator[Fault]:
    if expected is LineShape.CHAT and shape is LineShape.REINFORCEMENT:
        yield from extra(line, CHAT_KEYS, "")
    else:
        reason = f"is in the {shape} format, but expected is the {expected} format"
        yield Fault("other_shape", reason, "Put lines of one format into one file")


def _repeated_keys(text: bytes, line: dict[str, Any]) -> Iterator[Fault]:
    """A key that stands twice in one object: parsers keep the last and say nothing. Looked for where counts differ."""
    messages = line.get("messages")
    roles = len(messages) if isinstance(messages, list) else 2
    counts = ((b'"messages"', 1), (b'"prompt"', 1), (b'"completion"', 1), (b'"role"', roles), (b'"content"', roles))
    if not any(text.count(key) > most for key, most in counts):
        return
    twice: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        count = Counter(key for key, _ in pairs)
        twice.extend(key for key, number in count.items() if number > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    if twice:
        reason = f"has {names(dict.fromkeys(twice))} more than once in one object; only the last counts"
        yield Fault("repeated_key", reason, "Remove or rename the others", is_warning=True)
