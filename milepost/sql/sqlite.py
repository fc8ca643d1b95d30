"""`--dialect sqlite`: what SQLite gives another value for than DuckDB, without either of them complaining.

Whole numbers divide into whole numbers, LIKE ignores case, CAST cuts off, max(a, b) knows NULL, NULL sorts first. Every
row of this page is a line of tests/sql/test_dialects.py, compared by value with SQLite itself.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from milepost.errors import Invalid
from milepost.sql.catalog import Type

#: Names of our own for what has to wait until types are known; `dialect` rewrites them.
DIVIDE = "sqlite_div"
TypeOf = Callable[[exp.Expr], Type | None]

LETTERS = ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
WHOLE = (exp.Count, exp.Length, exp.StrPosition, exp.Unicode)
REAL = (exp.Avg, exp.Round, exp.Sqrt, exp.Pow)


def adapt(tree: exp.Expr) -> exp.Expr:
    """The tree with SQLite's meaning in DuckDB's words, in place."""
    for node in reversed(list(tree.walk())):
        if (make := ADAPTED.get(type(node))) and (made := make(node)) is not None:
            node.replace(made)
    for call in list(tree.find_all(exp.Anonymous)):
        if make_call := FUNCTIONS.get(call.name.lower()):
            call.replace(make_call(call.expressions))
    return tree


def divide(arguments: list[exp.Expr], type_of: TypeOf) -> exp.Expr:
    """A / b, cut off where both are whole; where that is not known beforehand, DuckDB looks at the values' types."""
    left, right = arguments
    kinds = {kind(left, type_of), kind(right, type_of)}
    whole = exp.IntDiv(this=exp.paren(left.copy()), expression=exp.paren(right.copy()))
    real = exp.Div(this=exp.cast(left.copy(), "DOUBLE"), expression=exp.cast(right.copy(), "DOUBLE"))
    made: exp.Expr = whole
    if "real" in kinds:
        made = real
    elif None in kinds:
        are_whole = [_is_whole(side) for side in (left, right)]
        cut = exp.Anonymous(this="trunc", expressions=[real.copy()])
        made = exp.Case(ifs=[exp.If(this=exp.and_(*are_whole), true=cut)], default=real)
    return exp.Case(ifs=[exp.If(this=exp.EQ(this=right.copy(), expression=_number(0)), true=exp.Null())], default=made)


def kind(node: exp.Expr, type_of: TypeOf) -> str | None:
    """Whether a value is "whole" or "real", if the text or the catalog tells."""
    inner = node.unnest()
    found = {"integer": "whole", "number": "real"}.get(str(type_of(inner)))
    match inner:
        case exp.Literal():
            found = None if inner.is_string else "whole" if inner.this.isdigit() else "real"
        case exp.Neg() | exp.Sum() | exp.Abs() | exp.Max() | exp.Min():
            found = kind(inner.this, type_of)
        case exp.Add() | exp.Sub() | exp.Mul() | exp.Mod():
            found = _of(kind(inner.left, type_of), kind(inner.right, type_of))
        case exp.Cast():
            is_whole, is_real = (
                inner.to.is_type(*types) for types in (exp.DataType.INTEGER_TYPES, exp.DataType.REAL_TYPES)
            )
            found = "whole" if is_whole else "real" if is_real else None
        case exp.Anonymous(this=name) if name == DIVIDE:
            found = _of(*(kind(side, type_of) for side in inner.expressions))
    if isinstance(inner, WHOLE):
        found = "whole"
    return "real" if isinstance(inner, REAL) else found


def _of(one: str | None, other: str | None) -> str | None:
    return "real" if "real" in (one, other) else "whole" if one == other == "whole" else None


def _is_whole(node: exp.Expr) -> exp.Expr:
    names = [exp.Literal.string(name) for name in INTEGERS]
    return exp.In(this=exp.Anonymous(this="typeof", expressions=[node.copy()]), expressions=names)


def _number(value: int) -> exp.Expr:
    return exp.Literal.number(value)


def _div(node: exp.Expr) -> exp.Expr:
    left, right = node.args["this"], node.args["expression"]
    return exp.Anonymous(this=DIVIDE, expressions=[left, right])


def _mod(node: exp.Expr) -> exp.Expr:
    right = exp.Nullif(this=node.args["expression"].copy(), expression=_number(0))
    return exp.Mod(this=node.args["this"].copy(), expression=right)


def _like(node: exp.Expr) -> exp.Expr:
    return exp.ILike(
        **{name: value.copy() if isinstance(value, exp.Expr) else value for name, value in node.args.items()}
    )


