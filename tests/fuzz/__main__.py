"""Look for bytes that break a target, for as long as one likes: `python -m tests.fuzz --seconds 600 [--target sql]`.

atheris mutates what covers new branches: `raw` the bytes themselves, `shaped` the choices that `shapes` draws them by.
Each runs in a process of its own, since libFuzzer never returns. What breaks a target is kept in `found/`, and fails
`test_fuzz` until it is mended; what covers something new is kept in `build/fuzz`.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / "build" / "fuzz"
#: One input may take as long, and one process as much memory; beyond that it is a finding too.
LONGEST_S, MOST_MB, MOST_BYTES = 30, 4096, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="how long each target is fuzzed")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--way", choices=("raw", "shaped"), help="in this process, and not in two of its own")
    given = parser.parse_args()
    if given.way:
        fuzz(given.target[0], given.way, given.seconds)
        return
    from tests.fuzz.targets import TARGETS

    broken = [
        f"{target} ({way})"
        for target in given.target or TARGETS
        for way in ("raw", "shaped")
        if not _survives(target, way, max(given.seconds // 2, 1))
    ]
    if broken:
        sys.exit(f"Broken: {', '.join(broken)}. What broke them is in {HERE / 'found'}")


def _survives(target: str, way: str, seconds: int) -> bool:
    command = [sys.executable, "-m", "tests.fuzz", "--target", target, "--way", way, "--seconds", str(seconds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    lines = ended.stderr.splitlines()
    done = next((line for line in reversed(lines) if line.startswith("Done ")), "")
    print(f"{target} ({way}): {done or 'broken'}", flush=True)
    if ended.returncode:
        print("\n".join(lines[-40:]), flush=True)
    return ended.returncode == 0


def fuzz(target: str, way: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["milepost", "jinja2", "python_multipart", "sqlglot"]):
        from tests.fuzz.targets import TARGETS, Lab
    from hypothesis import HealthCheck, given, settings

    from tests.fuzz.shapes import SEEDS, SHAPES

    logging.disable(logging.CRITICAL)
    lab = Lab(Path(tempfile.mkdtemp(prefix="fuzz-")))
    corpus = KEPT / f"{target}-{way}"
    corpus.mkdir(parents=True, exist_ok=True)
    if way == "raw":
        for seed in (*SEEDS[target], *(path.read_bytes() for path in (HERE / "found" / target).glob("*"))):
            (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    current = KEPT / f"{target}-{way}.current"

    def one(raw: bytes) -> None:
        current.write_bytes(raw)  # libFuzzer ends the process on a hang, and Python hears nothing of it
        try:
            TARGETS[target](lab, raw)
        except BaseException:
            found = HERE / "found" / target / hashlib.sha256(raw).hexdigest()[:12]
            found.parent.mkdir(parents=True, exist_ok=True)
            found.write_bytes(raw)
            raise

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SHAPES[target])
    def shaped(raw: bytes) -> None:
        one(raw)

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={LONGEST_S}",
        f"-rss_limit_mb={MOST_MB}",
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={KEPT}/{target}-{way}-",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *options], one if way == "raw" else shaped.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
