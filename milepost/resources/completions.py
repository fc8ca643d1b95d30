"""Legacy completions: text or tokens to be continued, without a chat template."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from milepost.errors import Invalid
from milepost.resources.base import Frozen
from milepost.resources.chat import CompletionUsage, FinishReason, Sampling, TokenId, check_stream_options

#: The first fault is enough: a text of a hundred thousand words would have as many, each told at length.
Tokens = Annotated[tuple[TokenId, ...], Field(min_length=1, fail_fast=True)]
#: Prompts of one request.
MOST_PROMPTS = 128


class CompletionRequest(Sampling):
    """The body of `POST /completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "ft:smollm2-135m-instruct:personal:demo:9uJPavMj:ckpt-step-100",
                "prompt": "A milepost tells",
                "temperature": 0,
                "max_tokens": 8,
            }
        }
    )

    model: Annotated[str, Field(min_length=1, description="A base model, an alias, a tuned model or any checkpoint.")]
    prompt: Annotated[
        str
        | Tokens
        | Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[tuple[Tokens, ...], Field(min_length=1, max_length=MOST_PROMPTS)],
        Field(description="What is to be continued: a text or its tokens, or several of either."),
    ]
    best_of: Annotated[
        int | None,
        Field(ge=1, le=20, description="Make so many and give the `n` with the highest mean logprob; null is `n`."),
    ] = None
    echo: Annotated[bool | None, Field(description="Begin each answer with its prompt.")] = None
    logprobs: Annotated[
        int | None, Field(ge=0, le=5, description="Tell logprobs, and so many of the likeliest tokens beside each.")
    ] = None
    max_tokens: Annotated[int | None, Field(ge=0, description="Most tokens of an answer; null is 16.")] = None
    n: Annotated[int | None, Field(ge=1, le=128, description="How many answers to each prompt; null is 1.")] = None
    suffix: Annotated[str | None, Field(description="Not served: refused unless null or empty.")] = None
    user: Annotated[Any, Field(description="Accepted and ignored.")] = None

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """The prompts, one or many."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        parts: tuple[str | int | tuple[int, ...], ...] = self.prompt
        tokens = tuple(part for part in parts if isinstance(part, int))
        return (tokens,) if tokens else tuple(part for part in parts if not isinstance(part, int))

    @property
    def drawn(self) -> int:
        """How many answers are made to each prompt."""
        return self.best_of or self.n or 1


def check_completion(request: CompletionRequest) -> None:
    """Refuse what fits no answer, whatever its fields are by themselves."""
    if request.suffix:
        raise Invalid(
            "Unsupported parameter: 'suffix' is not served by Milepost yet. Leave it out",
            param="suffix",
            code="unsupported_parameter",
        )
    if request.best_of is not None and request.best_of < (request.n or 1):
        raise Invalid(
            f"'best_of' is {request.best_of}, fewer than the {request.n} answers of 'n'. Ask for as many at least",
            param="best_of",
        )
    if request.best_of is not None and request.best_of > (request.n or 1) and request.stream:
        raise Invalid(
            "The best of several is known only when all have ended. Set 'stream' to false, or 'best_of' to 'n'",
            param="best_of",
        )
    check_stream_options(request)


class CompletionLogprobs(Frozen):
    """One entry a token. `text_offset` is where it begins, in characters of prompt and answer.

    The first token of an echoed prompt has no logprob, as nothing stands before it; so it has at OpenAI.
    """

    tokens: Annotated[tuple[str, ...], Field(description="The texts of the tokens.")]
    token_logprobs: Annotated[tuple[float | None, ...], Field(description="How likely each was.")]
    top_logprobs: Annotated[
        tuple[dict[str, float] | None, ...] | None, Field(description="The likeliest tokens at the place of each.")
    ]
    text_offset: Annotated[tuple[int, ...], Field(description="Where each begins, in characters.")]


class CompletionChoice(Frozen):
    """In a stream the finish reason is null but in a choice's last chunk."""

    text: Annotated[str, Field(description="How the prompt goes on.", examples=[" the distance."])]
    index: Annotated[int, Field(description="The number of the answer, from 0.", examples=[0])]
    logprobs: Annotated[CompletionLogprobs | None, Field(description="With `logprobs`.", examples=[None])] = None
    finish_reason: Annotated[
        FinishReason | None, Field(description="Why the answer ended; null before, in a stream.", examples=["stop"])
    ]


class Completion(Frozen):
    """The answer, and each chunk of a stream. `system_fingerprint` begins the sha256 of the weights that gave it."""

    id: Annotated[
        str, Field(description="Identifier of the answer, `cmpl-…`.", examples=["cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7"])
    ]
    object: Annotated[Literal["text_completion"], Field(description="The object type, always `text_completion`.")] = (
        "text_completion"
    )
    created: Annotated[int, Field(description="When the answer was begun, in Unix seconds.", examples=[1_790_000_600])]
    model: Annotated[str, Field(description="The model that answered.", examples=["smollm2-135m-instruct"])]
    choices: Annotated[tuple[CompletionChoice, ...], Field(description="The answers, `n` of them for each prompt.")]
    usage: Annotated[
        CompletionUsage | None, Field(description="How many tokens were read and written; null inside a stream.")
    ] = None
    system_fingerprint: Annotated[
        str,
        Field(
            description="Names the weights that answered: `fp_` and the first 12 hex digits of their sha256.",
            examples=["fp_0c84f1e05b9d"],
        ),
    ]
