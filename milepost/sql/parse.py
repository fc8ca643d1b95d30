"""A text becomes one statement. What sqlglot knows is read as a tree; our own words are read token by token."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from sqlglot import exp

from milepost.errors import Invalid
from milepost.sql import dialect
from milepost.sql.dialect import Dialect
from milepost.sql.statements import (
    Attach,
    Await,
    Change,
    Create,
    Describe,
    DescribeLocal,
    Detach,
    Exec,
    Explain,
    Insert,
    Local,
    Query,
    Refresh,
    Show,
    ShowInsert,
    ShowLocal,
    Statement,
    Triple,
    What,
)
from milepost.sql.tokens import Filler, Reader
from milepost.sql.tree import every
from milepost.sql.words import UNITS, near, seconds

COMMENT = re.compile(r"\s*(--[^\n]*(\n|$)|/\*.*?\*/)", re.DOTALL)
#: What follows INSERT or EXEC to wait until what was made is final.
HINT = re.compile(r"^\s*\w+\s*/\*\+\s*AWAIT\b(?P<options>[^*]*)\*/", re.IGNORECASE)

EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(?P<analyze>ANALYZE\b)?", re.IGNORECASE)

#: How many names say what to SHOW.
SHOWN: dict[str, tuple[What, int, str]] = {
    "PROVIDERS": ("PROVIDERS", 0, ""),
    "SERVICES": ("SERVICES", 1, " IN provider"),
    "RESOURCES": ("RESOURCES", 2, " IN provider.service"),
    "METHODS": ("METHODS", 3, " IN provider.service.resource"),
}
CHANGES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)
READS = ("SELECT", "WITH", "FROM", "VALUES", "TABLE", "(")
# fmt: off
LATER = frozenset({
    "ANALYZE", "BEGIN", "CALL", "CHECKPOINT", "COMMIT", "COPY", "EXPORT", "IMPORT", "INSTALL", "LOAD", "MERGE", "PIVOT",
    "PRAGMA", "ROLLBACK", "SET", "SUMMARIZE", "TRUNCATE", "USE", "VACUUM",
})
# fmt: on


def parse(sql: str, params: Mapping[str, str], dialect_name: Dialect = "duckdb") -> Statement:
    """The one statement in `sql`. Raises `Invalid` for none, two or a bad one, or a placeholder without a value."""
    fill = Filler(params, dialect_name)
    statement = _parse(sql, fill)
    fill.finish()
    return statement


def _parse(sql: str, fill: Filler) -> Statement:
    text = sql
    while found := COMMENT.match(text):
        text = text[found.end() :]
    word = (re.match(r"\s*(\w+|\()", text) or ("", ""))[1].upper()
    if word and word not in (*FRONT, *READS):
        raise _not_today(word)
    return FRONT[word](text, fill) if word in FRONT else _query(text, fill)


# --- queries ----------------------------------------------------------------------------------------------------------


def _query(text: str, fill: Filler, wait: Await | None = None) -> Query:
    text, go_on = _without_on_error(text, fill)
    tree = fill.parse(text)
    if isinstance(tree, exp.Values):
        tree = exp.select("*").from_(tree)
    if not isinstance(tree, exp.Query):
        raise Invalid(f"Expected a query, got {type(tree).__name__.upper()}")
    for node in every(tree, exp.Anonymous, *CHANGES):
        if isinstance(node, CHANGES):
            raise Invalid(f"{type(node).__name__.upper()} cannot stand in a query; give it a statement of its own")
        if node.name.lower() == dialect.FILE:
            raise Invalid("file('path') sends a file: it is for INSERT and EXEC; FROM 'path' reads one")
    return Query(tree, wait, go_on)


def _without_on_error(text: str, fill: Filler) -> tuple[str, bool]:
    if "CONTINUE" not in text.upper():
        return text, False
    read = Reader(text, fill)
    return (read.text, True) if read.cut("ON", "ERROR", "CONTINUE") else (text, False)


def _await(text: str, fill: Filler) -> Statement:
    usage = "AWAIT [TIMEOUT '10 minutes'] [EVERY '5 seconds'] SELECT …"
    read = Reader(text, fill)
    read.expect("AWAIT", usage)
    wait = _wait_options(read)
    statement = _parse(read.rest(), fill)
    if not isinstance(statement, Query | Insert | Exec):
        raise Invalid(f"AWAIT is for SELECT, INSERT and EXEC.\nhint: {usage}")
    return replace(statement, wait=wait)


def _wait_options(read: Reader) -> Await:
    timeout_s = seconds(_option(read)) if read.take("TIMEOUT") else None
    return Await(timeout_s, seconds(_option(read)) if read.take("EVERY") else None)


def _option(read: Reader) -> str:
    read.take("=")
    word = read.peek()
    read.take(word.upper())
    unit = read.peek() if word.isdigit() and read.peek().lower() in UNITS else ""
    read.take(unit.upper())
    return word + unit


def _not_today(word: str) -> Invalid:
    if word in LATER:
        there = ", ".join(name for name in FRONT if name not in ("DESC", "EXECUTE", "REPLACE"))
        return Invalid(f"{word} is not here; there are SELECT, {there}")
    return Invalid(f"`{word}` begins no statement.{near(word, [*READS, *FRONT, *LATER])}")


# --- what there is ----------------------------------------------------------------------------------------------------


def _show(text: str, fill: Filler) -> Show | ShowInsert | ShowLocal:
    kinds = " | ".join(word + suffix for word, (_, _, suffix) in SHOWN.items())
    usage = f"SHOW [EXTENDED] {kinds} | INSERT INTO provider.service.resource | TABLES | VIEWS"
    read = Reader(text, fill)
    read.expect("SHOW", usage)
    extended = read.take("EXTENDED")
    if read.take("INSERT", "INTO"):
        names = read.names(usage)
        read.end(usage)
        return ShowInsert(_triple(names, "SHOW INSERT INTO provider.service.resource"))
    if read.peek().upper() in ("TABLES", "VIEWS"):
        of: Literal["TABLES", "VIEWS"] = "TABLES" if read.take("TABLES") else "VIEWS"
        read.take(of)
        like = read.string(usage) if read.take("LIKE") else None
        read.end(usage)
        return ShowLocal(of, like)
    word = read.name(usage).upper()
    if word not in SHOWN:
        raise Invalid(f"There is no SHOW {word}.\nhint: {usage}")
    what, count, suffix = SHOWN[word]
    names = read.names(usage) if count and (read.take("IN") or read.take("FROM")) else ()
    if len(names) != count:
        raise Invalid(f"SHOW {word} needs {suffix.strip() or 'no name'}.\nhint: SHOW {word}{suffix}")
    like = read.string(usage) if read.take("LIKE") else None
    read.end(usage)
    return Show(what, names, like, extended)


def _describe(text: str, fill: Filler) -> Describe | DescribeLocal:
    usage = (
        "DESCRIBE [EXTENDED] provider.service.resource | DESCRIBE [EXTENDED] METHOD provider.service.resource.method"
    )
    read = Reader(text, fill)
    read.take("DESCRIBE")
    read.take("DESC")
    extended, of_method = read.take("EXTENDED"), False
    if read.peek().upper() == "METHOD" and read.peek(1) != ".":
        of_method = read.take("METHOD")
        extended = read.take("EXTENDED") or extended
    names = read.names(usage)
    read.end(usage)
    if len(names) == 4:
        return Describe(_triple(names[:3], usage), extended, names[3])
    if len(names) == 1 and not of_method:
        return DescribeLocal(names[0])
    return Describe(_triple(names, usage), extended)


def _triple(names: tuple[str, ...], usage: str) -> Triple:
    if len(names) != 3:
        raise Invalid(f"`{'.'.join(names)}` is not the name of a resource.\nhint: {usage}")
    return names[0], names[1], names[2]


def _explain(text: str, fill: Filler) -> Explain:
    found = EXPLAIN.match(text)  # to sqlglot the rest would be one token
    analyze = bool(found and found["analyze"])
    statement = _parse(text[found.end() :] if found else text, fill)
    if not isinstance(statement, Query | Insert | Change | Exec):
        raise Invalid("EXPLAIN is for SELECT, INSERT, UPDATE, DELETE and EXEC")
    if analyze and not isinstance(statement, Query):
        raise Invalid("EXPLAIN ANALYZE runs its statement: it is for SELECT.\nhint: EXPLAIN, or --dry-run")
    return Explain(statement, analyze)


# --- changes of an API's resources ------------------------------------------------------------------------------------


def _insert(text: str, fill: Filler) -> Insert | Local:
    usage = "INSERT INTO provider.service.resource (column, …) VALUES (…) | SELECT … [RETURNING …]"
    hint = HINT.match(text)
    head, returning, go_on = _parts(text, fill)
    tree = fill.parse(head)
    if not isinstance(tree, exp.Insert):
        raise Invalid(f"Expected INSERT.\nhint: {usage}")
    target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    rows = tree.expression
    if isinstance(rows, exp.Values):
        rows = exp.select("*").from_(rows)
    if not (names := _our_names(target)):
        query = rows if isinstance(rows, exp.Query) else None
        if returning:
            tree.set("returning", exp.Returning(expressions=returning.expressions))
        return Local(tree, query)
    if not isinstance(rows, exp.Query):
        raise Invalid("INSERT needs VALUES or SELECT; SHOW INSERT INTO gives one to fill in")
    if with_ := tree.args.get("with_"):
        rows.set("with_", with_)
    named = tree.this.expressions if isinstance(tree.this, exp.Schema) else ()
    wait = _wait_options(Reader(hint["options"], fill)) if hint else None
    return Insert(names, tuple(column.name.lower() for column in named), rows, returning, wait, go_on)


def _change(text: str, fill: Filler) -> Change | Local:
    text = re.sub(r"^\s*REPLACE\b", "UPDATE", text, flags=re.IGNORECASE)
    head, returning, go_on = _parts(text, fill)
    tree = fill.parse(head)
    if not isinstance(tree, exp.Update | exp.Delete):
        raise Invalid("Expected UPDATE … SET … WHERE …, or DELETE FROM … WHERE …")
    if not (names := _our_names(tree.this)):
        if returning:
            tree.set("returning", exp.Returning(expressions=returning.expressions))
        return Local(tree)
    rows = exp.Select(from_=exp.From(this=tree.this), expressions=[])
    more = [*(tree.args.get("using") or ()), *([tree.args["from_"].this] if tree.args.get("from_") else ())]
    rows.set("joins", [exp.Join(this=source) for source in more] or None)
    for part in ("where", "order", "limit", "with_"):
        rows.set(part, tree.args.get(part))
    verb: Literal["UPDATE", "DELETE"] = "UPDATE" if isinstance(tree, exp.Update) else "DELETE"
    sets = tuple((each.this.name.lower(), each.expression) for each in tree.expressions) if verb == "UPDATE" else ()
    return Change(verb, names, rows, sets, returning, go_on)


def _exec(text: str, fill: Filler) -> Exec:
    usage = "EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'ftjob-…'"
    hint = HINT.match(text)
    text, go_on = _without_on_error(text, fill)
    read = Reader(text, fill)
    read.take(read.peek().upper())
    names = read.names(usage)
    if len(names) != 4:
        raise Invalid(f"`{'.'.join(names)}` is not the name of a method.\nhint: {usage}")
    items: list[exp.Expr] = []
    while read.peek() and read.peek().upper() != "RETURNING":
        if items:
            read.expect(",", usage)
        read.expect("@", usage)
        name = "@@" * read.take("@") + read.name(usage)
        read.expect("=", usage)
        if not (value := read.until(",", "RETURNING")):
            raise Invalid(f"Expected a value before `{read.peek() or 'the end'}`.\nhint: {usage}")
        items.append(exp.alias_(_expression(value, fill, usage), name, quoted=True))
    returning = _returning(read.rest(), fill) if read.take("RETURNING") else None
    wait = _wait_options(Reader(hint["options"], fill)) if hint else None
    items = items or [exp.alias_(exp.Literal.string("{}"), "@@json", quoted=True)]
    return Exec(_triple(names[:3], usage), names[3], exp.select(*items), returning, wait, go_on)


def _expression(text: str, fill: Filler, usage: str) -> exp.Expr:
    tree = fill.parse(f"SELECT {text}")
    items = tree.expressions if isinstance(tree, exp.Select) else []
    if len(items) != 1 or isinstance(items[0], exp.Column):
        raise Invalid(f"Expected a value before `{text}`.\nhint: {usage}")
    return items[0].unalias()  # type: ignore[no-any-return]


def _parts(text: str, fill: Filler) -> tuple[str, exp.Select | None, bool]:
    """The statement without RETURNING and ON ERROR CONTINUE, which no dialect knows after LIMIT."""
    text, go_on = _without_on_error(text, fill)
    read = Reader(text, fill)
    head = read.until("RETURNING")
    returning = _returning(read.rest(), fill) if read.take("RETURNING") else None
    return head, returning, go_on


def _returning(text: str, fill: Filler) -> exp.Select:
    tree = fill.parse(f"SELECT {text}")
    if not isinstance(tree, exp.Select) or tree.args.get("from_"):
        raise Invalid("RETURNING takes columns and expressions of them")
    return tree


def _our_names(target: exp.Expr) -> Triple | None:
    if not isinstance(target, exp.Table) or not target.db:
        return None
    names = (target.catalog.lower(), target.db.lower(), target.name.lower())
    return _triple(tuple(filter(None, names)), "a table has three names, provider.service.resource")


# --- DuckDB's own tables, and providers -------------------------------------------------------------------------------


def _create(text: str, fill: Filler) -> Create | Local:
    is_materialized = re.match(r"\s*CREATE\s+(OR\s+REPLACE\s+)?MATERIALIZED\b", text, re.IGNORECASE)
    tree = fill.parse(text)
    if not isinstance(tree, exp.Create) or tree.kind not in ("VIEW", "TABLE"):
        raise Invalid("CREATE makes a VIEW, a MATERIALIZED VIEW or a TABLE")
    if not isinstance(tree.expression, exp.Query):
        return Local(tree)
    if tree.kind == "TABLE":
        return Create("TABLE", tree)
    return Create("MATERIALIZED VIEW" if is_materialized else "VIEW", tree)


def _local(text: str, fill: Filler) -> Local:
    text = re.sub(r"^(\s*DROP\s+)MATERIALIZED\b", r"\1", text, flags=re.IGNORECASE)
    tree = fill.parse(text)
    if not isinstance(tree, exp.Drop | exp.Alter):
        raise Invalid(f"`{text.split()[0].upper()}` is for tables and views of your own")
    return Local(tree)


def _refresh(text: str, fill: Filler) -> Refresh:
    usage = "REFRESH MATERIALIZED VIEW name"
    read = Reader(text, fill)
    read.expect("REFRESH", usage)
    read.expect("MATERIALIZED", usage)
    read.expect("VIEW", usage)
    name = read.name(usage)
    read.end(usage)
    return Refresh(name)


def _attach(text: str, fill: Filler) -> Attach:
    usage = "ATTACH 'https://…/v1' AS name (TYPE openai, KEY_ENV 'NAME_OF_A_VARIABLE')"
    read = Reader(text, fill)
    read.expect("ATTACH", usage)
    url = read.string(usage)
    read.expect("AS", usage)
    name, options = read.name(usage).lower(), dict[str, str]()
    if read.take("("):
        while not read.take(")"):
            option = read.name(usage).lower()
            read.take("=")
            value = read.until(",", ")")
            options[option] = _expression(value, fill, usage).name if value.startswith("'") else value
            if not read.take(",") and read.peek() != ")":
                raise Invalid(f"Expected , or ) before `{read.peek() or 'the end'}`.\nhint: {usage}")
    read.end(usage)
    return Attach(url, name, options)


def _detach(text: str, fill: Filler) -> Detach:
    read = Reader(text, fill)
    read.expect("DETACH", "DETACH name")
    name = read.name("DETACH name").lower()
    read.end("DETACH name")
    return Detach(name)


FRONT: dict[str, Callable[[str, Filler], Statement]] = {
    "SHOW": _show,
    "DESCRIBE": _describe,
    "DESC": _describe,
    "EXPLAIN": _explain,
    "AWAIT": _await,
    "INSERT": _insert,
    "UPDATE": _change,
    "REPLACE": _change,
    "DELETE": _change,
    "EXEC": _exec,
    "EXECUTE": _exec,
    "CREATE": _create,
    "DROP": _local,
    "ALTER": _local,
    "REFRESH": _refresh,
    "ATTACH": _attach,
    "DETACH": _detach,
}
