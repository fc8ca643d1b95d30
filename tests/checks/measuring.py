"""How many planted defects the report finds, at the lines where they stand; and what it says of clean lines."""

from __future__ import annotations

import io
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from milepost.checks.report import AT_LEISURE, Question, examine
from milepost.checks.tokens import Tokenizer, load_tokenizer
from milepost.resources.reports import FileReport
from tests.checks import defects
from tests.checks.defects import FULL, Planted, Size

#: Not a finding: most good files have it somewhere.
NO_ALARM = {"missing_system"}


#: The template of the base that counts: like Qwen's, it writes tools, calls and answers.
TEMPLATE = """\
{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}
{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.content %}{{ message.content }}{% endif %}
{% for call in message.tool_calls or [] %}{{ '<call>' + (call.function | tojson) + '</call>' }}{% endfor %}
{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def tool_base(tiny: Path, target: Path) -> Tokenizer:
    """The tokenizer of a copy of the tiny base whose chat template knows tools."""
    shutil.copytree(tiny, target)
    (target / "chat_template.jinja").write_text(TEMPLATE.replace("\n{%", "{%").replace("\n{{", "{{"))
    return load_tokenizer(target, tiny.name, 2048)


@dataclass
class Score:
    """By defect: lines planted, found at all, and found with the right word. Alarms are clean lines that were told of."""

    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    clean_lines: int = 0
    alarms: Counter[str] = field(default_factory=Counter)

    @property
    def recall(self) -> float:
        return self.found.total() / self.planted.total()

    @property
    def naming(self) -> float:
        return self.named.total() / self.planted.total()

    @property
    def alarm_rate(self) -> float:
        return self.alarms.total() / self.clean_lines


def measure(seeds: Iterable[int], tokenizer: Tokenizer, size: Size = FULL) -> Score:
    score = Score()
    question = Question(AT_LEISURE, tokenizer=tokenizer)
    for seed in seeds:
        for file in (*defects.planted(seed, size), *defects.repeated(seed, size), *defects.clean(seed)):
            _count(score, file, examine(io.BytesIO(file.content), question))
        for name, (spoil, word) in defects.SPOILT_FILES.items():
            for file in defects.clean(seed, 20):
                report = examine(io.BytesIO(spoil(file.content)), question)
                score.planted[name] += 1
                score.found[name] += not report.is_trainable
                score.named[name] += _names_file(report, word)
    return score


def told(report: FileReport) -> dict[int, set[str]]:
    """Line → the words that are said of it."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    for bad in report.bad:
        found[bad.line] |= set(bad.kinds)
    for warning in report.warnings:
        for line in warning.examples:
            if warning.kind not in NO_ALARM:
                found[line].add(warning.kind)
    if report.duplicates is not None:
        for word, groups in (("exact", report.duplicates.exact_groups), ("near", report.duplicates.near_groups)):
            for group in groups:
                for line in group.lines[1:]:
                    found[line].add(word)
    return found


def _count(score: Score, file: Planted, report: FileReport) -> None:
    said = told(report)
    lines = report.examples
    for line in file.lines:
        score.planted[file.name] += 1
        score.found[file.name] += bool(said.get(line))
        score.named[file.name] += bool(said.get(line, set()) & file.kinds)
    score.clean_lines += lines - len(file.lines)
    for line, words in said.items():
        if line not in file.lines:
            score.alarms[f"{file.name}: {', '.join(sorted(words))}"] += 1


def _names_file(report: FileReport, word: str) -> bool:
    if word == "empty":
        return report.error is not None and "empty" in report.error
    if report.error is None:
        return any(word in bad.kinds for bad in report.bad)
    return {
        "json_array": "JSON array",
        "pretty_printed": "several lines",
        "utf16": "UTF-16",
        "gzip": "gzip",
        "zip": "ZIP",
        "csv": "table",
        "html": "web page",
        "several_objects": "several",
    }[word].lower() in report.error.lower()
