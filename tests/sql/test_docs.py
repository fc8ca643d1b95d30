"""The reference pages say what the code says, and their examples run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import httpx2
import pytest

from milepost.sql.catalog import shipped
from milepost.sql.session import Session, openai_provider

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_their_sources_say(generate):
    assert generate.main(["--check"]) == 0


def test_the_page_of_checkpoints_has_the_four_parts_and_the_query(generate):
    page = (DOCS / "reference/sql/openai/fine_tuning/job_checkpoints.md").read_text()
    heads = [line for line in page.splitlines() if line.startswith("## ")]
    assert heads == ["## Overview", "## Fields", "## Methods", "## `SELECT` examples"]
    assert "| `list_fine_tuning_job_checkpoints` | `SELECT` | `fine_tuning_job_id` |" in page
    assert "FROM openai.fine_tuning.job_checkpoints\nWHERE fine_tuning_job_id = '{{ fine_tuning_job_id }}';" in page


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK warns of APIs that OpenAI retires
async def test_every_example_runs(generate):
    empty = {"object": "list", "data": [], "has_more": False}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=empty))
    providers = {
        root: openai_provider(
            root, base_url="http://x/v1", api_key="k", root=root, http_client=httpx2.AsyncClient(transport=transport)
        )
        for root in generate.ROOTS
    }
    names = [name for root in generate.ROOTS for name in shipped().names(root)]
    tables = [table for name in names if (table := shipped().table(*name.split("."))).selects]
    async with Session(providers) as session:
        for table in tables:
            example = "".join(generate._select_example(table)).partition("```sql\n")[2].partition("```")[0]
            required = min((method.required for method in table.selects), key=len)
            rows = await session.execute(example, dict.fromkeys(required, "1"))
            assert rows.columns == tuple(column.name for column in table.columns), table.name
    assert len(tables) > 100
