"""What a run directory holds, as values to compare."""

import json
from pathlib import Path


def events(run: Path) -> list[dict]:
    """The events without `at`, the only clock time in them."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "at"} for line in lines]


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def checkpoints(run: Path) -> dict[str, bytes]:
    """Every file of every checkpoint, with its bytes."""
    files = sorted((run / "checkpoints").rglob("*"))
    return {str(file.relative_to(run)): file.read_bytes() for file in files if file.is_file()}


def outputs(run: Path) -> tuple[list[dict], dict, dict[str, bytes]]:
    """All that must be the same bytes however often the run was killed; two runs' job.json name their own folders."""
    ended = result(run)
    (ended.get("conditions") or {}).pop("job_sha256", None)
    return events(run), ended, checkpoints(run)
