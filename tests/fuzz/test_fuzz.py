"""Every reader of strangers' bytes keeps its promise: on the same drawn bytes each time, and on all that ever broke it.

What broke one lies in `found/<target>/`. `make fuzz SECONDS=n` looks for more, guided by coverage.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.shapes import SHAPES
from tests.fuzz.targets import TARGETS, Lab

FOUND = Path(__file__).parent / "found"
#: Some seconds each, on one core.
EXAMPLES = {
    "lines": 150,
    "forms": 400,
    "template": 400,
    "template_source": 400,
    "sql": 150,
    "bodies": 200,
    "directory": 300,
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str, lab: Lab) -> None:
    @settings(
        max_examples=EXAMPLES[name],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(SHAPES[name])
    def keeps_its_promise(raw: bytes) -> None:
        try:
            TARGETS[name](lab, raw)
        except BaseException as error:
            error.add_note(f"the bytes: {raw!r}")
            raise

    keeps_its_promise()


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found(path: Path, lab: Lab) -> None:
    TARGETS[path.parent.name](lab, path.read_bytes())
