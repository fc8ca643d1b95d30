"""The reference pages say what the code says, and every example in the documentation runs."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx2
import pytest

from milepost.sql.catalog import shipped
from milepost.sql.session import Outcome, Rows, Session, openai_provider
from tests.sql.conftest import FakeOpenAI, a_job

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"```sql\n(.*?)```", re.DOTALL)
#: What stands for a placeholder, by the type of its parameter.
VALUES = {"integer": "1", "number": "1.5", "boolean": "true", "object": "{}", "array": "[]"}


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
@pytest.mark.parametrize("root", ["openai", "openai_admin"])
async def test_every_example_of_every_table_runs(root, tmp_path):
    """SELECT for its columns, the others as far as the request, which is made by the SDK and not sent."""
    file = tmp_path / "file"
    file.write_text("x")
    one = {"object": "list", "id": "1", "data": [{"id": "1"}], "has_more": False}
    types_of_events = {**one, "data": ["x"]}  # the one object that has a `data` of its own
    transport = httpx2.MockTransport(
        lambda asked: httpx2.Response(200, json=types_of_events if asked.url.path.endswith("event_types") else one)
    )
    client = httpx2.AsyncClient(transport=transport)
    provider = openai_provider(root, base_url="http://x/v1", api_key="k", root=root, http_client=client)
    run: dict[str, int] = {}
    async with Session({root: provider}) as session:
        for name in shipped().names(root):
            table = shipped().table(*name.split("."))
            types = {p.name: "file" if p.type == "file" else p.datatype for m in table.methods for p in m.parameters}
            any_of = {p.name for m in table.methods for p in m.parameters if p.type == "any"}
            for sql in BLOCK.findall((DOCS / "reference/sql" / f"{name.replace('.', '/')}.md").read_text()):
                asked = set(re.findall(r"\{\{ (\w+) \}\}", sql))
                values = {
                    key: str(file) if types[key] == "file" else "1" if key in any_of else VALUES.get(types[key], "1")
                    for key in asked
                }
                verb = sql.split()[0]
                result = await session.execute(sql, values, all_rows=True, dry_run=verb != "SELECT")
                assert isinstance(result, Rows), sql
                if verb == "SELECT":
                    assert result.columns == tuple(column.name for column in table.columns), sql
                    await result.aclose()
                else:
                    assert result.columns == ("method", "url", "body"), sql
                    await result.fetchall()
                run[verb] = run.get(verb, 0) + 1
    assert run.keys() == {"SELECT", "INSERT", "UPDATE", "DELETE", "EXEC"}
    assert sum(run.values()) > 60


# --- pages written by hand --------------------------------------------------------------------------------------------

#: A statement in a block for the shell.
SHELL = re.compile(r'^milepost sql "([^"]+)"', re.MULTILINE)
BY_HAND = (path for folder in ("start", "how-to", "explanation") for path in (DOCS / folder).glob("*.md"))
PAGES = [
    page
    for page in (DOCS.parent / "README.md", *sorted(BY_HAND))
    if BLOCK.search(page.read_text()) or SHELL.search(page.read_text())
]


class DocsServer(FakeOpenAI):
    """The server the pages speak to: one job that is done, a model that answers, and what the examples name."""

    def __init__(self) -> None:
        super().__init__()
        jobs = "/v1/fine_tuning/jobs"
        self.lists[jobs] = [a_job(1, model="smollm2-135m-instruct"), a_job(2, model="smollm2-135m-instruct")]
        self.lists |= {
            "/v1/batches": [{"id": "batch_1", "status": "completed", "request_counts": {"total": 3, "failed": 1}}],
            "/v1/models": [{"id": "smollm2-135m-instruct", "object": "model", "created": 1, "owned_by": "milepost"}],
            "/v1/organization/projects": [{"id": "p1", "name": "one", "status": "active"}],
            "/v1/organization/projects/p1/service_accounts": [{"id": "sa", "name": "robot"}],
        }

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": "Paris"}
            return httpx2.Response(200, json={"choices": [{"index": 0, "message": message}]})
        if request.method == "POST" and request.url.path == "/v1/fine_tuning/jobs":
            return httpx2.Response(200, json=a_job(1))
        if request.method == "POST" and request.url.path.startswith("/v1/uploads"):
            upload = {"id": "upload_1", "status": "pending", "file": None}
            done = {"id": "upload_1", "status": "completed", "file": {"id": "file-1", "status": "processed"}}
            return httpx2.Response(200, json=done if request.url.path.endswith("/complete") else upload)
        return super().answer(request)


def examples(page: Path) -> Iterator[str]:
    """The statements of a page, in order; a block may hold several, each ended by `;` and a line's end. A reader puts an
    id of theirs in the place of `…`.
    """
    text = page.read_text().replace("ftjob-…", "ftjob-1").replace("file-…", "file-1")
    for block in (*BLOCK.findall(text), *SHELL.findall(text)):
        for statement in re.split(r";\s*\n", block):
            if statement.strip():
                yield statement.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_every_example_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "eval.jsonl").write_text('{"prompt": "Capital of France?", "answer": "Paris"}\n')
    fake = DocsServer()
    names = ("openai", "local", "openai_admin")
    providers = {name: fake.provider(name) for name in names}
    count = 0
    async with Session(providers, environ={"PROD_KEY": "sk-x"}) as session:
        for sql in examples(page):
            result = await session.execute(sql, {"job": "ftjob-1"} if "{{ job }}" in sql else {})
            if isinstance(result, Rows):
                await result.fetchall()
            assert isinstance(result, Rows | Outcome)
            count += 1
    assert count >= 1
