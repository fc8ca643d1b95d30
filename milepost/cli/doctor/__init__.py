"""`milepost doctor`: what is wrong with an installation, and how to mend it. It changes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

#: What stands before a line. Colour alone would say nothing to some.
MARKS = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}


def doctor(
    data: Annotated[Path | None, typer.Option("--data", help="Data folder, instead of MILEPOST_DATA_DIR.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file and adapter, and compare its hash.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")] = False,
) -> None:
    """Say what is wrong with this installation and its data, and how to mend it. Ends with 1 if something is bad."""
    from milepost.cli.doctor.checks import Patient, examine

    findings = list(examine(Patient.of(os.environ, data, deep=deep)))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            typer.echo(f"{MARKS[finding.state]}  {finding.check}: {finding.says}")
            if finding.remedy:
                typer.echo(f"      {finding.remedy}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


__all__ = ["doctor"]
