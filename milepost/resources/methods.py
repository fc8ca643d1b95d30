"""Every training method: its hyperparameters, and the shape of a line of its data.

A method is a member of `MethodType`, a model of its hyperparameters and a model of its line. Unused members of `method`
are accepted, as OpenAI accepts them (the SDK's own tests send all three).
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from milepost.resources.base import Frozen

Auto = Literal["auto"]
Epochs = Annotated[int, Field(ge=1, le=50)]
MAX_BATCH_SIZE = 256
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)]
Multiplier = Annotated[float, Field(gt=0)]
Scheduler = Literal["linear", "cosine", "constant"]
OnDivergence = Literal["fail", "skip"]
Target = Annotated[str, Field(min_length=1, max_length=64)]


#: Unknown names that near ones are looked for of; the first fault is the one that is told.
_MOST_HINTED = 20


class MethodType(StrEnum):
    """How a job trains."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    REINFORCEMENT = "reinforcement"


#: The methods a job may be created with today; the others are refused with a sentence.
TRAINED = frozenset({MethodType.SUPERVISED, MethodType.DPO})


class Hyperparameters(Frozen):
    """What a request may say of training, whatever the method; `auto` is resolved when the job is created.

    The first three are OpenAI's (reference/openai-contract.md §2.2), the others our own.
    """

    n_epochs: Annotated[Auto | Epochs, Field(description="How often each example is seen.")] = "auto"
    batch_size: Annotated[Auto | BatchSize, Field(description="Examples per step.")] = "auto"
    learning_rate_multiplier: Annotated[
        Auto | Multiplier, Field(description="Times the rate that fits the method and the size of the base.")
    ] = "auto"
    learning_rate: Annotated[
        Auto | Multiplier, Field(description="The rate itself, instead of a multiplier. `auto`: by the multiplier.")
    ] = "auto"
    lr_scheduler: Annotated[
        Auto | Scheduler, Field(description="How the rate falls after the warm-up. `auto`: linear.")
    ] = "auto"
    warmup_ratio: Annotated[
        Auto | Annotated[float, Field(ge=0, lt=1)],
        Field(description="The share of all steps in which the rate rises from zero. `auto`: 0.05."),
    ] = "auto"
    weight_decay: Annotated[
        Auto | Annotated[float, Field(ge=0)], Field(description="AdamW's decay of the adapter's weights. `auto`: 0.")
    ] = "auto"
    max_grad_norm: Annotated[
        Auto | Annotated[float, Field(gt=0)], Field(description="Gradients are clipped to this norm. `auto`: 1.")
    ] = "auto"
    lora_rank: Annotated[
        Auto | Annotated[int, Field(ge=1, le=256)],
        Field(description="The adapter's rank. `auto`: 16, or that of the adapter that training goes on from."),
    ] = "auto"
    lora_alpha: Annotated[
        Auto | Annotated[float, Field(gt=0)],
        Field(description="The adapter counts `lora_alpha / lora_rank` times. `auto`: twice the rank."),
    ] = "auto"
    lora_dropout: Annotated[
        Auto | Annotated[float, Field(ge=0, lt=1)],
        Field(description="How likely the adapter overlooks a feature of its input in training. `auto`: 0."),
    ] = "auto"
    lora_targets: Annotated[
        Auto | Annotated[tuple[Target, ...], Field(min_length=1)],
        Field(
            description="The modules adapted, by the names of the base's architecture, such as `q_proj`. `auto`: all "
            "linear ones."
        ),
    ] = "auto"
    max_length: Annotated[
        Auto | Annotated[int, Field(ge=8)],
        Field(description="Longer examples are cut at their end, in tokens. `auto`: 2,048, or the base's context."),
    ] = "auto"
    early_stopping_patience: Annotated[
        Auto | Annotated[int, Field(ge=1)],
        Field(
            description="Training ends after so many checkpoints whose full validation loss is not the lowest yet. "
            "`auto`: it does not."
        ),
    ] = "auto"
    checkpoint_every: Annotated[
        Auto | Annotated[int, Field(ge=1)],
        Field(description="Checkpoints also each time after so many steps. `auto`: only where an epoch ends."),
    ] = "auto"
    keep_checkpoints: Annotated[
        Auto | Annotated[int, Field(ge=1)],
        Field(
            description="So many of the newest checkpoints are kept, the one of the lowest full validation loss, those "
            "that jobs go on from and those that are shared; the others are deleted. `auto`: all are kept."
        ),
    ] = "auto"
    on_divergence: Annotated[
        Auto | OnDivergence,
        Field(
            description="What becomes of a step whose loss or gradient is not a finite number, or whose loss is a "
            "spike: the job fails, or the step is skipped. `auto`: fail."
        ),
    ] = "auto"
    spike_threshold: Annotated[
        Auto | Annotated[float, Field(gt=0)],
        Field(
            description="A loss is a spike if it is so many nats above the median of the last 32 steps'. `auto`: none "
            "is."
        ),
    ] = "auto"

    @model_validator(mode="before")
    @classmethod
    def hint_at_names(cls, given: Any) -> Any:
        """A misspelt name is refused like any unknown one, and told which one comes near."""
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        faults = [
            InitErrorDetails(
                type=PydanticCustomError("extra_forbidden", "Did you mean `{near}`?", {"near": near[0]}),
                loc=(name,),
                input=given[name],
            )
            for name in unknown[:_MOST_HINTED]
            if (near := get_close_matches(name, cls.model_fields, n=1))
        ]
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return given


