"""Our resources against the SDK's types, field by field: names, types, values, nulls. DIFFERENCES is all there is.

Each route of the document is compared with the SDK's method of that route, so that a new route needs no row here; what
it does differently does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai._models import validate_type
from openai.types import chat as sdk_chat

from milepost.api.document import operations
from milepost.resources.chat import ChatCompletionChunk
from tests.api import sdk
from tests.api.shapes import Fields, Shape, of_annotation, of_schema, sent, taken
from tests.api.world import served_document

DOCUMENT = served_document()
SCHEMAS = DOCUMENT["components"]["schemas"]

#: Sent, but not as the answer that a route's document shows.
FRAMES = [(ChatCompletionChunk, sdk_chat.ChatCompletionChunk)]

#: Routes that are not OpenAI's.
OURS: dict[tuple[str, str], str] = {}

#: Hyperparameters of ours, which OpenAI lacks.
KNOBS = (
    *("learning_rate", "lr_scheduler", "warmup_ratio", "weight_decay", "max_grad_norm"),
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
    *("max_length", "early_stopping_patience", "checkpoint_every", "keep_checkpoints"),
    *("on_divergence", "spike_threshold"),
)
METHODS = ("SupervisedHyperparameters", "DpoHyperparameters")

#: difference → why it is so.
DIFFERENCES = {
    # what is ours
    **{f"{method}.{knob}: ours": "extra knobs ride in `hyperparameters`" for method in METHODS for knob in KNOBS},
    "File.report: ours": "what the checks found in training data",
    "FineTuningJobCheckpoint.ready_ms: ours": "milliseconds from its publication to its first possible token",
    "Job.forecast: ours": "what it will cost on this machine, and what it did cost",
    "Job.progress: ours": "how far a running job has come, and how fast",
    "Job.queue: ours": "where a waiting job stands, why, and when it may start",
    "Job.is_paused: ours": "true whatever `status` says of a paused job, for clients whose types lack `paused`",
    "Model.base: ours": "what an alias or a tuned model comes from",
    "Model.fine_tuning_job_id: ours": "the job that made it",
    "Model.project_id: ours": "the project that owns it, where a checkpoint is shared",
    "Model.step_number: ours": "the step of a checkpoint",
    "GraderErrors.details: ours": "what went wrong, in words",
    "GraderRunMetadata.output: ours": "what a python grader printed",
    "ScoreModelGrader.pass_threshold: ours": "OpenAI's guides and evals have it, its grader's type has not",
    "TextSimilarityGrader.pass_threshold: ours": "OpenAI's guides and evals have it, its grader's type has not",
    "WandbRun.run_id: ours": "on OpenAI's wire, not in its types",
    # what is sent otherwise
    "Job.status: may be 'paused'": "OpenAI's pause answers so, though its enum lacks it (docs/reference/compatibility.md)",
    "Job.shared_with_openai: ours": "on OpenAI's wire, not in its types",
    "Job.usage_metrics: ours": "on OpenAI's wire, not in its types",
    "Job.user_provided_suffix: ours": "on OpenAI's wire, not in its types",
    "Job.method: an open object, for Method": "how a method is told is the method's own; the SDK reads it as its Method",
    "File.purpose: may be 'evals'": "accepted by OpenAI's upload, missing in the enum of its answer",
    "File.purpose: is never 'assistants_output', 'batch_output'": "neither assistants nor batches are served",
    "Deleted.object: may be string": "one model for all that can be deleted; each route has its own word",
    "ChunkChoice.delta: an open object, for ChoiceDelta": "which keys a delta has is part of what it says",
    "CompletionChoice.finish_reason: may be null": "in a stream, before the answer ends; so OpenAI's wire, not its types",
    "CompletionLogprobs.token_logprobs[]: may be null": "of the first token of an echoed prompt, as OpenAI's is",
    "CompletionLogprobs.top_logprobs[]: may be null": "of the first token of an echoed prompt, as OpenAI's is",
    "InputText.type: may be 'output_text', 'text'": "a grader is answered as it was sent; SDK types know one each",
    "InputText.prompt_cache_breakpoint: an open object, for PromptCacheBreakpoint": "a grader is answered as it was sent",
    "MultiGrader.graders: an open object, for LabelModelGrader or PythonGrader or ScoreModelGrader or "
    "StringCheckGrader or TextSimilarityGrader": "guides and the live API have a map; it is answered as it was sent",
    "MultiGrader.graders: may be an array": "OpenAI's document shows a list; it is answered as it was sent",
    "NewServiceAccount.role: may be 'owner'": "one type for all roles; a new account is a member always",
    # what is never sent
    "KeyOwner.type: is never 'user'": "keys belong to service accounts or to the project; there are no users",
    "KeyOwner.user: is never OwnerUser": "there are no users",
    "AssistantMessage.annotations[]: is never Annotation": "there is no web search",
    "AssistantMessage.audio: not sent": "text only",
    "AssistantMessage.function_call: not sent": "tools are not served yet",
    "AssistantMessage.tool_calls: not sent": "tools are not served yet",
    "Choice.finish_reason: is never 'content_filter', 'function_call', 'tool_calls'": "no filter; tools are not served yet",
    "ChunkChoice.finish_reason: is never 'content_filter', 'function_call', 'tool_calls'": "no filter; no tools yet",
    "ChatCompletion.metadata: not sent": "completions are not stored",
    "ChatCompletion.moderation: not sent": "there is no moderation",
    "ChatCompletion.service_tier: is never 'auto', 'fast', 'flex', 'priority', 'scale'": "there is one tier",
    "ChatCompletionChunk.moderation: not sent": "there is no moderation",
    "ChatCompletionChunk.obfuscation: not sent": "over loopback there is nobody to hide lengths from",
    "ChatCompletionChunk.service_tier: is never 'auto', 'fast', 'flex', 'priority', 'scale'": "there is one tier",
    "CompletionTokensDetails.text_tokens: not sent": "newer than the contract; all tokens are text",
    "PromptTokensDetails.cache_write_tokens: not sent": "newer than the contract",
    "PromptTokensDetails.image_tokens: not sent": "newer than the contract; text only",
    "PromptTokensDetails.text_tokens: not sent": "newer than the contract; all tokens are text",
    "CompletionChoice.finish_reason: is never 'content_filter'": "there is no filter",
    # what is not taken
    "CompletionRequest.prompt: refuses null": "OpenAI then begins a document; models here know no such beginning",
    "OtherPart.prompt_cache_breakpoint: refused": "newer than the contract; such parts are refused anyway",
    "TextPart.prompt_cache_breakpoint: refused": "newer than the contract; there are no breakpoints to set",
    "GraderRunRequest.item: refuses any": "an item is a line of data: a JSON object",
    "InputText.detail: refused": "judges read text only; images and sounds are refused by name",
    "InputText.image_url: refused": "judges read text only; images and sounds are refused by name",
    "InputText.input_audio: refused": "judges read text only; images and sounds are refused by name",
    "InputText.type: refuses 'input_audio'": "judges read text only; images and sounds are refused by name",
    "InputText.type: refuses 'input_image'": "judges read text only; images and sounds are refused by name",
    # what is taken besides
    "UploadRequest.purpose: also takes 'fine-tune-results'": "known, so that it can be refused with its own sentence",
}


#: Verb and path, as the SDK has them → the operation.
SERVED = {
    (method.upper(), sdk.nameless(path.removeprefix("/v1"))): operation
    for path, method, operation in operations(DOCUMENT)
}
THEIRS = {key: operation for key, operation in SERVED.items() if key not in OURS}


def test_every_route_is_one_of_the_sdks():
    assert SERVED.keys() - sdk.methods().keys() - OURS.keys() == set(), "a route of our own? Say why in OURS"


def differences() -> set[str]:
    found: set[str] = set()
    for key, operation in THEIRS.items():
        name, theirs = operation["operationId"], sdk.methods()[key]
        found |= set(_answers_differ(name, operation, theirs))
        found |= set(_requests_differ(name, operation, theirs))
    for ours, other in FRAMES:
        schema = ours.model_json_schema(mode="serialization")
        found |= set(sent(of_schema(schema, schema["$defs"], ours.__name__), of_annotation(other), ours.__name__))
    return found


def _answer_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    body = operation["responses"]["200"].get("content", {}).get("application/json")
    return body and body["schema"]


def _answers_differ(name: str, operation: dict[str, Any], theirs: sdk.SdkMethod) -> Iterator[str]:
    schema = _answer_schema(operation)
    if schema is None or theirs.row is None:
        if (schema is None) != (theirs.row is None):
            yield f"{name}: one of the two answers with bytes"
        return
    if theirs.is_list:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]["properties"]["data"]["items"]
    yield from sent(of_schema(schema, SCHEMAS, name), of_annotation(theirs.row), name)


def _requests_differ(name: str, operation: dict[str, Any], theirs: sdk.SdkMethod) -> Iterator[str]:
    for place in ("path", "query"):
        ours = {
            p["name"]: (of_schema(p["schema"], SCHEMAS, f"{name}.{p['name']}"), p["required"])
            for p in operation.get("parameters", ())
            if p["in"] == place
        }
        yield from taken(_object(name, ours), _parameters(name, theirs, place), name)
    for body in operation.get("requestBody", {}).get("content", {}).values():
        ours_body = of_schema(body["schema"], SCHEMAS, name)
        yield from taken(ours_body, _parameters(name, theirs, "body"), name)
    if "requestBody" not in operation:
        unread = [p.name for p in theirs.method.parameters if p.place == "body"]
        yield from (f"{name}.{field}: no body is read" for field in unread)


def _parameters(name: str, theirs: sdk.SdkMethod, place: str) -> Shape:
    return _object(
        name,
        {
            p.name: (of_annotation(theirs.hints[p.name]), p.required)
            for p in theirs.method.parameters
            if p.place == place
        },
    )


def _object(name: str, fields: dict[str, tuple[Shape, bool]]) -> Shape:
    return Shape(objects=(Fields(name, lambda: fields),))


def test_differences_are_known():
    new = sorted(differences() - DIFFERENCES.keys())
    assert new == [], "either our model is wrong, or say why it differs in DIFFERENCES"


def test_known_differences_are_there():
    assert sorted(DIFFERENCES.keys() - differences()) == []


@pytest.mark.parametrize("key", THEIRS, ids=" ".join)
def test_the_example_of_an_answer_is_one_for_the_sdk(key):
    operation, theirs = THEIRS[key], sdk.methods()[key]
    if _answer_schema(operation) is None:
        return
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    for row in example["data"] if theirs.is_list else [example]:
        validate_type(type_=theirs.row, value=row)
