"""The default dialect: DuckDB's, with SQLite's json_extract, date, datetime and strftime as people write them.

sqlglot's DuckDB parser drops or misreads the arguments of SQLite's forms, and its compiled build cannot be subclassed:
so these four functions are renamed, token by token, and rewritten on the tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.jsonpath import parse as parse_json_path
from sqlglot.tokenizer_core import Token, TokenType

from milepost.errors import Invalid, NotFound
from milepost.sql import sqlite
from milepost.sql.catalog import Type
from milepost.sql.tree import every
from milepost.sql.words import near

Dialect = Literal["duckdb", "sqlite"]

PREFIX = "sqlite_"
RENAMED = frozenset({"date", "datetime", "json_extract", "strftime"})
#: What `file('path')` is called in the tree: a file to send, which only a change can.
FILE = "milepost_file"
#: Names in the text → in the tree.
OTHER_NAMES = {"file": FILE, **{name: f"{PREFIX}{name}" for name in RENAMED}}
QUERY_STARTS = (TokenType.SELECT, TokenType.WITH, TokenType.FROM, TokenType.VALUES)

#: Says what type an expression has if it is a column of ours or a field of one, else None.
TypeOf = Callable[[exp.Expr], Type | None]

MODIFIER = re.compile(r"[+-]?\d+(\.\d+)? (second|minute|hour|day|month|year)s?")
START = re.compile(r"start of (month|year|day)")
JSON_TYPES = ("object", "array", "any")


def parse(sql: str, dialect_name: Dialect = "duckdb") -> exp.Expr:
    """The tree of the one statement in `sql`; our four functions are `exp.Anonymous` in it."""
    try:
        tokens = sqlglot.tokenize(sql, dialect=dialect_name)
        _require_quoted_placeholders(tokens)
        trees = _trees(_renamed(tokens), sql, dialect_name)
    except ParseError as error:
        raise Invalid(_readable(error)) from None
    except RecursionError:
        raise Invalid("The statement is nested too deeply") from None
    except TokenError as error:
        raise Invalid(f"Cannot read the statement: {error}") from None
    if len(trees) != 1:
        raise Invalid(f"Expected one statement, got {len(trees)}")
    return sqlite.adapt(trees[0]) if dialect_name == "sqlite" else trees[0]


def _trees(tokens: list[Token], sql: str, dialect_name: Dialect) -> list[exp.Expr]:
    parser = sqlglot.Dialect.get_or_raise(dialect_name).parser()
    try:
        return [tree for tree in parser.parse(tokens, sql) if tree is not None]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # sqlglot's own, as for `{: 1}`
        raise Invalid(f"Cannot read the statement: {type(error).__name__} in its parser") from None


def generate(tree: exp.Expr, *, spend: bool = False) -> str:
    """DuckDB's text of the tree; with `spend`, of one that is not needed any more: it need not be copied first."""
    try:
        return tree.sql(dialect="duckdb", copy=not spend)
    except SqlglotError as error:
        raise Invalid(f"Cannot write the statement for DuckDB: {error}") from None


def as_written(tree: exp.Expr) -> str:
    """The text that reads as this tree again."""
    names = "|".join(RENAMED)
    text = re.sub(rf"\b{PREFIX}({names})\(", r"\1(", generate(tree), flags=re.IGNORECASE)
    return text.replace(FILE, "file")


def is_renamed(call: exp.Anonymous) -> bool:
    return call.name.startswith(PREFIX)


def rewrite(tree: exp.Expr, type_of: TypeOf) -> None:
    """Put DuckDB's words for SQLite's functions, innermost first, in place."""
    calls = every(tree, exp.Anonymous)
    for call in reversed([node for node in calls if is_renamed(node)]):
        name = call.name.removeprefix(PREFIX)
        call.replace(REWRITES[name](call.expressions, type_of))
    if not any(node.name.lower() == "to_jsonl" for node in calls):
        return
    for call in [node for node in every(tree, exp.Anonymous) if node.name.lower() == "to_jsonl"]:
        call.replace(_to_jsonl(call.expressions))


