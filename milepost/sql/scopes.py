"""What the names in a query mean: which table a column is of, seen from where it stands, and what type it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlglot import exp
from sqlglot.errors import OptimizeError
from sqlglot.optimizer.scope import Scope, traverse_scope

from milepost.errors import Invalid
from milepost.sql.catalog import Column, Parameter, Table, Type
from milepost.sql.tree import every

#: What every table has beside its own columns, unless it has one of that name; seen only by who asks for it.
PSEUDO: dict[str, Type] = {"provider": "string", "_raw": "any", "_request_id": "string"}

#: What shows columns that it does not name.
UNNAMED = (exp.Columns, exp.Pivot, exp.PositionalColumn, exp.Summarize, exp.Describe)

#: A source in the FROM of one scope, by its alias in small letters.
Place: TypeAlias = tuple[Scope, str]
#: The columns of a table that is not ours; None if DuckDB does not know it.
ColumnsOf: TypeAlias = Callable[[exp.Expr], tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A table of ours in the FROM of one SELECT."""

    node: exp.Table
    provider: str
    table: Table
    alias: str
    scope: Scope

    @property
    def place(self) -> Place:
        return self.scope, self.alias.lower()

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
        return not self.has(name) and (self.parameter(name) is not None or name.lower() in PSEUDO)

    def hidden(self, name: str) -> Column:
        """The hidden column of this name."""
        parameter = self.parameter(name)
        kind = parameter.type if parameter else PSEUDO[name]
        return Column(name, "string" if parameter and kind == "any" else kind, "")


def find_occurrences(tree: exp.Query, ours: dict[int, tuple[str, Table]]) -> tuple[list[Occurrence], list[Scope]]:
    """Every place where a table of ours stands (`ours` is by the identity of the node), and all scopes, inner first."""
    try:
        scopes = traverse_scope(tree)
    except OptimizeError as error:
        raise Invalid(str(error)) from None
    occurrences = []
    for scope in scopes:
        aliases = set()
        for alias, node in scope.references:
            if isinstance(node, exp.Table) and id(node) in ours:
                occurrences.append(Occurrence(node, *ours[id(node)], alias, scope))
            if alias and alias.lower() in aliases:
                raise Invalid(f"`{alias}` names two tables; give one of them another name with AS")
            aliases.add(alias.lower())
    return occurrences, scopes


