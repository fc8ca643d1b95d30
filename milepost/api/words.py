"""A schema of the OpenAPI document in words, for the pages that show it: /docs and the reference.

The words are Markdown of a small kind (code, emphasis, links), which `html` turns into HTML.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import orjson

Json = dict[str, Any]
#: From the name of a schema to where its page or paragraph is.
Link = Callable[[str], str]

_SPAN = re.compile(r"`(?P<code>[^`]+)`|\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)|\*(?P<word>\w+)\*")


def kind(schema: Json, link: Link) -> str:
    """What a value of the schema is: "*integer*, 1 to 50", "array of [File](…)", "`asc` or `desc`"."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}]({link(name)})"
    if members := schema.get("anyOf") or schema.get("oneOf") or _by_type(schema):
        return " or ".join(dict.fromkeys(kind(member, link) for member in members))
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{literal(value)}`" for value in schema.get("enum") or [schema["const"]])
    if schema.get("type") == "array":
        items = f"array of {kind(schema['items'], link)}" if schema.get("items") else "*array*"
        return items + _bounds(schema)
    name = "file" if schema.get("format") == "binary" else schema.get("type", "any")
    return f"*{name}*{_bounds(schema)}"


def _by_type(schema: Json) -> list[Json]:
    """A schema of several types as one schema for each."""
    return [{**schema, "type": word} for word in schema["type"]] if isinstance(schema.get("type"), list) else []


def literal(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


_RANGES = (("minimum", "maximum", ""), ("minLength", "maxLength", " character"), ("minItems", "maxItems", " item"))


def _bounds(schema: Json) -> str:
    found = "".join(_range(schema.get(least), schema.get(most), unit) for least, most, unit in _RANGES)
    if "exclusiveMinimum" in schema:
        found += f", above {schema['exclusiveMinimum']:g}"
    return found


def _range(least: float | None, most: float | None, unit: str) -> str:
    if least is None and most is None:
        return ""
    last = most if most is not None else least
    unit += "s" if unit and last != 1 else ""
    if least is None or most is None:
        return f", at {'least' if most is None else 'most'} {_number(last or 0)}{unit}"
    return f", {_number(least)} to {_number(most)}{unit}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def paragraphs(text: str) -> list[str]:
    """A docstring's paragraphs, each on one line."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def html(text: str) -> str:
    """Markdown of the small kind as HTML. All else is escaped."""
    pieces, end = [], 0
    for span in _SPAN.finditer(text):
        pieces += [escape(text[end : span.start()]), _tag(span)]
        end = span.end()
    return "".join([*pieces, escape(text[end:])])


def _tag(span: re.Match[str]) -> str:
    if span["code"]:
        return f"<code>{escape(span['code'])}</code>"
    if span["word"]:
        return f"<em>{span['word']}</em>"
    return f'<a href="{escape(span["target"])}">{escape(span["text"])}</a>'


def pretty(value: object) -> str:
    """JSON for people; what is text is shown as it is."""
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def curl(path: str, method: str, operation: Json) -> str:
    """The call as a shell command, with the examples of its parameters and body."""
    for parameter in parameters(operation, "path"):
        path = path.replace(f"{{{parameter['name']}}}", str(example(parameter)))
    words = [f'curl "$OPENAI_BASE_URL{path.removeprefix("/v1")}" -H "Authorization: Bearer $OPENAI_API_KEY"']
    words += [f"-X {method.upper()}"] if method not in {"get", "post"} or "requestBody" not in operation else []
    words = [word for word in words if word != "-X GET"]
    content = operation.get("requestBody", {}).get("content", {})
    for type_, body in content.items():
        if type_ == "application/json":
            words += [f"-H 'Content-Type: {type_}'", f"-d {shlex.quote(orjson.dumps(body.get('example')).decode())}"]
        if type_ == "multipart/form-data":
            words += [f"-F {shlex.quote(f'{name}={value}')}" for name, value in _form(body)]
    return " \\\n  ".join(words)


def _form(body: Json) -> Iterator[tuple[str, Any]]:
    """The fields of a form's example; a file is sent from the folder one is in."""
    fields = body["schema"].get("properties", {})
    for name, value in (body.get("example") or {}).items():
        is_file = fields.get(name, {}).get("format") == "binary" or "contentMediaType" in fields.get(name, {})
        yield name, f"@{value}" if is_file else value


def parameters(operation: Json, place: str) -> list[Json]:
    return [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == place]


def example(parameter: Json) -> Any:
    return parameter.get("example") or (parameter["schema"].get("examples") or [parameter["name"].upper()])[0]
