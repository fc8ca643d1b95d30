"""Chat completions: what a request may say, what an answer says.

Three kinds of field (reference/openai-contract.md §1.7): those we act on; those that OpenAI documents and that change
nothing in the text, accepted and ignored; and those that would silently change the answer and are not served yet. The
last are in NEUTRAL with the values that ask for nothing; `check_served` refuses any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from milepost.errors import Invalid
from milepost.resources.base import Frozen


class TextPart(Frozen):
    type: Literal["text"]
    text: str


class RefusalPart(Frozen):
    type: Literal["refusal"]
    refusal: str


class OtherPart(Frozen):
    """An image, a sound or a file: known, so that it can be refused by name."""

    type: Literal["image_url", "input_audio", "file"]
    image_url: Any = None
    input_audio: Any = None
    file: Any = None


Part = Annotated[TextPart | RefusalPart | OtherPart, Field(discriminator="type")]


class Message(Frozen):
    """One turn of the conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    refusal: str | None = None
    audio: Any = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None


class StreamOptions(Frozen):
    """`include_obfuscation` is accepted: there is no side channel over loopback to hide from."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(Frozen):
    type: Literal["text"]


class JsonObjectFormat(Frozen):
    type: Literal["json_object"]


class JsonSchemaFormat(Frozen):
    """Known, so that it can be refused by name."""

    type: Literal["json_schema"]
    json_schema: Any = None


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
Stop = Annotated[str, Field(min_length=1)]
Stops = Stop | Annotated[tuple[Stop, ...], Field(max_length=4)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class ChatRequest(Frozen):
    """The body of `POST /chat/completions`."""

    model: Annotated[str, Field(min_length=1, description="A base model, an alias, a tuned model or any checkpoint.")]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, description="The conversation to be answered.")]

    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="0 always takes the most likely token; null is 1.")
    ] = None
    top_p: Annotated[
        float | None, Field(ge=0, le=1, description="Draw from the likeliest tokens of this share; null is 1.")
    ] = None
    n: Annotated[int | None, Field(ge=1, le=128, description="How many answers; null is 1.")] = None
    max_completion_tokens: Annotated[
        int | None, Field(ge=1, description="Most tokens of an answer; null is the rest of the model's context.")
    ] = None
    max_tokens: Annotated[int | None, Field(ge=1, description="Deprecated name of `max_completion_tokens`.")] = None
    stop: Annotated[
        Stops | None,
        Field(description="Texts before which an answer ends; up to four."),
    ] = None
    seed: Annotated[
        int | None, Field(ge=-(2**63), lt=2**63, description="The same seed and request give the same answer.")
    ] = None
    stream: Annotated[bool | None, Field(description="Send the answer as it is made, as server-sent events.")] = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Annotated[
        Penalty | None, Field(description="Taken off a token's logit for each time it was said; null is 0.")
    ] = None
    presence_penalty: Annotated[
        Penalty | None, Field(description="Taken off a token's logit once it was said at all; null is 0.")
    ] = None
    logit_bias: Annotated[
        dict[TokenId, Bias] | None, Field(description="Token id → what is added to its logit before one is drawn.")
    ] = None
    logprobs: Annotated[
        bool | None, Field(description="Tell the logprob of each token, as the model gave it before temperature.")
    ] = None
    top_logprobs: Annotated[
        int | None, Field(ge=0, le=20, description="How many of the likeliest tokens to tell beside each.")
    ] = None
    response_format: Annotated[
        ResponseFormat | None,
        Field(description="`json_object`: an answer that ends by itself is one JSON object, whatever the model."),
    ] = None

    # Accepted and ignored.
    audio: Any = None
    metadata: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    # Not served yet: refused unless they ask for nothing.
    function_call: Any = None
    functions: Any = None
    tool_choice: Any = None
    tools: Any = None


#: The values, besides null, with which a field that is not served yet asks for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "function_call": ("none", "auto"),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}


def check_served(request: ChatRequest) -> None:
    """Refuse what would change the answer and is not served yet, rather than answer as if it had not been said."""
    for field, neutral in NEUTRAL.items():
        value = getattr(request, field)
        if value is not None and value not in neutral:
            raise _not_served(field, f"'{field}'")
    if isinstance(request.response_format, JsonSchemaFormat):
        raise _not_served("response_format", "a 'response_format' of type 'json_schema'", "use 'json_object'")
    if request.top_logprobs is not None and not request.logprobs:
        raise Invalid(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled. Set 'logprobs' to true",
            param="top_logprobs",
        )
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")
    if request.stream_options is not None and not request.stream:
        raise Invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled. Set 'stream' to true",
            param="stream_options",
        )


def _check_message(message: Message, place: str) -> None:
    if message.role in {"tool", "function"} or message.tool_calls or message.function_call:
        raise _not_served(f"{place}.role", f"a message of or to a tool ({place})")
    if message.content is None:
        raise Invalid(
            f"Missing required parameter: '{place}.content'.",
            param=f"{place}.content",
            code="missing_required_parameter",
        )
    for position, part in enumerate(message.content):
        if isinstance(part, OtherPart):
            param = f"{place}.content[{position}].type"
            raise _not_served(param, f"a content part of type '{part.type}' ({param})")


def _not_served(param: str, what: str, instead: str = "text in, text out is served") -> Invalid:
    return Invalid(
        f"Unsupported parameter: {what} is not served by Milepost yet. Leave it out; {instead}",
        param=param,
        code="unsupported_parameter",
    )


def text_of(content: str | Sequence[TextPart | RefusalPart | OtherPart] | None) -> str:
    """The text of a message's content. Parts are pieces of one text: nothing is put between them."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = {"text": lambda part: part.text, "refusal": lambda part: part.refusal}
    return "".join(texts[part.type](part) for part in content)


class PromptTokensDetails(Frozen):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(Frozen):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class CompletionUsage(Frozen):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class AssistantMessage(Frozen):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: tuple[()] = ()


FinishReason = Literal["stop", "length"]


class TopLogprob(Frozen):
    """One of the likeliest tokens at a place. `bytes` are its UTF-8 bytes, which may be a part of a character."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: tuple[TopLogprob, ...]


class Logprobs(Frozen):
    content: tuple[TokenLogprob, ...]
    refusal: None = None


#: What OpenAI sends for a token that is next to impossible.
LEAST_LOGPROB = -9999.0


class Choice(Frozen):
    index: int
    message: AssistantMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Frozen):
    """The answer. `system_fingerprint` names the weights that gave it: `fp_` and the first 12 hex of their sha256."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: CompletionUsage
    service_tier: Literal["default"] = "default"
    system_fingerprint: str


class ChunkChoice(Frozen):
    """`delta` is a plain dictionary: which keys a delta has is part of what it says."""

    index: int
    delta: dict[str, str | None]
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Frozen):
    """One frame of a stream. `usage` is null but in the last frame before `[DONE]`, which has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: CompletionUsage | None = None
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
