"""Chat completions: what a request may say, what an answer says.

Three kinds of field (reference/openai-contract.md §1.7): those we act on; those that OpenAI documents and that change
nothing in the text, accepted and ignored; and those that would silently change the answer and are not served yet. The
last are in NEUTRAL with the values that ask for nothing; `check_served` refuses any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from milepost.errors import Invalid
from milepost.resources.base import Frozen

#: What changes nothing in an answer, and what would change it and is not served yet.
Ignored = Annotated[Any, Field(description="Accepted, and changes nothing here.")]
NotServed = Annotated[Any, Field(description="Not served yet: refused, unless it asks for nothing.")]


class TextPart(Frozen):
    """A piece of a message's text."""

    type: Annotated[Literal["text"], Field(description="The type of the part, always `text`.")]
    text: Annotated[str, Field(description="The text.")]


class RefusalPart(Frozen):
    """What an assistant said when it refused."""

    type: Annotated[Literal["refusal"], Field(description="The type of the part, always `refusal`.")]
    refusal: Annotated[str, Field(description="The text.")]


class OtherPart(Frozen):
    """An image, a sound or a file: known, so that it can be refused by name."""

    type: Annotated[Literal["image_url", "input_audio", "file"], Field(description="The type of the part.")]
    image_url: NotServed = None
    input_audio: NotServed = None
    file: NotServed = None


Part = Annotated[TextPart | RefusalPart | OtherPart, Field(discriminator="type")]


class Message(Frozen):
    """One turn of the conversation."""

    role: Annotated[
        Literal["developer", "system", "user", "assistant", "tool", "function"], Field(description="Who says it.")
    ]
    content: Annotated[str | tuple[Part, ...] | None, Field(description="What is said: a text, or its parts.")] = None
    name: Annotated[str | None, Field(description="The name of who says it, where the template has a place.")] = None
    refusal: Annotated[str | None, Field(description="Accepted, and changes nothing here.")] = None
    audio: Ignored = None
    tool_calls: Annotated[tuple[dict[str, Any], ...] | None, Field(description="Not served yet: refused.")] = None
    tool_call_id: Annotated[str | None, Field(description="Of a tool's message; those are not served yet.")] = None
    function_call: Annotated[dict[str, Any] | None, Field(description="Not served yet: refused.")] = None


class StreamOptions(Frozen):
    """Options of a streamed answer."""

    include_usage: Annotated[bool | None, Field(description="Send a last frame with the counts of tokens.")] = None
    include_obfuscation: Annotated[
        bool | None, Field(description="Accepted: there is no side channel over loopback to hide from.")
    ] = None


class TextFormat(Frozen):
    """An answer that is any text."""

    type: Annotated[Literal["text"], Field(description="The form of the answer, always `text`.")]


class JsonObjectFormat(Frozen):
    """An answer that is a JSON object."""

    type: Annotated[Literal["json_object"], Field(description="The form of the answer, always `json_object`.")]


class JsonSchemaFormat(Frozen):
    """Known, so that it can be refused by name."""

    type: Annotated[Literal["json_schema"], Field(description="The form of the answer, always `json_schema`.")]
    json_schema: NotServed = None


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
Stop = Annotated[str, Field(min_length=1)]
Stops = Stop | Annotated[tuple[Stop, ...], Field(max_length=4)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Sampling(Frozen):
    """What a request says of how its answers are drawn and sent, chat or not."""

    temperature: Annotated[
        float | None, Field(ge=0, le=2, description="0 always takes the most likely token; null is 1.")
    ] = None
    top_p: Annotated[
        float | None, Field(ge=0, le=1, description="Draw from the likeliest tokens of this share; null is 1.")
    ] = None
    stop: Annotated[
        Stops | None,
        Field(description="Texts before which an answer ends; up to four."),
    ] = None
    seed: Annotated[
        int | None, Field(ge=-(2**63), lt=2**63, description="The same seed and request give the same answer.")
    ] = None
    stream: Annotated[bool | None, Field(description="Send the answer as it is made, as server-sent events.")] = None
    stream_options: Annotated[StreamOptions | None, Field(description="Only with `stream`.")] = None
    frequency_penalty: Annotated[
        Penalty | None, Field(description="Taken off a token's logit for each time it was said; null is 0.")
    ] = None
    presence_penalty: Annotated[
        Penalty | None, Field(description="Taken off a token's logit once it was said at all; null is 0.")
    ] = None
    logit_bias: Annotated[
        dict[TokenId, Bias] | None, Field(description="Token id → what is added to its logit before one is drawn.")
    ] = None


def check_stream_options(request: Sampling) -> None:
    if request.stream_options is not None and not request.stream:
        raise Invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled. Set 'stream' to true",
            param="stream_options",
        )


