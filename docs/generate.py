"""The reference pages, written from the code: tables from the catalog, objects and settings from their models.

`python docs/generate.py` writes them; with `--check` it writes nothing and fails if a page differs from its source.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from milepost.config import PREFIX, Settings
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.resources.files import File
from milepost.resources.jobs import Event, Job
from milepost.resources.models import Model
from milepost.sql.catalog import Method, Parameter, Table, shipped
from milepost.sql.show import blank, insert_example

REFERENCE = Path(__file__).parent / "reference"
WARNING = "<!-- Written by docs/generate.py: change its source, not this page. -->\n"

#: The objects that have a page; what they are made of gets pages too.
OBJECTS: tuple[type[BaseModel], ...] = (FineTuningJobCheckpoint, Job, Event, File, Model)
#: Tables whose rows are an object of ours: then the words are ours as well.
OUR_ROWS = {"openai.fine_tuning.job_checkpoints": FineTuningJobCheckpoint}

ROOTS = {
    "openai": "OpenAI's API with a project key, and the same on a Milepost server (provider `local`).",
    "openai_admin": "OpenAI's administration API, with an admin key.",
}


def pages() -> dict[Path, str]:
    """Every generated page: where it lies, and what stands in it."""
    tables = [shipped().table(*name.split(".")) for root in ROOTS for name in shipped().names(root)]
    found = {REFERENCE / "sql" / _place(table): _table_page(table) for table in tables}
    found[REFERENCE / "sql" / "index.md"] = _sql_index(tables)
    schemas = _schemas()
    found |= {REFERENCE / "objects" / f"{name.lower()}.md": _object_page(name, schemas) for name in schemas}
    found[REFERENCE / "objects" / "index.md"] = _object_index(schemas)
    found[REFERENCE / "settings.md"] = _settings_page()
    return {path: WARNING + text for path, text in found.items()}


def main(arguments: Sequence[str]) -> int:
    wanted = pages()
    there = {path for path in REFERENCE.rglob("*.md") if path.read_text().startswith(WARNING)}
    stale = sorted(there - wanted.keys())
    differ = sorted(path for path, text in wanted.items() if not path.exists() or path.read_text() != text)
    if "--check" in arguments:
        for path in (*stale, *differ):
            print(f"{path.relative_to(REFERENCE.parent)} is not what its source says", file=sys.stderr)
        return 1 if stale or differ else 0
    for path in stale:
        path.unlink()
    for path in differ:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    return 0


# --- tables -----------------------------------------------------------------------------------------------------------


def _place(table: Table) -> str:
    return table.name.replace(".", "/") + ".md"


def _table_page(table: Table) -> str:
    return "\n".join(
        [
            f"# {table.resource}\n",
            f"{table.description}\n" if table.description else "",
            "## Overview\n",
            *_grid(
                ["", ""], [["**Name**", f"`{table.resource}`"], ["**Type**", "Resource"], ["**Id**", f"`{table.name}`"]]
            ),
            "## Fields\n",
            *_fields(table),
            "## Methods\n",
            *_grid(
                ["Name", "Accessible by", "Required Params", "Description"],
                [
                    [f"`{m.name}`", f"`{m.verb}`", ", ".join(f"`{name}`" for name in m.required), m.description]
                    for m in table.methods
                ],
            ),
            *_select_example(table),
            *_change_examples(table),
        ]
    )


def _fields(table: Table) -> list[str]:
    if not table.columns:
        return ["None: no method of this resource reads it.\n"]
    model = OUR_ROWS.get(table.name)
    ours = {name: field.description or "" for name, field in model.model_fields.items()} if model else {}
    return _grid(
        ["Name", "Datatype", "Description"],
        [[f"`{c.name}`", f"`{c.datatype}`", ours.get(c.name, c.description)] for c in table.columns],
    )


def _select_example(table: Table) -> Iterator[str]:
    if not table.selects:
        return
    method = min(table.selects, key=lambda method: (len(method.required), method.own_id is not None))
    conditions = [f"{name} = '{{{{ {name} }}}}'" for name in method.required]
    where = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
    columns = ",\n".join(_identifier(column.name) for column in table.columns)
    yield f"## `SELECT` examples\n\n```sql\nSELECT\n{columns}\nFROM {table.name}{where};\n```\n"


def _change_examples(table: Table) -> Iterator[str]:
    """How each other method is called: with what it must have, and for UPDATE with what it may change."""
    for verb, write in (("INSERT", _insert), ("UPDATE", _update), ("DELETE", _delete), ("EXEC", _exec)):
        methods = [method for method in table.methods if method.verb == verb]
        if methods:
            blocks = "\n".join(f"```sql\n{write(table, method)}\n```\n" for method in methods)
            yield f"## `{verb}` examples\n\n{blocks}"


def _insert(table: Table, method: Method) -> str:
    return insert_example(method, table.name)


def _update(table: Table, method: Method) -> str:
    keys = [p for p in method.parameters if p.place == "path"]
    values = [p for p in method.parameters if p.place == "body"]
    shown = [p for p in values if p.required] or values[:2]
    sets = ",\n  ".join(f"{p.name} = {blank(p)}" for p in shown)
    return f"UPDATE {table.name} SET\n  {sets}{_where(keys)}\nRETURNING *;"


def _delete(table: Table, method: Method) -> str:
    return f"DELETE FROM {table.name}{_where([p for p in method.parameters if p.place == 'path'])};"


def _exec(table: Table, method: Method) -> str:
    names = dict.fromkeys((*method.required, *(method.either[0] if method.either else ())))
    given = ", ".join(f"@{name} = {blank(p)}" for name in names if (p := method.parameter(name)))
    return f"EXEC {table.name}.{method.name}{f' {given}' if given else ''};"


def _where(keys: Sequence[Parameter]) -> str:
    conditions = " AND ".join(f"{parameter.name} = {blank(parameter)}" for parameter in keys)
    return f"\nWHERE {conditions}" if conditions else ""


def _identifier(name: str) -> str:
    """The name as SQL wants it: in quotes if it has dots in it, or is the one word of the API that SQL keeps."""
    return name if name.isidentifier() and name != "default" else f'"{name}"'


def _sql_index(tables: Iterable[Table]) -> str:
    parts = [
        "# Tables\n",
        f"Every resource of the `{shipped().sdk}` SDK {shipped().version}; `SHOW` and `DESCRIBE` tell the same.\n",
    ]
    for root, text in ROOTS.items():
        rows = [
            [f"[`{table.name}`]({_place(table)})", ", ".join(sorted({f"`{method.verb}`" for method in table.methods}))]
            for table in tables
            if table.name.partition(".")[0] == root
        ]
        parts += [f"## `{root}`\n", f"{text}\n", *_grid(["Table", "Accessible by"], rows)]
    return "\n".join(parts)


# --- objects ----------------------------------------------------------------------------------------------------------


def _schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas of the objects and of all they are made of, by name."""
    _, whole = models_json_schema([(model, "validation") for model in OBJECTS], ref_template="{model}")
    return dict(sorted(whole["$defs"].items()))


