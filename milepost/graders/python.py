"""A score that the user's own code gives, run by a runner: `milepost.graders.sandbox.run`, or whatever a caller has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from milepost.graders.sandbox import Ran
from milepost.graders.scores import Score, failed
from milepost.graders.templates import Namespaces
from milepost.resources.graders import PythonGrader

#: source, sample, item → how it ended.
PythonRunner = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Ran]


def python(grader: PythonGrader, spaces: Namespaces, run_python: PythonRunner) -> Score:
    """What `grade(sample, item)` returns. An exception is its own fault, a sandbox that does not start is ours."""
    ran = run_python(grader.source, spaces["sample"], spaces["item"])
    output = ran.output or None
    if ran.reward is not None:
        return Score(ran.reward, output=output)
    if ran.fault is not None:
        errors = failed(
            f"The sandbox of python graders failed ({ran.fault}); the server's log has the cause",
            "python_grader_server_error",
            python_grader_server_error_type=ran.fault,
        ).errors
        return Score(0.0, errors, output=output)
    details = (ran.error or "").strip()
    errors = failed(
        details.rpartition("\n")[2], "python_grader_runtime_error", python_grader_runtime_error_details=details
    ).errors
    return Score(0.0, errors, output=output)
