"""The reference pages, written from the code: routes and objects from the OpenAPI document, tables from the catalog,
settings from their model.

`python docs/generate.py` writes them; with `--check` it writes nothing and fails if a page differs from its source.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from milepost.api.app import described_app
from milepost.api.document import TAGS, operations
from milepost.api.envelope import ErrorAnswer
from milepost.api.metrics import METRICS
from milepost.api.words import curl, example, kind, literal, paragraphs, parameters, pretty
from milepost.config import PREFIX, Settings
from milepost.resources.base import Frozen
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.sql.catalog import Method, Parameter, Table, shipped
from milepost.sql.show import blank, insert_example

REFERENCE = Path(__file__).parent / "reference"
WARNING = "<!-- Written by docs/generate.py: change its source, not this page. -->\n"

#: What the API is, without anything behind it.
DOCUMENT = described_app().openapi()
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
    found |= {REFERENCE / "routes" / _route_place(route[2]): _route_page(*route) for route in operations(DOCUMENT)}
    found[REFERENCE / "routes" / "index.md"] = _route_index()
    found[REFERENCE / "settings.md"] = _settings_page()
    found[REFERENCE / "metrics.md"] = _metrics_page()
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
    """JSON schemas of the objects the API takes and gives, and of all they are made of, by name."""
    named = {name.removesuffix("-Input").removesuffix("-Output") for name in DOCUMENT["components"]["schemas"]}
    models = [model for model in _models(Frozen) if model.__name__ in named and "resources" in model.__module__]
    _, whole = models_json_schema([(model, "validation") for model in (*models, ErrorAnswer)], ref_template="{model}")
    return dict(sorted(whole["$defs"].items()))


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _object_page(name: str, schemas: dict[str, dict[str, Any]]) -> str:
    schema = schemas[name]
    parts = [f"# {name}\n", f"{_text(schema.get('description', ''))}\n"]
    if "properties" not in schema:
        values = schema.get("enum", [schema.get("const")])
        return "\n".join([*parts, "## Values\n", *_grid(["Value"], [[f"`{value}`"] for value in values])])
    required = schema.get("required", [])
    rows = [
        [
            f"`{field}`",
            kind(said, _beside),
            ":heavy_check_mark:" if field in required else "",
            said.get("description", ""),
        ]
        for field, said in schema["properties"].items()
    ]
    return "\n".join([*parts, "## Fields\n", *_grid(["Field", "Type", "Required", "Description"], rows)])


def _beside(name: str) -> str:
    """The page of an object, from the page of another."""
    return f"{name.lower()}.md"


def _object_index(schemas: dict[str, dict[str, Any]]) -> str:
    rows = [
        [f"[{name}]({name.lower()}.md)", _text(schema.get("description", "")).partition("\n")[0]]
        for name, schema in schemas.items()
    ]
    return "\n".join(
        ["# Objects\n", "What the API takes and gives, as Python has it.\n", *_grid(["Object", "What it is"], rows)]
    )


def _text(text: str) -> str:
    """A docstring's paragraphs, each on one line."""
    return "\n\n".join(paragraphs(text))


# --- routes -----------------------------------------------------------------------------------------------------------


def _route_place(operation: dict[str, Any]) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", operation["operationId"]).lower()
    return f"{_folder(operation)}/{words}.md"


def _folder(operation: dict[str, Any]) -> str:
    return str(operation["tags"][0]).lower().replace(" ", "-")


def _route_page(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"# {operation['summary']}\n", f"`{method.upper()} {path}`\n", f"{_text(operation['description'])}\n"]
    for place, head in (("path", "In the path"), ("query", "In the query"), ("header", "Headers")):
        if rows := [
            [f"`{p['name']}`", _type(p["schema"]), _mark(p["required"]), p.get("description", "")]
            for p in parameters(operation, place)
        ]:
            parts += [f"## {head}\n", *_grid(["Name", "Type", "Required", "Description"], rows)]
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        parts += ["## Body\n", f"`{media}`: {kind(body['schema'], _object)}\n", *_members(body["schema"])]
    parts += [
        "## Example\n",
        _code("sh", curl(path, method, operation)),
        _code("python", python(path, method, operation)),
    ]
    parts.append("## Answers\n")
    rows = [
        [f"`{status}`", _answer_kind(answer), answer["description"]]
        for status, answer in operation["responses"].items()
    ]
    parts += _grid(["Status", "Body", "When"], rows)
    for media, body in operation["responses"]["200"].get("content", {}).items():
        if "example" in body:
            parts.append(_code("json" if media == "application/json" else "", pretty(body["example"])))
    return "\n".join(parts)


