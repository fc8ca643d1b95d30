"""ARCHITECTURE.md is true: its tree is the tree, and no import breaks its table, function-level ones included.

`python tests/test_architecture.py` writes the tree anew, from the first line of each module's docstring, and prints
how many lines of code and tests each folder has.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "milepost"
PAGE = ROOT / "ARCHITECTURE.md"
TREE = re.compile(r"```\nmilepost/\n(.*?)```\n", re.DOTALL)
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Libraries that only some folders may import: start-up time, and one place for each kind of knowledge.
HOME_OF = {
    "torch": {"modeling", "training", "serving"},
    "transformers": {"modeling", "training", "serving"},
    "peft": {"modeling", "training", "serving"},
    "duckdb": {"sql"},
    "sqlglot": {"sql"},
    "fastapi": {"api", "console"},
    "prometheus_client": {"api"},
    "sqlalchemy": {"store", "jobs"},
    "alembic": {"store"},
    "typer": {"cli"},
    "rich": {"cli"},
}
#: The torch-free part of `serving`, which the API talks to.
TORCH_FREE = {"milepost.serving.client", "milepost.serving.protocol"}
#: Where a file or function outgrows these, ask whether it still reads like a page (STYLE, habit 10).
LONGEST_FILE, LONGEST_FUNCTION = 450, 60


def folder_of(path: Path) -> str:
    """The name a module goes by in the import table: its folder, or its own at the top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else {"__main__": "cli"}.get(path.stem, path.stem)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """(line, dotted name) of everything a file imports, wherever in it; `from a import b` gives a.b."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides what is imported"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return tuple(found)


def import_table() -> dict[str, set[str]]:
    """folder → what it may import, as the page says."""
    section = PAGE.read_text(encoding="utf-8").split("## Who may import whom", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([a-z_, ]+) \| ([a-z_., ]+) \|$", section, re.MULTILINE)
    return {folder: set(allowed.split(", ")) for folders, allowed in rows for folder in folders.split(", ")}


def strangers(path: Path) -> Iterator[str]:
    """Imports of ours that the table does not allow."""
    folder = folder_of(path)
    allowed = import_table()[folder] | {folder, "__version__"}
    for line, name in imports(path):
        if name == "milepost" or name.split(".")[0] != "milepost" or "anything" in allowed:
            continue
        if not any(f"{name}.".startswith(f"milepost.{each}.") for each in allowed):
            yield f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_imports_of_ours_follow_the_table():
    inside = [path for path in MODULES if path != PACKAGE / "__init__.py"]
    assert [stranger for path in inside for stranger in strangers(path)] == []


def test_every_folder_is_in_the_table():
    assert {folder_of(path) for path in MODULES} - {"__init__"} <= set(import_table())


def test_libraries_stay_at_home():
    away = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in MODULES
        for line, name in imports(path)
        if folder_of(path) not in HOME_OF.get(name.split(".")[0], {folder_of(path)})
    ]
    assert away == []


def test_what_the_api_takes_from_serving_has_no_torch():
    taken = {name for path in MODULES if folder_of(path) == "api" for _, name in imports(path) if ".serving." in name}
    assert {name.rsplit(".", 1)[0] for name in taken} <= TORCH_FREE


def test_the_environment_is_read_in_config_and_cli_only():
    """A training process that waited for its order is given its secrets late, and puts them there."""
    readers = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        if folder_of(path) not in {"config", "cli"} and path != ROOT / "milepost/training/waiting.py"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    ]
    assert readers == []


def test_the_tree_is_the_tree():
    """If not: python tests/test_architecture.py"""
    found = TREE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[1].splitlines() == list(tree_lines(folder_texts()))


def test_every_folder_says_what_it_is():
    assert [folder for folder, text in folder_texts().items() if not text] == []


def test_files_read_like_pages():
    long = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path in MODULES
        if (lines := path.read_text(encoding="utf-8").count("\n")) > LONGEST_FILE
    ]
    assert long == []


def test_functions_can_be_seen_at_once():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno} lines"
        for path in MODULES
        if "migrations" not in path.parts  # a migration is a list
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno > LONGEST_FUNCTION
    ]
    assert long == []


def test_public_faces_name_what_exists():
    missing = [
        f"{module}.{name}"
        for module in map(module_of, MODULES)
        if module != "milepost.store.migrations.env"  # runs when it is imported, as Alembic wants it
        and has_all(PACKAGE.parent / Path(*module.split(".")))
        for face in [importlib.import_module(module)]
        for name in face.__all__
        if not hasattr(face, name)
    ]
    assert missing == []


def test_the_package_shows_its_version_and_sql():
    assert importlib.import_module("milepost").__all__ == ["__version__", "query", "query_async"]


def has_all(module: Path) -> bool:
    path = module.with_suffix(".py") if module.with_suffix(".py").exists() else module / "__init__.py"
    return any(
        isinstance(node, ast.Assign) and any(ast.unparse(target) == "__all__" for target in node.targets)
        for node in parsed(path).body
    )


def folder_texts() -> dict[str, str]:
    """Folder → what the page says of it, in the page's order; folders the page has not yet come last, without text."""
    found = TREE.search(PAGE.read_text(encoding="utf-8"))
    texts: dict[str, str] = {}
    above: list[str] = []
    for line in found[1].splitlines() if found else ():
        depth, (name, _, text) = (len(line) - len(line.lstrip())) // 2, line.strip().partition(" ")
        above[depth - 1 :] = [name.rstrip("/")]
        if name.endswith("/"):
            texts["/".join(above)] = text.strip()
    real = [str(path.parent.relative_to(PACKAGE)) for path in MODULES if path.parent != PACKAGE]
    return {folder: texts.get(folder, "") for folder in dict.fromkeys([*texts, *real]) if folder in real}


def tree_lines(folders: dict[str, str], inside: Path = PACKAGE, depth: int = 1) -> Iterator[str]:
    for path in sorted(inside.glob("*.py")):
        if path.name != "__init__.py" or inside == PACKAGE:
            yield _line(depth, path.name, (ast.get_docstring(parsed(path)) or "").split("\n")[0])
    for folder, text in folders.items():
        if PACKAGE / folder != inside and (PACKAGE / folder).parent == inside:
            yield _line(depth, f"{Path(folder).name}/", text)
            yield from tree_lines(folders, PACKAGE / folder, depth + 1)


def _line(depth: int, name: str, text: str) -> str:
    return f"{'  ' * depth + name:<26} {text}".rstrip()


def write_tree() -> None:
    block = "".join(f"{line}\n" for line in tree_lines(folder_texts()))
    page = TREE.sub(lambda _: f"```\nmilepost/\n{block}```\n", PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")


def sizes() -> Iterator[str]:
    yield f"{'folder':12}{'code':>7}{'tests':>7}"
    for folder in sorted({folder_of(path) for path in MODULES} - {"__init__"}):
        code = sum(path.read_text(encoding="utf-8").count("\n") for path in MODULES if folder_of(path) == folder)
        tests = sum(path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "tests" / folder).rglob("*.py"))
        yield f"{folder:12}{code:7}{tests:7}"


if __name__ == "__main__":
    write_tree()
    sys.stdout.write("\n".join(sizes()) + "\n")
