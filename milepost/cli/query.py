"""SQL from Python: `milepost.query("SELECT …")`, or `await milepost.query_async("SELECT …")`.

::

    jobs = milepost.query("SELECT * FROM openai.fine_tuning.jobs WHERE model = '{{ model }}'", model="gpt-4o-mini")
    jobs.arrow(), jobs.pandas(), jobs.polars(), jobs.dicts()

The providers are those of `milepost sql`: the environment's, those of providers.toml, and the server started last. For
more than one statement, or for other providers, `milepost.sql.session.Session` is the same without the environment.
`import milepost` is to cost nothing: what this needs is imported when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milepost.errors import Remote

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of a statement, in memory. `errors` are those that ON ERROR CONTINUE went on after."""

    columns: tuple[str, ...]
    errors: Sequence[Remote]
    _table: Any
    _types: Sequence[Any]  # DuckDB's, of its own rows; none where the values are Python's already

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def arrow(self) -> Any:
        """A `pyarrow.Table`; JSON is text in it."""
        return self._table

    def pandas(self) -> pd.DataFrame:
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    def polars(self) -> pl.DataFrame:
        import polars as pl

        frame = pl.from_arrow(self._table)
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()

    def dicts(self) -> list[dict[str, Any]]:
        """One dict for each row; a STRUCT is a dict, JSON is what it says."""
        from milepost.sql.shapes import reader

        readers = {name: read for name, kind in zip(self.columns, self._types, strict=False) if (read := reader(kind))}
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return [{**row, **{name: read(row[name]) for name, read in readers.items()}} for row in rows]


async def query_async(sql: str, /, **params: str) -> Result:
    """Run one statement with the environment's providers; `params` are the values of its `'{{ name }}'`."""
    from milepost.cli.providers import providers
    from milepost.config import load
    from milepost.sql.session import Session

    settings = load(os.environ)
    async with Session(providers(os.environ), environ=os.environ, budget=settings.sql_budget) as session:
        return await result_of(session, sql, params)


def query(sql: str, /, **params: str) -> Result:
    """`query_async` for code that does not wait, in a notebook too, where a loop runs already."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(query_async(sql, **params))
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(query_async(sql, **params))).result()


async def result_of(session: Any, sql: str, params: dict[str, str]) -> Result:
    """All rows of a statement; those of a change are the API's answers."""
    import pyarrow as pa

    from milepost.sql.session import Outcome

    found = await session.execute(sql, params)
    if isinstance(found, Outcome):
        answers = found.values or ((found.value,) if found.value else ())  # noqa: PD011 (it is no frame)
        table = pa.Table.from_pylist(list(answers))
        return Result(tuple(table.column_names), found.errors, table, [])
    batches = [batch async for batch in found.batches()]
    return Result(found.columns, found.errors, pa.Table.from_batches(batches, schema=found.schema), found.types)
