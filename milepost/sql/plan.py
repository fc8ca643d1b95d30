"""Which calls a query needs: every occurrence of a table of ours becomes a relation of that query only.

A value reaches the API if the conditions around the table's own FROM hold it fast (`=`, IN, OR of these). That saves
calls and is never the truth: DuckDB applies the whole WHERE again. Parameters that rows do not show are therefore
echoed as hidden columns. LIMIT goes to the API only where nothing but pushed values filters and nothing orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product

from sqlglot import exp

from milepost.errors import Invalid, NotFound
from milepost.sql import dialect
from milepost.sql.calls import Call, Given, Plan, Read, Value
from milepost.sql.catalog import Column, Method, Table
from milepost.sql.scopes import Held, Names, Occurrence, find_occurrences, literals
from milepost.sql.words import near

#: Optional parameters that filter by exactly the column of the same name, so that `column = value` may be sent.
SAME_AS_COLUMN = frozenset(
    {("openai.containers.containers", "name"), ("openai.evals.runs", "status"), ("openai.files.files", "purpose")}
)
#: What Python has for a scalar type of the catalog.
PYTHON: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}
#: What an error's example puts for a parameter.
EXAMPLES = {"fine_tuning_job_id": "ftjob-…", "file_id": "file-…", "batch_id": "batch_…"}

#: The table a name stands for, with its provider; None if it is not one of ours. Raises `NotFound` for a misspelt one.
Find = Callable[[exp.Table], tuple[str, Table] | None]


def plan(tree: exp.Query, find: Find) -> Plan:
    """The calls and DuckDB's text of a query; `tree` is changed. Raises for what cannot be called, before any call."""
    ours = {id(node): found for node in tree.find_all(exp.Table) if (found := find(node))}
    occurrences = find_occurrences(tree, ours) if ours else []
    if len(occurrences) < len(ours):
        raise Invalid("A table of an API stands where only tables of DuckDB can; select from it in a CTE first")
    names = Names(occurrences)
    taken = {node.name.lower() for node in tree.find_all(exp.Table, exp.TableAlias)}
    reads = [_read(o, names, _free(f"_{o.table.resource}_{n}", taken)) for n, o in enumerate(occurrences, start=1)]
    _keep_names(tree)
    dialect.rewrite(tree, names.type_of)
    for occurrence, read in zip(occurrences, reads, strict=True):
        _hide(occurrence, read, names)
    for occurrence, read in zip(occurrences, reads, strict=True):
        _put(occurrence, read.relation)
    return Plan(dialect.generate(tree), tuple(reads))


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else _free(f"_{name}", taken)


# --- one table --------------------------------------------------------------------------------------------------------


def _read(occurrence: Occurrence, names: Names, relation: str) -> Read:
    scope, table = occurrence.scope, occurrence.table
    if occurrence.node.args.get("sample"):  # it is drawn before WHERE: nothing that filters could be pushed
        raise Invalid(f"`{occurrence.shown}` is a table of an API: put it in a CTE to sample it")
    if not table.selects:
        methods = ", ".join(f"`{method.name}` by {method.verb}" for method in table.methods)
        raise Invalid(f"`{occurrence.shown}` cannot be selected from; it has {methods}")
    mine = [column for column, owner in names.columns(scope) if owner is occurrence]
    for column in mine:
        if not occurrence.has(column.name) and not occurrence.hides(column.name):
            known = (shown.name for shown in table.columns)
            raise NotFound(
                f"`{occurrence.shown}` has no column `{column.name}`.{near(column.name, known)}", param=column.name
            )

    held = partial(names.held, occurrence)
    method, sent = _choose(occurrence, held)
    echoed = {c.name.lower() for c in mine if occurrence.hides(c.name)}
    hidden = tuple(_hidden_column(occurrence, name) for name in sorted(echoed))
    kept = {
        name: _kept(occurrence, name, sent, held) for name in sorted(echoed) if name != table.own_id or name in sent
    }
    limit = _limit(occurrence, {*sent, *(("id",) if method.own_id in sent else ())})
    calls = tuple(_calls(occurrence, method, sent, kept, limit))
    return Read(relation, table, hidden, calls)


