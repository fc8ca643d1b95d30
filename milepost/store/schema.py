"""The tables: columns for what is filtered or sorted by, JSON for the rest (DESIGN §7).

Times are unix seconds. `sequence` is given by the database in order of insertion, so that (created_at, sequence) orders
rows made within one second. A change here needs a migration; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

#: Constraints are named, so that a later migration can drop them on SQLite too.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: Unix seconds that may be of a time to come, and counts without a limit. SQLite's INTEGER has 64 bits by itself.
Long = BigInteger().with_variant(Integer, "sqlite")

organizations = Table(
    "organizations",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("created_at", Integer, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("organization_id", ForeignKey("organizations.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("archived_at", Integer),
    # when a job of it was started last: projects take turns
    Column("last_start", Float),
    Index(None, "organization_id", "created_at", "sequence"),
)

service_accounts = Table(
    "service_accounts",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("deleted_at", Integer),
    Index(None, "project_id", "created_at", "sequence"),
)

keys = Table(
    "keys",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("hint", String, nullable=False),
    Column("secret_sha256", String, nullable=False, unique=True),
    Column("created_at", Integer, nullable=False),
    Column("revoked_at", Integer),
    Column("service_account_id", ForeignKey("service_accounts.id")),
    Column("expires_at", Long),
    Column("last_used_at", Integer),
    Index(None, "kind", "project_id", "created_at", "sequence"),
    Index(None, "kind", "created_at", "sequence"),
)

files = Table(
    "files",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False, index=True),
    Column("lines", Integer),
    Column("deleted_at", Integer),
    Column("expires_at", Long, index=True),
    # what the checks of training data found
    Column("report", JSON(none_as_null=True)),
    Index(None, "project_id", "created_at", "sequence"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False, index=True),
    Column("filename", Text, nullable=False),
    Column("purpose", String, nullable=False),
    Column("mime_type", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", String, nullable=False),
    # of the file that it becomes: seconds after its creation
    Column("expires_after", Integer),
    Column("file_id", ForeignKey("files.id")),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("upload_id", ForeignKey("uploads.id"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False, index=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("organization_id", ForeignKey("organizations.id"), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("model", String, nullable=False),
    Column("base_hash", String, nullable=False),
    Column("training_file", String, nullable=False, index=True),
    Column("validation_file", String, index=True),
    Column("fine_tuned_model", String),
    Column("finished_at", Integer),
    Column("trained_tokens", Long),
    Column("estimated_finish", Long),
    Column("suffix", String),
    Column("seed", Integer, nullable=False),
    Column("result_files", JSON, nullable=False),
    Column("error", JSON(none_as_null=True)),
    # what was asked for, and what it was resolved to: milepost.jobs.rows.Plan
    Column("plan", JSON, nullable=False),
    Column("forecast", JSON(none_as_null=True)),
    # how far it was at the last heartbeat: milepost.resources.jobs.JobProgress
    Column("progress", JSON(none_as_null=True)),
    # training goes on from this checkpoint; null from the base
    Column("parent_checkpoint_id", String, index=True),
    Column("event_count", Integer, nullable=False),
    Column("child_seq", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lease_owner", String),
    Column("lease_until", Float),
    Index(None, "project_id", "created_at", "sequence"),
    Index(None, "status", "created_at", "sequence"),
)

#: Who works, and on how many jobs at once; a row is true until `seen_until`.
workers = Table(
    "workers",
    metadata,
    Column("name", String, primary_key=True),
    Column("slots", Integer, nullable=False),
    Column("seen_until", Float, nullable=False),
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
    Index(None, "key", "value"),
)

events = Table(
    "events",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False, unique=True),
    Column("child_seq", Integer),
    Column("created_at", Integer, nullable=False),
    Column("level", String, nullable=False),
    Column("type", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    UniqueConstraint("job_id", "child_seq"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("step_number", Integer, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("name", String, nullable=False, unique=True),
    Column("adapter_sha256", String, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("deleted_at", Integer, index=True),
    Column("ready_ms", Integer),
    UniqueConstraint("job_id", "step_number"),
    Index(None, "project_id", "sequence"),
)

#: Other projects that may use a checkpoint. A permission that is taken back is a row that is gone.
permissions = Table(
    "permissions",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("checkpoint_id", ForeignKey("checkpoints.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("checkpoint_id", "project_id"),
    Index(None, "checkpoint_id", "created_at", "sequence"),
)

#: What was answered to a request that came with an Idempotency-Key; written in the transaction of what it made.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("created_at", Integer, nullable=False, index=True),
    # of method, path and body: the same key with another request is refused
    Column("request_sha256", String, nullable=False),
    Column("answer", JSON, nullable=False),
)

#: What became a fact, in order; written in the same transaction as the fact. Webhooks, audit and streams read it.
outbox = Table(
    "outbox",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("type", String, nullable=False),
    Column("subject_id", String, nullable=False),
    Column("data", JSON, nullable=False),
)
