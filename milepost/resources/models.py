"""The `model` object, and the base models behind it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from milepost.resources.base import Frozen


class Model(Frozen):
    """Something that answers chat completions. What is not in OpenAI's object tells where a tuned model comes from."""

    id: Annotated[
        str,
        Field(
            description="The name to give to chat completions as `model`.",
            examples=["ft:smollm2-135m-instruct:milepost:demo:9ABel2dg"],
        ),
    ]
    object: Annotated[Literal["model"], Field(description="Always `model`.")] = "model"
    created: Annotated[int, Field(description="When it was made, in Unix seconds.", examples=[1_790_000_000])]
    owned_by: Annotated[
        str,
        Field(
            description="The organisation, of a tuned model; `system` or `alias of …` of others.",
            examples=["org-4f8Qw2nB7xLkZ0cVtYpR1dHs"],
        ),
    ]
    shutdown_date: Annotated[None, Field(description="Always null: nothing here is shut down.")] = None
    base: Annotated[
        str | None,
        Field(
            description="The base model it was tuned from or is an alias of; null of a base model.",
            examples=["smollm2-135m-instruct"],
        ),
    ] = None
    project_id: Annotated[
        str | None,
        Field(
            description="The project it belongs to, which may share it with others; null of a base model.",
            examples=["proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"],
        ),
    ] = None
    fine_tuning_job_id: Annotated[
        str | None,
        Field(
            description="The job that made it; null of a base model, and of another project's that is shared.",
            examples=["ftjob-4f8Qw2nB7xLkZ0cVtYpR1dHs"],
        ),
    ] = None
    step_number: Annotated[
        int | None, Field(description="The step of the job it was saved at; null of a base model.", examples=[88])
    ] = None


#: What the linear modules of the Llama family are called; sorted.
LLAMA_MODULES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


class Base(Frozen):
    """A pretrained model in the cache: the `base.json` beside its files.

    `hash` is the sha256 of the canonical JSON of {file name: sha256 of the file} over weights, config, tokenizer and
    chat template: two folders with one hash answer alike. `targets` are the modules that an adapter may change.
    """

    name: str
    hash: str
    architecture: str
    parameters: int
    context_length: int
    created: int
    source: str
    license: str | None = None
    targets: tuple[str, ...] = LLAMA_MODULES


class Shape(BaseModel):
    """Of an adapter, under the names that hyperparameters have: as its adapter_config.json tells it, of which nothing
    else is read.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    lora_rank: Annotated[int, Field(validation_alias="r")]
    lora_alpha: float
    lora_targets: Annotated[tuple[str, ...], Field(validation_alias="target_modules")]


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
