"""Which calls a query needs: every occurrence of a table of ours becomes a relation of that query only.

A value reaches the API if the conditions around the table's own FROM hold it fast (`=`, IN, OR of these), or if rows of
other sources give it (sources.py). That saves calls and is never the truth: DuckDB applies the whole WHERE again.
Parameters that rows do not show are therefore echoed as hidden columns. LIMIT goes to the API only where that is safe
(limits.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from itertools import combinations, islice

from sqlglot import exp

from milepost.errors import Invalid, NotFound
from milepost.sql import dialect, functions, lists
from milepost.sql.calls import BY_ID, Plan, Read, Step, Together, Value, fit
from milepost.sql.catalog import Column, Method, Table
from milepost.sql.held import Held, is_kept
from milepost.sql.limits import limit_of
from milepost.sql.scopes import PSEUDO, ColumnsOf, Names, Occurrence, find_occurrences
from milepost.sql.sources import Origin, Sources
from milepost.sql.tree import every, first
from milepost.sql.words import near

#: Optional parameters that filter by exactly the column of the same name, so that `column = value` may be sent.
SAME_AS_COLUMN = frozenset(
    {("openai.containers.containers", "name"), ("openai.evals.runs", "status"), ("openai.files.files", "purpose")}
)
#: What an error's example puts for a parameter.
EXAMPLES = {"fine_tuning_job_id": "ftjob-…", "file_id": "file-…", "batch_id": "batch_…"}

#: The table a name stands for, with its provider; None if it is not one of ours. Raises `NotFound` for a misspelt one.
Find = Callable[[exp.Table], tuple[str, Table] | None]


def plan(tree: exp.Query, find: Find, columns_of: ColumnsOf, *, checked: bool = False) -> Plan:
    """The calls and DuckDB's text of a query; `tree` is changed. Raises for what cannot be called, before any call.

    With `checked`, the plan also counts the rows it shows by their status.
    """
    ours = _ours(tree, find)
    parameters = {name for _, table in ours.values() for method in table.selects for name in (*method.required, "id")}
    if parameters and lists.rewrite(tree, parameters):
        ours = _ours(tree, find)
    _straighten(tree)
    calls = functions.rewrite(tree, sorted({provider for provider, _ in ours.values()}))
    if not ours:
        _keep_names(tree)
        dialect.rewrite(tree, lambda _: None)
        return Plan(dialect.generate(tree, spend=True), (), calls=calls)
    occurrences, scopes = find_occurrences(tree, ours)
    if len(occurrences) < len(ours):
        raise Invalid("A table of an API stands where only tables of DuckDB can; select from it in a CTE first")
    names = Names(occurrences, scopes, columns_of)
    _keep_names(tree)
    dialect.rewrite(tree, names.type_of)
    sources = Sources(names, occurrences, scopes)
    chosen = _choose_all(occurrences, names, sources)
    taken = {node.name.lower() for node in every(tree, exp.Table, exp.TableAlias)}
    relation_of = {
        id(choice.occurrence.node): _free(f"_{choice.occurrence.table.resource}_{number}", taken)
        for number, choice in enumerate(chosen, start=1)
    }
    seen = None if checked else names.seen(tree)
    for choice in chosen:
        _hide(choice, names)
    for occurrence in occurrences:
        _put(occurrence, names, relation_of[id(occurrence.node)])
    reads = [_read(choice, sources, relation_of, seen) for choice in chosen]
    steps = _in_order([*sources.materials, *reads])
    checks = tuple(_checks(tree, occurrences)) if checked else ()
    is_simple = len(scopes) == 1 and not checked
    return Plan(dialect.generate(tree, spend=True), steps, is_simple=is_simple, checks=checks, calls=calls)


def _ours(tree: exp.Query, find: Find) -> dict[int, tuple[str, Table]]:
    return {id(node): found for node in every(tree, exp.Table) if (found := find(node))}


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else _free(f"_{name}", taken)


def _straighten(tree: exp.Query) -> None:
    """Joins of a query that begins with FROM hang on its first table: here they are the SELECT's, as everywhere. And
    every subquery in FROM has a name.
    """
    nodes = every(tree, exp.Select, exp.Subquery)
    for select in nodes:
        from_ = select.args.get("from_") if isinstance(select, exp.Select) else None
        head = from_.this if from_ else None
        if isinstance(head, exp.Table | exp.Subquery) and head.args.get("joins"):
            hanging = head.args["joins"]
            head.set("joins", None)
            select.set("joins", [*hanging, *(select.args.get("joins") or ())])
    subqueries = (node for node in nodes if isinstance(node, exp.Subquery))
    for number, subquery in enumerate(subqueries, start=1):
        is_source = isinstance(subquery.parent, exp.From | exp.Join) and isinstance(subquery.unnest(), exp.Query)
        if is_source and not subquery.alias:
            subquery.set("alias", exp.TableAlias(this=exp.to_identifier(f"_unnamed_{number}")))


def _in_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, each after what it needs."""
    done: list[Step] = []
    there: set[str] = set()
    while rest := [step for step in steps if step not in done]:
        ready = [step for step in rest if step.needs <= there]
        if not ready:
            raise Invalid("The tables of this query need each other's rows, so none can be asked first")
        done += ready
        there |= {step.relation for step in ready}
    return tuple(done)


