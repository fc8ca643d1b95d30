"""The examples of the reference pages: the Python ones run, each through the SDK to the route that its page is of."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import httpx2
import openai
import pytest

from milepost.api.document import operations
from tests.api.world import served_document

ROUTES = Path(__file__).parents[2] / "docs/reference/routes"
PAGES = [pytest.param(page.read_text(), id=page.stem) for page in sorted(ROUTES.glob("*/*.md"))]
DOCUMENT = served_document()
OPERATIONS = {(method.upper(), path): operation for path, method, operation in operations(DOCUMENT)}
KEY = "sk-proj-example"


def code(page: str, language: str) -> str:
    return re.search(rf"```{language}\n(.*?)\n```", page, re.DOTALL)[1]


def route(page: str) -> tuple[str, str]:
    return tuple(re.search(r"^`([A-Z]+) (/v1/\S+)`$", page, re.MULTILINE).groups())


def test_every_route_has_a_page():
    assert {route(page.values[0]) for page in PAGES} == OPERATIONS.keys()


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What a run example sends; it is answered with the route's own example."""
    (tmp_path / "train.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        ((kind, body),) = list(found(request)["responses"]["200"]["content"].items())[:1]
        if kind != "application/json":
            return httpx2.Response(200, text=body["example"])
        return httpx2.Response(200, json=body["example"])

    sdk = openai.OpenAI

    def client() -> openai.OpenAI:
        http = httpx2.Client(transport=httpx2.MockTransport(answer))
        return sdk(api_key=KEY, admin_api_key=KEY, base_url="http://x/v1", http_client=http, max_retries=0)

    monkeypatch.setattr(openai, "OpenAI", client)
    return requests


def found(request: httpx2.Request) -> dict:
    return next(
        operation
        for (method, path), operation in OPERATIONS.items()
        if method == request.method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path)
    )


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_python_example_calls_its_route(page, asked, capsys):
    exec(compile(code(page, "python"), "example", "exec"), {})
    assert [found(request) for request in asked] == [OPERATIONS[route(page)]]
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_the_curl_example_calls_its_route(page):
    method, path = route(page)
    command, url, *words = shlex.split(code(page, "sh").replace("\\\n", ""))
    assert command == "curl"
    assert re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), url.replace("$OPENAI_BASE_URL", "/v1"))
    has_body = {"-d", "-F"} & set(words)
    sent = words[words.index("-X") + 1] if "-X" in words else "POST" if has_body else "GET"
    assert sent == method