class Names:
    """Which source a column belongs to, and what type it has."""

    def __init__(self, occurrences: Sequence[Occurrence], scopes: Sequence[Scope], columns_of: ColumnsOf) -> None:
        self._columns_of = columns_of
        self._by_place = {occurrence.place: occurrence for occurrence in occurrences}
        self._sources = {scope: _sources(scope) for scope in scopes}
        columns = [(scope, column) for scope in scopes for column in scope.find_all(exp.Column)]
        self._homes = {id(column): scope for scope, column in columns}
        self._resolved: dict[tuple[int, int], tuple[exp.Column, tuple[Place, str] | None]] = {}
        self._using = {scope: _using(scope) for scope in scopes}
        self._names_of: dict[Place, tuple[str, ...] | None] = {}
        self._equal: dict[int, exp.Expr] = {}
        self._joined: dict[Place, set[str]] = {}
        for scope in scopes:
            self._read_using(scope)
        self._of: dict[Place, list[tuple[exp.Column, str]]] = {}
        for _, column in columns:
            if not isinstance(column.this, exp.Star) and (found := self.resolve(column)):
                self._of.setdefault(found[0], []).append((column, found[1]))
        self._named = {(place, name) for place, those in self._of.items() for _, name in those}

    def occurrence(self, place: Place) -> Occurrence | None:
        return self._by_place.get(place)

    def source(self, place: Place) -> tuple[exp.Expr, exp.Expr | Scope]:
        """The node in FROM, and the table or the scope that it stands for."""
        return self._sources[place[0]][place[1]]

    def columns(self, occurrence: Occurrence) -> list[tuple[exp.Column, str]]:
        """The columns of this table that the query names, wherever it does, each with the table's word for it."""
        return self.columns_at(occurrence.place)

    def columns_at(self, place: Place) -> list[tuple[exp.Column, str]]:
        return self._of.get(place, [])

    def is_named(self, place: Place, name: str) -> bool:
        """Whether the query names this column, wherever it does."""
        return (place, name) in self._named or name in self._joined.get(place, ())

    def using(self, occurrence: Occurrence) -> set[str]:
        """Names by which USING joins this table."""
        return self._joined.get(occurrence.place, set())

    def equal_by_using(self, join: exp.Join) -> exp.Expr | None:
        """What USING says, as ON would."""
        return self._equal.get(id(join))

    def aliases(self, scope: Scope) -> list[str]:
        return list(self._sources.get(scope, {}))

    def resolve(self, column: exp.Column, scope: Scope | None = None) -> tuple[Place, str] | None:
        """The source the column is of and its name there (of a field, its column's); None if that is not known."""
        key = (id(column), id(scope))
        if key not in self._resolved:  # the column is kept, so that no other has its id
            self._resolved[key] = (column, self._resolve(column, scope))
        return self._resolved[key][1]

    def _resolve(self, column: exp.Column, scope: Scope | None) -> tuple[Place, str] | None:
        parts = [part.name.lower() for part in column.parts]
        level = scope or self._homes.get(id(column))
        is_inside = True
        while level:
            aliases = self._sources.get(level, {})
            if len(parts) == 4 and (whole := self._by_place.get((level, parts[2]))):
                return (whole.place, parts[3]) if whole.shown == ".".join(parts[:3]) else None
            if is_inside and len(parts) > 1 and parts[0] in aliases:
                return (level, parts[0]), parts[1]
            if is_inside and (found := self._of_no_table(parts[0], level)) is not None:
                return ((level, found), parts[0]) if found != AMBIGUOUS else None
            is_inside = not level.is_cte
            level = level.parent
        return None

    def type_of(self, expression: exp.Expr) -> Type | None:
        """The catalog's type of a column or of a field in it, seen through CTEs and subqueries; None if unknown."""
        if isinstance(expression, exp.Paren):
            return self.type_of(expression.this)
        if isinstance(expression, exp.Dot):
            return _field(self.type_of(expression.this), expression.name)
        if not isinstance(expression, exp.Column) or not (found := self.resolve(expression)):
            return None
        place, name = found
        kind = self._type_at(place, name)
        parts = [part.name.lower() for part in expression.parts]
        for field in parts[parts.index(name) + 1 :]:
            kind = _field(kind, field)
        return kind

    def names_of(self, place: Place) -> tuple[str, ...] | None:
        """The columns that a source shows, in small letters; None if they are not known."""
        if place not in self._names_of:
            self._names_of[place] = self._read_names(place)
        return self._names_of[place]

    def _read_names(self, place: Place) -> tuple[str, ...] | None:
        node, source = self.source(place)
        aliases = tuple(name.lower() for name in getattr(node, "alias_column_names", ()) or ())
        if occurrence := self._by_place.get(place):
            return tuple(column.name for column in occurrence.table.columns)
        if isinstance(source, Scope):
            outer = tuple(name.lower() for name in source.outer_columns)
            return aliases or outer or self._names_in(source)
        found = self._columns_of(node)
        return found if found is None else (*aliases, *(name.lower() for name in found[len(aliases) :]))

    def projections(self, scope: Scope) -> Iterator[tuple[str, exp.Expr]]:
        """What a SELECT gives: names, and the expressions behind them; a star is what it stands for, where known."""
        for item in scope.expression.selects if isinstance(scope.expression, exp.Query) else ():
            if not item.is_star:
                yield item.alias_or_name.lower(), item.unalias()
            elif not (item.args.get("except_") or item.args.get("replace") or item.args.get("rename")):
                wanted = getattr(item, "table", "").lower()
                for alias in self._sources.get(scope, {}):
                    if wanted in ("", alias):
                        for name in self.names_of((scope, alias)) or ():
                            yield name, exp.column(name, table=alias, quoted=True)

    def seen(self, tree: exp.Query) -> frozenset[str] | None:
        """Every name in the query; None if it can see columns that it does not name: by a star, by their place, or by a
        whole row. And where a name is nobody's, so that DuckDB can say which come near.
        """
        occurrences = self._by_place.values()
        nodes = every(tree, exp.Join, exp.Star, exp.Alias, exp.Column, exp.Identifier, exp.Var, *UNNAMED)
        for node in nodes:
            is_natural = isinstance(node, exp.Join) and bool(node.method)
            is_star = isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count)
            if is_natural or is_star or isinstance(node, UNNAMED):
                return None
        if any(occurrence.node.alias_column_names for occurrence in occurrences):
            return None
        rows = {occurrence.alias.lower() for occurrence in occurrences}
        given = {node.alias.lower() for node in nodes if isinstance(node, exp.Alias)}
        for column in nodes:
            if not isinstance(column, exp.Column) or len(column.parts) > 1:
                continue
            name = column.name.lower()
            if name in rows or (name not in given and self.resolve(column) is None):
                return None
        return frozenset(name.name.lower() for name in nodes if isinstance(name, exp.Identifier | exp.Var))

    def _read_using(self, scope: Scope) -> None:
        """What USING says; after a RIGHT or FULL join the column is of either side, so it says nothing of one."""
        before: list[str] = []
        is_of_one = True
        for node in _relations(scope.expression):
            join, alias = node.parent, node.alias_or_name.lower()
            pairs = []
            for word in join.args.get("using") or () if isinstance(join, exp.Join) else ():
                name = word.name.lower()
                left = next((one for one in before if self._shows(name, (scope, one))), None)
                left = left or next((one for one in before if self._hides(name, (scope, one))), None)
                if left and is_of_one:
                    pairs.append(exp.EQ(this=exp.column(name, left), expression=exp.column(name, alias)))
                for one in filter(None, (left, alias)):
                    self._joined.setdefault((scope, one), set()).add(name)
            if pairs:
                self._equal[id(join)] = exp.and_(*pairs)
            before.append(alias)
            is_of_one = is_of_one and not (isinstance(join, exp.Join) and join.side in ("RIGHT", "FULL"))

    def _hides(self, name: str, place: Place) -> bool:
        occurrence = self._by_place.get(place)
        return occurrence is not None and occurrence.hides(name)

    def _of_no_table(self, name: str, scope: Scope) -> str | None:
        """The alias of the source in this scope whose column the bare name is: shown columns go before hidden ones."""
        known = {alias: self._by_place.get((scope, alias)) for alias in self._sources.get(scope, {})}
        shown = [alias for alias in known if self._shows(name, (scope, alias))]
        if len(shown) > 1:
            return shown[0] if name in self._using[scope] else AMBIGUOUS
        hidden = [alias for alias in known if self._hides(name, (scope, alias))]
        found = shown or hidden
        if len(found) > 1:
            return found[0] if name in self._using[scope] else AMBIGUOUS
        return found[0] if found else None

    def _shows(self, name: str, place: Place) -> bool:
        if occurrence := self._by_place.get(place):
            return occurrence.has(name)
        return name in (self.names_of(place) or ())

    def _names_in(self, scope: Scope) -> tuple[str, ...] | None:
        expression = scope.expression
        if isinstance(expression, exp.Subquery | exp.Lateral) and scope.subquery_scopes:
            return self._names_in(scope.subquery_scopes[-1])
        if isinstance(expression, exp.SetOperation) and scope.set_operation_scopes:
            return self._names_in(scope.set_operation_scopes[0])
        if not isinstance(expression, exp.Select):
            return None
        return tuple(name for name, _ in self.projections(scope))

    def _type_at(self, place: Place, name: str) -> Type | None:
        if occurrence := self._by_place.get(place):
            found = occurrence.table.column(name)
            return found.type if found else None
        _, source = self.source(place)
        if not isinstance(source, Scope):
            return None
        inner = next((value for shown, value in self.projections(source) if shown == name), None)
        if not isinstance(inner, exp.Column):
            return None
        found_inner = self.resolve(inner, source)
        return self._type_at(*found_inner) if found_inner else None


#: What `_of_no_table` says of a name that two sources have.
AMBIGUOUS = "?"


def _sources(scope: Scope) -> dict[str, tuple[exp.Expr, exp.Expr | Scope]]:
    return {
        alias.lower(): (node, scope.sources.get(alias, node))
        for alias, node in scope.references
        if not isinstance(scope.expression, exp.SetOperation)
    }


def _using(scope: Scope) -> set[str]:
    joins = scope.expression.args.get("joins") or () if isinstance(scope.expression, exp.Select) else ()
    return {name.name.lower() for join in joins for name in join.args.get("using") or ()}


def _relations(select: exp.Expr) -> list[exp.Expr]:
    """What stands in FROM, in order; a join in parentheses is one."""
    from_ = select.args.get("from_") if isinstance(select, exp.Select) else None
    return [from_.this, *(join.this for join in select.args.get("joins") or ())] if from_ else []


def _field(kind: Type | None, name: str) -> Type | None:
    return kind.get(name.lower()) if isinstance(kind, dict) else None
