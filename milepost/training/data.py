"""A file of training data → checked, tokenised examples. No torch: the validate task starts fast.

Everything that is wrong with a file is found in one go, and told by line.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milepost.checks.tokens import refuse_control_tokens
from milepost.errors import Corrupt, Invalid
from milepost.modeling.folders import file_hash
from milepost.resources.lines import (
    MAX_PROBLEMS,
    NO_TEMPLATE,
    Problem,
    check_lines,
    examples,
    parse_line,
    read_lines,
    shape_of,
)
from milepost.resources.methods import SHAPES, LineShape, MethodType
from milepost.resources.runs import DataFile

if TYPE_CHECKING:
    from milepost.modeling.template import Chat  # tokenizers: what was tokenised before needs none


@dataclass(frozen=True, slots=True)
class Example:
    """One line: its tokens, and for each whether it is learnt. `is_cut` if the line was longer than may be."""

    number: int
    tokens: array[int]
    learnt: bytes
    is_cut: bool

    @property
    def token_count(self) -> int:
        return len(self.tokens)

    @property
    def learnt_count(self) -> int:
        return sum(self.learnt)

    @property
    def teaches(self) -> bool:
        return any(self.learnt)


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of preferences: the same question with the answer that is preferred, and with the other one."""

    number: int
    preferred: Example
    non_preferred: Example

    @property
    def is_cut(self) -> bool:
        return self.preferred.is_cut or self.non_preferred.is_cut

    @property
    def token_count(self) -> int:
        return self.preferred.token_count + self.non_preferred.token_count

    @property
    def learnt_count(self) -> int:
        return self.preferred.learnt_count + self.non_preferred.learnt_count

    @property
    def teaches(self) -> bool:
        """A cut may leave one of the answers nothing to compare."""
        return self.preferred.teaches and self.non_preferred.teaches


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of one file, in its order; those of a file of preferences are pairs."""

    file: DataFile
    examples: tuple[Example | Pair, ...]

    @property
    def tokens(self) -> int:
        return sum(example.token_count for example in self.examples)

    @property
    def learnt(self) -> int:
        return sum(example.learnt_count for example in self.teaching)

    @property
    def teaching(self) -> tuple[Example | Pair, ...]:
        """The examples that teach something: after a cut there may be some that do not."""
        return tuple(example for example in self.examples if example.teaches)

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


def load(file: DataFile, method: MethodType, chat: Chat, max_length: int) -> Dataset:
    """Read, check and tokenise a file of a method's examples.

    Raises `BadLines`; `Invalid` if it is empty, of another method, or of chats where the base has no chat template;
    `Corrupt` if its bytes are not those of its hash.
    """
    path = Path(file.path)
    if (found := file_hash(path)) != file.hash:
        raise Corrupt(f"The file {file.file_id} at {path} has sha256 {found}, not {file.hash}")
    shape = _shape(file, path, method)
    if chat.template is None and shape is not LineShape.COMPLETION:
        kind = file.param.replace("_", " ")
        raise Invalid(
            f"The job failed due to an invalid {kind}. {NO_TEMPLATE}", param=file.param, code=f"invalid_{file.param}"
        )
    with path.open("rb") as stream:
        report = check_lines(read_lines(stream), expected=shape)
    problems, total = list(report.problems), report.total_problems
    bad = {problem.number for problem in problems}
    found_examples = []
    for number, text in _texts(path):
        if number in bad or total > MAX_PROBLEMS:
            continue
        try:
            found_examples.append(EXAMPLES[shape](number, parse_line(text), chat, max_length))
        except Invalid as error:
            problems.append(Problem(number, error.message))
            total += 1
    if total:
        problems.sort(key=lambda problem: problem.number)
        raise BadLines(file, problems[:MAX_PROBLEMS], total)
    return Dataset(file, tuple(found_examples))


def _shape(file: DataFile, path: Path, method: MethodType) -> LineShape:
    """The shape all lines must have: that of most of them."""
    kind = file.param.replace("_", " ")
    if next(_texts(path), None) is None:
        raise Invalid(f"The {kind} {file.file_id} is empty", param=file.param, code=f"invalid_{file.param}")
    with path.open("rb") as stream:
        shape = shape_of(read_lines(stream))
    allowed = SHAPES[method]
    if shape is None or (shape is LineShape.REINFORCEMENT and LineShape.CHAT in allowed):
        return allowed[0]  # a chat with a misspelt key looks like reinforcement: the line's own fault is told
    if shape not in allowed:
        needed = next(each for each, shapes in SHAPES.items() if shape in shapes)
        raise Invalid(
            f"The job failed due to an invalid {kind}. Invalid file format. Input file {file.file_id} is in the "
            f"{shape} format, but the specified fine-tuning job is not using '{needed}' as the training method "
            f"(provided method={method}).",
            param=file.param,
            code=f"invalid_{file.param}",
        )
    return shape


def _texts(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        yield from examples(read_lines(stream))


def _chat(number: int, line: dict[str, Any], chat: Chat, max_length: int) -> Example:
    refuse_control_tokens(line["messages"], chat)
    return _cut(number, chat.example(line["messages"], line.get("tools")), max_length)


def _completion(number: int, line: dict[str, Any], chat: Chat, max_length: int) -> Example:
    return _cut(number, chat.pair(line["prompt"], line["completion"]), max_length)


def _preference(number: int, line: dict[str, Any], chat: Chat, max_length: int) -> Pair:
    """Only the two answers are compared: what an assistant says in the question is context."""
    question = [message | {"weight": 0} for message in line["input"]["messages"]]
    examples = []
    for key in ("preferred_output", "non_preferred_output"):
        messages = [*question, line[key][0] | {"weight": 1}]
        refuse_control_tokens(messages, chat)
        examples.append(_cut(number, chat.example(messages, line["input"].get("tools")), max_length))
    return Pair(number, *examples)


#: How a checked line of each shape becomes an example.
EXAMPLES: dict[LineShape, Callable[[int, dict[str, Any], Chat, int], Example | Pair]] = {
    LineShape.CHAT: _chat,
    LineShape.COMPLETION: _completion,
    LineShape.PREFERENCE: _preference,
}


def _cut(number: int, tokenised: tuple[list[int], list[bool]], max_length: int) -> Example:
    """Cut from the end, as OpenAI does, what is longer than `max_length`."""
    tokens, learnt = tokenised
    # Nothing stands before the first token to predict it from.
    return Example(
        number, array("i", tokens[:max_length]), bytes([False, *learnt[1:max_length]]), is_cut=len(tokens) > max_length
    )