def _members(schema: dict[str, Any]) -> list[str]:
    """The table of a body's fields: of a form's own, or of the object it is."""
    whole = DOCUMENT["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
    required = whole.get("required", ())
    rows = [
        [f"`{name}`", _type(member), _mark(name in required), member.get("description", "")]
        for name, member in whole.get("properties", {}).items()
    ]
    return _grid(["Name", "Type", "Required", "Description"], rows) if rows else []


def _type(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return kind(schema, _object) + (f", default `{literal(default)}`" if isinstance(default, str | int | float) else "")


def _mark(is_required: bool) -> str:
    return ":heavy_check_mark:" if is_required else ""


def _answer_kind(answer: dict[str, Any]) -> str:
    return "<br>".join(
        kind(body["schema"], _object) if media == "application/json" else f"`{media}`"
        for media, body in answer.get("content", {}).items()
    )


def _object(name: str) -> str:
    """The page of an object, from the page of a route; that of a page of a list is its items'."""
    return f"../../objects/{name.removesuffix('-Input').removesuffix('-Output').removesuffix('Page').lower()}.md"


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"


def python(path: str, method: str, operation: dict[str, Any]) -> str:
    """The call through the SDK, with the examples of its parameters and body."""
    given = {p["name"]: _literal(example(p)) for p in parameters(operation, "path")}
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        for name, value in body["example"].items():
            is_file = media == "multipart/form-data" and body["schema"]["properties"][name].get("format") == "binary"
            given[name] = f'open({_literal(value)}, "rb")' if is_file else _literal(value)
    arguments = [f"{name}={value}" for name, value in given.items()]
    call = f"client.{_sdk_paths()[method.upper(), _nameless(path.removeprefix('/v1'))]}"
    line = f"{call}({', '.join(arguments)})"
    if len(line) > 100:
        line = f"{call}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"
    return f"from openai import OpenAI\n\nclient = OpenAI()\nprint({line})"


def _literal(value: object) -> str:
    """A value as Python has it, texts in double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


@cache
def _sdk_paths() -> dict[tuple[str, str], str]:
    """(verb, path without names) → where the SDK's method is, by its first name; those under `beta` are older."""
    tables = [shipped().table(*name.split(".")) for root in ROOTS for name in shipped().names(root)]
    methods = [method for table in tables for method in table.methods]
    by_age = sorted(methods, key=lambda method: method.path.startswith("beta."))
    return {(method.http, _nameless(method.url)): method.path for method in reversed(by_age)}


def _nameless(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def _route_index() -> str:
    parts = ["# Routes\n", "All of them under `/v1`; a running server shows the same at `/docs`.\n"]
    groups: dict[str, list[list[str]]] = {tag["name"]: [] for tag in DOCUMENT["tags"]}
    for path, method, operation in operations(DOCUMENT):
        row = [f"[{operation['summary']}]({_route_place(operation)})", f"`{method.upper()} {path}`"]
        groups[operation["tags"][0]].append(row)
    for tag, rows in groups.items():
        parts += [f"## {tag}\n", f"{TAGS[tag]}\n", *_grid(["Route", "Call"], rows)]
    return "\n".join(parts)


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


def _metrics_page() -> str:
    rows = [
        [f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.text]
        for each in METRICS.values()
    ]
    return "\n".join(
        [
            "# Metrics\n",
            "What `GET /metrics` tells Prometheus; [how to read them](../how-to/watch-a-server.md).\n",
            "Times are seconds. Counters and histograms begin at 0 with their process.\n",
            *_grid(["Name", "Kind", "Labels", "What it tells"], rows),
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
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("&lt;br>", "<br>")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