def _renamed(tokens: list[Token]) -> list[Token]:
    """The tokens with our four functions and `file` under names that mean nothing to sqlglot, and with brackets around
    the query of `to_jsonl`.
    """
    renamed = [*tokens]
    opening, closing = set[int](), set[int]()
    for number, (token, after) in enumerate(pairwise(tokens)):
        name = token.text.lower()
        if after.token_type is not TokenType.L_PAREN or token.token_type is TokenType.STRING:
            continue
        if name in OTHER_NAMES:
            renamed[number] = Token(TokenType.VAR, OTHER_NAMES[name], token.line, token.col, token.start, token.end)
        if name == "to_jsonl" and number + 2 < len(tokens) and tokens[number + 2].token_type in QUERY_STARTS:
            opening.add(number + 1)
            closing.add(_closing(tokens, number + 1))
    if not opening:
        return renamed
    return [twin for at, token in enumerate(renamed) for twin in [token] * (1 + (at in opening or at in closing))]


def _closing(tokens: list[Token], opening: int) -> int:
    """Which token closes this bracket."""
    depth = 0
    for number, token in enumerate(tokens[opening:], start=opening):
        depth += (token.token_type is TokenType.L_PAREN) - (token.token_type is TokenType.R_PAREN)
        if depth == 0:
            return number
    raise Invalid("A bracket is not closed")


def _require_quoted_placeholders(tokens: list[Token]) -> None:
    for one, two, name in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if one.token_type is TokenType.L_BRACE and two.token_type is TokenType.L_BRACE:
            raise Invalid(f"Write the placeholder in quotes: '{{{{ {name.text} }}}}'", param=name.text)


def _readable(error: ParseError) -> str:
    """Sqlglot's message without its terminal colours and without our prefix."""
    first = error.errors[0]
    near_text = f"{first['start_context']}{first['highlight']}{first['end_context']}".replace(PREFIX, "")
    what = str(first["description"]).rstrip(".")
    return f"{what} at line {first['line']}, column {first['col']}: {' '.join(near_text.split())}"


def _to_jsonl(arguments: list[exp.Expr]) -> exp.Expr:
    """The rows of a query as JSON lines, in their order, in one text."""
    if len(arguments) != 1 or not isinstance(arguments[0], exp.Subquery):
        raise Invalid("to_jsonl takes a query: to_jsonl(SELECT …)")
    rows = exp.Subquery(this=arguments[0].this, alias=exp.TableAlias(this=exp.to_identifier("rows_of_jsonl")))
    lines = exp.select(exp.alias_(exp.cast(_call("to_json", exp.column("rows_of_jsonl")), "VARCHAR"), "line"))
    numbered = lines.select(exp.alias_(exp.Window(this=exp.RowNumber()), "number")).from_(rows)
    order = exp.Order(this=exp.column("line"), expressions=[exp.Ordered(this=exp.column("number"))])
    newline = _call("chr", exp.Literal.number(10))
    text = exp.DPipe(this=exp.GroupConcat(this=order, separator=newline), expression=newline.copy())
    named = exp.TableAlias(this=exp.to_identifier("lines_of_jsonl"))
    return exp.Subquery(this=exp.select(text).from_(exp.Subquery(this=numbered, alias=named)))


# --- json_extract -----------------------------------------------------------------------------------------------------


def _json_extract(arguments: list[exp.Expr], type_of: TypeOf) -> exp.Expr:
    """A typed field where the type is known, so that numbers compare as numbers; a text of what JSON is left."""
    if len(arguments) != 2 or not arguments[1].is_string:
        return exp.Anonymous(this="json_extract", expressions=arguments)
    value, kind = arguments[0], type_of(arguments[0])
    steps = _steps(arguments[1].name)
    for index, step in enumerate(steps):
        if isinstance(kind, dict) and isinstance(step, str):
            if step not in kind:
                raise NotFound(f"`{value.sql('duckdb')}` has no field `{step}`.{near(step, kind)}", param=step)
            value, kind = _call("struct_extract", value, exp.Literal.string(step)), kind[step]
        elif isinstance(kind, list) and isinstance(step, int):
            value, kind = _call("list_extract", value, exp.Literal.number(step + 1)), kind[0]
        else:
            return _call("json_extract_string", value, exp.Literal.string(_path(steps[index:])))
    return _call("json_extract_string", value, exp.Literal.string("$")) if kind in ("any", None) else value


