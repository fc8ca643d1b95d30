"""What is said of a file of training data before it is trained: one report, at upload, by `milepost check`, and as the
`report` of a file.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from milepost.resources.base import Frozen
from milepost.resources.forecasts import Forecast


class BadLine(Frozen):
    """A line that cannot be trained on."""

    line: int = Field(description="Its number in the file, counted from 1; blank lines count.")
    kinds: tuple[str, ...] = Field(description="One word for each of its faults.")
    reason: str = Field(description="What is wrong, in the words that fail a job.")
    fix: str = Field(description="What would mend it.")


class LineWarning(Frozen):
    """Something that can be trained on, but is hardly what was meant."""

    kind: str = Field(description="One word for it.")
    lines: int = Field(description="How many lines it is said of.")
    examples: tuple[int, ...] = Field(description="The first of these lines, by number.")
    reason: str = Field(description="What is said of the first of them.")
    fix: str = Field(description="What would mend it.")


class Spread(Frozen):
    """Tokens per example."""

    min: int = Field(description="Of the shortest example.")
    median: int = Field(description="Half of the examples have no more.")
    p95: int = Field(description="Nineteen of twenty examples have no more.")
    max: int = Field(description="Of the longest example.")


class TokenCounts(Frozen):
    """Tokens as the base model's own tokenizer and chat template give them."""

    model: str = Field(description="The base model whose tokenizer counted.")
    counted: int = Field(description="Examples that were counted; fewer than there are if the file is large.")
    is_estimate: bool = Field(description="Whether the sums are scaled up from the examples that were counted.")
    total: int = Field(description="Tokens of all examples, each seen once, after the limit has cut them.")
    learnt: int | None = Field(description="Those that carry loss; null for reinforcement, where answers are sampled.")
    learnt_share: float | None = Field(description="`learnt` over `total`.")
    per_example: Spread = Field(description="Before the limit cuts.")
    limit: int = Field(description="Tokens of an example that are trained; what follows is cut off.")
    cut_examples: int = Field(description="Examples longer than the limit.")
    cut_tokens: int = Field(description="Tokens they lose.")
    cut_lines: tuple[int, ...] = Field(description="The first of their lines, by number.")
    unlearnt_lines: tuple[int, ...] = Field(
        description="The first lines of which no token is left to learn from, by number."
    )


class LineGroup(Frozen):
    """Lines that are the same, or nearly."""

    lines: tuple[int, ...] = Field(description="The first of them, by number.")
    count: int = Field(description="How many they are.")
    similarity: float = Field(description="The least that was measured; 1 if they are the same.")


class Duplicates(Frozen):
    """Examples that stand in the file more than once. Near duplicates are looked for among at most `compared`."""

    exact: int = Field(description="Examples that repeat an earlier one, whatever its blanks and order of keys.")
    exact_groups: tuple[LineGroup, ...] = Field(description="The first groups of them.")
    near: int = Field(description="Examples that say nearly what an earlier one says, exact ones not counted.")
    near_groups: tuple[LineGroup, ...] = Field(description="The first groups of them.")
    compared: int = Field(description="Different examples that were compared; fewer than there are if there are many.")
    threshold: float = Field(description="Similarity from which examples are near duplicates.")


class LinePair(Frozen):
    """A line of the validation file, and one of the training file that it repeats."""

    validation_line: int = Field(description="Its number in the validation file.")
    training_line: int = Field(description="The number of the line that it repeats.")
    similarity: float = Field(description="1 if they are the same.")


class ValidationCheck(Frozen):
    """A validation file beside its training file. What is trained on measures memory; a bad line fails the job."""

    exact: int = Field(description="Validation examples that stand in the training file.")
    near: int = Field(description="Validation examples that nearly do, exact ones not counted.")
    examples: int = Field(description="Validation examples there are.")
    pairs: tuple[LinePair, ...] = Field(description="The first of them.")
    bad_lines: int = Field(description="Lines of the validation file that cannot be used.")
    bad: tuple[BadLine, ...] = Field(description="The first of them.")


class FileReport(Frozen):
    """What was found in a file of training data. In lists of files the lists of lines are left out (`is_short`)."""

    object: Literal["file.report"] = Field("file.report", description="The object type, always `file.report`.")
    examples: int = Field(description="Lines that are not blank.")
    format: str | None = Field(description="The format most lines have; null if none has any.")
    methods: tuple[str, ...] = Field(description="The training methods that take this format.")
    is_trainable: bool = Field(description="Whether a job of these methods would accept the file.")
    error: str | None = Field(None, description="Why it would not, where no single line is to blame.")
    bad_lines: int = Field(description="Lines that cannot be trained on; a job fails if there is one.")
    bad: tuple[BadLine, ...] = Field(description="The first of them: `bad_lines` counts them all.")
    warnings: tuple[LineWarning, ...] = Field((), description="What is hardly meant, but fails no job.")
    tokens: TokenCounts | None = Field(None, description="Null if `tokens_note` says why.")
    tokens_note: str | None = Field(None, description="Why tokens were not counted, or what they stand for.")
    duplicates: Duplicates | None = Field(None, description="Examples that repeat others; null if none could be read.")
    validation: ValidationCheck | None = Field(
        None, description="What was found in the validation file, where `milepost check` was given one."
    )
    forecast: Forecast | None = Field(None, description="With the hyperparameters that `auto` gives.")
    is_short: bool = Field(False, description="Whether the lists of lines are left out.")

    def short(self) -> FileReport:
        """Without its lists of lines."""
        tokens = self.tokens and self.tokens.model_copy(update={"cut_lines": (), "unlearnt_lines": ()})
        duplicates = self.duplicates and self.duplicates.model_copy(update={"exact_groups": (), "near_groups": ()})
        warnings = tuple(warning.model_copy(update={"examples": ()}) for warning in self.warnings)
        changes = {"bad": (), "warnings": warnings, "tokens": tokens, "duplicates": duplicates, "is_short": True}
        return self.model_copy(update=changes)