def _object_page(name: str, schemas: dict[str, dict[str, Any]]) -> str:
    schema = schemas[name]
    parts = [f"# {name}\n", f"{_paragraphs(schema.get('description', ''))}\n"]
    if "properties" not in schema:
        values = schema.get("enum", [schema.get("const")])
        return "\n".join([*parts, "## Values\n", *_grid(["Value"], [[f"`{value}`"] for value in values])])
    required = schema.get("required", [])
    rows = [
        [
            f"`{field}`",
            _kind(said, schemas),
            ":heavy_check_mark:" if field in required else "",
            said.get("description", ""),
        ]
        for field, said in schema["properties"].items()
    ]
    return "\n".join([*parts, "## Fields\n", *_grid(["Field", "Type", "Required", "Description"], rows)])


def _kind(schema: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> str:
    """A JSON schema in the words of the page; what has a page of its own is a link."""
    if "$ref" in schema:
        return f"[{schema['$ref']}]({schema['$ref'].lower()}.md)"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(member, schemas) for member in schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_kind(schema.get('items', {}), schemas)}"
    return f"*{schema.get('type', 'any')}*"


def _object_index(schemas: dict[str, dict[str, Any]]) -> str:
    rows = [
        [f"[{name}]({name.lower()}.md)", _paragraphs(schema.get("description", "")).partition("\n")[0]]
        for name, schema in schemas.items()
    ]
    return "\n".join(["# Objects\n", "What the API sends, as Python has it.\n", *_grid(["Object", "What it is"], rows)])


def _paragraphs(text: str) -> str:
    """A docstring's paragraphs, each on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


# --- settings ---------------------------------------------------------------------------------------------------------


def _settings_page() -> str:
    defaults = _defaults()
    rows = [
        [f"`{PREFIX}{name.upper()}`", f"`{defaults[name]}`" if defaults[name] else "", field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            "# Settings\n",
            "Environment variables, read once at the start. A misspelt one is refused; a command's own option wins.\n",
            *_grid(["Variable", "Default", "What it sets"], rows),
        ]
    )


def _defaults() -> dict[str, str]:
    """Defaults as an operator reads them: `~` is the home folder, whoever writes the page."""
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        os.environ.pop(variable, None)
    home = str(Path.home())
    values = {name: getattr(Settings(), name) for name in Settings.model_fields}
    return {
        name: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace(home, "~")
        for name, value in values.items()
    }


def _grid(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table and the empty line after it."""
    lines = [heads, [":---"] * len(heads), *rows]
    return [*(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines), ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
