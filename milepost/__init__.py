"""The OpenAI fine-tuning API on your own machines, and every resource in it a SQL table."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