def _checks(tree: exp.Query, occurrences: Sequence[Occurrence]) -> Iterator[str]:
    """For each SELECT at the top with tables that have a `status`: how many of the rows it shows have which."""
    tops = [tree] if isinstance(tree, exp.Select) else every(tree, exp.Select)
    for select in tops:
        mine = [o for o in occurrences if o.scope.expression is select and o.has("status")]
        if not mine:
            continue
        states = [
            exp.alias_(exp.column("status", o.alias, quoted=True), f"_status_{number}") for number, o in enumerate(mine)
        ]
        inner = select.copy()
        if any(select.args.get(part) for part in ("group", "distinct", "having")) or first(select, exp.AggFunc):
            for part in ("group", "distinct", "having", "order", "limit", "offset", "qualify"):
                inner.set(part, None)
            inner.set("expressions", [])
        inner = inner.select(*states, copy=False)
        inner.set("with_", None)
        for number in range(len(mine)):
            column = exp.column(f"_status_{number}")
            counted = exp.select(column, "count(*)").from_(inner.copy().subquery("seen")).group_by(column)
            counted = counted.where(exp.Not(this=exp.Is(this=column.copy(), expression=exp.Null())))
            if with_ := tree.args.get("with_"):
                counted.set("with_", with_.copy())
            yield dialect.generate(counted)


