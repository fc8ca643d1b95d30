"""A text becomes one statement: a query for DuckDB, or one of our own words (SHOW, DESCRIBE, EXEC).

`'{{ name }}'` in a string is filled here, on the tree or the token, so a value stays a value whatever it contains; one
without a value is refused before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlglot import exp

from milepost.errors import Invalid
from milepost.sql import dialect
from milepost.sql.calls import Value
from milepost.sql.words import near

What = Literal["PROVIDERS", "SERVICES", "RESOURCES", "METHODS"]


@dataclass(frozen=True, slots=True)
class Query:
    """Anything DuckDB can select from, with our tables still under their own names."""

    tree: exp.Query


@dataclass(frozen=True, slots=True)
class Show:
    what: What
    of: tuple[str, ...]
    like: str | None


@dataclass(frozen=True, slots=True)
class Describe:
    table: tuple[str, str, str]
    extended: bool


@dataclass(frozen=True, slots=True)
class Exec:
    table: tuple[str, str, str]
    method: str
    arguments: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Change:
    """INSERT, UPDATE, DELETE and their like: named, so that the refusal can say what the table has instead."""

    verb: str
    tables: tuple[tuple[str, str, str], ...]


Statement: TypeAlias = Query | Show | Describe | Exec | Change

PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")
COMMENT = re.compile(r"\s*(--[^\n]*(\n|$)|/\*.*?\*/)", re.DOTALL)
TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)|"(?P<quoted>[^"]+)"|(?P<word>\w+)|(?P<mark>@@|\S))"""
)

#: How many names say what to SHOW.
SHOWN: dict[str, tuple[What, int, str]] = {
    "PROVIDERS": ("PROVIDERS", 0, ""),
    "SERVICES": ("SERVICES", 1, " IN provider"),
    "RESOURCES": ("RESOURCES", 2, " IN provider.service"),
    "METHODS": ("METHODS", 3, " IN provider.service.resource"),
}
CHANGES = {"INSERT": "INSERT", "UPDATE": "UPDATE", "REPLACE": "UPDATE", "DELETE": "DELETE", "MERGE": "UPDATE"}
READS = ("SELECT", "WITH", "FROM", "VALUES", "TABLE")
# fmt: off
LATER = frozenset({
    "ALTER", "ANALYZE", "ATTACH", "AWAIT", "BEGIN", "CALL", "CHECKPOINT", "COMMIT", "COPY",
    "CREATE", "DETACH", "DROP", "EXPLAIN", "EXPORT", "IMPORT", "INSTALL", "LOAD", "PIVOT",
    "PRAGMA", "ROLLBACK", "SET", "SUMMARIZE", "TRUNCATE", "USE", "VACUUM",
})
# fmt: on
CHANGING = (exp.Insert, exp.Update, exp.Delete, exp.Merge)


def parse(sql: str, params: Mapping[str, str]) -> Statement:
    """The one statement in `sql`. Raises `Invalid` for none, two or a bad one, or a placeholder without a value."""
    fill = _Filler(params)
    text = sql
    while found := COMMENT.match(text):
        text = text[found.end() :]
    word = (re.match(r"\s*(\w+)", text) or ("", ""))[1].upper()
    if word and word not in (*FRONT, *READS):
        raise _not_today(word)
    statement = FRONT[word](text, fill) if word in FRONT else _query(sql, fill)
    fill.finish()
    return statement


