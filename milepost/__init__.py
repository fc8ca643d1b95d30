"""The OpenAI fine-tuning API on your own machines, and every resource in it a SQL table."""

from __future__ import annotations

from milepost.cli.query import query, query_async

__all__ = ["__version__", "query", "query_async"]

__version__ = "0.1.0"
