"""The OpenAPI document: what FastAPI reads off the routes, and what it cannot know.

That is a readable id of each operation, an example of each body, what each operation may refuse with, and the headers
every answer wears. Examples are put together from the examples of the fields; a test holds that nothing is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from milepost.api import envelope

Json = dict[str, Any]

TITLE = "Milepost"
DESCRIPTION = """\
The OpenAI fine-tuning API on your own machines. Routes, fields, ids, errors and paging are OpenAI's; point the
unmodified `openai` SDK here with `OPENAI_BASE_URL` and `OPENAI_API_KEY`.

Every answer that is not a success has one shape, `{"error": {"message", "type", "param", "code"}}`. Lists come in
pages: while `has_more` is true, ask again with `after`, the id of the last item seen. Times are Unix seconds.
"""

#: What stands over the operations of a tag, in the order of the page. Other tags come last.
TAGS = {
    "Files": "Training data and other documents, and the results that jobs leave.",
    "Uploads": "Large files, in parts that may be sent in parallel.",
    "Fine-tuning": "Jobs: create, watch, pause and cancel them; their events and checkpoints.",
    "Graders": "How an answer is scored.",
    "Models": "Everything that answers chat completions.",
    "Chat": "Ask a base model, a tuned model or any checkpoint.",
    "Completions": "Have a base model, a tuned model or any checkpoint continue a text, without a chat template.",
    "Projects and keys": "Projects, which keep things apart, and the keys to them. An admin key is needed.",
}

#: Parameters that many routes have: what they are where the route does not say so, and an example.
PARAMETERS: dict[str, tuple[str, Any]] = {
    "after": ("The id of the last item already seen.", None),
    "limit": ("How many items a page has at most.", 20),
    "order": ("Newest first is the default.", None),
    "file_id": ("The id of the file, `file-…`.", "file-3KrCqTHvXEFUcHLfCSuZ7Ftd"),
    "upload_id": ("The id of the upload, `upload_…`.", "upload_8c1nLz0yJ5qRkVt3WmXe7PbA"),
    "fine_tuning_job_id": ("The id of the job, `ftjob-…`.", "ftjob-4Q9hXKfQvyYtPzLVSLgMdWAB"),
    "model": ("The model's name.", "ft:smollm2-135m-instruct:personal:demo:9uJPbR69"),
    "fine_tuned_model_checkpoint": (
        "The name of the checkpoint, its `fine_tuned_model_checkpoint`.",
        "ft:smollm2-135m-instruct:personal:demo:9uJPavMj:ckpt-step-100",
    ),
    "permission_id": ("The id of the permission, `cp_…`.", "cp_2mQxT7yVbNc4RzLkW9sHfDgJ"),
    "project_id": ("The id of the project, `proj_…`.", "proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"),
    "api_key_id": ("The id of the key, `key_…`.", "key_4f8Qw2nB7xLkZ0cVtYpR1dHs"),
    "key_id": ("The id of the key, `key_…`.", "key_4f8Qw2nB7xLkZ0cVtYpR1dHs"),
    "service_account_id": ("The id of the service account, `svc_acct_…`.", "svc_acct_4f8Qw2nB7xLkZ0cVtYpR1dHs"),
}

#: What an answer to a DELETE calls the thing that the last parameter of the path names.
DELETED = {
    "file_id": "file",
    "model": "model",
    "permission_id": "checkpoint.permission",
    "api_key_id": "organization.project.api_key.deleted",
    "service_account_id": "organization.project.service_account.deleted",
    "key_id": "organization.admin_api_key.deleted",
}

HEADERS = {
    "x-request-id": "Names this answer in the server's log; the SDKs show it as `_request_id`.",
    "openai-processing-ms": "Milliseconds the server took.",
    "openai-version": "The version of OpenAI's API, `2020-10-01`.",
    "openai-organization": "The organisation of this server.",
    "openai-project": "The project of the key that asked; not sent where none was let in.",
}


def operation_id(route: APIRoute) -> str:
    """The summary in one word: "List the events of a job" is `listEventsOfJob`."""
    words: list[str] = re.findall(r"[A-Za-z0-9]+", route.summary or route.name)
    first, *rest = (word for word in words if word not in {"a", "an", "the"})
    return first.lower() + "".join(word[0].upper() + word[1:] for word in rest)


def document(app: FastAPI) -> Json:
    """The whole document; made when it is first asked for."""
    if app.openapi_schema is None:
        made = _named(get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes))
        schemas = made["components"]["schemas"]
        for path, method, operation in operations(made):
            for parameter in operation.get("parameters", ()):
                _describe(parameter)
            if method == "delete":
                _tell_deleted(path, operation)
            for body in _bodies(operation):
                is_bytes = body["schema"].get("format") == "binary"
                body.setdefault("example", CONTENT if is_bytes else example_of(body["schema"], schemas))
            operation["responses"] = _answers(path, method, operation)
        used = {tag for _, _, operation in operations(made) for tag in operation.get("tags", ())}
        made["tags"] = [{"name": tag, "description": TAGS[tag]} for tag in sorted(used & TAGS.keys(), key=_order)]
        made["components"]["headers"] = {
            name: {"description": text, "required": name != "openai-project", "schema": {"type": "string"}}
            for name, text in HEADERS.items()
        }
        app.openapi_schema = made
    return app.openapi_schema


def operations(of: Json) -> Iterator[tuple[str, str, Json]]:
    """(path, method, operation) of all the document has, in its order."""
    return ((path, method, operation) for path, methods in of["paths"].items() for method, operation in methods.items())


def _named(made: Json) -> Json:
    """Generic models under names for people: `JobPage`, where pydantic has `Page_Job_`."""
    named: Json = orjson.loads(re.sub(rb'Page_(\w+?)_(?=")', rb"\1Page", orjson.dumps(made)))
    return named


def _order(tag: str) -> int:
    return list(TAGS).index(tag)


def _describe(parameter: Json) -> None:
    text, example = PARAMETERS.get(parameter["name"], (None, None))
    if text:
        parameter.setdefault("description", text)
    if example is not None and "examples" not in parameter["schema"]:
        parameter.setdefault("example", example)


def _tell_deleted(path: str, operation: Json) -> None:
    last = re.findall(r"\{(\w+)\}", path)[-1]
    body = operation["responses"]["200"]["content"]["application/json"]
    body["example"] = {"id": PARAMETERS[last][1], "object": DELETED[last], "deleted": True}


def _bodies(operation: Json) -> Iterator[Json]:
    """The media types of an operation whose example can be put together."""
    request = operation.get("requestBody", {}).get("content", {})
    answers = [answer.get("content", {}) for status, answer in operation["responses"].items() if "X" not in status]
    for content in (request, *answers):
        yield from (body for kind, body in content.items() if kind != "text/event-stream" and body.get("schema"))


# --- examples ---------------------------------------------------------------------------------------------------------


def example_of(schema: Json, schemas: Mapping[str, Json]) -> Any:
    """An example of a schema: its own, or one put together from those of its members.

    Members that a request may leave out and that have no example are left out.
    """
    schema = _resolved(schema, schemas)
    if given := schema.get("examples") or ([schema["example"]] if "example" in schema else []):
        return _completed(given[0], schema, schemas)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if members := schema.get("anyOf") or schema.get("oneOf"):
        return example_of(next(member for member in members if member.get("type") != "null"), schemas)
    if "properties" in schema:
        return _object_example(schema, schemas)
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas)] if schema.get("items") else []
    return schema.get("default", BARE.get(schema.get("format") or schema.get("type", "")))


#: Of a file, its name; and what stands in it.
FILE = "train.jsonl"
CONTENT = '{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}'
#: Of what says nothing of itself.
BARE = {"binary": FILE, "string": "text", "integer": 1, "number": 1.0, "boolean": True, "object": {}, "null": None}


def _object_example(schema: Json, schemas: Mapping[str, Json]) -> Json:
    required = schema.get("required", ())
    found = {
        name: example_of(member, schemas)
        for name, member in schema["properties"].items()
        if name in required or (_has_example(member, schemas) and not member.get("deprecated"))
    }
    if found.get("object") == "list" and "first_id" in found:  # a page is of its items
        found |= {"first_id": found["data"][0].get("id"), "last_id": found["data"][-1].get("id")}
    return found


def _has_example(schema: Json, schemas: Mapping[str, Json]) -> bool:
    whole = _resolved(schema, schemas)
    return "example" in whole or bool(whole.get("examples"))


def _resolved(schema: Json, schemas: Mapping[str, Json]) -> Json:
    return {**schemas[schema["$ref"].rpartition("/")[2]], **schema} if "$ref" in schema else schema


def _completed(example: Any, schema: Json, schemas: Mapping[str, Json]) -> Any:
    """An example with its nulls, which FastAPI leaves out of the document, and its keys in the schema's order."""
    schema = _resolved(schema, schemas)
    if example is not None and (members := schema.get("anyOf")):
        schema = _resolved(next(member for member in members if member.get("type") != "null"), schemas)
    if isinstance(example, list) and schema.get("items"):
        return [_completed(item, schema["items"], schemas) for item in example]
    if not isinstance(example, dict):
        return example
    members = schema.get("properties", {})
    named = [name for name in members if name in example or name in schema.get("required", ())]
    return {name: _completed(example.get(name), members[name], schemas) for name in named} | {
        name: value for name, value in example.items() if name not in members
    }


