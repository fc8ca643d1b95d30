"""The `model` object, and the base models behind it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from milepost.resources.base import Frozen


class Model(Frozen):
    """Something that answers chat completions: a base model, an alias of one, a tuned model or a checkpoint."""

    id: Annotated[
        str,
        Field(description="The name to give as `model`.", examples=["ft:smollm2-135m-instruct:personal:demo:9uJPbR69"]),
    ]
    object: Annotated[Literal["model"], Field(description="The object type, always `model`.")] = "model"
    created: Annotated[int, Field(description="When the model was made, in Unix seconds.", examples=[1_790_000_500])]
    owned_by: Annotated[
        str,
        Field(
            description="The organisation of a tuned model; `system` for a base, `alias of …` for its aliases.",
            examples=["org-3bMiwc9Nq8FkXVdSlOyqWZBr"],
        ),
    ]
    shutdown_date: Annotated[None, Field(description="Always null: models here go when you delete them.")] = None


class Base(Frozen):
    """A pretrained chat model in the cache: the `base.json` beside its files.

    `hash` is the sha256 of the canonical JSON of {file name: sha256 of the file} over weights, config and
    tokenizer: two folders with one hash answer alike.
    """

    name: str
    hash: str
    architecture: str
    parameters: int
    context_length: int
    created: int
    source: str
    license: str | None = None


#: Ids that OpenAI once let people tune. With `aliases` on they stand for the default base (DESIGN §9).
TUNED_AT_OPENAI = (
    "gpt-4.1",
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano",
    "gpt-4.1-nano-2025-04-14",
    "gpt-4o",
    "gpt-4o-2024-08-06",
    "gpt-4o-mini",
    "gpt-4o-mini-2024-07-18",
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-0125",
    "gpt-3.5-turbo-0613",
    "gpt-3.5-turbo-1106",
    "babbage-002",
    "davinci-002",
)
