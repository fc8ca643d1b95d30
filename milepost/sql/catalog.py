"""Every table SQL can see: what the shipped catalog.json says, under the names people use.

The JSON is the walk of one SDK version (walk.py); loading it takes milliseconds where the SDK takes a second. Its names
begin with `openai` or `openai_admin`, the two parts of that SDK; a provider of any other name shows one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from milepost.errors import NotFound
from milepost.sql.aliases import METHODS_ELSEWHERE, ONLY, OPERATION_IDS, TABLES, WORDS
from milepost.sql.words import near

CATALOG_FILE = Path(__file__).with_name("catalog.json")

#: "string", "integer", "number", "boolean", a parameter's "file"; JSON: "object", "array", "any"; [item] is a list of
#: items, {name: type} a struct.
Type: TypeAlias = str | list["Type"] | dict[str, "Type"]
Verb = Literal["SELECT", "INSERT", "UPDATE", "DELETE", "EXEC"]
#: The part of the SDK a provider shows.
Root = Literal["openai", "openai_admin"]


def datatype(kind: Type) -> str:
    """The word the documentation has for it: string, integer, number, boolean, object, array or file."""
    if isinstance(kind, str):
        return "object" if kind == "any" else kind
    return "array" if isinstance(kind, list) else "object"


@dataclass(frozen=True, slots=True)
class Column:
    """`enum` are the only values it can have, if the SDK lists them."""

    name: str
    type: Type
    description: str
    enum: tuple[str, ...] = ()

    @property
    def datatype(self) -> str:
        return datatype(self.type)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    type: Type
    required: bool
    place: Literal["path", "query", "body"]
    description: str
    enum: tuple[str, ...] = ()
    default: str = ""

    @property
    def datatype(self) -> str:
        return datatype(self.type)


@dataclass(frozen=True, slots=True, eq=False)  # there is one object per method: the catalog keeps its tables
class Method:
    """One method of the SDK. `path` leads to it from the client; `name` is what SQL shows.

    `page` tells how an answer carries rows: the SDK's page class, "envelope" for a list the SDK does not page,
    "object" for one row, "" for none.
    """

    name: str
    path: str
    verb: Verb
    http: str
    url: str
    page: str
    description: str
    parameters: tuple[Parameter, ...]

    @property
    def sdk_name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the parameters a call cannot do without, in the order of the path."""
        names = [parameter.name for parameter in self.parameters if parameter.required]
        in_path = sorted((n for n in names if f"{{{n}}}" in self.url), key=lambda n: self.url.index(f"{{{n}}}"))
        return (*in_path, *(n for n in names if n not in in_path))

    @property
    def own_id(self) -> str | None:
        """The path parameter that is the row's own id: the last segment of a `retrieve`'s path."""
        last = self.url.partition("?")[0].rpartition("/")[2]
        return last[1:-1] if self.verb == "SELECT" and self.page == "object" and last.startswith("{") else None

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


@dataclass(frozen=True, slots=True)
class Table:
    """A resource; `name` is `root.service.resource`."""

    name: str
    description: str
    columns: tuple[Column, ...]
    methods: tuple[Method, ...]

    @property
    def service(self) -> str:
        return self.name.split(".")[1]

    @property
    def resource(self) -> str:
        return self.name.split(".")[2]

    @property
    def selects(self) -> tuple[Method, ...]:
        return tuple(method for method in self.methods if method.verb == "SELECT")

    @property
    def own_id(self) -> str | None:
        """The parameter for which `id` is another name, if the resource has a `retrieve`."""
        return next((method.own_id for method in self.selects if method.own_id), None)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name.lower()), None)


class Catalog:
    """The tables of the shipped JSON; each is built when it is first asked for."""

    def __init__(self, sdk: str, version: str, entries: dict[str, Any]) -> None:
        self.sdk = sdk
        self.version = version
        self._entries = entries
        self._tables: dict[str, Table] = {}

    def names(self, root: str) -> list[str]:
        return [name for name in self._entries if name.partition(".")[0] == root]

    def services(self, root: str) -> list[str]:
        return sorted({name.split(".")[1] for name in self.names(root)})

    def resources(self, root: str, service: str) -> list[str]:
        """The service's resources, under our names. Raises `NotFound` with names that come near."""
        if found := sorted(name.split(".")[2] for name in self.names(root) if name.split(".")[1] == service):
            return found
        raise NotFound(f"No service `{service}`.{near(service, self.services(root))}", param=service)

    def table(self, root: str, service: str, resource: str) -> Table:
        """The table of these names, ours or other tools'. Raises `NotFound` with names that come near."""
        asked = f"{root}.{service}.{resource}"
        name = TABLES.get(asked, asked)
        if name not in self._entries:
            known = [
                *self.resources(root, service),
                *(a.split(".")[2] for a in TABLES if a.startswith(f"{root}.{service}.")),
            ]
            raise NotFound(f"`{service}` has no resource `{resource}`.{near(resource, known)}", param=resource)
        if name not in self._tables:
            self._tables[name] = _table(name, self._entries[name])
        return self._tables[name]

    def method(self, table: Table, name: str) -> Method:
        """The table's method of this name, or of another name people have for it."""
        if other := METHODS_ELSEWHERE.get((table.name, name)):
            return self.method(self.table(*other.split(".")), name)
        word = WORDS.get(name, name)
        for method in table.methods:
            if name == method.name or word == method.sdk_name:
                return method
        alike = [method for method in table.methods if method.verb == ONLY.get(name)]
        if len(alike) == 1:
            return alike[0]
        known = (method.name for method in table.methods)
        raise NotFound(f"`{table.resource}` has no method `{name}`.{near(name, known)}", param=name)


@cache
def shipped() -> Catalog:
    """The catalog in the package."""
    parsed = orjson.loads(CATALOG_FILE.read_bytes())
    return Catalog(parsed["sdk"], parsed["version"], parsed["tables"])


def _table(name: str, entry: dict[str, Any]) -> Table:
    columns = tuple(Column(column, **_listed(said)) for column, said in entry["columns"].items())
    return Table(name, entry["description"], columns, tuple(_method(name, method) for method in entry["methods"]))


def _listed(said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "enum": tuple(said.get("enum", ()))}


def _method(table: str, entry: dict[str, Any]) -> Method:
    sdk_name = entry["path"].rpartition(".")[2]
    parameters = tuple(Parameter(**_listed(parameter)) for parameter in entry["parameters"])
    return Method(**{**entry, "name": OPERATION_IDS.get((table, sdk_name), sdk_name), "parameters": parameters})
