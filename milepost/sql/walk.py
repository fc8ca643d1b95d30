"""The catalog as a fresh walk of the `openai` SDK gives it: `python -m milepost.sql.walk` writes catalog.json.

Verb and path come from the syntax tree of each method, parameters from its signature, columns from its return type;
what columns mean stands only in the source of the type modules. Methods that make no request of their own (poll, parse,
stream) are helpers and are left out, but for those that send a file whole.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from milepost.sql.catalog import CATALOG_FILE, CLIENTS, Type
from milepost.sql.words import plural, singular

#: Every other POST changes something and is never behind SELECT.
READS_BY_POST = frozenset({"vector_stores.search"})

#: Helpers that are a method too, and the method whose request begins each: `parted` sends what follows it.
BEGUN_BY = {"uploads.upload_file_chunked": "create"}

#: First words of a method's name → what SQL calls it. A name with more words is about a table of its own.
VERBS = {"create": "INSERT", "update": "UPDATE", "delete": "DELETE"}
READS = ("list", "retrieve", "get")

#: Where each provider's part of the SDK begins, by SDK.
ROOTS: dict[str, dict[str, tuple[str, ...]]] = {
    "openai": {"openai": (), "openai_admin": ("admin", "organization")},
    "anthropic": {"anthropic": ()},
    "groq": {"groq": ()},
    "together": {"together": ()},
}

REQUESTS = {
    "_get": "GET",
    "_get_api_list": "GET",
    "_post": "POST",
    "_delete": "DELETE",
    "_put": "PUT",
    "_patch": "PATCH",
}
NOT_PARAMETERS = frozenset({"self", "extra_headers", "extra_query", "extra_body", "timeout"})
#: How the texts say what a parameter is by default.
DEFAULT = re.compile(r"[Dd]efaults? (?:to|is|value is) (?:`([^`]+)`|(\d[\w.,]*|true|false|null|asc|desc|auto)\b)")
SCALARS: dict[Any, Type] = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Call(NamedTuple):
    """What a method sends."""

    http: str
    url: str
    query: frozenset[str]


def walk(sdk: str = "openai") -> dict[str, Any]:
    """The catalog of an installed SDK, as the shipped JSON has it."""
    module = importlib.import_module(sdk)
    client = getattr(module, CLIENTS[sdk])(api_key="-")
    tables: dict[str, dict[str, Any]] = {}
    for path, resource in _resources(client, ()):
        for provider, root in ROOTS[sdk].items():
            if path[: len(root)] == root and (root or path[0] != "admin"):
                _add_methods(tables, provider, path, path[len(root) :], resource)
    return {"sdk": sdk, "version": module.__version__, "tables": dict(sorted(tables.items()))}


def text(catalog: dict[str, Any]) -> str:
    """The catalog as catalog.json has it: one table a line, so that a new SDK version can be reviewed."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in catalog["tables"].items()
    )
    head = {name: value for name, value in catalog.items() if name != "tables"}
    return json.dumps(head)[:-1] + ', "tables": {\n' + ",\n".join(lines) + "\n}}\n"


