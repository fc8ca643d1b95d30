"""Where the values of a parameter come from: literals that conditions hold it to, or rows of other sources.

`j JOIN c ON c.job = j.id` gives c's parameter the values `SELECT DISTINCT j.id FROM j WHERE …`; so do IN (SELECT …), a
correlated subquery, USING, and conditions around a subquery or a CTE. Such a query may give more than is needed, since
DuckDB applies every condition again; it may never give less. What it is asked of is therefore computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from milepost.sql import dialect
from milepost.sql.calls import Material, Values
from milepost.sql.held import Held, Row, can_narrow, conditions, held_by, held_together, is_optional, is_volatile, parts
from milepost.sql.scopes import Names, Occurrence, Place
from milepost.sql.tree import cte_around, cte_of, every, first, is_in, names_cte

Is: TypeAlias = Callable[[exp.Expr], bool]

NOT_PLAIN = (exp.Query, exp.AggFunc, exp.Window, exp.Rand, exp.Uuid, exp.Placeholder, exp.Lambda)
#: Parts of a SELECT through which a filter on its rows cannot pass.
NOT_BELOW = ("limit", "offset", "qualify", "sample", "windows", "pivots")


@dataclass(frozen=True, slots=True)
class Origin:
    """The expression or subquery that gives a parameter's values: `holder.args[key]`, read where `scope` is; of a
    subquery, its column `at`.
    """

    name: str
    holder: exp.Expr
    key: str
    scope: Scope
    places: frozenset[Place]
    at: int = 0

    @property
    def node(self) -> exp.Expr:
        found: exp.Expr = self.holder.args[self.key]
        return found

    @property
    def is_query(self) -> bool:
        return not self.places


@dataclass(slots=True)
class Sources:
    """The sources of one query, and what has been computed of them already."""

    names: Names
    occurrences: Sequence[Occurrence]
    scopes: Sequence[Scope]
    materials: list[Material] = field(default_factory=list)
    _material_of: dict[int, Material] = field(default_factory=dict)
    _uses: dict[Scope, list[Place]] = field(default_factory=dict)
    _ctes: dict[int, exp.CTE] = field(default_factory=dict)
    _selves: dict[int, exp.CTE] = field(default_factory=dict)
    _outward: dict[int, bool] = field(default_factory=dict)
    _held: dict[tuple[Scope, str, str], Held] = field(default_factory=dict)
    _conditions_at: dict[Place, list[exp.Expr]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for table in every(self.scopes[-1].expression.root(), exp.Table):
            if cte := cte_of(table):
                self._ctes[id(table)] = cte
            elif cte := cte_around(table):
                self._selves[id(table)] = cte
        for scope in self.scopes:
            for alias in self.names.aliases(scope):
                _, source = self.names.source((scope, alias))
                if isinstance(source, Scope):
                    self._uses.setdefault(source, []).append((scope, alias))

    # --- what conditions say ---

    def held(self, occurrence: Occurrence, name: str) -> Held:
        """The only values that the column can have in rows that are seen, by itself or through a column it equals."""
        key = (*occurrence.place, name)
        if key not in self._held:
            self._held[key] = self._held_at(occurrence.place, name)
        return self._held[key]

    def is_borrowed(self, occurrence: Occurrence, name: str) -> bool:
        """Whether the values are those of another column that it equals: there, one may belong to no row."""
        return self._is_borrowed_at(occurrence.place, name)

    def _is_borrowed_at(self, place: Place, name: str) -> bool:
        (_, *others), is_held = self._equal_to(place, name), self._is_held_at
        if is_held(place, name):
            return False
        return any(is_held(*other) for other in others) or any(
            self._is_borrowed_at(*use) for use in self._exported(place, name)
        )

    def _is_held_at(self, place: Place, name: str) -> bool:
        is_column = self._is(place, name)
        return any(held_by(condition, is_column) is not None for condition in self._conditions(place))

    def together(self, occurrence: Occurrence, names: Sequence[str]) -> frozenset[Row] | None:
        """The only rows of values that these columns can have; None if they can have any."""
        return self._together_at(occurrence.place, names)

    def _together_at(self, place: Place, names: Sequence[str]) -> frozenset[Row] | None:
        equal = [self._equal_to(place, name) for name in names]
        columns = [self._is_any(ones) for ones in equal]
        around = dict.fromkeys(one for ones in equal for one, _ in ones)
        conditions = (condition for one in around for condition in self._conditions(one))
        found = [rows for condition in conditions if (rows := held_together(condition, columns)) is not None]
        if found:
            return frozenset.intersection(*found)
        uses = list(zip(*(self._exported(place, name) for name in names), strict=False))
        outside = [self._together_at(use[0][0], [name for _, name in use]) for use in uses]
        known = [rows for rows in outside if rows is not None]
        return frozenset().union(*known) if known and len(known) == len(outside) else None

    def origins(self, occurrence: Occurrence, name: str) -> Iterator[Origin]:
        """What could give the column's values, best first."""
        found = list(self._origins_at(occurrence.place, name, name))
        yield from sorted(found, key=lambda origin: not origin.is_query)

    def _held_at(self, place: Place, name: str) -> Held:
        found = [
            values
            for one, its_name in self._equal_to(place, name)
            if self.names.is_named(one, its_name)
            for condition in self._conditions(one)
            if (values := held_by(condition, self._is(one, its_name))) is not None
        ]
        if found:
            return frozenset.intersection(*found)
        outside = [self._held_at(*use) for use in self._exported(place, name)]
        return None if not outside or None in outside else frozenset().union(*(one for one in outside if one))

    def _origins_at(self, place: Place, name: str, parameter: str) -> Iterator[Origin]:
        for one, its_name in self._equal_to(place, name):
            is_column = self._is(one, its_name)
            for condition in self._conditions(one):
                for part in parts(condition):
                    yield from self._origins_in(part, is_column, place, parameter)
        uses = list(self._exported(place, name))
        if len(uses) == 1:
            yield from self._origins_at(*uses[0], parameter)

    def _origins_in(self, part: exp.Expr, is_column: Is, place: Place, parameter: str) -> Iterator[Origin]:
        scope = place[0]
        if isinstance(part, exp.In) and part.args.get("query"):
            columns = part.this.expressions if isinstance(part.this, exp.Tuple) else [part.this]
            for at, column in enumerate(columns):
                if is_column(column):
                    yield from self._query_origin(part, "query", scope, parameter, at=at, width=len(columns))
        if not isinstance(part, exp.EQ):
            return
        for one, other in (("this", "expression"), ("expression", "this")):
            if not is_column(part.args[one]):
                continue
            node = part.args[other]
            if isinstance(node, exp.Subquery):
                yield from self._query_origin(part, other, scope, parameter)
            elif (places := self._places(node, scope)) and place not in places:
                yield Origin(parameter, part, other, scope, places)

    def _query_origin(
        self, holder: exp.Expr, key: str, scope: Scope, parameter: str, *, at: int = 0, width: int = 1
    ) -> Iterator[Origin]:
        query = holder.args[key].unnest()
        has_width = isinstance(query, exp.Query) and len(query.selects) == width
        if has_width and not any(item.is_star for item in query.selects if width > 1) and not self._looks_out(query):
            yield Origin(parameter, holder, key, scope, frozenset(), at)

    def _places(self, node: exp.Expr, scope: Scope) -> frozenset[Place]:
        """The sources an expression is made of; none if its values cannot be asked for beforehand."""
        if is_volatile(node) or first(node, *NOT_PLAIN):
            return frozenset()
        found = [self.names.resolve(column, scope) for column in every(node, exp.Column)]
        places = frozenset(place for place, _ in filter(None, found))
        is_bare = isinstance(node, exp.Column)
        if None in found or not (is_bare or not any(self._is_optional(place) for place in places)):
            return frozenset()
        return places

    def _is_optional(self, place: Place) -> bool:
        return is_optional(place[0].expression, self.names.source(place)[0])

    def _conditions(self, place: Place) -> list[exp.Expr]:
        if place not in self._conditions_at:
            node, _ = self.names.source(place)
            self._conditions_at[place] = list(conditions(place[0].expression, node, self._on))
        return self._conditions_at[place]

    def _on(self, join: exp.Join) -> exp.Expr | None:
        return join.args.get("on") or self.names.equal_by_using(join)

    def _equal_to(self, place: Place, name: str) -> list[tuple[Place, str]]:
        """The column, and those of the same FROM that conditions make equal to it, nearest first."""
        found = [(place, name)]
        if not self.names.is_named(place, name):
            return found
        reaches_on = can_narrow(place[0].expression)
        for one in found:
            is_column = self._is(*one)
            for condition in self._conditions(one[0]) if reaches_on or one == found[0] else ():
                for part in parts(condition):
                    if not isinstance(part, exp.EQ):
                        continue
                    for left, right in ((part.left, part.right), (part.right, part.left)):
                        other = self.names.resolve(right, place[0]) if isinstance(right, exp.Column) else None
                        if other and is_column(left) and other[0][0] is place[0] and other not in found:
                            found.append(other)
        return found

    def _is(self, place: Place, name: str) -> Is:
        def is_column(node: exp.Expr) -> bool:
            return isinstance(node, exp.Column) and self.names.resolve(node, place[0]) == (place, name)

        return is_column

    def _is_any(self, columns: Sequence[tuple[Place, str]]) -> Is:
        tests = [self._is(*column) for column in columns]
        return lambda node: any(test(node) for test in tests)

    def _exported(self, place: Place, name: str) -> Iterator[tuple[Place, str]]:
        """Where the query around shows the column, if a filter there could as well be here."""
        scope, _ = place
        index = _position(self.names, place, name)
        while index is not None and scope.parent and scope in scope.parent.set_operation_scopes:
            scope = scope.parent
            if any(scope.expression.args.get(part) for part in NOT_BELOW):
                return
        if index is not None:
            for use in self._uses.get(scope, ()):
                shown = self.names.names_of(use) or ()
                if index < len(shown):
                    yield use, shown[index]

    def _looks_out(self, query: exp.Expr) -> bool:
        """Whether it needs a row of the query around it."""
        if id(query) in self._outward:
            return self._outward[id(query)]
        inside = [scope for scope in self.scopes if is_in(scope.expression, query)]
        found = (self.names.resolve(column) for scope in inside for column in scope.find_all(exp.Column))
        looks = any(one and not any(one[0][0] is scope for scope in inside) for one in found)
        self._outward[id(query)] = looks
        return looks

    # --- what must be there before ---

    def needed_for(self, origin: Origin) -> set[int]:
        """The tables of ours (by node) without which the origin cannot be asked; 0, which never is there, for a CTE
        that is asked from inside itself.
        """
        nodes = [self.names.source(place)[0] for place in self._closed(origin.places)] or [origin.node]
        seen: set[int] = set()
        for node in nodes:
            self._collect(node, seen)
        return seen & {0, *(id(occurrence.node) for occurrence in self.occurrences)}

    def _collect(self, node: exp.Expr, seen: set[int]) -> None:
        for table in every(node, exp.Table):
            if id(table) in seen:
                continue
            seen.add(id(table))
            if (around := self._selves.get(id(table))) and id(around) not in seen:
                seen.add(0)
            if (cte := self._ctes.get(id(table))) and id(cte) not in seen:
                seen.add(id(cte))
                self._collect(cte, seen)

    def _closed(self, places: frozenset[Place]) -> list[Place]:
        """The places and those that they look at from inside FROM, outer ones first, in the order of FROM."""
        found = list(places)
        for scope, alias in found:
            node, _ = self.names.source((scope, alias))
            for column in every(node, exp.Column):
                inner = self.names.resolve(column)
                if inner and inner[0] not in found and not is_in(inner[0][0].expression, node):
                    found.append(inner[0])
        order = {(scope, alias): n for scope in self.scopes for n, alias in enumerate(self.names.aliases(scope))}
        return sorted(found, key=lambda place: (_depth(place[0]), order.get(place, 0)))

    # --- the queries ---

    def values(self, origins: Sequence[Origin], relation_of: dict[int, str]) -> tuple[Values, ...]:
        """The queries that give these parameters; of rows in FROM it is one, so that only pairs that meet are asked."""
        asked: dict[int, list[Origin]] = {}
        for origin in origins:
            if origin.is_query:
                asked.setdefault(id(origin.node.unnest()), []).append(origin)
        made = [self._from_query(of_one, relation_of) for of_one in asked.values()]
        if rows := [origin for origin in origins if not origin.is_query]:
            made.append(self._from_rows(rows, relation_of))
        return tuple(made)

    def _from_query(self, origins: Sequence[Origin], relation_of: dict[int, str]) -> Values:
        """Of `(a, b) IN (SELECT …)` the values come in pairs."""
        query = origins[0].node.unnest()
        width = 1 + max(origin.at for origin in origins)
        material = self._material(query, relation_of)
        table = _table(material.relation, "given", [exp.to_identifier(f"v{n}") for n in range(width)])
        wanted = exp.select(*(f"v{origin.at}" for origin in origins)).distinct().from_(table)
        return self._made(origins, wanted, relation_of, material.relation)

    def _from_rows(self, origins: Sequence[Origin], relation_of: dict[int, str]) -> Values:
        places = self._closed(frozenset().union(*(origin.places for origin in origins)))
        relations = [self._relation(place, relation_of) for place in places]
        query = exp.Select(
            expressions=[exp.alias_(origin.node.copy(), f"v{n}") for n, origin in enumerate(origins)],
            distinct=exp.Distinct(),
            from_=exp.From(this=relations[0]),
            joins=[exp.Join(this=relation) for relation in relations[1:]],
        )
        for condition in self._narrowing(places):
            query = query.where(condition, copy=False)
        return self._made(origins, query, relation_of, ", ".join(origin.node.sql("duckdb") for origin in origins))

    def _narrowing(self, places: Sequence[Place]) -> Iterator[exp.Expr]:
        """Conditions on these sources alone that a row of them must meet to be seen."""
        seen: set[int] = set()
        for place in places:
            scope = place[0]
            if not can_narrow(scope.expression):
                continue
            for condition in self._conditions(place):
                for part in parts(condition):
                    used = self._places_of_all(part, scope)
                    if id(part) not in seen and used and used <= set(places):
                        seen.add(id(part))
                        yield part.copy()

    def _places_of_all(self, node: exp.Expr, scope: Scope) -> set[Place] | None:
        if is_volatile(node) or first(node, *NOT_PLAIN):
            return None
        found = [self.names.resolve(column, scope) for column in every(node, exp.Column)]
        return None if None in found else {place for place, _ in filter(None, found)}

    def _relation(self, place: Place, relation_of: dict[int, str]) -> exp.Expr:
        """What stands for the source in a FROM of our own."""
        node, source = self.names.source(place)
        if isinstance(node, exp.Table) and (cte := self._ctes.get(id(node))):
            material = self._material(cte.this, relation_of)
            return _table(material.relation, place[1], _columns(node) or _columns(cte))
        if isinstance(source, Scope) and isinstance(node, exp.Query) and not self._looks_out(node):
            columns = _columns(node.parent)
            return _table(self._material(node, relation_of).relation, place[1], columns)
        around = node.parent if isinstance(node, exp.Query) and isinstance(node.parent, exp.Subquery) else node
        copied = around.copy()
        copied.set("joins", None)
        return copied

    def _material(self, query: exp.Expr, relation_of: dict[int, str]) -> Material:
        """The query's rows, under a name: in the tree, what it was stands as a SELECT of that name."""
        if known := self._material_of.get(id(query)):
            return known
        inner = query.copy()
        pairs = list(zip(every(query, exp.Table), every(inner, exp.Table), strict=True))
        for table, copied in pairs:
            cte = self._ctes.get(id(table))
            if cte and not is_in(cte, query):
                made = self._material(cte.this, relation_of)
                copied.replace(_table(made.relation, table.alias_or_name, _columns(table) or _columns(cte)))
        relation = f"_given_{len(self.materials) + 1}"
        around = query.parent
        if isinstance(around, exp.CTE) and any(names_cte(table, around) for table in every(query, exp.Table)):
            inner = _recursive(around, inner)
        needs = self._needs(inner, relation_of)
        material = Material(relation, dialect.generate(inner, spend=True), needs)
        self.materials.append(material)
        put = exp.select("*").from_(_table(relation, relation, []))
        self._material_of |= {id(query): material, id(put): material}
        query.replace(put)
        return material

    def _needs(self, query: exp.Expr, relation_of: dict[int, str]) -> frozenset[str]:
        ours = {*relation_of.values(), *(made.relation for made in self.materials)}
        return frozenset(table.name for table in every(query, exp.Table) if table.name in ours)

    def _made(self, origins: Sequence[Origin], query: exp.Expr, relation_of: dict[int, str], shown: str) -> Values:
        needs = self._needs(query, relation_of)
        return Values(tuple(o.name for o in origins), dialect.generate(query, spend=True), needs, shown)