def _cast(node: exp.Expr) -> exp.Expr | None:
    """A number cut off, or the number that a text begins with; 0 if it begins with none."""
    if not node.args["to"].is_type(*exp.DataType.INTEGER_TYPES):
        return None
    value = node.args["this"]
    text = exp.cast(value.copy(), "VARCHAR")
    pattern = exp.Literal.string(r"^\s*([+-]?\d+)")
    digits = exp.Anonymous(this="regexp_extract", expressions=[text, pattern, _number(1)])
    number = exp.Coalesce(this=exp.TryCast(this=digits, to=exp.DataType.build("BIGINT")), expressions=[_number(0)])
    is_real = exp.In(
        this=exp.Anonymous(this="typeof", expressions=[value.copy()]),
        expressions=[exp.Literal.string(name) for name in ("DOUBLE", "FLOAT")],
    )
    is_decimal = exp.Anonymous(
        this="starts_with",
        expressions=[exp.Anonymous(this="typeof", expressions=[value.copy()]), exp.Literal.string("DECIMAL")],
    )
    cut = exp.TryCast(
        this=exp.Anonymous(this="trunc", expressions=[exp.TryCast(this=value.copy(), to=exp.DataType.build("DOUBLE"))]),
        to=exp.DataType.build("BIGINT"),
    )
    is_null = exp.Is(this=value.copy(), expression=exp.Null())
    return exp.Case(
        ifs=[exp.If(this=is_null, true=exp.Null()), exp.If(this=exp.or_(is_real, is_decimal), true=cut)], default=number
    )


def _extreme(node: exp.Expr) -> exp.Expr | None:
    """max(a, b) and min(a, b) of SQLite: NULL if any of them is."""
    values = [node.args["this"], *node.expressions]
    nulls = [exp.Is(this=value.copy(), expression=exp.Null()) for value in values]
    if len(values) < 2:
        return None
    return exp.Case(ifs=[exp.If(this=exp.or_(*nulls), true=exp.Null())], default=node.copy())


def _typeof(node: exp.Expr) -> exp.Expr:
    given = exp.Anonymous(this="typeof", expressions=[node.args["this"].copy()])
    names = {"text": ("VARCHAR",), "blob": ("BLOB",), "integer": (*INTEGERS, "BOOLEAN")}
    ifs = [exp.If(this=exp.Is(this=node.args["this"].copy(), expression=exp.Null()), true=exp.Literal.string("null"))]
    ifs += [
        exp.If(
            this=exp.In(this=given.copy(), expressions=[exp.Literal.string(one) for one in kinds]),
            true=exp.Literal.string(name),
        )
        for name, kinds in names.items()
    ]
    return exp.Case(ifs=ifs, default=exp.Literal.string("real"))


def _letters(old: str, new: str) -> Callable[[exp.Expr], exp.Expr]:
    """Upper and lower change the letters of ASCII only."""

    def make(node: exp.Expr) -> exp.Expr:
        letters = [exp.Literal.string(old), exp.Literal.string(new)]
        return exp.Anonymous(this="translate", expressions=[exp.cast(node.args["this"].copy(), "VARCHAR"), *letters])

    return make


def _unixepoch(arguments: list[exp.Expr]) -> exp.Expr:
    return exp.Anonymous(this="sqlite_strftime", expressions=[exp.Literal.string("%s"), *arguments])


def _total(arguments: list[exp.Expr]) -> exp.Expr:
    if len(arguments) != 1:
        raise Invalid("total takes one argument")
    summed = exp.cast(exp.Sum(this=arguments[0].copy()), "DOUBLE")
    return exp.Coalesce(this=summed, expressions=[exp.cast(_number(0), "DOUBLE")])


def _format(node: exp.Expr) -> exp.Expr:
    return exp.Anonymous(
        this="printf", expressions=[node.args["this"].copy(), *(one.copy() for one in node.expressions)]
    )


ADAPTED: dict[type[exp.Expr], Callable[[exp.Expr], exp.Expr | None]] = {
    exp.Div: _div,
    exp.Format: _format,
    exp.Mod: _mod,
    exp.Like: _like,
    exp.Cast: _cast,
    exp.Greatest: _extreme,
    exp.Least: _extreme,
    exp.Typeof: _typeof,
    exp.Lower: _letters(*LETTERS),
    exp.Upper: _letters(*reversed(LETTERS)),
}
FUNCTIONS: dict[str, Callable[[list[exp.Expr]], exp.Expr]] = {
    "total": _total,
    "unixepoch": _unixepoch,
}
