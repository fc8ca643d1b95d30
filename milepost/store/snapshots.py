"""All rows of a store as one SQLite file, taken while others write; and such a file as a store again, on either kind.

So a backup of a store in Postgres needs none of Postgres's own programs, and moves to SQLite, or back, as well.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from milepost.config import Settings
from milepost.errors import Conflict
from milepost.store import schema
from milepost.store.database import FILE, Database, open_database

_AT_ONCE = 500


def take(database: Database, folder: Path) -> None:
    """Write one state of the store into `folder`: that of an instant, whatever is written meanwhile."""
    if not database.is_shared:
        database.copy_to(folder / FILE)
        return
    (folder / FILE).unlink(missing_ok=True)
    with (
        closing(open_database(Settings(data_dir=folder))) as copy,
        database.reading() as source,
        copy.transaction() as target,
    ):
        _copy_rows(source, target)


def put_back(source: Connection, target: Connection) -> str:
    """Copy the rows of a snapshot into a shared store, in that transaction; returns the id of their organisation.

    Raises `Conflict` if there is something in it.
    """
    if target.scalar(select(func.count()).select_from(schema.organizations)):
        raise Conflict(
            "There is a store in what MILEPOST_DATABASE_URL names already: restore into an empty folder and an empty "
            "database"
        )
    _copy_rows(source, target)
    _count_on(target)
    return target.scalar(select(schema.organizations.c.id)) or ""


def _copy_rows(source: Connection, target: Connection) -> None:
    for table in schema.metadata.sorted_tables:
        rows = source.execution_options(yield_per=_AT_ONCE).execute(select(table))
        for some in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in some])


def _count_on(connection: Connection) -> None:
    """Have Postgres number new rows after those that came with their numbers."""
    for table in schema.metadata.sorted_tables:
        if "sequence" in table.c:
            last = connection.scalar(select(func.max(table.c.sequence)))
            if last is not None:
                serial = func.pg_get_serial_sequence(table.name, "sequence")
                connection.execute(select(func.setval(serial, last)))
