"""A file of training data → checked, tokenised examples. No torch: the validate task starts fast.

Everything that is wrong with a file is found in one go, and told by line.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milepost.errors import Corrupt, Invalid
from milepost.modeling.folders import file_hash
from milepost.modeling.template import Chat
from milepost.resources.lines import MAX_PROBLEMS, Problem, check_lines, examples, parse_line, read_lines
from milepost.resources.methods import LineShape
from milepost.resources.runs import DataFile

#: What a line of supervised data may be, in the order the contract names them.
SUPERVISED_SHAPES = (LineShape.CHAT, LineShape.COMPLETION)


@dataclass(frozen=True, slots=True)
class Example:
    """One line: its tokens, and for each whether it is learnt. `is_cut` if the line was longer than may be."""

    number: int
    tokens: array[int]
    learnt: bytes
    is_cut: bool

    @property
    def learnt_count(self) -> int:
        return sum(self.learnt)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of one file, in its order."""

    file: DataFile
    examples: tuple[Example, ...]

    @property
    def tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)

    @property
    def learnt(self) -> int:
        return sum(example.learnt_count for example in self.examples)

    @property
    def cut(self) -> tuple[int, ...]:
        """The lines that were cut."""
        return tuple(example.number for example in self.examples if example.is_cut)


class BadLines(Invalid):
    """A file that cannot be trained on. `problems` are up to 50 of its `total`."""

    def __init__(self, file: DataFile, problems: Sequence[Problem], total: int) -> None:
        self.problems = tuple(problems)
        kind = file.param.replace("_", " ")
        count = f"{total} lines are bad" if total > 1 else "1 line is bad"
        cut = f" (the first {len(problems)} are listed)" if total > len(problems) else ""
        listed = "; ".join(map(str, problems))
        super().__init__(
            f"The job failed due to an invalid {kind}. Invalid file format. {count}{cut}. {listed}",
            param=file.param,
            code=f"invalid_{file.param}",
        )


def load_supervised(file: DataFile, chat: Chat, max_length: int) -> Dataset:
    """Read, check and tokenise a file of chats or prompt/completion pairs.

    Raises `BadLines`; `Invalid` if it is empty or of another method; `Corrupt` if its bytes are not those of its hash.
    """
    path = Path(file.path)
    if (found := file_hash(path)) != file.hash:
        raise Corrupt(f"The file {file.file_id} at {path} has sha256 {found}, not {file.hash}")
    shape = _shape(file, path)
    with path.open("rb") as stream:
        report = check_lines(read_lines(stream), expected=shape)
    problems, total = list(report.problems), report.total_problems
    bad = {problem.number for problem in problems}
    found_examples = []
    for number, text in _texts(path):
        if number in bad or total > MAX_PROBLEMS:
            continue
        try:
            found_examples.append(_example(number, parse_line(text), chat, max_length))
        except Invalid as error:
            problems.append(Problem(number, error.message))
            total += 1
    if total:
        problems.sort(key=lambda problem: problem.number)
        raise BadLines(file, problems[:MAX_PROBLEMS], total)
    return Dataset(file, tuple(found_examples))


def _shape(file: DataFile, path: Path) -> LineShape:
    """The shape all lines must have: that of the first line that has one."""
    with path.open("rb") as stream:
        report = check_lines(read_lines(stream), content=False)
    kind = file.param.replace("_", " ")
    if not report.lines:
        raise Invalid(f"The {kind} {file.file_id} is empty", param=file.param, code=f"invalid_{file.param}")
    if report.shape is LineShape.PREFERENCE:
        raise Invalid(
            f"The job failed due to an invalid {kind}. Invalid file format. Input file {file.file_id} is in the "
            f"{report.shape} format, but the specified fine-tuning job is not using 'dpo' as the training method "
            "(provided method=supervised).",
            param=file.param,
            code=f"invalid_{file.param}",
        )
    return report.shape if report.shape in SUPERVISED_SHAPES else LineShape.CHAT


def _texts(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        yield from examples(read_lines(stream))


def _example(number: int, line: dict[str, Any], chat: Chat, max_length: int) -> Example:
    """Tokenise a line; cut from the end, as OpenAI does, if it is longer than `max_length`."""
    if "messages" in line:
        _refuse_control_tokens(line["messages"], chat)
        tokens, learnt = chat.example(line["messages"], line.get("tools"))
    else:
        tokens, learnt = chat.pair(line["prompt"], line["completion"])
    is_cut = len(tokens) > max_length
    # Nothing stands before the first token to predict it from.
    return Example(number, array("i", tokens[:max_length]), bytes([False, *learnt[1:max_length]]), is_cut)


def _refuse_control_tokens(messages: Sequence[dict[str, Any]], chat: Chat) -> None:
    """Text that the tokenizer would read as the template's own marks: a turn's end in the middle of a turn."""
    for index, message in enumerate(messages, start=1):
        content = message.get("content") or ""
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        if found := re.search("|".join(map(re.escape, chat.control_tokens)) or "(?!)", text):
            raise Invalid(f"message {index} contains an invalid token: {found[0]}")