class ChatRequest(Sampling):
    """The body of `POST /chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "ft:smollm2-135m-instruct:personal:demo:9uJPavMj:ckpt-step-100",
                "messages": [{"role": "user", "content": "Who are you?"}],
                "temperature": 0,
                "max_completion_tokens": 32,
            }
        }
    )

    model: Annotated[str, Field(min_length=1, description="A base model, an alias, a tuned model or any checkpoint.")]
    messages: Annotated[
        tuple[Message, ...],
        Field(min_length=1, fail_fast=True, description="The conversation to be answered."),
    ]

    n: Annotated[int | None, Field(ge=1, le=128, description="How many answers; null is 1.")] = None
    max_completion_tokens: Annotated[
        int | None, Field(ge=1, description="Most tokens of an answer; null is the rest of the model's context.")
    ] = None
    max_tokens: Annotated[int | None, Field(ge=1, description="Deprecated name of `max_completion_tokens`.")] = None
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

    audio: Ignored = None
    metadata: Ignored = None
    modalities: Ignored = None
    moderation: Ignored = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None
    verbosity: Ignored = None
    web_search_options: Ignored = None

    function_call: NotServed = None
    functions: NotServed = None
    tool_choice: NotServed = None
    tools: NotServed = None


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
    check_stream_options(request)


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
    """What the tokens of a prompt were."""

    cached_tokens: Annotated[int, Field(description="Those computed before, for a prompt that began alike.")] = 0
    audio_tokens: Annotated[int, Field(description="Tokens of sound; 0 here.")] = 0


class CompletionTokensDetails(Frozen):
    """What the tokens of the answers were."""

    reasoning_tokens: Annotated[int, Field(description="Tokens of hidden thought; 0 here.")] = 0
    audio_tokens: Annotated[int, Field(description="Tokens of sound; 0 here.")] = 0
    accepted_prediction_tokens: Annotated[int, Field(description="Tokens foretold by `prediction`; 0 here.")] = 0
    rejected_prediction_tokens: Annotated[int, Field(description="Tokens foretold wrongly; 0 here.")] = 0


class CompletionUsage(Frozen):
    """How many tokens were read and written."""

    prompt_tokens: Annotated[int, Field(description="Tokens of the conversation, as the chat template has it.")]
    completion_tokens: Annotated[int, Field(description="Tokens of all answers.")]
    total_tokens: Annotated[int, Field(description="The sum of the two.")]
    prompt_tokens_details: Annotated[PromptTokensDetails, Field(description="What the tokens of the prompt were.")] = (
        PromptTokensDetails()
    )
    completion_tokens_details: Annotated[
        CompletionTokensDetails, Field(description="What the tokens of the answers were.")
    ] = CompletionTokensDetails()


class AssistantMessage(Frozen):
    """What the model says."""

    role: Annotated[Literal["assistant"], Field(description="Who says it, always `assistant`.")] = "assistant"
    content: Annotated[str, Field(description="The text of the answer.")]
    refusal: Annotated[None, Field(description="Always null: nothing here refuses but the model's own words.")] = None
    annotations: Annotated[tuple[()], Field(description="Always empty.")] = ()


FinishReason = Literal["stop", "length"]


class TopLogprob(Frozen):
    """One of the likeliest tokens at a place. `bytes` are its UTF-8 bytes, which may be a part of a character."""

    token: Annotated[str, Field(description="The token's text.")]
    logprob: Annotated[float, Field(description="The natural logarithm of its probability; -9999 if next to none.")]
    bytes: Annotated[tuple[int, ...] | None, Field(description="The token's UTF-8 bytes; null if it has none.")]


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: Annotated[tuple[TopLogprob, ...], Field(description="The likeliest tokens at its place.")]


class Logprobs(Frozen):
    """How likely the tokens of an answer were."""

    content: Annotated[tuple[TokenLogprob, ...], Field(description="One entry a token.")]
    refusal: Annotated[None, Field(description="Always null: nothing here refuses.")] = None


#: What OpenAI sends for a token that is next to impossible.
LEAST_LOGPROB = -9999.0


class Choice(Frozen):
    """One answer of those asked for with `n`."""

    index: Annotated[int, Field(description="The number of the answer, from 0.")]
    message: Annotated[AssistantMessage, Field(description="The answer.")]
    logprobs: Annotated[Logprobs | None, Field(description="With `logprobs`, how likely its tokens were.")] = None
    finish_reason: Annotated[
        FinishReason, Field(description="`stop` at the answer's own end or a stop text, `length` at the most tokens.")
    ]


class ChatCompletion(Frozen):
    """The answer. `system_fingerprint` names the weights that gave it: `fp_` and the first 12 hex of their sha256."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
                "object": "chat.completion",
                "created": 1_790_000_600,
                "model": "ft:smollm2-135m-instruct:personal:demo:9uJPavMj:ckpt-step-100",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "A milestone.", "refusal": None, "annotations": []},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {
                    "prompt_tokens": 34,
                    "completion_tokens": 4,
                    "total_tokens": 38,
                    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                    "completion_tokens_details": {
                        "reasoning_tokens": 0,
                        "audio_tokens": 0,
                        "accepted_prediction_tokens": 0,
                        "rejected_prediction_tokens": 0,
                    },
                },
                "service_tier": "default",
                "system_fingerprint": "fp_0c84f1e05b9d",
            }
        }
    )

    id: Annotated[str, Field(description="Identifier of the answer, `chatcmpl-…`.")]
    object: Annotated[Literal["chat.completion"], Field(description="The object type, always `chat.completion`.")] = (
        "chat.completion"
    )
    created: Annotated[int, Field(description="When the answer was begun, in Unix seconds.")]
    model: Annotated[str, Field(description="The model that answered: for an alias, the base it stands for.")]
    choices: Annotated[tuple[Choice, ...], Field(description="The answers, `n` of them.")]
    usage: Annotated[CompletionUsage, Field(description="How many tokens were read and written.")]
    service_tier: Annotated[Literal["default"], Field(description="Always `default`.")] = "default"
    system_fingerprint: Annotated[
        str, Field(description="Names the weights that answered: `fp_` and the first 12 hex digits of their sha256.")
    ]


