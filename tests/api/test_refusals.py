"""Bad requests, over the wire: status, param, code, and a sentence with the value found and what to do."""

import re
from pathlib import Path

import openai
import pytest

from milepost.api.refusals import NOT_SERVED
from tests.api.conftest import BASE

CHAT = "/chat/completions"
COMPLETIONS = "/completions"
JOBS = "/fine_tuning/jobs"


def chat(**fields) -> dict:
    return {"model": BASE, "messages": [{"role": "user", "content": "Who?"}], **fields}


def completion(**fields) -> dict:
    return {"model": BASE, "prompt": "Once", **fields}


def messages(*turns) -> dict:
    return {"model": BASE, "messages": list(turns)}


def job(**fields) -> dict:
    return {"model": BASE, "training_file": "file-nobody", **fields}


def part(kind) -> dict:
    return messages({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind, kind: {}}]})


CASES = [
    # path, body, param, code, message
    (CHAT, {}, "model", "missing_required_parameter", "Missing required parameter: 'model'."),
    (CHAT, {"model": BASE}, "messages", "missing_required_parameter", "Missing required parameter: 'messages'."),
    (CHAT, chat(temprature=1), None, None, "Unrecognized request argument supplied: temprature"),
    (CHAT, chat(model=3), "model", "invalid_type", "Invalid type for 'model': expected a string, but got an integer instead."),
    (CHAT, chat(model=None), "model", "invalid_type", "Invalid type for 'model': expected a string, but got null instead."),
    (CHAT, chat(model=""), "model", "string_below_min_length", "Invalid 'model': string too short. Expected a string with minimum length 1, but got a string with length 0 instead."),
    (CHAT, messages(), "messages", "array_below_min_length", "Invalid 'messages': array too short. Expected an array with minimum length 1, but got an array with length 0 instead."),
    (CHAT, chat(messages="hi"), "messages", "invalid_type", "Invalid type for 'messages': expected an array, but got a string instead."),
    (CHAT, messages("hi"), "messages[0]", "invalid_type", "Invalid type for 'messages[0]': expected an object, but got a string instead."),
    (CHAT, messages({"content": "hi"}), "messages[0].role", "missing_required_parameter", "Missing required parameter: 'messages[0].role'."),
    (CHAT, messages({"role": "bot", "content": "hi"}), "messages[0].role", "invalid_value", "Invalid value: 'bot' for 'messages[0].role'. Supported values are: 'developer', 'system', 'user', 'assistant', 'tool' or 'function'."),
    (CHAT, messages({"role": "user"}), "messages[0].content", "missing_required_parameter", "Missing required parameter: 'messages[0].content'."),
    (CHAT, messages({"role": "user", "content": 3}), "messages[0].content", "invalid_value", "Invalid value for 'messages[0].content': 3. Input should be a valid string; or Input should be a valid tuple."),
    (CHAT, messages({"role": "user", "content": "a", "mood": 1}), "messages[0].mood", "unknown_parameter", "Unknown parameter: 'messages[0].mood'."),
    (CHAT, messages({"role": "tool", "content": "a", "tool_call_id": "c"}), "messages[0].role", "unsupported_parameter", "Unsupported parameter: a message of or to a tool (messages[0]) is not served by Milepost yet. Leave it out"),
    (CHAT, messages({"role": "assistant", "tool_calls": [{}]}), "messages[0].role", "unsupported_parameter", "Unsupported parameter: a message of or to a tool (messages[0])"),
    (CHAT, part("image_url"), "messages[0].content[1].type", "unsupported_parameter", "Unsupported parameter: a content part of type 'image_url' (messages[0].content[1].type) is not served"),
    (CHAT, part("input_audio"), "messages[0].content[1].type", "unsupported_parameter", "Unsupported parameter: a content part of type 'input_audio'"),
    (CHAT, part("video"), "messages[0].content[1]", "invalid_value", "Invalid value: "),
    (CHAT, chat(temperature=3), "temperature", "decimal_above_max_value", "Invalid 'temperature': above maximum value. Expected a value <= 2, but got 3 instead."),
    (CHAT, chat(temperature=-0.5), "temperature", "decimal_below_min_value", "Invalid 'temperature': below minimum value. Expected a value >= 0, but got -0.5 instead."),
    (CHAT, chat(temperature="hot"), "temperature", "invalid_type", "Invalid type for 'temperature': expected a decimal, but got a string instead."),
    (CHAT, chat(top_p=1.1), "top_p", "decimal_above_max_value", "Invalid 'top_p'"),
    (CHAT, chat(n=0), "n", "integer_below_min_value", "Invalid 'n': below minimum value. Expected a value >= 1, but got 0 instead."),
    (CHAT, chat(n=129), "n", "integer_above_max_value", "Invalid 'n'"),
    (CHAT, chat(n=1.5), "n", "invalid_type", "Invalid type for 'n': expected an integer, but got a decimal instead."),
    (CHAT, chat(max_tokens=0), "max_tokens", "integer_below_min_value", "Invalid 'max_tokens'"),
    (CHAT, chat(seed=2**63), "seed", "integer_above_max_value", "Invalid 'seed'"),
    (CHAT, chat(stop=["a"] * 5), "stop", "invalid_value", "Invalid value for 'stop'"),
    (CHAT, chat(stop=[""]), "stop[0]", "string_below_min_length", "Invalid 'stop[0]': string too short."),
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options", None, "The 'stream_options' parameter is only allowed when 'stream' is enabled."),
    (CHAT, chat(tools=[{"type": "function", "function": {"name": "f"}}]), "tools", "unsupported_parameter", "Unsupported parameter: 'tools' is not served by Milepost yet. Leave it out"),
    (CHAT, chat(tool_choice="required"), "tool_choice", "unsupported_parameter", "Unsupported parameter: 'tool_choice'"),
    (CHAT, chat(functions=[{"name": "f"}]), "functions", "unsupported_parameter", "Unsupported parameter: 'functions'"),
    (CHAT, chat(response_format={"type": "json_schema", "json_schema": {"name": "a"}}), "response_format", "unsupported_parameter", "Unsupported parameter: a 'response_format' of type 'json_schema' is not served by Milepost yet. Leave it out; use 'json_object'"),
    (CHAT, chat(response_format={"type": "yaml"}), "response_format", "invalid_value", "Invalid value: {'type': 'yaml'} for 'response_format'. Supported values are: 'text', 'json_object', 'json_schema'."),
    (CHAT, chat(top_logprobs=2), "top_logprobs", None, "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled. Set 'logprobs' to true"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", "integer_above_max_value", "Invalid 'top_logprobs': above maximum value. Expected a value <= 20, but got 21 instead."),
    (CHAT, chat(frequency_penalty=2.5), "frequency_penalty", "decimal_above_max_value", "Invalid 'frequency_penalty'"),
    (CHAT, chat(presence_penalty=-3), "presence_penalty", "decimal_below_min_value", "Invalid 'presence_penalty'"),
    (CHAT, chat(logit_bias={"5": 101}), "logit_bias.5", "decimal_above_max_value", "Invalid 'logit_bias.5'"),
    (CHAT, chat(logit_bias={"a": 1}), "logit_bias.a", "invalid_type", "Invalid type for 'logit_bias.a': expected an integer, but got a string instead."),
    (COMPLETIONS, {"model": BASE}, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."),
    (COMPLETIONS, completion(prompt=""), "prompt", "invalid_value", "Invalid value for 'prompt': ''."),
    (COMPLETIONS, completion(prompt=[[1], "a"]), "prompt[0]", "invalid_value", "Invalid value for 'prompt[0]': [1]."),
    (COMPLETIONS, completion(suffix="x"), "suffix", "unsupported_parameter", "Unsupported parameter: 'suffix'"),
    (COMPLETIONS, completion(n=3, best_of=2), "best_of", None, "'best_of' is 2, fewer than the 3 answers of 'n'. Ask for as many at least"),
    (COMPLETIONS, completion(best_of=2, stream=True), "best_of", None, "The best of several is known only when all have ended."),
    (COMPLETIONS, completion(stream_options={}), "stream_options", None, "The 'stream_options' parameter is only allowed when 'stream' is enabled."),
    (COMPLETIONS, completion(logprobs=6), "logprobs", "integer_above_max_value", "Invalid 'logprobs'"),
    (JOBS, {"model": BASE}, "training_file", "missing_required_parameter", "Missing required parameter: 'training_file'."),
    (JOBS, job(epochs=3), None, None, "Unrecognized request argument supplied: epochs"),
    (JOBS, job(), "training_file", None, "No such File object: file-nobody. Upload it with"),
    (JOBS, job(model="nobody"), "model", "model_not_available", "Model nobody is not available for fine-tuning or does not exist. Fetch the base model on the server first: `milepost pull nobody`."),
    (JOBS, job(suffix="x" * 65), "suffix", "string_above_max_length", "Invalid 'suffix': string too long. Expected a string with maximum length 64, but got a string with length 65 instead."),
    (JOBS, job(seed=-1), "seed", "integer_below_min_value", "Invalid 'seed'"),
    (JOBS, job(hyperparameters={"n_epochs": 99}), "hyperparameters.n_epochs", "invalid_value", "Invalid value for 'hyperparameters.n_epochs': 99. Input should be 'auto'; or Input should be less than or equal to 50."),
    (JOBS, job(method={"type": "supervised", "supervised": {"hyperparameters": {"epochs": 3}}}), "method.supervised.hyperparameters.epochs", "unknown_parameter", "Unknown parameter: 'method.supervised.hyperparameters.epochs'."),
    (JOBS, job(method={"type": "magic"}), "method.type", "invalid_value", "Invalid value: 'magic' for 'method.type'. Supported values are: 'supervised', 'dpo' or 'reinforcement'."),
    (JOBS, job(metadata={"a": 1}), "metadata.a", "invalid_type", "Invalid type for 'metadata.a': expected a string, but got an integer instead."),
    (JOBS, job(metadata={str(n): "x" for n in range(17)}), "metadata", "object_above_max_length", "Invalid 'metadata': object too long."),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param", "code", "message"), CASES)
async def test_a_bad_body_is_a_400_that_says_what_and_where(http, path, body, param, code, message):
    answer = await http.post(path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["message"].startswith(message)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        (
            "/files?limit=10001",
            "limit",
            "Invalid 'limit': above maximum value. Expected a value <= 10000, but got '10001'",
        ),
        ("/files?limit=many", "limit", "Invalid type for 'limit': expected an integer, but got a string instead."),
        ("/files?order=up", "order", "Invalid value: 'up' for 'order'. Supported values are: 'asc' or 'desc'."),
        ("/fine_tuning/jobs?limit=-1", "limit", "Invalid 'limit': below minimum value."),
        (
            "/fine_tuning/jobs?metadata=null&metadata[a]=b",
            "metadata",
            "Give either metadata=null or metadata[key]=value, not both",
        ),
    ],
)
async def test_a_bad_query_is_a_400(http, query, param, message):
    answer = await http.get(query)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
    assert answer.json()["error"]["param"] == param


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{'model': 'x'}", JSON),
        (b"", JSON),
        (b'"text"', JSON),
        (b"model=x", {"content-type": "application/x-www-form-urlencoded"}),
        (b"[" * 100_000, JSON),
        (b"\xff\xfe\xfa", JSON),
        (b'{"n": ' + b"1" * 5000 + b"}", JSON),
    ],
)
@pytest.mark.parametrize("path", [CHAT, JOBS])
async def test_a_body_that_is_no_json_object_is_told_how_to_be_one(http, path, content, headers):
    answer = await http.post(path, content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("We could not parse the JSON body of your request. (HINT:")


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model": "x", "messages": [], "\ud800": 1}',
        rb'{"model": "\ud800", "messages": [{"role": "user", "content": "a"}]}',
        rb'{"model": "x", "messages": [{"role": "user", "content": "a", "\ud800": 1}]}',
        rb'{"model": "x", "messages": [{"role": "\ud800", "content": "a"}]}',
        rb'{"model": "x", "messages": [{"role": "user", "content": "\ud800"}]}',
        rb'{"model": "x", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        rb'{"model": "x", "messages": [{"role": "user", "content": "a"}], "n": 1e999}',
    ],
)
async def test_a_value_that_utf8_or_json_has_no_place_for_is_a_400(http, body):
    answer = await http.post(CHAT, content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "file", "param", "message"),
    [
        ({}, b"x", "purpose", "Missing required parameter: 'purpose'."),
        ({"purpose": "fine-tune"}, None, "file", "Missing required parameter: 'file'."),
        (
            {"purpose": "tuning"},
            b"x",
            "purpose",
            "Invalid value: 'tuning' for 'purpose'. Supported values are: 'assistants'",
        ),
        ({"purpose": "fine-tune-results"}, b"x", "purpose", "Files of purpose 'fine-tune-results' are made by jobs"),
        ({"purpose": "user_data", "colour": "red"}, b"x", None, "Unrecognized request argument supplied: colour"),
        (
            {"purpose": "user_data", "expires_after[seconds]": "5"},
            b"x",
            "expires_after[seconds]",
            "Invalid 'expires_after[seconds]': below minimum value.",
        ),
        ({"purpose": "fine-tune"}, b"\n\n", "file", "The file is empty. Expected one JSON dictionary a line"),
    ],
)
async def test_a_bad_upload_is_a_400(http, fields, file, param, message):
    # a part with no file at all still has to be multipart
    files = {"file": ("a.jsonl", file)} if file is not None else {"other": ("a.jsonl", b"x")}
    answer = await http.post("/files", data=fields, files=files)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
    assert answer.json()["error"]["param"] == param


