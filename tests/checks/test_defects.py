"""The seeded set of defects: how many are found where they stand, by their right name, and what is said of clean lines.

`make bench-checks` tells the numbers for more seeds and longer files, and which are missed.
"""

from tests.checks.defects import DEFECTS, REPEATS, SPOILT_FILES, Size
from tests.checks.measuring import measure


def test_planted_defects_are_found_and_clean_lines_are_left_alone(tool_tokenizer):
    score = measure([20_261_125], tool_tokenizer, Size(lines=12, planted=1))
    assert len(score.planted) == len(DEFECTS) + len(REPEATS) + len(SPOILT_FILES)
    assert {name for name, planted in score.planted.items() if score.found[name] < planted} == set()
    assert score.naming >= 0.98
    assert score.clean_lines > 3_000
    assert dict(score.alarms) == {}
