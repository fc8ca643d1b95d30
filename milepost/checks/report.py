"""The report of a file of training data: one reading that looks at every line, and one that counts what was chosen.

Memory stays bounded: of each line twelve bytes are kept, of those that are compared a kilobyte, and of a large file a
seeded sample is counted, which the report says. A file has the same report however often it is asked for.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from milepost.checks import duplicates
from milepost.checks.forecast import Course, Sizes, forecast
from milepost.checks.tokens import Counted, Tokenizer, control_token_faults, count, said_to, shows_tools, spread
from milepost.errors import Invalid
from milepost.resources.faults import Fault
from milepost.resources.forecasts import Speed
from milepost.resources.lines import (
    NO_TEMPLATE,
    Problem,
    Report,
    check_lines,
    examples,
    parse_line,
    read_lines,
    shape_of,
)
from milepost.resources.methods import MIN_EXAMPLES, SHAPES, LineShape, MethodType
from milepost.resources.reports import BadLine, Duplicates, FileReport, LineWarning, TokenCounts, ValidationCheck

_SEED = 20_261_125
#: Tokens of longer lines are taken to be a quarter of their bytes: counting them takes memory, and they are cut anyway.
MAX_COUNTED_BYTES = 1024 * 1024
#: Lines that lists of a kind name.
MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is done. Of a file of more than `counted_bytes`, a sample of that size, `counted` examples at most."""

    counted_bytes: int
    counted: int
    compared: int
    told: int


#: While a client waits for its upload's answer; and for `milepost check`.
AT_UPLOAD = Limits(counted_bytes=4 * 1024 * 1024, counted=2_000, compared=10_000, told=100)
AT_LEISURE = Limits(counted_bytes=64 * 1024 * 1024, counted=20_000, compared=50_000, told=10_000)


@dataclass(frozen=True, slots=True)
class Question:
    """What a file is looked at for. Without a `tokenizer`, `note` tells why there is none. `auto` gives the epochs and
    the batch size that a file of so many examples is trained with.
    """

    limits: Limits
    method: MethodType | None = None
    tokenizer: Tokenizer | None = None
    note: str | None = None
    sizes: Sizes | None = None
    speed: Speed | None = None
    threads: int = 1
    auto: Callable[[int], tuple[int, int]] = lambda examples: (3, 1)  # noqa: ARG005 (a default nobody sees)


@dataclass(slots=True)
class Reading:
    """What was found in a file. `numbers` and `prints` are of the lines that can be used."""

    lines: Report
    expected: LineShape | None
    numbers: array[int]
    prints: duplicates.Hashes
    problems: list[Problem]
    total_problems: int
    bytes: int
    exact: int = 0
    groups: tuple[Any, ...] = ()
    firsts: duplicates.Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    counted: list[Counted] = field(default_factory=list)
    counted_lines: list[int] = field(default_factory=list)
    signed: list[int] = field(default_factory=list)  # indices into `numbers`
    signatures: list[duplicates.Signature] = field(default_factory=list)
    drawn: int = 0
    is_guessed: bool = False

    @property
    def scale(self) -> float:
        """From what was drawn to be counted to all there is."""
        return len(self.numbers) / self.drawn if self.drawn else 1.0


def examine(training: BinaryIO, question: Question, validation: BinaryIO | None = None) -> FileReport:
    """The report of a training file, with what of a validation file stands in it. Files are read from their start."""
    found = _read(training, question)
    other = None if validation is None else _read(validation, question)
    report = FileReport(
        examples=found.lines.lines,
        format=found.expected,
        methods=_methods(found.expected, question.method),
        is_trainable=False,
        error=_error(found, question.method) or (NO_TEMPLATE if _is_mute(found, question) else None),
        bad_lines=found.total_problems,
        bad=_bad(found),
        warnings=tuple(
            LineWarning(kind=each.kind, lines=each.lines, examples=each.numbers, reason=each.reason, fix=each.fix)
            for each in found.lines.warnings
        ),
        tokens=_tokens(found, question),
        tokens_note=_note(found, question),
        duplicates=_duplicates(found),
        validation=None if other is None else _validation(found, other),
    )
    is_bad = found.total_problems or (other is not None and other.total_problems)
    is_trainable = report.error is None and not is_bad and report.examples >= MIN_EXAMPLES
    changes: dict[str, Any] = {"is_trainable": is_trainable}
    if question.sizes is not None and found.counted:
        changes["forecast"] = _forecast(found, other, question, question.sizes)
    return report.model_copy(update=changes)


# ------------------------------------------------------------------------------------------------ reading


