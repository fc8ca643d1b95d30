"""What the names in a query mean: which table of ours a column is of, and which values the conditions hold it to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlglot import exp
from sqlglot.errors import OptimizeError
from sqlglot.optimizer.scope import Scope, traverse_scope

from milepost.errors import Invalid
from milepost.sql.calls import Value
from milepost.sql.catalog import Parameter, Table, Type

#: The only values a column can have; None for "any".
Held: TypeAlias = frozenset[Value] | None


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A table of ours in the FROM of one SELECT."""

    node: exp.Table
    provider: str
    table: Table
    alias: str
    scope: Scope

    @property
    def shown(self) -> str:
        return f"{self.provider}.{self.table.service}.{self.table.resource}"

    def parameter(self, name: str) -> Parameter | None:
        """The scalar parameter of this name that some SELECT method takes and rows do not show."""
        found = (method.parameter(name.lower()) for method in self.table.selects)
        return next((p for p in found if p and isinstance(p.type, str) and p.type != "object"), None)

    def has(self, name: str) -> bool:
        return self.table.column(name) is not None

    def hides(self, name: str) -> bool:
        return not self.has(name) and self.parameter(name) is not None


def find_occurrences(tree: exp.Query, ours: dict[int, tuple[str, Table]]) -> list[Occurrence]:
    """Every place in the query where a table of ours stands; `ours` is by the identity of the node."""
    try:
        scopes = traverse_scope(tree)
    except OptimizeError as error:
        raise Invalid(str(error)) from None
    return [
        Occurrence(source, *ours[id(source)], alias, scope)
        for scope in scopes
        for alias, (_, source) in scope.selected_sources.items()
        if isinstance(source, exp.Table) and id(source) in ours
    ]


# --- whose column is it -----------------------------------------------------------------------------------------------


class Names:
    """Which occurrence a column belongs to, and what type it has."""

    def __init__(self, occurrences: Sequence[Occurrence]) -> None:
        self._by_alias = {(id(o.scope), o.alias.lower()): o for o in occurrences}
        self._in_scope: dict[int, list[Occurrence]] = {}
        for occurrence in occurrences:
            self._in_scope.setdefault(id(occurrence.scope), []).append(occurrence)
        self._homes = {
            id(column): scope
            for scope in {id(scope): scope for o in occurrences for scope in _family(o.scope)}.values()
            for column in scope.find_all(exp.Column)
        }

    def columns(self, scope: Scope) -> Iterator[tuple[exp.Column, Occurrence]]:
        """The columns that are of tables of ours in this scope, those in its correlated subqueries included."""
        outer = [column for inner in scope.subquery_scopes for column in inner.external_columns if column.table]
        for column in (*scope.find_all(exp.Column), *outer):
            if not isinstance(column.this, exp.Star) and (owner := self.owner(column, scope)):
                yield column, owner

    def held(self, occurrence: Occurrence, name: str) -> Held:
        """The only values that the column can have in rows that are seen, by itself or through a column it equals."""
        found = [self._held(occurrence, name), *(self._held(*equal) for equal in self._equals(occurrence, name))]
        known = [values for values in found if values is not None]
        return frozenset.intersection(*known) if known else None

    def _held(self, occurrence: Occurrence, name: str) -> Held:
        def is_column(node: exp.Expr) -> bool:
            return self._is(node, occurrence, name)

        found = [
            values for condition in conditions(occurrence) if (values := held_by(condition, is_column)) is not None
        ]
        return frozenset.intersection(*found) if found else None

    def _equals(self, occurrence: Occurrence, name: str) -> Iterator[tuple[Occurrence, str]]:
        """Columns of other tables that the conditions make equal to this one, so that one value serves both."""
        for condition in conditions(occurrence):
            for one, other in equalities(condition):
                if self._is(one, occurrence, name) and isinstance(other, exp.Column):
                    owner = self.owner(other, occurrence.scope)
                    if owner and owner is not occurrence:
                        yield owner, other.name.lower()

    def _is(self, node: exp.Expr, occurrence: Occurrence, name: str) -> bool:
        if not isinstance(node, exp.Column) or node.name.lower() != name:
            return False
        return self.owner(node, occurrence.scope) is occurrence

    def owner(self, column: exp.Column, scope: Scope) -> Occurrence | None:
        """The table of ours this column is of; of names without a table, shown columns go before hidden ones."""
        if column.table:
            owner = self._by_alias.get((id(scope), column.table.lower()))
            if owner and column.catalog:  # the table by its whole name, or a field of a field
                whole = f"{column.catalog}.{column.db}.{column.table}".lower()
                return owner if whole == owner.shown else None
            return None if column.db else owner
        ours = self._in_scope.get(id(scope), [])
        others = [source for _, (_, source) in scope.selected_sources.items() if not self._is_ours(source, scope)]
        known = {name.lower() for source in others if isinstance(source, Scope) for name in _selected(source)}
        shown = [occurrence for occurrence in ours if occurrence.has(column.name)]
        if column.name.lower() in known or len(shown) > 1:
            return None
        if shown:
            return shown[0]
        unknown = "*" in known or not all(isinstance(source, Scope) for source in others)
        hidden = [occurrence for occurrence in ours if occurrence.hides(column.name)]
        return hidden[0] if len(hidden) == 1 and not unknown else None

    def type_of(self, expression: exp.Expr) -> Type | None:
        """The catalog's type of a column or of a field in it, seen through CTEs and subqueries; None if unknown."""
        scope = self._homes.get(id(expression))
        if isinstance(expression, exp.Column) and scope:
            return self._column_type(expression, scope)
        if isinstance(expression, exp.Paren):
            return self.type_of(expression.this)
        if isinstance(expression, exp.Dot):
            return _field(self.type_of(expression.this), expression.name)
        return None

    def _column_type(self, column: exp.Column, scope: Scope) -> Type | None:
        if owner := self.owner(column, scope):
            found = owner.table.column(column.name)
            return found.type if found else None
        sources = {alias.lower(): source for alias, (_, source) in scope.selected_sources.items()}
        if column.table and column.table.lower() not in sources:  # a field: metrics.step, j.metrics.step
            parent = exp.column(column.table, column.db or None)
            return _field(self._column_type(parent, scope), column.name)
        asked = [sources[column.table.lower()]] if column.table else sources.values()
        types = (self._projected_type(column.name, source) for source in asked if isinstance(source, Scope))
        return next((found for found in types if found is not None), None)

    def _projected_type(self, name: str, scope: Scope) -> Type | None:
        if not isinstance(scope.expression, exp.Query):
            return None
        for select in scope.expression.selects:
            if select.is_star:
                return self._column_type(exp.column(name), scope)
            if select.alias_or_name.lower() == name.lower():
                inner = select.unalias()
                return self._column_type(inner, scope) if isinstance(inner, exp.Column) else None
        return None

    def _is_ours(self, source: object, scope: Scope) -> bool:
        return any(source is occurrence.node for occurrence in self._in_scope.get(id(scope), []))