def _resources(parent: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in sorted(dir(type(parent))):
        if name.startswith(("_", "with_")) or inspect.isfunction(inspect.getattr_static(type(parent), name)):
            continue
        child = getattr(parent, name)
        if any(kind.__name__ == "AsyncAPIResource" for kind in type(child).__mro__):
            yield (*path, name), child
            yield from _resources(child, (*path, name))


def _add_methods(
    tables: dict[str, dict[str, Any]], provider: str, sdk_path: tuple[str, ...], path: tuple[str, ...], resource: Any
) -> None:
    for name, function in inspect.getmembers(type(resource), inspect.isfunction):
        sdk_name = ".".join((*sdk_path, name))
        first = BEGUN_BY.get(sdk_name, name)
        call = None if name.startswith("_") else _call(getattr(type(resource), first))
        if call is None or not path:
            continue
        row, page = _row(get_type_hints(function)["return"])
        verb, table_path = _place(sdk_name, first, path, call.http, returns_rows=row is not None)
        table = tables.setdefault(
            f"{provider}.{path[0]}.{table_path}",
            {"description": _first_paragraph(resource), "columns": {}, "methods": []},
        )
        if verb == "SELECT":
            if any(m["verb"] == "SELECT" and m["url"] == call.url for m in table["methods"]):
                continue  # permissions.retrieve is permissions.list under its former name
            _merge(table["columns"], _columns(row))
        texts = _argument_texts(getattr(type(resource), first)) | _argument_texts(function)
        method = {
            "path": sdk_name,
            "verb": verb,
            "http": call.http,
            "url": call.url,
            "page": page,
            "description": _first_paragraph(function),
            "parameters": list(_parameters(function, call, texts)),
            **({"either": either} if (either := _either(function)) else {}),
        }
        table["methods"].append(method)


def _place(sdk_name: str, name: str, path: tuple[str, ...], http: str, *, returns_rows: bool) -> tuple[str, str]:
    """The SQL verb of a method, and the name of the table it belongs to."""
    parents = path[1:]
    own = "_".join([*map(singular, parents[:-1]), parents[-1]]) if parents else path[0]
    first, _, rest = name.partition("_")
    reads = returns_rows and (http == "GET" or sdk_name in READS_BY_POST)
    verb = "SELECT" if reads else VERBS.get(first, "EXEC") if http != "GET" else "EXEC"
    if name.startswith("create_and_"):
        return "EXEC", own
    if verb == "SELECT" and first not in READS:
        noun = name
    elif verb == "EXEC" or not rest:
        return verb, own
    else:
        noun = plural(rest)
    return verb, own if noun == path[-1] else "_".join([*map(singular, parents), noun])


@cache
def _tree(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _call(function: Any) -> Call | None:
    """What the method sends; None if it sends nothing itself."""
    for node in ast.walk(_tree(function)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REQUESTS):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "self"):
            continue
        url = node.args[0].args[0] if isinstance(node.args[0], ast.Call) else node.args[0]
        if isinstance(url, ast.JoinedStr):
            url = ast.Constant("".join(map(_written, url.values)))
        if not isinstance(url, ast.Constant):
            return None  # a path that an answer has given: a helper
        given = {word.arg: word.value for word in node.keywords}
        http = REQUESTS[node.func.attr]
        if isinstance(asked := given.get("method"), ast.Constant):
            http = str(asked.value).upper()
        return Call(http, str(url.value), frozenset(_query_names(node)))
    return None


def _written(part: ast.expr) -> str:
    """A part of an f-string, as a path has it."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    return f"{{{ast.unparse(part.value)}}}" if isinstance(part, ast.FormattedValue) else ""


def _query_names(request: ast.Call) -> Iterator[str]:
    for word in (word for node in ast.walk(request) if isinstance(node, ast.Call) for word in node.keywords):
        if word.arg == "query":
            for node in ast.walk(word.value):
                if isinstance(node, ast.Dict):
                    yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def _parameters(function: Any, call: Call, texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    in_path = re.findall(r"\{(\w+)\}", call.url)
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in NOT_PARAMETERS:
            yield {
                "name": name,
                "type": type_of(hints[name]),
                "required": parameter.default is inspect.Parameter.empty,
                "place": "path" if name in in_path else "query" if name in call.query else "body",
                "description": texts.get(name, ""),
                **_values(hints[name], texts.get(name, "")),
            }


def _either(function: Any) -> list[list[str]]:
    """The sets of arguments of which one must be given, where the SDK's `required_args` knows more than one."""
    for cell in getattr(function, "__closure__", None) or ():
        held = cell.cell_contents
        if isinstance(held, tuple) and held and all(isinstance(one, list | tuple) for one in held):
            return [list(one) for one in held] if len(held) > 1 else []
    return []


def _values(annotation: Any, text: str) -> dict[str, Any]:
    """The values it may have, and the one it has if none is given, where the SDK tells."""
    found = DEFAULT.search(text)
    enum = _enum(annotation)
    return ({"enum": enum} if enum else {}) | (
        {"default": (found[1] or found[2].replace(",", "")).strip('."')} if found else {}
    )


def _enum(annotation: Any) -> list[str]:
    """The values of a type that is nothing but a list of them."""
    members = [member for member in _members(annotation) if not _is_nothing(member)]
    if not members or any(get_origin(member) is not Literal for member in members):
        return []
    return list(dict.fromkeys(str(value) for member in members for value in get_args(member)))


# --- types ------------------------------------------------------------------------------------------------------------


def type_of(annotation: Any, within: tuple[type, ...] = ()) -> Type:
    """A Python annotation as a type of the catalog: models that have one shape are structs, the rest is JSON."""
    members = [member for member in _members(annotation) if not _is_nothing(member)]
    if bytes in members:
        return "file"
    if len(members) != 1:
        kinds = {json.dumps(type_of(member, within)) for member in members}
        if len(kinds) == 1 and kinds <= {'"string"', '"integer"', '"number"', '"boolean"'}:
            return type_of(members[0], within)
        if kinds == {'"integer"', '"number"'}:
            return "number"
        return "object" if members and all(_is_object(member) for member in members) else "any"
    return _type_of_one(members[0], within)


def _type_of_one(member: Any, within: tuple[type, ...]) -> Type:
    origin = get_origin(member)
    if origin is Literal:
        kinds = {type(value) for value in get_args(member)}
        return SCALARS.get(kinds.pop(), "any") if len(kinds) == 1 else "any"
    if member in SCALARS:
        return SCALARS[member]
    if _is_model(member):
        return _struct(member, within)
    if _is_object(member):
        return "object"
    if origin is not None and any(word in str(origin) for word in ("list", "Sequence", "Iterable")):
        item = type_of(get_args(member)[0], within)
        return [item] if not isinstance(item, str) or item in SCALARS.values() else "array"
    return "any"


def _struct(model: type[BaseModel], within: tuple[type, ...]) -> Type:
    if model in within or not model.model_fields:
        return "object"  # it holds itself, or anything
    return {_wire_name(model, name): type_of(hint, (*within, model)) for name, hint in _hints(model).items()}


def _members(annotation: Any) -> list[Any]:
    """The members of a union, seen through `Annotated` and aliases."""
    if hasattr(annotation, "__value__"):
        return _members(annotation.__value__)
    if get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _is_nothing(member: Any) -> bool:
    """Whether a member of a union says that nothing is given."""
    return member is type(None) or getattr(member, "__name__", "") in ("Omit", "NotGiven")


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_object(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return _is_model(plain) or plain is dict or "Mapping" in str(plain) or hasattr(plain, "__required_keys__")


def _hints(model: type[BaseModel]) -> dict[str, Any]:
    return {name: field.annotation for name, field in model.model_fields.items()}


def _wire_name(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].alias or name


def _row(returned: Any) -> tuple[list[type[BaseModel]] | None, str]:
    """The models a row may have, and how the answer carries them (`catalog.Method.page`). (None, "") without rows."""
    if "AsyncPaginator" in str(get_origin(returned)):
        item, page = get_args(returned)
        return ([m for m in _members(item) if _is_model(m)] or None), page.__name__.partition("[")[0].removeprefix(
            "Async"
        )
    if get_origin(returned) is list:
        return [m for m in _members(get_args(returned)[0]) if _is_model(m)] or None, "array"
    models = [member for member in _members(returned) if _is_model(member) and "_response" not in member.__module__]
    if not models:
        models = [member for member in _members(returned) if _is_model(member)]
    if len(models) == 1 and (item := _envelope_item(models[0])) is not None:
        return item, "envelope"
    return models or None, "object" if models else ""


def _envelope_item(model: type[BaseModel]) -> list[type[BaseModel]] | None:
    """The models in `data`, if the answer is a list in an envelope that no page class describes."""
    data = _hints(model).get("data")
    marks = model.model_fields.keys() & {"has_more", "object"}
    if data is None or get_origin(data) is not list or not marks:
        return None
    return [m for m in _members(get_args(data)[0]) if _is_model(m)] or None


# --- columns and texts ------------------------------------------------------------------------------------------------


def _columns(models: list[type[BaseModel]] | None) -> dict[str, dict[str, Any]]:
    columns: dict[str, dict[str, Any]] = {}
    for model in models or ():
        texts = _field_texts(model)
        _merge(
            columns,
            {
                _wire_name(model, name): {
                    "type": type_of(hint, (model,)),
                    "description": texts.get(name, ""),
                    **({"enum": enum} if (enum := _enum(hint)) else {}),
                }
                for name, hint in _hints(model).items()
            },
        )
    return columns


def _merge(columns: dict[str, dict[str, Any]], more: dict[str, dict[str, Any]]) -> None:
    """Columns of two shapes of row: where they differ in type, the column is JSON."""
    for name, column in more.items():
        known = columns.setdefault(name, column)
        if known.get("enum") != column.get("enum"):
            known.pop("enum", None)
        if known["type"] != column["type"]:
            known["type"] = "object" if _both_objects(known["type"], column["type"]) else "any"


def _both_objects(one: Type, other: Type) -> bool:
    return all(isinstance(kind, dict) or kind == "object" for kind in (one, other))


def _field_texts(model: type[BaseModel]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for ancestor in reversed(model.__mro__):
        if ".types" in ancestor.__module__:
            texts |= _module_texts(ancestor.__module__).get(ancestor.__name__, {})
    return texts


@cache
def _module_texts(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the string literal that follows the field."""
    texts: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            texts[node.name] = {
                field.target.id: _one_line(str(text.value.value))
                for field, text in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            }
    return texts


def _argument_texts(function: Any) -> dict[str, str]:
    """Parameter → its text in the "Args:" part of the docstring, where a name begins each."""
    _, _, arguments = (inspect.getdoc(function) or "").partition("Args:\n")
    parts = re.split(r"^  (\w+): ", arguments, flags=re.MULTILINE)
    return {name: _one_line(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _first_paragraph(thing: Any) -> str:
    text = inspect.getdoc(thing if inspect.isfunction(thing) else type(thing)) or ""
    return "" if text.startswith("Args:") else _one_line(text.partition("\n\n")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    CATALOG_FILE.write_text(text(walk()))