def _read(file: BinaryIO, question: Question) -> Reading:
    """Look at every line, then count and compare what was chosen."""
    numbers, prints, size = array("I"), array("Q"), 0
    file.seek(0)
    natural = shape_of(read_lines(file))
    expected = _expected(natural, question.method)

    is_blind = question.tokenizer is not None and not shows_tools(question.tokenizer.chat)

    def also(number: int, text: bytes, line: dict[str, Any], shape: LineShape) -> Iterator[Fault]:
        nonlocal size
        if is_blind and _calls_tools(line, shape):
            yield _BLIND
        if question.tokenizer is not None:
            fault = None
            for messages in said_to(line, shape):
                fault = next(control_token_faults(messages, question.tokenizer.chat), None)
                if fault is not None:
                    yield fault
                    return
        numbers.append(number)
        prints.append(duplicates.fingerprint(line))
        size += len(text)

    file.seek(0)
    report = check_lines(read_lines(file), expected=expected, most=question.limits.told, also=also)
    found = Reading(
        lines=report,
        expected=natural if question.method is None else expected,
        numbers=numbers,
        prints=np.frombuffer(prints, dtype=np.uint64) if prints else np.zeros(0, dtype=np.uint64),
        problems=list(report.problems),
        total_problems=report.total_problems,
        bytes=size,
    )
    found.exact, found.groups, found.firsts = duplicates.exact_groups(found.prints, numbers)
    _look_closer(file, found, question)
    return found


#: Said of lines with calls of tools where the base's template does not write them.
_BLIND = Fault(
    "template_ignores_tools",
    "calls tools, which the model's chat template does not write: an answer without them is learnt",
    "Train a base model whose chat template knows tools, or write the calls into the assistant's content",
    is_warning=True,
)


def _calls_tools(line: Mapping[str, Any], shape: LineShape) -> bool:
    return any(
        message.get("tool_calls") or message.get("function_call")
        for messages in said_to(line, shape)
        for message in messages
    )


def _expected(natural: LineShape | None, method: MethodType | None) -> LineShape | None:
    if method is None or natural in SHAPES[method]:
        return natural
    return SHAPES[method][0]


def _look_closer(file: BinaryIO, found: Reading, question: Question) -> None:
    """The second reading: tokens and signatures of the lines that were drawn for each."""
    if found.expected is None:
        return
    can_count = question.tokenizer is not None and not _is_mute(found, question)
    to_count = set(_drawn(range(len(found.numbers)), _how_many(found, question.limits))) if can_count else set()
    found.drawn = len(to_count)
    to_compare = set(_drawn(found.firsts.tolist(), question.limits.compared))
    wanted = iter(sorted(to_count | to_compare))
    index = next(wanted, None)
    file.seek(0)
    for number, text in examples(read_lines(file)):
        if index is None:
            break
        if number != found.numbers[index]:
            continue
        line = parse_line(text)
        if index in to_count and question.tokenizer is not None:
            _count(found, number, text, line, question.tokenizer)
        if index in to_compare:
            found.signed.append(index)
            found.signatures.append(duplicates.signature(line, found.expected))
        index = next(wanted, None)


def _is_mute(found: Reading, question: Question) -> bool:
    """Whether the base has no chat template to write such lines with."""
    is_chat = found.expected is not LineShape.COMPLETION
    return question.tokenizer is not None and question.tokenizer.chat.template is None and is_chat


def _how_many(found: Reading, limits: Limits) -> int:
    if found.bytes <= limits.counted_bytes:
        return len(found.numbers)
    mean = found.bytes / len(found.numbers)
    return max(1, min(limits.counted, round(limits.counted_bytes / mean)))


def _drawn(indices: Sequence[int], most: int) -> Sequence[int]:
    if len(indices) <= most:
        return indices
    return random.Random(_SEED).sample(indices, most)  # noqa: S311 (a sample, not a secret)


