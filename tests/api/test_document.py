"""The OpenAPI document is whole: it describes all that is served, every field of it, with examples that are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import jsonschema_rs
import pytest

from milepost.api.app import ROUTERS
from milepost.api.auth import PREFIX
from milepost.api.document import HEADERS, TAGS, operations
from tests.api.world import served_document

#: Served and not in the document: they are the document, or are for those who watch over a server.
PAGES = {"/docs", "/docs/style.css", "/healthz", "/readyz", "/metrics"}
DOCUMENT = served_document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [pytest.param(*found, id=found[2]["operationId"]) for found in operations(DOCUMENT)]
#: Statuses that no route may have: SDKs retry the one, clients know not the other.
NEVER = {"409", "422"}


def test_everything_served_is_described(app):
    served = {
        (PREFIX + route.path.replace(":path", ""), method)
        for router in ROUTERS
        for route in router.routes
        for method in route.methods
    }
    assert served == {(path, method.upper()) for path, method, _ in operations(DOCUMENT)}
    routers = [route for route in app.routes if not hasattr(route, "path")]
    assert len(routers) == len(ROUTERS) + 3  # and the pages, health and metrics
    assert [route.path for route in app.routes if hasattr(route, "path")] == ["/openapi.json"]


def test_operations_have_names_of_their_own():
    names = [operation["operationId"] for _, _, operation in operations(DOCUMENT)]
    assert [name for name in names if not re.fullmatch(r"[a-z]+([A-Z][a-z]*)+", name)] == []
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_says_what_it_is(path, method, operation):
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    assert set(operation["tags"]) <= set(TAGS), "a tag needs a sentence in TAGS of api/document.py"
    undescribed = [
        parameter["name"] for parameter in operation.get("parameters", ()) if not parameter.get("description")
    ]
    assert undescribed == [], "describe them at the route, or in PARAMETERS of api/document.py"
    assert set(re.findall(r"\{(\w+)\}", path)) == {
        p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"
    }


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_says_who_may_call_it(path, method, operation):
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert [name for choice in operation["security"] for name in choice if not schemes[name].get("description")] == []
    assert operation["security"] != []


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_says_how_it_may_be_refused(path, method, operation):
    answers = operation["responses"]
    assert {"401", "500"} <= answers.keys()
    assert not NEVER & answers.keys()
    for status, answer in answers.items():
        assert answer["description"]
        assert answer["headers"].keys() == HEADERS.keys()
        if status >= "400":
            assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}


def bodies() -> Iterator[object]:
    for _, _, operation in operations(DOCUMENT):
        contents = {"request": operation.get("requestBody", {}).get("content", {})}
        contents |= {status: answer.get("content", {}) for status, answer in operation["responses"].items()}
        for place, content in contents.items():
            for kind, body in content.items():
                yield pytest.param(kind, body, id=f"{operation['operationId']}-{place}-{kind}")


@pytest.mark.parametrize(("kind", "body"), list(bodies()))
def test_a_body_has_an_example_that_fits_it(kind, body):
    assert "example" in body
    if kind == "application/json":
        schema = {**body["schema"], "components": DOCUMENT["components"]}
        faults = [
            f"{fault.instance_path}: {fault.message}"
            for fault in jsonschema_rs.Draft202012Validator(schema).iter_errors(body["example"])
        ]
        assert faults == []


def undescribed(name: str, schema: dict) -> Iterator[str]:
    """Members without a description, of a schema and of those inside it."""
    for field, member in schema.get("properties", {}).items():
        if not member.get("description") and not SCHEMAS.get(member.get("$ref", "").rpartition("/")[2], {}).get(
            "description"
        ):
            yield f"{name}.{field}"
        yield from undescribed(f"{name}.{field}", member)
    for inner in (schema.get("items"), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(inner, dict):
            yield from undescribed(f"{name}[]", inner)


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_object_and_each_of_its_fields_is_described(name):
    assert SCHEMAS[name].get("description"), "give the class a docstring"
    assert list(undescribed(name, SCHEMAS[name])) == [], "give each a Field(description=…)"


def test_a_form_is_described_too():
    forms = [
        (operation["operationId"], body["schema"])
        for _, _, operation in operations(DOCUMENT)
        for body in operation.get("requestBody", {}).get("content", {}).values()
        if "properties" in body["schema"]
    ]
    assert [field for name, schema in forms for field in undescribed(name, schema)] == []
    assert "uploadFile" in dict(forms)


class Page(HTMLParser):
    """What a page refers to, and what its anchors are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.targets: set[str] = set()
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in {"href", "src"}:
                self.targets.add(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(name)


@pytest.fixture
async def page(outside):
    answer = await outside.get("/docs")
    assert answer.status_code == 200
    return answer


async def test_the_page_has_every_operation_and_object(page):
    ids = Page(page.text).ids
    assert len(set(ids)) == len(ids)
    wanted = {operation["operationId"] for _, _, operation in operations(DOCUMENT)} | {
        f"object-{name}" for name in SCHEMAS
    }
    assert wanted - set(ids) == set()


async def test_the_page_needs_nothing_from_elsewhere(page, outside):
    found = Page(page.text)
    assert {target for target in found.targets if not target.startswith("#")} == {"docs/style.css", "openapi.json"}
    assert {target[1:] for target in found.targets if target.startswith("#")} <= set(found.ids)
    assert "script" not in found.tags
    assert found.inline == []
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
    style = await outside.get("/docs/style.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert not re.search(r"@import|url\(", style.text)


async def test_the_document_is_served(outside):
    answer = await outside.get("/openapi.json")
    assert answer.json() == DOCUMENT
