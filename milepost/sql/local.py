"""Views, materialized views and tables of the user's own, kept by DuckDB: in memory, or in a file of their choice.

A view of ours is its text: where a query names it, its tree stands. A materialized view is a table and that text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlglot import exp

from milepost.errors import Invalid, NotFound
from milepost.sql import dialect
from milepost.sql.tree import every
from milepost.sql.words import near

if TYPE_CHECKING:
    import duckdb

PLAIN, MATERIALIZED = "VIEW", "MATERIALIZED VIEW"
#: Views of views of views: more is a circle.
DEEPEST = 32


@dataclass(slots=True)
class Views:
    """The texts of views by name, as they stand in the database."""

    open_cursor: Callable[[], duckdb.DuckDBPyConnection]
    _texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    _is_read: bool = False

    def names(self, kind: str) -> list[str]:
        return sorted(name for name, (its, _) in self._read().items() if its == kind)

    def __bool__(self) -> bool:
        return bool(self._read())

    def kind(self, name: str) -> str | None:
        return self._read().get(name.lower(), (None, ""))[0]

    def text(self, name: str, kind: str) -> str:
        """The view's query. Raises `NotFound` with names that come near."""
        if self.kind(name) != kind:
            raise NotFound(f"No {kind.lower()} `{name}`.{near(name, self.names(kind))}", param=name)
        return self._read()[name.lower()][1]

    def keep(self, name: str, kind: str, text: str) -> None:
        with self.open_cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS milepost")
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS milepost.views (name VARCHAR PRIMARY KEY, kind VARCHAR, sql VARCHAR)"
            )
            cursor.execute("INSERT OR REPLACE INTO milepost.views VALUES (?, ?, ?)", [name.lower(), kind, text])
        self._texts[name.lower()] = (kind, text)

    def forget(self, name: str) -> None:
        if self._read().pop(name.lower(), None):
            with self.open_cursor() as cursor:
                cursor.execute("DELETE FROM milepost.views WHERE name = ?", [name.lower()])

    def expand(self, tree: exp.Query) -> exp.Query:
        """The query with the trees of views in the place of their names."""
        for _ in range(DEEPEST):
            found = [table for table in every(tree, exp.Table) if self._stands_for(table)]
            if not found:
                return tree
            for table in found:
                query = dialect.parse(self._texts[table.name.lower()][1])
                alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name, quoted=True))
                table.replace(exp.Subquery(this=query, alias=alias, joins=table.args.get("joins")))
        raise Invalid("The views of this query are made of each other")

    def _stands_for(self, table: exp.Table) -> bool:
        if table.db or self.kind(table.name) != PLAIN:
            return False
        above: exp.Expr | None = table
        while above:
            with_ = above.args.get("with_")
            if with_ and any(cte.alias.lower() == table.name.lower() for cte in with_.expressions):
                return False
            above = above.parent
        return True

    def _read(self) -> dict[str, tuple[str, str]]:
        if not self._is_read:
            self._is_read = True
            with self.open_cursor() as cursor:
                cursor.execute("SELECT 1 FROM duckdb_tables() WHERE schema_name = 'milepost' AND table_name = 'views'")
                rows = cursor.execute("SELECT * FROM milepost.views").fetchall() if cursor.fetchall() else []
            self._texts = {name: (kind, text) for name, kind, text in rows}
        return self._texts


def target_of(tree: exp.Create) -> tuple[str, list[exp.Expr]]:
    """The name that CREATE gives, and names for its columns if it gives those."""
    made = tree.this
    columns = list(made.expressions) if isinstance(made, exp.Schema) else []
    table = made.this if isinstance(made, exp.Schema) else made
    if not isinstance(table, exp.Table) or table.db:
        raise Invalid("A view or table of your own has a name without dots")
    if any(isinstance(each, exp.TemporaryProperty) for each in tree.find_all(exp.TemporaryProperty)):
        raise Invalid(
            "TEMP lives no longer than its statement here; CREATE TABLE lives as long as the session or its file"
        )
    return table.name, columns


def text_of(tree: exp.Create, columns: list[exp.Expr]) -> str:
    """The query of a view, as it is kept: in the user's dialect, so that it reads again."""
    query = tree.expression
    if columns:
        alias = exp.TableAlias(this=exp.to_identifier("named"), columns=[column.copy() for column in columns])
        query = exp.select("*").from_(exp.Subquery(this=query.copy(), alias=alias))
    return dialect.as_written(query)