class ChunkChoice(Frozen):
    """`delta` is a plain dictionary: which keys a delta has is part of what it says."""

    index: Annotated[int, Field(description="The number of the answer, from 0.")]
    delta: Annotated[dict[str, str | None], Field(description="What is new since the last frame.")]
    logprobs: Annotated[Logprobs | None, Field(description="With `logprobs`, how likely the new tokens were.")] = None
    finish_reason: Annotated[FinishReason | None, Field(description="Why the answer ends; null before.")] = None


class ChatCompletionChunk(Frozen):
    """One frame of a stream. `usage` is null but in the last frame before `[DONE]`, which has no choices."""

    id: Annotated[str, Field(description="Identifier of the answer, the same in all its frames.")]
    object: Annotated[
        Literal["chat.completion.chunk"], Field(description="The object type, always `chat.completion.chunk`.")
    ] = "chat.completion.chunk"
    created: Annotated[int, Field(description="When the answer was begun, the same in all its frames.")]
    model: Annotated[str, Field(description="The model that answers.")]
    choices: Annotated[tuple[ChunkChoice, ...], Field(description="The answers that this frame adds to.")]
    usage: Annotated[CompletionUsage | None, Field(description="In the last frame, with `include_usage`.")] = None
    service_tier: Annotated[Literal["default"], Field(description="Always `default`.")] = "default"
    system_fingerprint: Annotated[str, Field(description="Names the weights that answer.")]
