"""How many defects of training data the checks find, at the right lines, and how often clean lines are told of.

    python bench/checks.py [--seeds 10] [--json FILE]

The files are drawn by `tests/checks/defects.py`; a test holds the same numbers for fewer seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from milepost.modeling.pull import pull
from tests.checks.measuring import Score, measure, tool_base

BASE = "tiny-random-llama"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pull(Path(folder) / BASE, BASE, from_dir=None, on_progress=lambda *_: None)
        began = time.perf_counter()
        score = measure(range(arguments.seeds), tool_base(Path(folder) / BASE, Path(folder) / "with-tools"))
        seconds = time.perf_counter() - began
    show(score, seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(found(score), indent=1))


def found(score: Score) -> dict[str, object]:
    return {
        "kinds of defects": len(score.planted),
        "defects": score.planted.total(),
        "found": score.found.total(),
        "recall": score.recall,
        "named": score.naming,
        "clean lines": score.clean_lines,
        "false alarms": score.alarms.total(),
        "load (1 min)": os.getloadavg()[0],
    }


def show(score: Score, seconds: float) -> None:
    for name, planted in score.planted.items():
        if score.named[name] < planted:
            print(f"{name:<36}{score.found[name]:>5} of {planted} found, {score.named[name]} by the right name")
    for words, count in score.alarms.most_common(20):
        print(f"false alarm, {words}: {count}")
    for name, value in found(score).items():
        print(f"{name:<20}{value:,.4f}" if isinstance(value, float) else f"{name:<20}{value:,}")
    print(f"{'seconds':<20}{seconds:,.1f}")


if __name__ == "__main__":
    main()
