"""What a fresh machine is promised: the packages, the pins, and that README's commands are real."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import milepost
from milepost.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def asked_for() -> list[Requirement]:
    project = PROJECT["project"]
    return [
        Requirement(line)
        for line in (
            *project["dependencies"],
            *project["optional-dependencies"]["server"],
            *PROJECT["dependency-groups"]["dev"],
        )
    ]


def test_every_dependency_is_pinned_to_a_version_it_allows():
    pinned = pins()
    bad = [
        str(requirement)
        for requirement in asked_for()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]
    assert bad == []


def test_what_is_pinned_is_what_these_tests_run_with():
    differ = {
        name: (version, metadata.version(name).split("+")[0])
        for name, version in pins().items()
        if metadata.version(name).split("+")[0] != version
    }
    assert differ == {}


def test_the_bare_package_asks_for_no_torch():
    bare = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    assert bare & {"torch", "transformers", "fastapi", "sqlalchemy", "uvicorn"} == set()


def test_the_version_stands_in_one_more_place_only():
    assert PROJECT["project"]["version"] == milepost.__version__


def named_in_readme(command: str) -> set[str]:
    """The first words after a command, where it stands at the start of a line or of a piece of code."""
    return set(re.findall(rf"(?:^|`){command} ([a-z0-9-]+)", README, re.MULTILINE))


def test_make_targets_in_the_readme_exist():
    assert named_in_readme("make") >= {"demo", "test", "setup"}
    assert named_in_readme("make") - set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE)) == set()


def test_commands_in_the_readme_exist():
    assert named_in_readme("milepost") >= {"serve", "sql", "pull"}
    assert named_in_readme("milepost") - set(COMMANDS) == set()


def test_links_in_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_documents_name_no_file_that_is_gone():
    pages = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")
    named = {
        name
        for page in pages
        for name in re.findall(r"`([\w/.-]+/[\w.-]+\.\w+)`", (ROOT / page).read_text(encoding="utf-8"))
    }
    assert [name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "milepost"))] == []


def test_licences_are_permissive_or_excused_and_the_page_says_them():
    assert licences().main(["--check"]) == 0


@pytest.mark.parametrize(
    ("expression", "permissive"),
    [
        ("MIT", True),
        ("MPL-2.0 AND MIT", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("", False),
    ],
)
def test_a_licence_is_permissive_if_all_that_must_be_met_is(expression, permissive):
    assert licences().is_permissive(expression) is permissive


def licences():
    spec = importlib.util.spec_from_file_location("licences", ROOT / "docs/licences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.e2e
def test_the_wheel_holds_what_is_read_at_run_time(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    needed = {
        "milepost/api/pages/docs.css",
        "milepost/api/pages/docs.html",
        "milepost/sql/catalog.json",
        "milepost/cli/demo/wordings.toml",
        "milepost/store/migrations/versions/v0001_first.py",
    }
    assert needed - names == set()
    assert [name for name in names if name.startswith("tests/")] == []
