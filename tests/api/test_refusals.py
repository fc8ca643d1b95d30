"""Bad requests, over the wire: status, param, code, and a sentence with the value found and what to do."""

import re
from pathlib import Path

import openai
import pytest
from sqlalchemy import insert, select, update

from milepost.api.refusals import NOT_SERVED
from milepost.jobs import ledger
from milepost.store import schema
from tests.api.conftest import BASE, NOW
from tests.api.fakes import checkpoint_folder
from tests.api.world import served_document

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


#: Bodies that do not fit.
BODIES = [
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
    (CHAT, part("video"), "messages[0].content[1].type", "invalid_value", "Invalid value: 'video' for 'messages[0].content[1].type'. Supported values are: 'text', 'refusal'"),
    (CHAT, chat(temperature=3), "temperature", "decimal_above_max_value", "Invalid 'temperature': above maximum value. Expected a value <= 2, but got 3 instead."),
    (CHAT, chat(temperature=-0.5), "temperature", "decimal_below_min_value", "Invalid 'temperature': below minimum value. Expected a value >= 0, but got -0.5 instead."),
    (CHAT, chat(temperature="hot"), "temperature", "invalid_type", "Invalid type for 'temperature': expected a decimal, but got a string instead."),
    (CHAT, chat(top_p=1.1), "top_p", "decimal_above_max_value", "Invalid 'top_p'"),
    (CHAT, chat(n=0), "n", "integer_below_min_value", "Invalid 'n': below minimum value. Expected a value >= 1, but got 0 instead."),
    (CHAT, chat(n=129), "n", "integer_above_max_value", "Invalid 'n'"),
    (CHAT, chat(n="3"), "n", "invalid_type", "Invalid type for 'n': expected an integer, but got a string instead."),
    (CHAT, chat(n=True), "n", "invalid_type", "Invalid type for 'n': expected an integer, but got a boolean instead."),
    (CHAT, chat(temperature=True), "temperature", "invalid_type", "Invalid type for 'temperature': expected a decimal, but got a boolean instead."),
    (CHAT, chat(stream="true"), "stream", "invalid_type", "Invalid type for 'stream': expected a boolean, but got a string instead."),
    (CHAT, chat(stream=1), "stream", "invalid_type", "Invalid type for 'stream': expected a boolean, but got an integer instead."),
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
    (CHAT, chat(response_format={"type": "yaml"}), "response_format.type", "invalid_value", "Invalid value: 'yaml' for 'response_format.type'. Supported values are: 'text', 'json_object', 'json_schema'."),
    (CHAT, chat(top_logprobs=2), "top_logprobs", None, "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled. Set 'logprobs' to true"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", "integer_above_max_value", "Invalid 'top_logprobs': above maximum value. Expected a value <= 20, but got 21 instead."),
    (CHAT, chat(frequency_penalty=2.5), "frequency_penalty", "decimal_above_max_value", "Invalid 'frequency_penalty'"),
    (CHAT, chat(presence_penalty=-3), "presence_penalty", "decimal_below_min_value", "Invalid 'presence_penalty'"),
    (CHAT, chat(logit_bias={"5": 101}), "logit_bias.5", "decimal_above_max_value", "Invalid 'logit_bias.5'"),
    (CHAT, chat(logit_bias={"a": 1}), "logit_bias.a", "invalid_type", "Invalid type for 'logit_bias.a': expected an integer, but got a string instead."),
    (COMPLETIONS, {"model": BASE}, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."),
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
    (JOBS, job(hyperparameters={"n_epochs": "3"}), "hyperparameters.n_epochs", "invalid_value", "Invalid value for 'hyperparameters.n_epochs': '3'. Input should be 'auto'; or Input should be a valid integer."),
    (JOBS, job(seed=True), "seed", "invalid_type", "Invalid type for 'seed': expected an integer, but got a boolean instead."),
    (JOBS, job(hyperparameters={"n_epochs": 99}), "hyperparameters.n_epochs", "invalid_value", "Invalid value for 'hyperparameters.n_epochs': 99. Input should be 'auto'; or Input should be less than or equal to 50."),
    (JOBS, job(method={"type": "supervised", "supervised": {"hyperparameters": {"epochs": 3}}}), "method.supervised.hyperparameters.epochs", "unknown_parameter", "Unknown parameter: 'method.supervised.hyperparameters.epochs'. Did you mean `n_epochs`?"),
    (JOBS, job(method={"type": "magic"}), "method.type", "invalid_value", "Invalid value: 'magic' for 'method.type'. Supported values are: 'supervised', 'dpo' or 'reinforcement'."),
    (JOBS, job(method={"type": "dpo", "dpo": {"hyperparameters": {"lora_rnak": 8}}}), "method.dpo.hyperparameters.lora_rnak", "unknown_parameter", "Unknown parameter: 'method.dpo.hyperparameters.lora_rnak'. Did you mean `lora_rank`?"),
    (JOBS, job(hyperparameters={"colour": "red"}), "hyperparameters.colour", "unknown_parameter", "Unknown parameter: 'hyperparameters.colour'."),
    (JOBS, job(method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}), "method.dpo.hyperparameters.beta", "invalid_value", "Invalid value for 'method.dpo.hyperparameters.beta': 3. Input should be 'auto'; or Input should be less than or equal to 2."),
    (JOBS, job(hyperparameters={"lora_dropout": 1}), "hyperparameters.lora_dropout", "invalid_value", "Invalid value for 'hyperparameters.lora_dropout': 1. Input should be 'auto'; or Input should be less than 1."),
    (JOBS, job(metadata={"a": 1}), "metadata.a", "invalid_type", "Invalid type for 'metadata.a': expected a string, but got an integer instead."),
    (JOBS, job(metadata={str(n): "x" for n in range(17)}), "metadata", "object_above_max_length", "Invalid 'metadata': object too long."),
    (JOBS, job(metadata={"a": "x" * 513}), "metadata.a", "string_above_max_length", "Invalid 'metadata.a': string too long. Expected a string with maximum length 512, but got a string with length 513 instead."),
    (JOBS, job(metadata={"k" * 65: "x"}), "metadata." + "k" * 65, "string_above_max_length", "Invalid 'metadata.kkk"),
    (JOBS, job(metadata=["a"]), "metadata", "invalid_type", "Invalid type for 'metadata': expected an object, but got an array instead."),
    (JOBS, job(metadata={"a": None}), "metadata.a", "invalid_type", "Invalid type for 'metadata.a': expected a string, but got null instead."),
    (JOBS, job(suffix=""), "suffix", "string_below_min_length", "Invalid 'suffix': string too short."),
    (JOBS, job(suffix=7), "suffix", "invalid_type", "Invalid type for 'suffix': expected a string, but got an integer instead."),
    (JOBS, job(suffix="日本"), "suffix", "invalid_value", "Invalid value for 'suffix': '日本' has nothing that can stand in the name of a model."),
    (JOBS, job(seed=2**31), "seed", "integer_above_max_value", "Invalid 'seed': above maximum value. Expected a value <= 2147483647, but got 2147483648 instead."),
    (JOBS, job(seed=1.5), "seed", "invalid_type", "Invalid type for 'seed': expected an integer, but got a decimal instead."),
    (JOBS, job(integrations={"type": "wandb"}), "integrations", "invalid_type", "Invalid type for 'integrations': expected an array, but got an object instead."),
    (JOBS, job(integrations=["wandb"]), "integrations[0]", "invalid_type", "Invalid type for 'integrations[0]': expected an object, but got a string instead."),
    (JOBS, job(integrations=[{"type": "mlflow", "mlflow": {}}]), "integrations[0].type", "invalid_value", "Invalid value: 'mlflow' for 'integrations[0].type'. Supported values are: 'wandb'."),
    (JOBS, job(integrations=[{"type": "wandb"}]), "integrations[0].wandb", "missing_required_parameter", "Missing required parameter: 'integrations[0].wandb'."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {}}]), "integrations[0].wandb.project", "missing_required_parameter", "Missing required parameter: 'integrations[0].wandb.project'."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": ""}}]), "integrations[0].wandb.project", "string_below_min_length", "Invalid 'integrations[0].wandb.project': string too short."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": "my/pro ject"}}]), "integrations[0].wandb.project", "invalid_value", "Invalid value for 'integrations[0].wandb.project': 'my/pro ject'. Weights & Biases allows no / in the name of a project."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": "p"}}, {"type": "wandb", "wandb": {"project": "a:b\\c"}}]), "integrations[1].wandb.project", "invalid_value", "Invalid value for 'integrations[1].wandb.project': 'a:b\\\\c'. Weights & Biases allows no : \\ in the name of a project."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": " \t"}}]), "integrations[0].wandb.project", "invalid_value", "Invalid value for 'integrations[0].wandb.project': ' \\t'. A project's name has more than blanks."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": "p" * 129}}]), "integrations[0].wandb.project", "string_above_max_length", "Invalid 'integrations[0].wandb.project': string too long. Expected a string with maximum length 128, but got a string with length 129 instead."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": "p", "tags": [1]}}]), "integrations[0].wandb.tags[0]", "invalid_type", "Invalid type for 'integrations[0].wandb.tags[0]': expected a string, but got an integer instead."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": "p", "key": "k"}}]), "integrations[0].wandb.key", "unknown_parameter", "Unknown parameter: 'integrations[0].wandb.key'."),
    (JOBS, job(integrations=[{"type": "wandb", "wandb": {"project": "p"}}] * 6), "integrations", "array_above_max_length", "Invalid 'integrations': array too long. Expected an array with maximum length 5, but got an array with length 6 instead."),
    (JOBS, job(method="supervised"), "method", "invalid_type", "Invalid type for 'method': expected an object, but got a string instead."),
    (JOBS, job(method={"type": "reinforcement", "reinforcement": {"grader": {}}}), "method", None, "The method `reinforcement` is not trained here yet. Methods: dpo, supervised"),
    (JOBS, job(method={"dpo": {"hyperparameters": {"beta": 0.5}}}), "method.type", "missing_required_parameter", "Missing required parameter: 'method.type'."),
    (JOBS, job(method={"supervised": {}}), "method.type", "missing_required_parameter", "Missing required parameter: 'method.type'."),
    (JOBS, job(method={"reinforcement": {}}), "method.type", "missing_required_parameter", "Missing required parameter: 'method.type'."),
    (JOBS, job(method={"type": None, "dpo": {}}), "method.type", "invalid_value", "Invalid value: None for 'method.type'. Supported values are: 'supervised', 'dpo' or 'reinforcement'."),
    (JOBS, job(method={"type": "supervised", "dpo": {"hyperparameters": {"beta": 0.5}}}), "method.supervised", "missing_required_parameter", "Missing required parameter: 'method.supervised'."),
    (JOBS, job(method={"type": "dpo", "supervised": {}, "dpo": None}), "method.dpo", "missing_required_parameter", "Missing required parameter: 'method.dpo'."),
    (JOBS, job(hyperparameters=3), "hyperparameters", "invalid_type", "Invalid type for 'hyperparameters': expected an object, but got an integer instead."),
    (JOBS, job(validation_file=["file-a"]), "validation_file", "invalid_type", "Invalid type for 'validation_file': expected a string, but got an array instead."),
    (JOBS, job(model="ft:nobody:x::12345678"), "model", "model_not_available", "Model ft:nobody:x::12345678 does not exist or you do not have access to it."),
]  # fmt: skip


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
NOT_JSON = "We could not parse the JSON body of your request. (HINT:"