def _steps(path: str) -> list[str | int]:
    try:
        parts = parse_json_path(path).expressions
    except SqlglotError as error:
        raise Invalid(f"`{path}` is not a JSON path such as '$.a.b': {error}") from None
    return [part.this for part in parts if not isinstance(part, exp.JSONPathRoot)]


def _path(steps: list[str | int]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f'."{step}"' for step in steps)


# --- times ------------------------------------------------------------------------------------------------------------


def _date(arguments: list[exp.Expr], _type_of: TypeOf) -> exp.Expr:
    return exp.cast(_moment(arguments), "DATE")


def _datetime(arguments: list[exp.Expr], _type_of: TypeOf) -> exp.Expr:
    return _moment(arguments)


def _strftime(arguments: list[exp.Expr], _type_of: TypeOf) -> exp.Expr:
    """SQLite's has the format first; '%s' is a number here, so that it compares with the API's Unix seconds."""
    if not arguments[0].is_string or "%" not in arguments[0].name:
        return exp.Anonymous(this="strftime", expressions=arguments)
    moment = _moment(arguments[1:] or [exp.Literal.string("now")])
    if arguments[0].name == "%s":
        return exp.cast(_call("epoch", moment), "BIGINT")
    return exp.Anonymous(this="strftime", expressions=[moment, arguments[0]])


def _moment(arguments: list[exp.Expr]) -> exp.Expr:
    """A TIMESTAMP in UTC, whatever the session's time zone: a value and SQLite's modifiers of it."""
    if not arguments:
        raise Invalid("A date function needs a value, such as date(created_at, 'unixepoch')")
    value, *modifiers = arguments
    words = [modifier.name.lower() if modifier.is_string else "" for modifier in modifiers]
    if words[:1] == ["unixepoch"]:
        moment: exp.Expr = _call(
            "make_timestamp", exp.Mul(this=exp.cast(value, "BIGINT"), expression=exp.Literal.number(1_000_000))
        )
        words = words[1:]
    elif value.is_string and value.name.lower() == "now":
        moment = _call("make_timestamp", _call("epoch_us", _call("now")))
    else:
        moment = exp.cast(value, "TIMESTAMP")
    for word in words:
        moment = _modified(moment, word)
    return moment


def _modified(moment: exp.Expr, word: str) -> exp.Expr:
    if start := START.fullmatch(word):
        return exp.cast(_call("date_trunc", exp.Literal.string(start[1]), moment), "TIMESTAMP")
    if (moves := MODIFIER.fullmatch(word)) and moves[2] in ("month", "year"):  # 31 January and a month is 2 or 3 March
        month = exp.cast(_call("date_trunc", exp.Literal.string("month"), moment.copy()), "TIMESTAMP")
        since = exp.paren(exp.Sub(this=moment, expression=month.copy()))
        return exp.paren(exp.Add(this=exp.Add(this=month, expression=_interval(word)), expression=since))
    if moves:
        return exp.paren(exp.Add(this=moment, expression=_interval(word)))
    raise Invalid(
        f"`{word or '…'}` is no modifier of a date; there are 'unixepoch', '-30 days', 'start of month' and their like"
    )


def _interval(word: str) -> exp.Expr:
    return exp.cast(exp.Literal.string(word.removeprefix("+")), "INTERVAL")


def _call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(arguments))


REWRITES: dict[str, Callable[[list[exp.Expr], TypeOf], exp.Expr]] = {
    "date": _date,
    "div": sqlite.divide,
    "datetime": _datetime,
    "json_extract": _json_extract,
    "strftime": _strftime,
}
