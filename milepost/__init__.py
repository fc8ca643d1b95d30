"""The OpenAI fine-tuning API on your own machines, and every resource in it a SQL table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.cli.query import query, query_async

__all__ = ["__version__", "query", "query_async"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Queries are imported when they are asked for: every process of ours begins here."""
    if name not in {"query", "query_async"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from milepost.cli import query as queries

    return getattr(queries, name)