async def test_an_upload_that_is_no_form_is_told_so(http):
    answer = await http.post("/files", json={"purpose": "fine-tune"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("Expected a multipart/form-data body")


async def test_a_broken_form_is_told_so(http):
    answer = await http.post("/files", content=b"nothing", headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("We could not parse the multipart form of your request")


async def test_too_large_an_upload_is_refused_before_it_is_read(http):
    answer = await http.post("/files", data={"purpose": "user_data"}, files={"file": ("a", b"x" * 2_000_000)})
    assert answer.status_code == 413
    assert answer.json()["error"]["message"].startswith("Maximum content size limit (1114112) exceeded (2000")


async def test_too_large_an_upload_is_cut_off_though_it_does_not_say_its_size(http):
    async def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while True:
            yield b"x" * 100_000

    answer = await http.post("/files", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413


async def test_a_file_over_the_limit_within_a_form_under_it_is_refused(http):
    answer = await http.post("/files", data={"purpose": "user_data"}, files={"file": ("a", b"x" * (1024 * 1024 + 1))})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "File is larger than the limit of 1048576 bytes"


async def test_an_unknown_url_is_named(http):
    answer = await http.post("/fine_tunes")
    assert (answer.status_code, answer.json()) == (
        404,
        {
            "error": {
                "message": "Invalid URL (POST /v1/fine_tunes)",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    )


async def test_a_wrong_method_is_405(http):
    answer = await http.put("/files")
    assert answer.status_code == 405
    assert answer.json()["error"]["message"].startswith("Invalid method for URL (PUT /v1/files).")


@pytest.mark.parametrize(
    "call",
    [
        lambda sdk: sdk.fine_tuning.jobs.pause("ftjob-a"),
        lambda sdk: sdk.fine_tuning.jobs.resume("ftjob-a"),
        lambda sdk: sdk.fine_tuning.checkpoints.permissions.list("ft:a:b:c:d"),
        lambda sdk: sdk.fine_tuning.alpha.graders.run(grader={}, model_sample="a"),
        lambda sdk: sdk.chat.completions.list(),
        lambda sdk: sdk.chat.completions.retrieve("chatcmpl-1"),
        lambda sdk: sdk.responses.create(model=BASE, input="a"),
        lambda sdk: sdk.uploads.create(bytes=1, filename="a", mime_type="text/jsonl", purpose="fine-tune"),
        lambda sdk: sdk.embeddings.create(model=BASE, input="a"),
        lambda sdk: sdk.batches.list(),
    ],
)
async def test_a_route_of_openais_that_is_not_served_yet_says_so(client, call):
    with pytest.raises(openai.NotFoundError, match="is not served by Milepost yet") as caught:
        await call(client)
    assert caught.value.type == "invalid_request_error"


def test_every_route_of_the_sdk_is_served_or_known_not_to_be(app):
    resources = Path(openai.__file__).parent / "resources"
    source = "\n".join(file.read_text() for file in sorted(resources.rglob("*.py")))
    paths = set(
        re.findall(r'_(?:get|post|delete|put|patch|get_api_list)\(\s*(?:path_template\(\s*)?f?"(/[^"?]*)', source)
    )
    served = [re.compile("/v1" + re.sub(r"\{[^}]*\}", "[^/]+", path)) for path in SERVED]
    unknown = [path for path in paths if not any(pattern.fullmatch("/v1" + path) for pattern in [*served, NOT_SERVED])]
    assert len(paths) > 100
    assert unknown == []


SERVED = (
    "/files",
    "/files/{file_id}",
    "/files/{file_id}/content",
    "/fine_tuning/jobs",
    "/fine_tuning/jobs/{fine_tuning_job_id}",
    "/fine_tuning/jobs/{fine_tuning_job_id}/cancel",
    "/fine_tuning/jobs/{fine_tuning_job_id}/events",
    "/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "/models",
    "/models/{model}",
    "/chat/completions",
    "/completions",
)


def test_what_is_served_is_what_the_openapi_document_says(app):
    described = {path.removeprefix("/v1") for path in app.openapi()["paths"]}
    assert described == set(SERVED)


def test_every_route_is_described(app):
    routes = [route for methods in app.openapi()["paths"].values() for route in methods.values()]
    assert all(route["summary"] and route["description"] for route in routes)
    assert not any("422" in route["responses"] for route in routes)
