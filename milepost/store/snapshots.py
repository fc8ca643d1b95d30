"""All rows of a store as one SQLite file, taken while others write; and such a file as a store again, on either kind.

So a backup of a store in Postgres needs none of Postgres's own programs, and moves to SQLite, or back, as well.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from milepost.config import Settings
from milepost.errors import Conflict
from milepost.store import schema
from milepost.store.database import FILE, Database, exists, open_database

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


def put_back(folder: Path, settings: Settings) -> Database:
    """Open a store that was empty with the rows of a snapshot in it, of this schema or an older one.

    Raises `Conflict` if there is something in it.
    """
    if settings.database_url is None:
        if exists(settings):
            raise _not_empty(str(settings.data_dir))
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / FILE, settings.data_dir / FILE)
        return open_database(settings)
    database = open_database(settings)
    try:
        with tempfile.TemporaryDirectory(prefix="milepost-restore-") as scratch:
            shutil.copyfile(folder / FILE, Path(scratch) / FILE)
            with (
                closing(open_database(Settings(data_dir=Path(scratch)))) as copy,
                copy.reading() as source,
                database.transaction() as target,
            ):
                _require_empty(target)
                _copy_rows(source, target)
                _count_on(target)
    except BaseException:
        database.close()
        raise
    return database


def _require_empty(connection: Connection) -> None:
    if connection.scalar(select(func.count()).select_from(schema.organizations)):
        raise _not_empty("MILEPOST_DATABASE_URL names")


def _not_empty(where: str) -> Conflict:
    return Conflict(f"There is a store in what {where} already: restore into an empty folder and an empty database")


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
