"""/docs: the OpenAPI document as a page to read. No scripts, nothing fetched from elsewhere: it needs no network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from milepost.api.document import operations
from milepost.api.words import Json, curl, html, kind, literal, paragraphs, parameters, pretty

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

PAGES = Path(__file__).with_name("pages")
#: Nothing but our own style sheet: what is in the document cannot become a script.
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

router = APIRouter(prefix="/docs", include_in_schema=False)


@router.get("")
def page(request: Request) -> HTMLResponse:
    return HTMLResponse(render(request.app.openapi()), headers={"content-security-policy": POLICY})


@router.get("/style.css")
def style() -> FileResponse:
    return FileResponse(PAGES / "docs.css", media_type="text/css")


def render(document: Json) -> str:
    """The page of a document."""
    groups: dict[str, list[tuple[str, str, Json]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, method, operation in operations(document):
        groups.setdefault(operation["tags"][0], []).append((path, method, operation))
    texts = {tag["name"]: tag["description"] for tag in document["tags"]}
    return _template().render(document=document, groups=groups, texts=texts)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "kind": _kind,
        "words": _words,
        "paragraphs": paragraphs,
        "literal": literal,
        "pretty": pretty,
    }
    environment.globals |= {"curl": curl, "parameters": parameters}
    return environment.get_template("docs.html")


def _kind(schema: Json) -> Markup:
    from markupsafe import Markup

    return Markup(html(kind(schema, _anchor)))  # noqa: S704 (`html` has escaped it)


def _words(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(html(" ".join(text.split())))  # noqa: S704 (`html` has escaped it)


def _anchor(name: str) -> str:
    return f"#object-{name}"
