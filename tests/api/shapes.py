"""What a value may be, read off a JSON schema (ours) or off a Python annotation (the SDK's), and how two differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from openai._types import NotGiven, Omit
from pydantic import BaseModel
from typing_extensions import TypeAliasType, is_typeddict

WORDS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
FILE = "file"
ANY = "any"


@dataclass(frozen=True)
class Shape:
    """One of: words (`string`, `null`, …), constants, an array of something, an open object, an object with fields."""

    words: frozenset[str] = frozenset()
    constants: frozenset[Any] = frozenset()
    arrays: tuple[Shape, ...] = ()
    objects: tuple[Fields, ...] = ()
    is_map: bool = False

    def __or__(self, other: Shape) -> Shape:
        return Shape(
            self.words | other.words,
            self.constants | other.constants,
            self.arrays + other.arrays,
            self.objects + other.objects,
            self.is_map or other.is_map,
        )


@dataclass(frozen=True)
class Fields:
    """An object's fields. They are read when they are asked for, since types may hold themselves."""

    name: str
    read: Callable[[], dict[str, tuple[Shape, bool]]] = field(compare=False)


NOTHING = Shape()


def word(text: str) -> Shape:
    return Shape(words=frozenset({text}))


# --- ours: JSON schema ------------------------------------------------------------------------------------------------