class SupervisedHyperparameters(Hyperparameters):
    """Those of supervised training."""


class DpoHyperparameters(Hyperparameters):
    """Those of direct preference optimisation."""

    beta: Annotated[
        Auto | Annotated[float, Field(gt=0, le=2)],
        Field(description="How dearly leaving the reference is paid. `auto`: 0.1."),
    ] = "auto"


class Supervised(Frozen):
    """Settings of supervised training."""

    hyperparameters: Annotated[
        SupervisedHyperparameters, Field(description="Numbers, or `auto` where the server shall choose.")
    ] = SupervisedHyperparameters()


class Dpo(Frozen):
    """Settings of direct preference optimisation."""

    hyperparameters: Annotated[
        DpoHyperparameters, Field(description="Numbers, or `auto` where the server shall choose.")
    ] = DpoHyperparameters()


class Method(BaseModel):
    """`method` of a request. Members beside the chosen one are accepted, and not read; without it they are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Annotated[MethodType, Field(description="How the job trains.")] = MethodType.SUPERVISED
    supervised: Annotated[Supervised | None, Field(description="Settings of `supervised`.")] = None
    dpo: Annotated[Dpo | None, Field(description="Settings of `dpo`.")] = None
    reinforcement: Annotated[
        dict[str, Any] | None, Field(description="Settings of `reinforcement`, which is not trained here yet.")
    ] = None

    @model_validator(mode="after")
    def require_what_was_meant(self) -> Method:
        """Settings that no method reads would be left out without a word."""
        given = {each for each in MethodType if getattr(self, each) is not None}
        lacking = self.type if "type" in self.model_fields_set else "type"
        if given and lacking not in given:
            said = self.model_dump(mode="json", exclude_unset=True)
            fault = InitErrorDetails(type="missing", loc=(lacking,), input=said)
            raise ValidationError.from_exception_data(type(self).__name__, [fault])
        return self


class LineShape(StrEnum):
    """The four shapes a line of training data may have (reference/openai-contract.md §2.3-2.5)."""

    CHAT = "fine-tune-chat"
    COMPLETION = "prompt/completion"
    PREFERENCE = "fine-tune-preference"
    REINFORCEMENT = "fine-tune-reinforcement"


#: What a line of each method's data may be, in the order the contract names them.
SHAPES = {
    MethodType.SUPERVISED: (LineShape.CHAT, LineShape.COMPLETION),
    MethodType.DPO: (LineShape.PREFERENCE,),
    MethodType.REINFORCEMENT: (LineShape.REINFORCEMENT,),
}

#: Keys a supervised chat line may have. A line with `messages` and any other key is a reinforcement item.
CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})


def line_shape(line: Mapping[str, Any]) -> LineShape | None:
    """Tell by its keys which shape a parsed line has; None if it has none of the four."""
    keys = set(line)
    if "messages" in keys:
        return LineShape.CHAT if keys <= CHAT_KEYS else LineShape.REINFORCEMENT
    if {"prompt", "completion"} <= keys:
        return LineShape.COMPLETION
    if keys & {"preferred_output", "non_preferred_output"}:
        return LineShape.PREFERENCE
    return None


#: A training file has at least this many examples.
MIN_EXAMPLES = 10