# --- answers ----------------------------------------------------------------------------------------------------------


def _has_body(_path: str, _method: str, operation: Json) -> bool:
    return "requestBody" in operation


def _can_misfit(_path: str, method: str, operation: Json) -> bool:
    return method != "get" or any(parameter["in"] == "query" for parameter in operation.get("parameters", ()))


def _names_a_thing(path: str, _method: str, _operation: Json) -> bool:
    return "{" in path or path.endswith("/completions") or "/graders/" in path


def _computes(path: str, _method: str, _operation: Json) -> bool:
    return path.endswith(("/completions", "/graders/run"))


def _keeps_bytes(path: str, method: str, _operation: Json) -> bool:
    return method == "post" and ("/files" in path or "/uploads" in path)


def _always(_path: str, _method: str, _operation: Json) -> bool:
    return True


#: The sentence of a 500, as it is sent; and those of the other refusals that a route of every kind may give.
FAULT = envelope.FAULT.format("req_0123456789abcdef0123456789abcdef")
NO_SUCH_KEY = (
    "Incorrect API key provided: sk-proj-***wxyz. `milepost keys list` shows the keys of this server, "
    "`milepost keys create` makes one."
)


@dataclass(frozen=True, slots=True)
class Refuses:
    """A status that operations may answer with: which do, what it means, and an example."""

    status: int
    which: Callable[[str, str, Json], bool]
    text: str
    message: str
    param: str | None = None
    code: str | None = None