def _choose(occurrence: Occurrence, held: Callable[[str], Held]) -> tuple[Method, dict[str, frozenset[Value]]]:
    """The method to call and the values of its parameters: `retrieve` where it can be, since it is one request."""
    table = occurrence.table
    methods = sorted(table.selects, key=lambda method: (method.own_id is None, len(method.required)))
    for method in methods:
        given = _given(method.required, held)
        if method.own_id and (by_id := held("id")) is not None:
            given[method.own_id] = given.get(method.own_id, by_id) & by_id
        if len(given) == len(method.required):
            return method, given | _optional(occurrence, method, held)
    plain = min(table.selects, key=lambda method: (len(method.required), method.own_id is not None))
    raise _missing(occurrence, plain, _given(plain.required, held))


def _given(names: Iterable[str], held: Callable[[str], Held]) -> dict[str, frozenset[Value]]:
    return {name: values for name in names if (values := held(name)) is not None}


def _optional(occurrence: Occurrence, method: Method, held: Callable[[str], Held]) -> dict[str, frozenset[Value]]:
    """Values of parameters that mean the same in WHERE as to the API."""
    names = [parameter.name for parameter in method.parameters if not parameter.required]
    return _given(
        (name for name in names if occurrence.hides(name) or (occurrence.table.name, name) in SAME_AS_COLUMN), held
    )


def _kept(
    occurrence: Occurrence,
    name: str,
    sent: dict[str, frozenset[Value]],
    held: Callable[[str], Held],
) -> frozenset[Value]:
    """The values a hidden column can show. One that is not held fast has none to show."""
    values = sent.get(name) if name in sent else held(name)
    if values is None:
        raise Invalid(
            f"`{name}` of `{occurrence.shown}` is a parameter, not a column: give it with = and a value", param=name
        )
    return values


def _missing(occurrence: Occurrence, method: Method, given: dict[str, frozenset[Value]]) -> Invalid:
    missing = [name for name in method.required if name not in given]
    example = " AND ".join(f"{name} = '{EXAMPLES.get(name, '…')}'" for name in missing)
    also = "".join(
        f" AND {name} = {_literal(value)}" for name, values in given.items() for value in sorted(values, key=str)[:1]
    )
    listed = " and ".join(f"`{name}`" for name in missing)
    return Invalid(
        f"`{occurrence.shown}` needs {listed} in WHERE, with = or IN and values "  # noqa: S608 (a text for people)
        "(a value that only another table's column gives comes later).\n"
        f"hint: SELECT * FROM {occurrence.shown} WHERE {example}{also}",
        param=missing[0],
    )


def _literal(value: Value) -> str:
    return exp.convert(value).sql("duckdb")


def _hidden_column(occurrence: Occurrence, name: str) -> Column:
    parameter = occurrence.parameter(name)
    kind = parameter.type if parameter and parameter.type != "any" else "string"
    return Column(name, kind, "")


def _calls(
    occurrence: Occurrence,
    method: Method,
    sent: dict[str, frozenset[Value]],
    kept: dict[str, frozenset[Value]],
    limit: int | None,
) -> Iterator[tuple[Call, Given]]:
    """One call for each choice of values; its rows keep the values chosen."""
    choices = {**sent, **{name: values for name, values in kept.items() if name not in sent}}
    for values in product(*(sorted(values, key=str) for values in choices.values())):
        chosen = dict(zip(choices, values, strict=True))
        arguments = {name: _fit(occurrence, method, name, chosen[name]) for name in sent}
        if method.own_id and arguments[method.own_id] == "":
            continue  # nothing has an empty id
        yield (
            Call(occurrence.provider, method, tuple(sorted(arguments.items())), limit),
            {name: arguments.get(name, chosen[name]) for name in kept},
        )


def _fit(occurrence: Occurrence, method: Method, name: str, value: Value) -> Value:
    """The value as the parameter's type wants it."""
    parameter = method.parameter(name)
    kind = parameter.type if parameter else "string"
    if kind == "integer" and isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    if kind in ("string", "any") and not isinstance(value, str):
        return str(value)
    is_empty = value == "" and name != method.own_id
    if is_empty or not isinstance(value, PYTHON.get(str(kind), (str,))):
        raise Invalid(f"`{name}` of `{occurrence.shown}` wants {kind}, got {_literal(value)}", param=name)
    return value


# --- LIMIT ------------------------------------------------------------------------------------------------------------