class _Filler:
    """Values by name; remembers which were used, so that a misspelt one is not dropped in silence."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self._params = params
        self._unused = set(params)

    def text(self, text: str) -> str:
        return PLACEHOLDER.sub(lambda found: self.value(found[1]), text)

    def value(self, name: str) -> str:
        if name not in self._params:
            raise Invalid(f"The placeholder `{name}` has no value.\nhint: --param {name}=VALUE", param=name)
        self._unused.discard(name)
        return self._params[name]

    def finish(self) -> None:
        if self._unused:
            name = min(self._unused)
            raise Invalid(
                f"The statement has no placeholder `{name}`; write '{{{{ {name} }}}}' for its value", param=name
            )


# --- queries ----------------------------------------------------------------------------------------------------------


def _query(sql: str, fill: _Filler) -> Query | Change:
    tree = dialect.parse(sql)
    if change := tree.find(*CHANGING):
        return Change(type(change).__name__.upper(), tuple(filter(None, map(_triple, change.find_all(exp.Table)))))
    if isinstance(tree, exp.Values):
        tree = exp.select("*").from_(tree)
    if not isinstance(tree, exp.Query):
        raise Invalid("Expected a query")
    for literal in list(tree.find_all(exp.Literal)):
        if literal.is_string and PLACEHOLDER.search(literal.this):
            literal.replace(exp.Literal.string(fill.text(literal.this)))
    for name in list(tree.find_all(exp.Placeholder)):
        if not name.this:
            raise Invalid("A `?` has no name; write $name and give its value by that name")
        name.replace(exp.Literal.string(fill.value(name.name)))
    return Query(tree)


def _triple(table: exp.Table) -> tuple[str, str, str] | None:
    return (table.catalog.lower(), table.db.lower(), table.name.lower()) if table.catalog and table.db else None


def _not_today(word: str) -> Invalid:
    if word in LATER:
        return Invalid(f"{word} comes later; today there are SELECT, SHOW, DESCRIBE and EXEC")
    return Invalid(f"`{word}` begins no statement.{near(word, [*READS, *FRONT, *LATER])}")


# --- our own words ----------------------------------------------------------------------------------------------------


class _Reader:
    """The words of SHOW, DESCRIBE and EXEC, one after another."""

    def __init__(self, text: str, fill: _Filler) -> None:
        self._tokens = [
            (str(found.lastgroup), found[found.lastgroup or 0]) for found in TOKEN.finditer(text.rstrip("; \t\r\n"))
        ]
        self._fill = fill
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def take(self, *words: str) -> bool:
        """Whether the next word is one of these; if so it is taken."""
        taken = self.peek().upper() in words
        self._at += taken
        return taken

    def expect(self, word: str, usage: str) -> None:
        if not self.take(word):
            raise Invalid(f"Expected {word} before `{self.peek() or 'the end'}`.\nhint: {usage}")

    def name(self, usage: str) -> str:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")
        if kind not in ("word", "quoted"):
            raise Invalid(f"Expected a name before `{text}`.\nhint: {usage}")
        self._at += 1
        return text

    def names(self, usage: str) -> tuple[str, ...]:
        names = [self.name(usage).lower()]
        while self.take("."):
            names.append(self.name(usage).lower())
        return tuple(names)

    def value(self, usage: str) -> Value:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")
        self._at += 1
        if kind == "string":
            return self._fill.text(text[1:-1].replace("''", "'"))
        if kind == "number":
            return float(text) if "." in text else int(text)
        if text.upper() in ("TRUE", "FALSE"):
            return text.upper() == "TRUE"
        raise Invalid(f"Expected a value before `{text}`.\nhint: {usage}")

    def end(self, usage: str) -> None:
        if self.peek():
            raise Invalid(f"`{self.peek()}` was not expected there.\nhint: {usage}")


def _show(text: str, fill: _Filler) -> Show:
    usage = "SHOW " + " | ".join(word + suffix for word, (_, _, suffix) in SHOWN.items())
    read = _Reader(text, fill)
    read.expect("SHOW", usage)
    word = read.name(usage).upper()
    if word not in SHOWN:
        raise Invalid(f"SHOW {word} comes later.\nhint: {usage}")
    what, count, suffix = SHOWN[word]
    of = read.names(usage) if count and read.take("IN", "FROM") else ()
    if len(of) != count:
        raise Invalid(f"SHOW {word} needs {suffix.strip() or 'no name'}.\nhint: SHOW {word}{suffix}")
    like = str(read.value(usage)) if read.take("LIKE") else None
    read.end(usage)
    return Show(what, of, like)


def _describe(text: str, fill: _Filler) -> Describe:
    usage = "DESCRIBE [EXTENDED] provider.service.resource"
    read = _Reader(text, fill)
    read.take("DESCRIBE", "DESC")
    extended = read.take("EXTENDED")
    names = read.names(usage)
    read.end(usage)
    if len(names) != 3:
        raise Invalid(f"`{'.'.join(names)}` is not the name of a resource.\nhint: {usage}")
    return Describe((names[0], names[1], names[2]), extended)


def _exec(text: str, fill: _Filler) -> Exec:
    usage = "EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'ftjob-…'"
    read = _Reader(text, fill)
    read.take("EXEC", "EXECUTE")
    names = read.names(usage)
    if len(names) != 4:
        raise Invalid(f"`{'.'.join(names)}` is not the name of a method.\nhint: {usage}")
    arguments: dict[str, Value] = {}
    while read.peek():
        if arguments:
            read.expect(",", usage)
        read.expect("@", usage)
        name = read.name(usage)
        read.expect("=", usage)
        arguments[name] = read.value(usage)
    return Exec((names[0], names[1], names[2]), names[3], arguments)


def _change(text: str, _fill: _Filler) -> Change:
    """The verb and the first name of three parts; the rest is for a later day to parse."""
    word = text.split(maxsplit=1)[0].upper()
    found = re.search(r"\b(\w+)\.(\w+)\.(\w+)", text)
    return Change(CHANGES[word], ((found[1].lower(), found[2].lower(), found[3].lower()),) if found else ())


FRONT: dict[str, Callable[[str, _Filler], Statement]] = {
    "SHOW": _show,
    "DESCRIBE": _describe,
    "DESC": _describe,
    "EXEC": _exec,
    "EXECUTE": _exec,
    **dict.fromkeys(CHANGES, _change),
}