def _position(names: Names, place: Place, name: str) -> int | None:
    """Where the SELECT shows the column as it is, if a filter on what it shows could as well be on what it reads."""
    select = place[0].expression
    if not isinstance(select, exp.Select) or any(select.args.get(part) for part in NOT_BELOW):
        return None
    distinct, group = select.args.get("distinct"), select.args.get("group")
    if (distinct and distinct.args.get("on")) or any(first(item, exp.Window) for item in select.selects):
        return None
    grouped = group.expressions if group else ()
    is_grouped = any(isinstance(one, exp.Column) and names.resolve(one) == (place, name) for one in grouped)
    if not is_grouped and (group or any(first(item, exp.AggFunc) for item in select.selects)):
        return None
    for number, (_, value) in enumerate(names.projections(place[0])):
        if isinstance(value, exp.Column) and names.resolve(value, place[0]) == (place, name):
            return number
    return None


def _depth(scope: Scope) -> int:
    return 0 if scope.parent is None else 1 + _depth(scope.parent)


def _columns(node: exp.Expr | None) -> list[exp.Expr]:
    """The columns that an alias names anew."""
    alias = node.args.get("alias") if node else None
    return list(alias.columns) if isinstance(alias, exp.TableAlias) else []


def _table(relation: str, alias: str, columns: Sequence[exp.Expr]) -> exp.Table:
    named = exp.TableAlias(this=exp.to_identifier(alias, quoted=True), columns=[column.copy() for column in columns])
    return exp.Table(this=exp.to_identifier(relation, quoted=True), alias=named)


def _recursive(cte: exp.CTE, body: exp.Expr) -> exp.Expr:
    select = exp.select("*").from_(_table(cte.alias, cte.alias, []))
    again = exp.CTE(this=body, alias=cte.args["alias"].copy())
    select.set("with_", exp.With(expressions=[again], recursive=True))
    return select
