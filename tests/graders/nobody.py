"""Running a grader from a server that is an ordinary user, though the tests are root and may lie where only root goes."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

TREE = Path(__file__).parents[2]

SERVER = """
import json, sys
from dataclasses import asdict
from milepost.graders import sandbox
source, item, layers = json.load(sys.stdin)
ran = sandbox.run(source, {}, item, layers=frozenset(layers))
print(json.dumps(asdict(ran) | {"layers": sorted(ran.layers)}))
"""


def as_nobody(source: str, item: dict, layers: frozenset[str]) -> dict:
    """`sandbox.run` in a process of the user `nobody`; what it gave, as a dictionary."""
    needed = [Path(sys.base_prefix).resolve(), TREE, Path(sysconfig.get_path("purelib")).resolve()]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as stage:
        server = [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *("env", "-i", f"PYTHONPATH={needed[1]}:{needed[2]}", sys._base_executable, "-c", SERVER),
        ]
        script = "\n".join(["set -e", *_opened(needed, Path(stage)), "exec " + shlex.join(server)])
        ended = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            input=json.dumps([source, item, sorted(layers)]),
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def _opened(needed: list[Path], stage: Path) -> list[str]:
    """Commands after which each of these folders can be reached by everybody, in this mount namespace only."""
    lines, closed = [], []
    for number, folder in enumerate(needed):
        ancestors = [path for path in reversed(folder.parents) if not path.stat().st_mode & stat.S_IXOTH]
        if ancestors:
            closed.append(ancestors[0])
            (stage / str(number)).mkdir()
            lines.append(f"mount --bind {folder} {stage}/{number}")
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {path}" for path in dict.fromkeys(closed)]
    for number, folder in enumerate(needed):
        if (stage / str(number)).exists():
            lines += [f"mkdir -p {folder}", f"mount --bind {stage}/{number} {folder}"]
    return lines