def of_schema(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str) -> Shape:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return of_schema(schemas[name], schemas, name)
    if members := schema.get("anyOf") or schema.get("oneOf"):
        found = NOTHING
        for member in members:
            found |= of_schema(member, schemas, name)
        return found
    if "const" in schema or "enum" in schema:
        return Shape(constants=frozenset([schema["const"]] if "const" in schema else schema["enum"]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return of_schema({"anyOf": [{**schema, "type": word} for word in kind]}, schemas, name)
    if kind == "array":
        if schema.get("maxItems") == 0:
            return Shape(arrays=(NOTHING,))
        members = schema.get("prefixItems") or [schema.get("items") or {}]
        return Shape(arrays=tuple(of_schema(member, schemas, f"{name}[]") for member in members))
    if kind == "object":
        return _object_of_schema(schema, schemas, name)
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return word(FILE)
    return word(kind or ANY)


def _object_of_schema(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str) -> Shape:
    if "properties" not in schema:
        return Shape(is_map=True)
    properties = _unbracketed(schema)

    def read() -> dict[str, tuple[Shape, bool]]:
        return {
            field: (of_schema(member, schemas, f"{name}.{field}"), field in schema.get("required", ()))
            for field, member in properties.items()
        }

    return Shape(objects=(Fields(name, read),))


def _unbracketed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form: `a[b]` is field b of a."""
    found: dict[str, Any] = {}
    for key, member in schema["properties"].items():
        if match := re.fullmatch(r"(\w+)\[(\w+)\]", key):
            found.setdefault(match[1], {"type": "object", "properties": {}})["properties"][match[2]] = member
        else:
            found[key] = member
    return found


# --- the SDK's: annotations -------------------------------------------------------------------------------------------


def of_annotation(hint: Any) -> Shape:
    if isinstance(hint, TypeAliasType):
        return of_annotation(hint.__value__)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return of_annotation(arguments[0])
    if origin in (Union, UnionType):
        return _of_union(arguments)
    if origin is Literal:
        return Shape(constants=frozenset(arguments))
    if hint in WORDS:
        return word(WORDS[hint])
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return Shape(objects=(Fields(hint.__name__, lambda: _of_model(hint)),))
    if is_typeddict(hint):
        return Shape(objects=(Fields(hint.__name__, lambda: _of_typed_dict(hint)),))
    return _of_container(origin, arguments)


def _of_union(members: tuple[Any, ...]) -> Shape:
    if bytes in members:  # what the SDK takes for a file: bytes, paths, open files, tuples with a name
        return word(FILE)
    found = NOTHING
    for member in members:
        if member not in (Omit, NotGiven):
            found |= of_annotation(member)
    return found


def _of_container(origin: Any, arguments: tuple[Any, ...]) -> Shape:
    if origin is not None and issubclass(origin, Mapping):
        return Shape(is_map=True)
    if origin is not None and hasattr(origin, "__iter__"):
        return Shape(arrays=(of_annotation(arguments[0]),))
    return word(ANY)


def _of_model(model: type[BaseModel]) -> dict[str, tuple[Shape, bool]]:
    return {
        said.alias or name: (of_annotation(said.annotation), said.is_required())
        for name, said in model.model_fields.items()
    }


def _of_typed_dict(hint: Any) -> dict[str, tuple[Shape, bool]]:
    """`__required_keys__` knows nothing of annotations that are strings, as the SDK's are."""
    return {
        name: (of_annotation(member), get_origin(member) is Required)
        for name, member in get_type_hints(hint, include_extras=True).items()
    }


# --- differences ------------------------------------------------------------------------------------------------------


def sent(ours: Shape, theirs: Shape, where: str, within: tuple[tuple[str, str], ...] = ()) -> Iterator[str]:
    """How what we send differs from what the SDK's type says it gets."""
    if ANY in theirs.words:
        return
    for kind in sorted(ours.words - theirs.words - ({"integer"} if "number" in theirs.words else set())):
        yield f"{where}: may be {kind}"
    if strange := _missing(ours, theirs):
        yield f"{where}: may be {strange}"
    if ours.constants and (unused := _missing(theirs, ours)):
        yield f"{where}: is never {unused}"
    for inner in ours.arrays:
        yield from (
            sent(inner, _joined(theirs.arrays), f"{where}[]", within)
            if theirs.arrays
            else [f"{where}: may be an array"]
        )
    yield from _objects_sent(ours, theirs, where, within)


def _objects_sent(ours: Shape, theirs: Shape, where: str, within: tuple[tuple[str, str], ...]) -> Iterator[str]:
    if ours.is_map and not theirs.is_map:
        yield f"{where}: an open object, for {_names(theirs) or 'none'}"
    for fields in ours.objects:
        if theirs.objects:
            found = [list(_fields_sent(fields, other, within)) for other in theirs.objects]
            yield from min(found, key=lambda lines: (f"{fields.name}.type: may be" in " ".join(lines), len(lines)))
        elif not theirs.is_map:
            yield f"{where}: may be an object"
    if not ours.objects and not ours.is_map and theirs.objects:
        yield f"{where}: is never {_names(theirs)}"


def _fields_sent(ours: Fields, theirs: Fields, within: tuple[tuple[str, str], ...]) -> Iterator[str]:
    if (ours.name, theirs.name) in within:
        return
    within = (*within, (ours.name, theirs.name))
    mine, others = ours.read(), theirs.read()
    for name in sorted(others.keys() - mine.keys()):
        yield f"{ours.name}.{name}: not sent"
    for name in sorted(mine.keys() - others.keys()):
        yield f"{ours.name}.{name}: ours"
    for name in sorted(mine.keys() & others.keys()):
        (shape, always), (other, required) = mine[name], others[name]
        if required and not always:
            yield f"{ours.name}.{name}: not always sent"
        yield from sent(shape, other, f"{ours.name}.{name}", within)


def taken(ours: Shape, theirs: Shape, where: str, within: tuple[tuple[str, str], ...] = ()) -> Iterator[str]:
    """How what we take differs from what the SDK's type lets its user send."""
    if ANY in ours.words:
        return
    for kind in sorted(theirs.words - ours.words - ({"integer"} if "number" in ours.words else set())):
        yield f"{where}: refuses {kind}"
    if refused := _missing(theirs, ours):
        yield f"{where}: refuses {refused}"
    if theirs.constants and (more := _missing(ours, theirs)):
        yield f"{where}: also takes {more}"
    for inner in theirs.arrays:
        yield from (
            taken(_joined(ours.arrays), inner, f"{where}[]", within) if ours.arrays else [f"{where}: refuses an array"]
        )
    if ours.is_map:
        return
    if theirs.is_map:
        yield f"{where}: refuses an open object"
    for fields in theirs.objects:
        if ours.objects:
            found = min(([mine.name, *_fields_taken(mine, fields, within)] for mine in ours.objects), key=_misfit)[1:]
            # what one of several does not know, another may
            yield from (
                line for line in found if len(theirs.objects) == 1 or not re.search(r": (ours|also takes)", line)
            )
        else:
            yield f"{where}: refuses {fields.name}"


def _fields_taken(ours: Fields, theirs: Fields, within: tuple[tuple[str, str], ...]) -> Iterator[str]:
    if (ours.name, theirs.name) in within:
        return
    within = (*within, (ours.name, theirs.name))
    mine, others = ours.read(), theirs.read()
    for name in sorted(others.keys() - mine.keys()):
        yield f"{ours.name}.{name}: refused"
    for name in sorted(mine.keys() - others.keys()):
        yield f"{ours.name}.{name}: ours"
    for name in sorted(mine.keys() & others.keys()):
        (shape, needed), (other, required) = mine[name], others[name]
        if needed and not required:
            yield f"{ours.name}.{name}: required"
        yield from taken(shape, other, f"{ours.name}.{name}", within)


def _misfit(differences: list[str]) -> tuple[bool, int]:
    """How little two objects fit: first of all, whether their types are others. The first line is our object's name."""
    name, *lines = differences
    return any(line.startswith(f"{name}.type: refuses") for line in lines), len(lines)


def _missing(some: Shape, other: Shape) -> str:
    """The constants of one that the other has no place for."""
    names = {str: "string", bool: "boolean", int: "integer"}
    values = {value for value in some.constants - other.constants if names[type(value)] not in other.words}
    return ", ".join(sorted(map(repr, values)))


def _joined(shapes: tuple[Shape, ...]) -> Shape:
    found = NOTHING
    for shape in shapes:
        found |= shape
    return found


def _names(shape: Shape) -> str:
    return " or ".join(sorted(fields.name for fields in shape.objects))
