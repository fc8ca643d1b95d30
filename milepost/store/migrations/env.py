"""Alembic's entry; `store.database` hands it the connection, and the transaction is that connection's."""

from __future__ import annotations

from alembic import context

from milepost.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
