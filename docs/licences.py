"""The licences of everything a fresh machine is given, from the packages' own metadata.

`python docs/licences.py` writes docs/reference/licences.md; `--check` fails if it differs, or if a licence is neither
permissive nor excused with a reason. What is listed is what constraints.txt pins.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/licences.md"

#: Who uses, changes or passes these on owes a notice, and nothing else.
PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-CMU",
        "PSF-2.0",
        "Zlib",
    }
)
#: What else is let in, and why.
EXCUSED = {
    "atheris": "its metadata names none; the file it comes with is Apache-2.0. For tests only",
    "certifi": "MPL-2.0 asks for the source of its own files when they are changed; ours are not",
    "detect_agent": "its metadata names none; the file it comes with is Apache-2.0",
    "hypothesis": "MPL-2.0, for tests only",
    "orjson": "MPL-2.0 asks for the source of its own files when they are changed; ours are not",
    "pathspec": "MPL-2.0, for development only",
    "psycopg": "LGPL-3.0 lets anyone use it as the library it is, unchanged; only with the extra `postgres`",
    "psycopg-binary": "LGPL-3.0 lets anyone use it as the library it is, unchanged; only with the extra `postgres`",
    "tqdm": "MPL-2.0 asks for the source of its own files when they are changed; ours are not",
}
#: What classifiers and free texts are called in SPDX.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def pinned() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("==")[0] for line in lines if "==" in line and not line.startswith("#")]


def licence(package: str) -> str:
    """As SPDX has it, as far as the package says; empty if it says nothing."""
    said = metadata.metadata(package)
    if expression := said.get("License-Expression"):
        return str(expression)
    classified = [line.split(" :: ")[-1] for line in said.get_all("Classifier") or () if line.startswith("License ::")]
    words = classified or [(said.get("License") or "").split("\n")[0]]
    return " OR ".join(SPDX.get(word, word) for word in words)


def is_permissive(expression: str) -> bool:
    """Whether all that must be met is; of alternatives, one."""
    return all(
        any(choice.strip() in PERMISSIVE for choice in re.split(r" OR ", part.strip("() ")))
        for part in expression.split(" AND ")
    )


def refused(licences: dict[str, str]) -> list[str]:
    return [
        f"{package}: {found or 'no licence is named'}. Do without it, or say in EXCUSED why it may be used"
        for package, found in licences.items()
        if package not in EXCUSED and not is_permissive(found)
    ]


def page(licences: dict[str, str]) -> str:
    rows = [f"| {package} | {found or '?'} | {EXCUSED.get(package, '')} |" for package, found in licences.items()]
    head = ["<!-- Written by docs/licences.py: change that, not this page. -->", "# Licences of what Milepost uses\n"]
    head += [
        "Of every package that `constraints.txt` pins, from its own metadata.\n",
        "| package | licence | why all the same |",
    ]
    return "\n".join([*head, "|---|---|---|", *rows, ""])


def main(arguments: Sequence[str]) -> int:
    licences = {package: licence(package) for package in pinned()}
    for fault in (faults := refused(licences)):
        print(fault, file=sys.stderr)
    written = page(licences)
    if "--check" not in arguments:
        PAGE.write_text(written, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != written:
        print(f"{PAGE.relative_to(ROOT)} is not what the packages say: python docs/licences.py", file=sys.stderr)
        return 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