# --- one table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """The method that reads an occurrence, and where the values of its parameters come from; the list to read instead
    if those are too many.
    """

    occurrence: Occurrence
    method: Method
    fixed: dict[str, frozenset[Value]]
    origins: tuple[Origin, ...]
    sent: frozenset[str]
    hidden: tuple[str, ...]
    otherwise: Choice | None = None


def _choose_all(occurrences: Sequence[Occurrence], names: Names, sources: Sources) -> list[Choice]:
    """A choice for each table, those first whose values are in the statement, then those that others give values to.

    Where every one that is left waits for ids that are not there, the first is read without them.
    """
    for occurrence in occurrences:
        _require_columns(occurrence, names)
    chosen: dict[int, Choice] = {}
    rest = list(occurrences)
    while rest:
        choose = partial(_choose, names=names, sources=sources, there=chosen.keys())
        found = [choice for occurrence in rest if (choice := choose(occurrence, waits=True))]
        if not found:
            found = [*islice(filter(None, (choose(occurrence, waits=False) for occurrence in rest)), 1)]
        if not found:
            raise _missing(rest[0], names, sources)
        chosen |= {id(choice.occurrence.node): choice for choice in found}
        rest = [occurrence for occurrence in rest if id(occurrence.node) not in chosen]
    return list(chosen.values())


def _require_columns(occurrence: Occurrence, names: Names) -> None:
    table = occurrence.table
    if occurrence.node.args.get("sample"):  # it is drawn before WHERE: nothing that filters could be pushed
        raise Invalid(f"`{occurrence.shown}` is a table of an API: put it in a CTE to sample it")
    if not table.selects:
        methods = ", ".join(f"`{method.name}` by {method.verb}" for method in table.methods)
        raise Invalid(f"`{occurrence.shown}` cannot be selected from; it has {methods}")
    for column, name in names.columns(occurrence):
        if not occurrence.has(name) and not occurrence.hides(name):
            known = (shown.name for shown in table.columns)
            raise NotFound(f"`{occurrence.shown}` has no column `{name}`.{near(name, known)}", param=column.name)


def _choose(
    occurrence: Occurrence, names: Names, sources: Sources, there: Iterable[int], *, waits: bool
) -> Choice | None:
    """The method to call, `retrieve` where literals or a subquery allow it: it is one request for each. None if values
    are not there yet; with `waits`, also of what could be read without them.
    """
    held = partial(sources.held, occurrence)
    hidden, ready = _hidden(occurrence, names), set(there)
    for method in sorted(occurrence.table.selects, key=lambda method: (method.own_id is None, len(method.required))):
        given = _given(method.required, held)
        if method.own_id and (by_id := held("id")) is not None:
            if len(by_id) > BY_ID and method.own_id not in given and _lists(occurrence.table, held):
                continue
            given[method.own_id] = given.get(method.own_id, by_id) & by_id
        if len(given) == len(method.required):
            values = (given | _optional(occurrence, method, held), ())
            choice = _chosen(occurrence, method, values, sources=sources, ready=ready, hidden=hidden)
            return choice and _by_id(choice, sources, ready, waits=waits)
    for method in sorted(occurrence.table.selects, key=lambda method: bool(method.own_id)):
        given = _given(method.required, held)
        origins = [_origin(occurrence, method, name, sources, ready) for name in method.required if name not in given]
        if None not in origins:
            more = (given | _optional(occurrence, method, held), tuple(filter(None, origins)))
            return _chosen(occurrence, method, more, sources=sources, ready=ready, hidden=hidden)
    return None


def _by_id(listed: Choice, sources: Sources, ready: set[int], *, waits: bool) -> Choice | None:
    """The rows by the ids that a subquery gives, if the list could be read instead; else the list itself. None where
    those ids are not there yet, and the choice can wait.
    """
    occurrence = listed.occurrence
    method = next((one for one in occurrence.table.selects if one.own_id), None)
    if method is None or method.own_id is None or listed.method.own_id or listed.origins:
        return listed
    fixed = {name: values for name, values in listed.fixed.items() if method.parameter(name) or name in listed.hidden}
    needs = {*method.required} - {method.own_id}
    is_same = all(method.parameter(name) or occurrence.has(name) for name in listed.sent)
    words = (method.own_id, "id")
    origins = [one for word in words for one in sources.origins(occurrence, word) if one.is_query]
    if not origins or not needs <= fixed.keys() or not is_same:
        return listed
    origin = next((one for one in origins if sources.needed_for(one) <= ready), None)
    if origin is None:
        return None if waits else listed
    ids = Origin(method.own_id, origin.holder, origin.key, origin.scope, origin.places, origin.at)
    sent = frozenset({method.own_id, *(name for name in fixed if method.parameter(name))})
    return Choice(occurrence, method, fixed, (ids,), sent, listed.hidden, otherwise=listed)


def _lists(table: Table, held: Callable[[str], Held]) -> bool:
    """Whether the table has a list that could be read instead."""
    lists = (method for method in table.selects if not method.own_id)
    return any(len(_given(method.required, held)) == len(method.required) for method in lists)


def _origin(occurrence: Occurrence, method: Method, name: str, sources: Sources, ready: set[int]) -> Origin | None:
    """The first source of the parameter's values whose own tables are there."""
    words = (name, "id") if name == method.own_id else (name,)
    found = (origin for word in words for origin in sources.origins(occurrence, word))
    origin = next((one for one in found if sources.needed_for(one) <= ready), None)
    return origin and Origin(name, origin.holder, origin.key, origin.scope, origin.places, origin.at)


