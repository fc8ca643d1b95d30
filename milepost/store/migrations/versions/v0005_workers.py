"""Several workers, projects that take turns, and on Postgres 64 bits for what may need them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: What may be larger than 2^31. SQLite's integers are that wide already, and to alter them it would copy the tables.
_LONG = (("jobs", "trained_tokens"), ("jobs", "estimated_finish"), ("files", "expires_at"), ("keys", "expires_at"))


def upgrade() -> None:
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("last_start", sa.Float(), nullable=True))
    op.create_table(
        "workers",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("seen_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, column in _LONG:
            op.alter_column(table, column, existing_type=sa.Integer(), type_=sa.BigInteger(), existing_nullable=True)