def form(*parts: bytes) -> bytes:
    """A form of raw parts, each its headers' rest and its content."""
    return b"".join(b"--x\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--x--\r\n"


PURPOSE = b'name="purpose"\r\n\r\nuser_data'
FILE = b'name="file"; filename="a.txt"\r\n\r\nabc'

#: All else that can be wrong: the request, and what comes back. `{file}` and the like are things of `things`.
OTHERS = [
    # request, status, param, code, message
    # what is not there, or not yours
    ("GET /files/file-nobody", None, 404, "id", None, "No such File object: file-nobody"),
    ("DELETE /files/file-nobody", None, 404, "id", None, "No such File object: file-nobody"),
    ("GET /files/file-nobody/content", None, 404, "id", None, "No such File object: file-nobody"),
    ("GET /files/{deleted_file}", None, 404, "id", None, "No such File object: {deleted_file}"),
    ("GET /files/{deleted_file}/content", None, 404, "id", None, "No such File object: {deleted_file}"),
    ("DELETE /files/{deleted_file}", None, 404, "id", None, "No such File object: {deleted_file}"),
    ("GET /files/{foreign_file}", None, 404, "id", None, "No such File object: {foreign_file}"),
    ("GET /files/{foreign_file}/content", None, 404, "id", None, "No such File object: {foreign_file}"),
    ("DELETE /files/{foreign_file}", None, 404, "id", None, "No such File object: {foreign_file}"),
    ("GET /fine_tuning/jobs/ftjob-nobody", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-nobody"),
    ("GET /fine_tuning/jobs/ftjob-nobody/events", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-nobody"),
    ("GET /fine_tuning/jobs/ftjob-nobody/checkpoints", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-nobody"),
    ("POST /fine_tuning/jobs/ftjob-nobody/cancel", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: ftjob-nobody"),
    ("GET /fine_tuning/jobs/{foreign_job}", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: {foreign_job}"),
    ("GET /fine_tuning/jobs/{foreign_job}/events", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: {foreign_job}"),
    ("POST /fine_tuning/jobs/{foreign_job}/cancel", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: {foreign_job}"),
    ("GET /models/nobody", None, 404, "model", "model_not_found", "The model 'nobody' does not exist"),
    ("GET /models/{foreign_model}", None, 404, "model", "model_not_found", "The model '{foreign_model}' does not exist"),
    ("DELETE /models/{foreign_model}", None, 404, "model", "model_not_found", "The model '{foreign_model}' does not exist"),
    ("GET /models/{deleted_model}", None, 404, "model", "model_not_found", "The model '{deleted_model}' was deleted on 2026"),
    ("DELETE /models/{deleted_model}", None, 404, "model", "model_not_found", "The model '{deleted_model}' was deleted on 2026"),
    ("POST /chat/completions", chat(model="nobody"), 404, None, "model_not_found", "The model `nobody` does not exist or you do not have access to it."),
    ("POST /chat/completions", chat(model="{foreign_model}"), 404, None, "model_not_found", "The model `{foreign_model}` does not exist or you do not have access to it."),
    ("POST /fine_tuning/jobs", job(training_file="{deleted_file}"), 400, "training_file", None, "No such File object: {deleted_file} (deleted at 2026-09-21 14:13:20 UTC). Upload it with"),
    ("POST /fine_tuning/jobs", job(training_file="{foreign_file}"), 400, "training_file", None, "No such File object: {foreign_file}. Upload it with"),
    ("POST /fine_tuning/jobs", job(training_file="{file}", validation_file="{foreign_file}"), 400, "validation_file", None, "No such File object: {foreign_file}. Upload it with"),
    ("POST /fine_tuning/jobs", job(training_file="{file}", hyperparameters={"lora_targets": ["q_porj"]}), 400, "lora_targets", "invalid_value", "Invalid value: 'q_porj' for 'lora_targets', which `tiny-random-llama` has no module of. Supported values are: 'down_proj', "),
    ("POST /fine_tuning/jobs", job(training_file="{file}", hyperparameters={"lora_targets": ["q_proj", "v_proj", "q_proj"]}), 400, "lora_targets", "invalid_value", "Invalid value for 'lora_targets': 'q_proj' is named twice. Name each module once"),
    # a state in which it cannot be
    ("POST /fine_tuning/jobs/{cancelled_job}/cancel", None, 400, "status", None, "Job `{cancelled_job}` is cancelled and cannot"),
    ("DELETE /models/tiny-random-llama", None, 400, "model", None, "The model 'tiny-random-llama' is not a tuned model; only those can be deleted"),
    ("DELETE /models/gpt-4o-mini", None, 400, "model", None, "The model 'gpt-4o-mini' is not a tuned model; only those can be deleted"),
    # URLs
    ("GET /nothing", None, 404, None, None, "Invalid URL (GET /v1/nothing)"),
    ("POST /fine_tunes", None, 404, None, None, "Invalid URL (POST /v1/fine_tunes)"),
    ("GET /files/", None, 404, None, None, "Invalid URL (GET /v1/files/)"),
    ("GET /Files", None, 404, None, None, "Invalid URL (GET /v1/Files)"),
    ("PUT /files", None, 405, None, None, "Invalid method for URL (PUT /v1/files). Its methods: GET, POST."),
    ("PATCH /files/{file}", None, 405, None, None, "Invalid method for URL (PATCH /v1/files/{file}). Its methods: GET, DELETE."),
    ("DELETE /fine_tuning/jobs/{job}", None, 405, None, None, "Invalid method for URL (DELETE /v1/fine_tuning/jobs/{job}). Its methods: GET."),
    ("GET /fine_tuning/jobs/{job}/cancel", None, 405, None, None, "Invalid method for URL (GET /v1/fine_tuning/jobs/{job}/cancel). Its methods: POST."),
    # tricks with paths: an id is looked up, and nothing else
    ("GET /files/..%2F..%2Fetc%2Fpasswd", None, 404, None, None, "Invalid URL"),
    ("GET /files/..%2F..%2Fetc%2Fpasswd/content", None, 404, None, None, "Invalid URL"),
    ("GET /files/%2e%2e/content", None, 404, "id", None, "No such File object: .."),
    ("GET /files/{file}%0A", None, 404, "id", None, "No such File object: {file}"),
    ("GET /files/{file}%20", None, 404, "id", None, "No such File object: {file} "),
    ("GET /files/%27%20OR%201%3D1", None, 404, "id", None, "No such File object: ' OR 1=1"),
    ("GET /fine_tuning/jobs/%25", None, 404, "fine_tune_id", "fine_tune_not_found", "Could not find fine tune: %"),
    ("GET /models/..%2Ffiles", None, 404, "model", "model_not_found", "The model '../files' does not exist"),
    ("GET /models/%F0%9F%92%A5", None, 404, "model", "model_not_found", "The model '\U0001f4a5' does not exist"),
    # queries
    ("GET /files?limit=10001", None, 400, "limit", "integer_above_max_value", "Invalid 'limit': above maximum value. Expected a value <= 10000, but got '10001'"),
    ("GET /files?limit=99999999999999999999999", None, 400, "limit", "integer_above_max_value", "Invalid 'limit': above maximum value. Expected a value <= 10000"),
    ("GET /files?limit=many", None, 400, "limit", "invalid_type", "Invalid type for 'limit': expected an integer, but got a string instead."),
    ("GET /files?limit=", None, 400, "limit", "invalid_type", "Invalid type for 'limit': expected an integer, but got a string instead."),
    ("GET /files?limit=1.5", None, 400, "limit", "invalid_type", "Invalid type for 'limit': expected an integer, but got a string instead."),
    ("GET /files?order=up", None, 400, "order", "invalid_value", "Invalid value: 'up' for 'order'. Supported values are: 'asc' or 'desc'."),
    ("GET /fine_tuning/jobs?limit=-1", None, 400, "limit", "integer_below_min_value", "Invalid 'limit': below minimum value."),
    ("GET /fine_tuning/jobs?limit=2147483648", None, 400, "limit", "integer_above_max_value", "Invalid 'limit': above maximum value."),
    ("GET /fine_tuning/jobs/{job}/events?limit=-1", None, 400, "limit", "integer_below_min_value", "Invalid 'limit': below minimum value."),
    ("GET /fine_tuning/jobs/{job}/checkpoints?limit=x", None, 400, "limit", "invalid_type", "Invalid type for 'limit'"),
    ("GET /fine_tuning/jobs?metadata=null&metadata[a]=b", None, 400, "metadata", None, "Give either metadata=null or metadata[key]=value, not both"),
    ("GET /fine_tuning/jobs?metadata=team", None, 400, "metadata", "invalid_value", "Invalid value for 'metadata': 'team'. Give metadata[key]="),
    ("GET /fine_tuning/jobs?metadata[a]=b&metadata[a]=c", None, 400, "metadata", "invalid_value", "metadata[a] is given with two values: no job has both"),
    # bodies that are no JSON object
    *[
        (f"POST {path}", (content, headers), 400, None, None, NOT_JSON)
        for path in (CHAT, JOBS, "/completions")
        for content, headers in (
            (b"", JSON),
            (b"{'model': 'x'}", JSON),
            (b'{"model": "x"', JSON),
            (b'"text"', JSON),
            (b"[]", JSON),
            (b"null", JSON),
            (b"\xff\xfe\xfa", JSON),
            (b"[" * 100_000, JSON),
            (b'{"n": ' + b"1" * 5000 + b"}", JSON),
            (b'{"seed": NaN}', JSON),
            (b"model=x", {"content-type": "application/x-www-form-urlencoded"}),
            (b'{"model": "x"}', {"content-type": "text/plain"}),
        )
    ],
    # forms that do not fit
    ("POST /files", (b"", {}), 400, "file", None, "Expected a multipart/form-data body with the file in its part 'file', but the Content-Type is missing"),
    ("POST /files", (b'{"purpose": "fine-tune"}', JSON), 400, "file", None, "Expected a multipart/form-data body with the file in its part 'file', but the Content-Type is 'application/json'"),
    ("POST /files", (b"nothing", {"content-type": "multipart/form-data"}), 400, None, None, "We could not parse the multipart form of your request"),
    ("POST /files", (b"--y\r\n", FORM), 400, None, None, "We could not parse the multipart form of your request"),
    ("POST /files", (form(PURPOSE), FORM), 400, "file", "missing_required_parameter", "Missing required parameter: 'file'."),
    ("POST /files", (form(FILE), FORM), 400, "purpose", "missing_required_parameter", "Missing required parameter: 'purpose'."),
    ("POST /files", (form(PURPOSE, b'name="file"\r\n\r\nabc'), FORM), 400, "file", "missing_required_parameter", "Missing required parameter: 'file'. Send it as a part with a filename"),
    ("POST /files", (form(FILE, b'name="purpose"\r\n\r\ntuning'), FORM), 400, "purpose", "invalid_value", "Invalid value: 'tuning' for 'purpose'. Supported values are: 'assistants'"),
    ("POST /files", (form(FILE, b'name="purpose"\r\n\r\n'), FORM), 400, "purpose", "invalid_value", "Invalid value: '' for 'purpose'."),
    ("POST /files", (form(FILE, b'name="purpose"\r\n\r\nfine-tune-results'), FORM), 400, "purpose", None, "Files of purpose 'fine-tune-results' are made by jobs"),
    ("POST /files", (form(FILE, b'name="purpose"\r\n\r\nfine-tune'), FORM), 400, "file", None, "Expected file to have JSONL format, where every line is a JSON dictionary. Line 1 is not a dictionary"),
    ("POST /files", (form(FILE, PURPOSE, b'name="colour"\r\n\r\nred'), FORM), 400, None, None, "Unrecognized request argument supplied: colour"),
    ("POST /files", (form(FILE, PURPOSE, b'name="expires_after[seconds]"\r\n\r\n5'), FORM), 400, "expires_after[seconds]", "integer_below_min_value", "Invalid 'expires_after[seconds]': below minimum value."),
    ("POST /files", (form(FILE, PURPOSE, b'name="expires_after[seconds]"\r\n\r\n99999999'), FORM), 400, "expires_after[seconds]", "integer_above_max_value", "Invalid 'expires_after[seconds]': above maximum value."),
    ("POST /files", (form(FILE, PURPOSE, b'name="expires_after[anchor]"\r\n\r\nbirth'), FORM), 400, "expires_after[anchor]", "invalid_value", "Invalid value: 'birth' for 'expires_after[anchor]'. Supported values are: 'created_at'."),
]  # fmt: skip

CASES = [
    *((f"POST {path}", body, 400, param, code, message) for path, body, param, code, message in BODIES),
    *OTHERS,
]


@pytest.fixture
async def things(request, client, database, tmp_path) -> dict[str, str]:
    """Things of this project and another's, some of them deleted or ended; made where a case names one."""
    if not re.search(r"\{\w+\}", f"{request.getfixturevalue('call')}{request.getfixturevalue('body')}"):
        return {}
    line = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'
    found = {"file": (await client.files.create(file=("a.jsonl", line * 12), purpose="fine-tune")).id}
    for name in ("job", "cancelled_job", "foreign_job"):
        found[name] = (await client.fine_tuning.jobs.create(model=BASE, training_file=found["file"])).id
    for name in ("deleted_file", "foreign_file"):
        found[name] = (await client.files.create(file=("a.txt", b"a"), purpose="user_data")).id
    for name, job_name in (("deleted_model", "job"), ("foreign_model", "foreign_job")):
        folder = checkpoint_folder(tmp_path / name, 3)
        told = ledger.announce_checkpoint(database, found[job_name], folder, NOW)
        found[name] = told.fine_tuned_model_checkpoint
    await client.fine_tuning.jobs.cancel(found["cancelled_job"])
    await client.files.delete(found["deleted_file"])
    await client.models.delete(found["deleted_model"])
    give_away(database, found)
    return found


def give_away(database, found) -> None:
    """What is called foreign becomes another project's."""
    foreign = ((schema.files, "id", "file"), (schema.jobs, "id", "job"), (schema.checkpoints, "name", "model"))
    with database.transaction() as connection:
        organization = connection.scalar(select(schema.organizations.c.id))
        project = {"id": "proj_b", "organization_id": organization, "name": "B", "created_at": 0}
        connection.execute(insert(schema.projects).values(project))
        for table, key, kind in foreign:
            mine = table.c[key] == found[f"foreign_{kind}"]
            connection.execute(update(table).where(mine).values(project_id="proj_b"))


def filled(value, things):
    """The value with the things' ids for their names in braces."""
    if isinstance(value, dict):
        return {key: filled(member, things) for key, member in value.items()}
    return re.sub(r"\{(\w+)\}", lambda name: things[name[1]], value) if isinstance(value, str) and things else value


@pytest.mark.parametrize(("call", "body", "status", "param", "code", "message"), CASES)
async def test_a_bad_request_is_told_what_and_where(http, things, call, body, status, param, code, message):
    method, path = filled(call, things).split(" ", 1)
    is_raw = isinstance(body, tuple)
    sent = (
        {"content": body[0], "headers": body[1]}
        if is_raw
        else {"json": filled(body, things)}
        if body is not None
        else {}
    )
    answer = await http.request(method, path, **sent)
    error = answer.json()["error"]
    assert error["message"].startswith(filled(message, things))
    assert (answer.status_code, error["type"], error["param"], error["code"]) == (
        status,
        "invalid_request_error",
        param,
        code,
    )


def test_the_table_is_as_long_as_it_was_promised():
    assert len(CASES) >= 80


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
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == (
        "File is larger than the limit of 1048576 bytes. Split it, or send it with `client.uploads`, which takes more"
    )


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


@pytest.mark.parametrize(
    "call",
    [
        lambda sdk: sdk.chat.completions.list(),
        lambda sdk: sdk.chat.completions.retrieve("chatcmpl-1"),
        lambda sdk: sdk.responses.create(model=BASE, input="a"),
        lambda sdk: sdk.embeddings.create(model=BASE, input="a"),
        lambda sdk: sdk.batches.list(),
    ],
)
async def test_a_route_of_openais_that_is_not_served_yet_says_so(client, call):
    with pytest.raises(openai.NotFoundError, match="is not served by Milepost yet") as caught:
        await call(client)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "call",
    [
        lambda organization: organization.users.list(),
        lambda organization: organization.audit_logs.list(),
        lambda organization: organization.projects.rate_limits.list_rate_limits("proj_a"),
        lambda organization: organization.projects.users.create("proj_a", role="member", user_id="user_a"),
        lambda organization: organization.projects.roles.list("proj_a"),
    ],
)
async def test_an_admin_route_of_openais_that_is_not_served_yet_says_so(admin, call):
    with pytest.raises(openai.NotFoundError, match="is not served by Milepost yet"):
        await call(admin.admin.organization)


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
    "/uploads",
    "/uploads/{upload_id}/parts",
    "/uploads/{upload_id}/complete",
    "/uploads/{upload_id}/cancel",
    "/fine_tuning/jobs",
    "/fine_tuning/jobs/{fine_tuning_job_id}",
    "/fine_tuning/jobs/{fine_tuning_job_id}/cancel",
    "/fine_tuning/jobs/{fine_tuning_job_id}/pause",
    "/fine_tuning/jobs/{fine_tuning_job_id}/resume",
    "/fine_tuning/jobs/{fine_tuning_job_id}/events",
    "/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "/fine_tuning/alpha/graders/run",
    "/fine_tuning/alpha/graders/validate",
    "/models",
    "/models/{model}",
    "/chat/completions",
    "/completions",
    "/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions",
    "/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions/{permission_id}",
    "/organization/admin_api_keys",
    "/organization/admin_api_keys/{key_id}",
    "/organization/projects",
    "/organization/projects/{project_id}",
    "/organization/projects/{project_id}/archive",
    "/organization/projects/{project_id}/api_keys",
    "/organization/projects/{project_id}/api_keys/{api_key_id}",
    "/organization/projects/{project_id}/service_accounts",
    "/organization/projects/{project_id}/service_accounts/{service_account_id}",
    "/organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys",
)


def test_what_is_served_is_what_the_openapi_document_says():
    described = {path.removeprefix("/v1") for path in served_document()["paths"]}
    assert described == set(SERVED)


@pytest.mark.parametrize("name", ["File", "Upload", "UploadPart", "UploadRequest", "CompleteRequest", "ExpiresAfter"])
def test_every_field_of_files_and_uploads_is_described(name):
    schema = served_document()["components"]["schemas"][name]
    assert [field for field, said in schema["properties"].items() if not said.get("description")] == []
    assert schema.get("examples") or name == "ExpiresAfter"


def test_every_parameter_and_form_of_files_and_uploads_is_described():
    routes = [
        route
        for path, methods in served_document()["paths"].items()
        if path.startswith(("/v1/files", "/v1/uploads"))
        for route in methods.values()
    ]
    parameters = [parameter for route in routes for parameter in route.get("parameters", ())]
    assert len(parameters) == 12
    assert all(parameter.get("description") for parameter in parameters)
    forms = [
        body["schema"]["properties"]
        for route in routes
        if (body := route.get("requestBody", {}).get("content", {}).get("multipart/form-data"))
    ]
    assert [sorted(fields) for fields in forms] == [
        ["expires_after[anchor]", "expires_after[seconds]", "file", "purpose"],
        ["data"],
    ]
    assert all(field["description"] for fields in forms for field in fields.values())


def test_every_route_is_described():
    routes = [route for methods in served_document()["paths"].values() for route in methods.values()]
    assert all(route["summary"] and route["description"] for route in routes)
    assert not any("422" in route["responses"] for route in routes)


#: SQLite looks for it, and finds nothing; Postgres has no texts with a NUL.
NUL = {False: (404, "No such File object: \x00"), True: (400, "A text in the request has a NUL character")}


async def test_a_nul_names_nothing(http, settings):
    status, message = NUL[settings.database_url is not None]
    answer = await http.get("/files/%00/content")
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)
