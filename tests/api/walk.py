"""Every route of the OpenAPI document, filled in: what the walks of `test_walks` send.

A path parameter's value is looked up by its name in `samples`; a body is made of what its schema says is required.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")

#: Bodies that a schema alone does not make: (method, path) → JSON. Most routes need none.
BODIES: dict[tuple[str, str], Any] = {}


@dataclass(frozen=True)
class Route:
    """One method of one path of the document."""

    method: str
    path: str
    described: Mapping[str, Any]

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{(\w+)\}", self.path))

    def url(self, samples: Mapping[str, str]) -> str:
        """The path with its parameters filled in. A parameter nobody has thought of fails the test that asks."""
        for name in self.parameters:
            assert name in samples, (
                f"{self.method.upper()} {self.path} has the path parameter {{{name}}}, of which there is no sample: add "
                f"one to `samples` in tests/api/test_walks.py, the id of a thing that belongs to the first project"
            )
        return self.path.format_map(samples)

    def body(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """What to give to `httpx2.AsyncClient.request`, so that only the ids in the path can be wrong."""
        content = self.described.get("requestBody", {}).get("content", {})
        if given := BODIES.get((self.method, self.path)):
            return {"json": given}
        if "application/json" in content:
            return {"json": example(content["application/json"]["schema"], document)}
        if "multipart/form-data" in content:
            schema = resolved(content["multipart/form-data"]["schema"], document)
            fields = {name: resolved(schema["properties"][name], document) for name in schema.get("required", ())}
            binary = [name for name, field in fields.items() if is_binary(field)]
            return {
                "files": dict.fromkeys(binary, ("a.jsonl", b"{}")),
                "data": {name: example(field, document) for name, field in fields.items() if name not in binary},
            }
        return {}


def routes(document: Mapping[str, Any]) -> Iterator[Route]:
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield Route(method, path, methods[method])


def example(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    """The smallest value that a schema allows, its own example where it gives one."""
    schema = resolved(schema, document)
    if schema.get("examples"):
        return schema["examples"][0]
    for key in ("example", "const", "default"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example(schema[key][0], document)
    return MAKE[schema.get("type", "object")](schema, document)


MAKE = {
    "object": lambda schema, document: {
        name: example(schema["properties"][name], document) for name in schema.get("required", ())
    },
    "array": lambda schema, document: [example(schema["items"], document)] * schema.get("minItems", 0),
    "string": lambda schema, _: "x" * max(1, schema.get("minLength", 1)),
    "integer": lambda schema, _: schema.get("minimum", 1),
    "number": lambda schema, _: schema.get("minimum", 1),
    "boolean": lambda _, __: False,
    "null": lambda _, __: None,
}


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def is_binary(field: Mapping[str, Any]) -> bool:
    return field.get("format") == "binary" or "contentMediaType" in field