def _chosen(
    occurrence: Occurrence,
    method: Method,
    given: tuple[dict[str, frozenset[Value]], tuple[Origin, ...]],
    *,
    hidden: tuple[str, ...],
    sources: Sources,
    ready: set[int],
) -> Choice | None:
    """The choice with values for the hidden columns too. One that nothing holds has none to show."""
    fixed, origins = given
    sent = {*fixed, *(origin.name for origin in origins)}
    more = []
    for name in hidden:
        if name in sent or name in PSEUDO or name == occurrence.table.own_id:
            continue
        if (values := sources.held(occurrence, name)) is not None:
            fixed = {**fixed, name: values}
        elif any(True for _ in sources.origins(occurrence, name)):
            origin = _origin(occurrence, method, name, sources, ready)
            if origin is None:
                return None
            more.append(origin)
        else:
            raise Invalid(
                f"`{name}` of `{occurrence.shown}` is a parameter, not a column: give it with = and a value", param=name
            )
    return Choice(occurrence, method, fixed, (*origins, *more), frozenset(sent), hidden)


def _hidden(occurrence: Occurrence, names: Names) -> tuple[str, ...]:
    """Names that the query asks for and rows do not show."""
    asked = {name for _, name in names.columns(occurrence)} | names.using(occurrence)
    return tuple(sorted(name for name in asked if occurrence.hides(name)))


def _read(choice: Choice, sources: Sources, relation_of: dict[int, str], seen: AbstractSet[str] | None) -> Read:
    occurrence = choice.occurrence
    own = {"id"} if choice.method.own_id in choice.sent else set()
    read = Read(
        relation=relation_of[id(occurrence.node)],
        provider=occurrence.provider,
        table=occurrence.table,
        method=choice.method,
        wanted=_wanted(occurrence, seen),
        hidden=tuple(occurrence.hidden(name) for name in choice.hidden),
        fixed=choice.fixed,
        together=_together(choice, sources),
        values=sources.values(choice.origins, relation_of),
        sent=choice.sent,
        echoed=frozenset(choice.hidden),
        limit=limit_of(occurrence, {*choice.sent, *own}),
        is_borrowed=any(
            sources.is_borrowed(occurrence, name) for name in choice.sent if f"{{{name}}}" in choice.method.url
        ),
        otherwise=_read(choice.otherwise, sources, relation_of, seen) if choice.otherwise else None,
    )
    for name in choice.sent & choice.fixed.keys():
        for value in choice.fixed[name]:
            if fit(read, name, value) == "" and name != choice.method.own_id:
                raise Invalid(f"`{name}` of `{occurrence.shown}` wants a value, got ''", param=name)
    return read


def _together(choice: Choice, sources: Sources) -> tuple[Together, ...]:
    """The rows in which the statement writes values of this path: the more of it they fill, the earlier."""
    occurrence, method = choice.occurrence, choice.method
    words = {
        name: "id" if name == method.own_id and sources.held(occurrence, name) is None else name
        for name in method.required
        if name in choice.fixed
    }
    groups = [names for width in range(len(words), 1, -1) for names in combinations(words, width)]
    found = ((names, sources.together(occurrence, [words[name] for name in names])) for names in groups)
    return tuple((names, rows) for names, rows in found if rows is not None)


def _wanted(occurrence: Occurrence, seen: AbstractSet[str] | None) -> tuple[Column, ...]:
    """The columns to make: one that nothing names costs as much as one that is used."""
    columns = occurrence.table.columns
    if seen is None:
        return columns
    return tuple(column for column in columns if column.name.lower() in seen) or columns[:1]


def _given(names: Iterable[str], held: Callable[[str], Held]) -> dict[str, frozenset[Value]]:
    return {name: values for name in names if (values := held(name)) is not None}


def _optional(occurrence: Occurrence, method: Method, held: Callable[[str], Held]) -> dict[str, frozenset[Value]]:
    """Values of parameters that mean the same in WHERE as to the API."""
    names = [parameter.name for parameter in method.parameters if not parameter.required]
    return _given(
        (name for name in names if occurrence.hides(name) or (occurrence.table.name, name) in SAME_AS_COLUMN), held
    )