def _count(found: Reading, number: int, text: bytes, line: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    assert found.expected is not None
    if len(text) > MAX_COUNTED_BYTES:
        length = len(text) // 4
        found.is_guessed = True
        found.counted.append(Counted((length,), (tokenizer.limit,), (tokenizer.limit // 2,)))
        found.counted_lines.append(number)
        return
    try:
        found.counted.append(count(line, found.expected, tokenizer))
        found.counted_lines.append(number)
    except Invalid as error:
        found.total_problems += 1
        fix = "Order the messages as the model's chat template wants them"
        if _calls_tools(line, found.expected) and not shows_tools(tokenizer.chat):
            fix = _BLIND.fix
        fault = Fault("template_refuses", error.message, fix)
        found.problems.append(Problem(number, fault.reason, (fault,)))
        found.problems.sort(key=lambda problem: problem.number)


# ------------------------------------------------------------------------------------------------ saying


def _methods(shape: LineShape | None, method: MethodType | None) -> tuple[str, ...]:
    if method is not None:
        return (method.value,)
    return tuple(each.value for each, shapes in SHAPES.items() if shape in shapes)


def _error(found: Reading, method: MethodType | None) -> str | None:
    """What is wrong with the file as a whole."""
    if found.lines.hint is not None:
        return f"{found.lines.hint.reason.capitalize()}. {found.lines.hint.fix}"
    if not found.lines.lines:
        return "The file is empty. Expected one JSON dictionary a line"
    if method is not None and found.lines.shape is not None and found.lines.shape not in SHAPES[method]:
        is_extra = method is MethodType.SUPERVISED and found.lines.shape is LineShape.REINFORCEMENT
        if not is_extra and not found.numbers:
            return f"The file is in the {found.lines.shape} format, which is not that of the method {method}"
    if not found.total_problems and found.lines.lines < MIN_EXAMPLES:
        return f"Training file has {found.lines.lines} example(s), but must have at least {MIN_EXAMPLES} examples"
    is_learnt = found.expected is not LineShape.REINFORCEMENT
    if found.counted and is_learnt and not any(sum(counted.learnt) for counted in found.counted):
        return (
            "No example has a token to learn: their answers are empty, or begin only after the longest length that is "
            "trained"
        )
    return None


def _bad(found: Reading) -> tuple[BadLine, ...]:
    return tuple(
        BadLine(
            line=problem.number,
            kinds=tuple(fault.kind for fault in problem.faults),
            reason=problem.reason,
            fix=problem.fix,
        )
        for problem in found.problems
    )


def _note(found: Reading, question: Question) -> str | None:
    if question.tokenizer is None:
        return question.note
    if _is_mute(found, question):
        return "Tokens were not counted: the base has no chat template"
    if not found.counted:
        return "No line can be used: there is nothing to count"
    if found.drawn < len(found.numbers):
        return (
            f"Counted {found.drawn:,} of {len(found.numbers):,} examples, drawn at random with a fixed seed: sums "
            "are scaled up, and what the chat template refuses is known of these only"
        )
    return None


def _tokens(found: Reading, question: Question) -> TokenCounts | None:
    if question.tokenizer is None or not found.counted:
        return None
    scale = found.scale
    is_reinforcement = found.expected is LineShape.REINFORCEMENT
    total = sum(sum(each.rows) for each in found.counted)
    learnt = sum(sum(each.learnt) for each in found.counted)
    lost = [sum(each.lengths) - sum(each.rows) for each in found.counted]
    cut = [line for line, cut in zip(found.counted_lines, lost, strict=True) if cut]
    dumb = [line for line, each in zip(found.counted_lines, found.counted, strict=True) if not all(each.learnt)]
    return TokenCounts(
        model=question.tokenizer.model,
        counted=len(found.counted),
        is_estimate=scale != 1.0 or found.is_guessed,
        total=round(total * scale),
        learnt=None if is_reinforcement else round(learnt * scale),
        learnt_share=None if is_reinforcement else round(learnt / total, 4) if total else 0.0,
        per_example=spread([sum(each.lengths) for each in found.counted]),
        limit=question.tokenizer.limit,
        cut_examples=round(len(cut) * scale),
        cut_tokens=round(sum(lost) * scale),
        cut_lines=tuple(cut[:MAX_NAMED]),
        unlearnt_lines=() if is_reinforcement else tuple(dumb[:MAX_NAMED]),
    )


def _duplicates(found: Reading) -> Duplicates | None:
    if not found.numbers:
        return None
    near, groups = (
        duplicates.near_groups(np.stack(found.signatures), [found.numbers[i] for i in found.signed])
        if found.signatures
        else (0, ())
    )
    return Duplicates(
        exact=found.exact,
        exact_groups=found.groups,
        near=near,
        near_groups=groups,
        compared=len(found.signed),
        threshold=duplicates.THRESHOLD,
    )


def _validation(training: Reading, validation: Reading) -> ValidationCheck:
    """What is trained on: exact ones first, near ones among what was signed of both."""
    mine, theirs = duplicates.exact_overlap(validation.prints, training.prints)
    same = set(mine.tolist())
    exact = zip(mine.tolist(), theirs.tolist(), (1.0 for _ in mine), strict=True)
    near = []
    if validation.signatures and training.signatures and validation.expected is training.expected:
        near = [
            (validation.signed[one], training.signed[other], value)
            for one, other, value in duplicates.near_overlap(
                np.stack(validation.signatures), np.stack(training.signatures)
            )
            if validation.signed[one] not in same
        ]
    told = [*exact, *near][: duplicates.MAX_TOLD]
    return ValidationCheck(
        exact=len(same),
        near=len(near),
        examples=len(validation.numbers),
        pairs=duplicates.pairs(told, validation.numbers, training.numbers),
        bad_lines=validation.total_problems,
        bad=_bad(validation),
    )


def _forecast(found: Reading, other: Reading | None, question: Question, sizes: Sizes) -> Any:
    n_epochs, batch_size = question.auto(len(found.numbers))
    method = question.method or next((each for each, shapes in SHAPES.items() if found.expected in shapes), None)
    course = Course(method or MethodType.SUPERVISED, n_epochs, batch_size, question.threads)
    return forecast(
        sizes,
        course,
        found.counted,
        other.counted if other else (),
        examples=len(found.numbers),
        validation_examples=len(other.numbers) if other else None,
        speed=question.speed,
    )