#: Parts of a SELECT beside which a limit on rows is not a limit on the table.
NOT_BESIDE_LIMIT = (
    "joins",
    "laterals",
    "group",
    "having",
    "qualify",
    "distinct",
    "order",
    "windows",
    "sample",
    "pivots",
)
NOT_ROW_BY_ROW = (exp.AggFunc, exp.Window, exp.UDTF, exp.Explode, exp.Anonymous, exp.Query)


def _limit(occurrence: Occurrence, pushed: set[str]) -> int | None:
    """How many rows are enough, where the API's own first rows are as good as any."""
    select = occurrence.scope.expression
    if not isinstance(select, exp.Select) or any(select.args.get(part) for part in NOT_BESIDE_LIMIT):
        return None
    if len(occurrence.scope.selected_sources) != 1 or any(node.find(*NOT_ROW_BY_ROW) for node in select.expressions):
        return None
    where, limit, offset = (select.args.get(part) for part in ("where", "limit", "offset"))
    if limit and limit.args.get("limit_options"):  # LIMIT 10% is of all rows
        return None
    if where and not _is_pushed(where.this, pushed):
        return None
    counts = [part.expression for part in (limit, offset) if part]
    if not limit or not all(isinstance(count, exp.Literal) and count.this.isdigit() for count in counts):
        return None
    return sum(int(count.this) for count in counts)


def _is_pushed(condition: exp.Expr, pushed: set[str]) -> bool:
    match condition:
        case exp.And():
            return _is_pushed(condition.left, pushed) and _is_pushed(condition.right, pushed)
        case exp.Paren():
            return _is_pushed(condition.this, pushed)
        case exp.EQ():
            sides = (condition.left, condition.right)
            return (
                any(isinstance(s, exp.Column) and s.name.lower() in pushed for s in sides)
                and literals(s for s in sides if not isinstance(s, exp.Column)) is not None
            )
        case exp.In():
            return isinstance(condition.this, exp.Column) and condition.this.name.lower() in pushed
        case _:
            return False


# --- the tree DuckDB gets ---------------------------------------------------------------------------------------------


def _hide(occurrence: Occurrence, read: Read, names: Names) -> None:
    """Take hidden columns out of every *, and name the table of a column that another's hidden one makes ambiguous."""
    scope = occurrence.scope
    if not read.hidden:
        return
    hidden = {column.name for column in read.hidden}
    for column, owner in list(names.columns(scope)):
        if not column.table and column.name.lower() in hidden:
            column.set("table", exp.to_identifier(owner.alias, quoted=True))
    for item in scope.expression.expressions if isinstance(scope.expression, exp.Select) else ():
        star = item if isinstance(item, exp.Star) else item.this
        of_all, of_this = (
            isinstance(item, exp.Star),
            item.is_star and getattr(item, "table", "").lower() == occurrence.alias.lower(),
        )
        if of_all or of_this:
            left_out = [
                exp.column(column.name, table=occurrence.alias if of_all else None, quoted=True)
                for column in read.hidden
            ]
            star.set("except_", [*(star.args.get("except_") or ()), *left_out])


def _keep_names(tree: exp.Query) -> None:
    """Columns without a name are called what the user wrote, not what we make of it."""
    for select in tree.find_all(exp.Select):
        for item in select.expressions:
            if not item.alias_or_name and any(dialect.is_renamed(call) for call in item.find_all(exp.Anonymous)):
                name = item.sql("duckdb", normalize_functions=False).replace(dialect.PREFIX, "")
                named = exp.Alias(alias=exp.to_identifier(name, quoted=True))
                item.replace(named)
                named.set("this", item)


def _put(occurrence: Occurrence, relation: str) -> None:
    """The relation in the place of the table, and the alias in the place of its whole name before columns."""
    for column in occurrence.scope.find_all(exp.Column):
        if column.args.get("catalog") and column.table.lower() == occurrence.alias.lower():
            column.set("db", None)
            column.set("catalog", None)
    node = occurrence.node
    if not node.alias:
        node.set("alias", exp.TableAlias(this=exp.to_identifier(occurrence.alias, quoted=True)))
    node.set("this", exp.to_identifier(relation, quoted=True))
    node.set("db", None)
    node.set("catalog", None)