def _missing(occurrence: Occurrence, names: Names, sources: Sources) -> Invalid:
    """The refusal that names what is missing, what was tried for it, and a query that works."""
    method = min(occurrence.table.selects, key=lambda method: (len(method.required), method.own_id is not None))
    given = _given(method.required, partial(sources.held, occurrence))
    missing = [name for name in method.required if name not in given]
    asked = sorted({c.parent.sql("duckdb") for c, name in names.columns(occurrence) if name in missing and c.parent})
    tried = f" `{asked[0]}` does not give it values that can be asked for first." if asked else ""
    if asked and is_kept(occurrence.scope.expression, occurrence.node):
        tried += (
            " An outer join shows this table's rows without a partner too, so the other side does not say which."
            f" JOIN does, and so does a LEFT JOIN that keeps the other side: … LEFT JOIN {occurrence.shown} ON …."
        )
    example = " AND ".join(f"{name} = '{EXAMPLES.get(name, '…')}'" for name in missing)
    also = "".join(
        f" AND {name} = {_literal(value)}" for name, values in given.items() for value in sorted(values, key=str)[:1]
    )
    listed = " and ".join(f"`{name}`" for name in missing)
    hint = f"hint: SELECT * FROM {occurrence.shown} WHERE {example}{also}"  # noqa: S608 (a text for people)
    return Invalid(
        f"`{occurrence.shown}` needs {listed}: = or IN, with values, a subquery or a table's column.{tried}\n{hint}",
        param=missing[0],
    )


def _literal(value: Value) -> str:
    return exp.convert(value).sql("duckdb")


# --- the tree DuckDB gets ---------------------------------------------------------------------------------------------


def _hide(choice: Choice, names: Names) -> None:
    """Take hidden columns out of every *, and name the table of a column that another's hidden one makes ambiguous."""
    if not choice.hidden:
        return
    occurrence, scope = choice.occurrence, choice.occurrence.scope
    using = names.using(occurrence)
    hidden = [name for name in choice.hidden if name not in using]
    for alias in names.aliases(scope):
        for column, name in names.columns_at((scope, alias)):
            if not column.table and name in hidden:
                column.set("table", exp.to_identifier(alias, quoted=True))
    for item in scope.expression.expressions if isinstance(scope.expression, exp.Select) else ():
        star = item if isinstance(item, exp.Star) else item.this
        of_all, of_this = (
            isinstance(item, exp.Star),
            item.is_star and getattr(item, "table", "").lower() == occurrence.alias.lower(),
        )
        if of_all or of_this:
            left_out = [
                exp.column(name, table=occurrence.alias if of_all else None, quoted=True)
                for name in (hidden if of_all else choice.hidden)
            ]
            star.set("except_", [*(star.args.get("except_") or ()), *left_out])


def _keep_names(tree: exp.Query) -> None:
    """Columns without a name are called what the user wrote, not what we make of it."""
    for select in every(tree, exp.Select):
        for item in select.expressions:
            if not item.alias_or_name and any(dialect.is_renamed(call) for call in every(item, exp.Anonymous)):
                name = item.sql("duckdb", normalize_functions=False).replace(dialect.PREFIX, "")
                named = exp.Alias(alias=exp.to_identifier(name, quoted=True))
                item.replace(named)
                named.set("this", item)


def _put(occurrence: Occurrence, names: Names, relation: str) -> None:
    """The relation in the place of the table, and the alias in the place of its whole name before columns."""
    for column, _ in names.columns(occurrence):
        if column.args.get("catalog"):
            parts = [part.name.lower() for part in column.parts]
            if ".".join(parts[:3]) == occurrence.shown:
                column.set("db", None)
                column.set("catalog", None)
    node = occurrence.node
    if not node.alias:
        node.set("alias", exp.TableAlias(this=exp.to_identifier(occurrence.alias, quoted=True)))
    node.set("this", exp.to_identifier(relation, quoted=True))
    node.set("db", None)
    node.set("catalog", None)
