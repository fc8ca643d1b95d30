"""Every list is read off an index in its order, and so is what is swept."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEXES = (
    ("projects", "organization_id", "created_at", "sequence"),
    ("service_accounts", "project_id", "created_at", "sequence"),
    ("keys", "kind", "project_id", "created_at", "sequence"),
    ("keys", "kind", "created_at", "sequence"),
    ("checkpoints", "project_id", "sequence"),
    ("checkpoints", "deleted_at"),
    ("permissions", "checkpoint_id", "created_at", "sequence"),
    ("idempotency_keys", "created_at"),
)


def upgrade() -> None:
    for table, *columns in INDEXES:
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