REFUSES = (
    Refuses(
        400,
        _can_misfit,
        "The request does not fit, or not in the present state of things.",
        "Invalid type for 'limit': expected an integer, but got a string instead.",
        "limit",
        "invalid_type",
    ),
    Refuses(401, _always, "There is no key, or not one of this server.", NO_SUCH_KEY, code="invalid_api_key"),
    Refuses(403, _always, "The key is good, but not one for this.", "This takes an admin key (`sk-admin-…`)"),
    Refuses(
        404,
        _names_a_thing,
        "There is no such thing, or not in the key's project.",
        "Could not find fine tune: ftjob-4Q9hXKfQvyYtPzLVSLgMdWAB",
        "fine_tune_id",
        "fine_tune_not_found",
    ),
    Refuses(
        413,
        _has_body,
        "The body is larger than the server takes.",
        "Maximum content size limit (33554432) exceeded (40000000 bytes). Send less, or in parts",
    ),
    Refuses(429, _computes, "Too much is being asked at once; try again later.", "Too many requests wait. Try again"),
    Refuses(500, _always, "A fault of the server's; trying again will not help.", FAULT),
    Refuses(
        503,
        _always,
        "A part of the server is down or coming up; nothing was kept, try again.",
        "The engine stopped before the end of its answer. Try again",
    ),
    Refuses(507, _keeps_bytes, "The disk is full.", "There is no room on the disk for 5000000 bytes more."),
)


def _answers(path: str, method: str, operation: Json) -> Json:
    """The answers of an operation: FastAPI's success, and in place of its 4XX and 5XX what may really come."""
    found = {status: answer for status, answer in operation["responses"].items() if "X" not in status}
    for answer in found.values():
        if answer["description"] == "Successful Response":
            answer["description"] = "What was asked for."
    for row in REFUSES:
        if row.which(path, method, operation):
            kind = envelope.TYPES.get(row.status, "invalid_request_error")
            error = {"message": row.message, "type": kind, "param": row.param, "code": row.code}
            body = {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}, "example": {"error": error}}
            found[str(row.status)] = {"description": row.text, "content": {"application/json": body}}
    for answer in found.values():
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
    return dict(sorted(found.items()))