def _family(scope: Scope) -> Iterator[Scope]:
    """The scope and those around it, since a CTE's columns are asked for outside it."""
    while scope.parent:
        scope = scope.parent
    return iter(scope.traverse())


def _selected(scope: Scope) -> list[str]:
    """The names a subquery gives; "*" where they are not in the text."""
    return scope.expression.named_selects if isinstance(scope.expression, exp.Query) else ["*"]


def _field(kind: Type | None, name: str) -> Type | None:
    return kind.get(name.lower()) if isinstance(kind, dict) else None


# --- what is held fast ------------------------------------------------------------------------------------------------


def conditions(occurrence: Occurrence) -> Iterator[exp.Expr]:
    """Conditions that a row of this table must meet to be seen: WHERE, ON of inner joins, ON that joins it."""
    select = occurrence.scope.expression
    joins = select.args.get("joins") or ()
    if any(join.method in ("ASOF", "POSITIONAL") for join in joins):
        return  # which rows meet depends on rows that WHERE leaves out
    if where := select.args.get("where"):
        yield where.this
    for join in joins:
        is_inner = not join.side and join.kind in ("", "INNER", "CROSS")
        is_own = join.this is occurrence.node and join.side == "LEFT"
        if (on := join.args.get("on")) and (is_inner or is_own):
            yield on


def equalities(condition: exp.Expr) -> Iterator[tuple[exp.Expr, exp.Expr]]:
    """Pairs that are equal where the condition holds, each in both orders."""
    for part in condition.flatten() if isinstance(condition, exp.And) else (condition,):
        if isinstance(part, exp.EQ):
            yield part.left, part.right
            yield part.right, part.left


def held_by(condition: exp.Expr, is_column: Callable[[exp.Expr], bool]) -> Held:
    """The only values the column can have where the condition holds; None if it can have any."""
    inner = condition.unnest()
    held: Held = None
    match inner:
        case exp.And():
            sides = [held_by(side, is_column) for side in (inner.left, inner.right)]
            known = [values for values in sides if values is not None]
            held = frozenset.intersection(*known) if known else None
        case exp.Or():
            sides = [held_by(side, is_column) for side in (inner.left, inner.right)]
            held = frozenset().union(*(values for values in sides if values is not None)) if None not in sides else None
        case exp.EQ() if is_column(inner.left):
            held = literals([inner.right])
        case exp.EQ() if is_column(inner.right):
            held = literals([inner.left])
        case exp.In() if is_column(inner.this) and inner.expressions:
            held = literals(inner.expressions)
    return held


def literals(nodes: Iterable[exp.Expr]) -> Held:
    """The values of literals, without NULL, which equals nothing; None if any is not a literal."""
    values: set[Value] = set()
    for node in nodes:
        if isinstance(node, exp.Null):
            continue
        if isinstance(node, exp.Boolean):
            values.add(bool(node.this))
        elif isinstance(node, exp.Literal):
            values.add(node.this if node.is_string else int(node.this) if node.this.isdigit() else float(node.this))
        else:
            return None
    return frozenset(values)
