"""`python -m milepost` and the `milepost` command."""

from __future__ import annotations

from milepost.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
