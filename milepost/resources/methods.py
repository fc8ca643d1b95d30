"""Every training method: its hyperparameters, and the shape of a line of its data.

A method is a member of `MethodType`, a model of its hyperparameters and a model of its line. Unused members of `method`
are accepted, as OpenAI accepts them (the SDK's own tests send all three).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from milepost.resources.base import Frozen

Auto = Literal["auto"]
Epochs = Annotated[int, Field(ge=1, le=50)]
BatchSize = Annotated[int, Field(ge=1, le=256)]
Multiplier = Annotated[float, Field(gt=0)]


class MethodType(StrEnum):
    """How a job trains."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    REINFORCEMENT = "reinforcement"


#: The methods a job may be created with today; the others are refused with a sentence.
TRAINED = frozenset({MethodType.SUPERVISED})


class SupervisedHyperparameters(Frozen):
    """What the request may say; `auto` is resolved when the job is created (reference/openai-contract.md §2.2)."""

    n_epochs: Annotated[Auto | Epochs, Field(description="How often the training file is gone through.")] = "auto"
    batch_size: Annotated[Auto | BatchSize, Field(description="Examples per optimizer step.")] = "auto"
    learning_rate_multiplier: Annotated[
        Auto | Multiplier, Field(description="Scales the base learning rate, which the job's first events tell.")
    ] = "auto"


class Supervised(Frozen):
    """Settings of supervised training."""

    hyperparameters: Annotated[
        SupervisedHyperparameters, Field(description="Numbers, or `auto` where the server shall choose.")
    ] = SupervisedHyperparameters()


class Method(BaseModel):
    """`method` of a request. Members other than the chosen one are kept unread."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Annotated[MethodType, Field(description="How the job trains.")] = MethodType.SUPERVISED
    supervised: Annotated[Supervised | None, Field(description="Settings of `supervised`.")] = None
    dpo: Annotated[dict[str, Any] | None, Field(description="Settings of `dpo`.")] = None
    reinforcement: Annotated[dict[str, Any] | None, Field(description="Settings of `reinforcement`.")] = None


class LineShape(StrEnum):
    """The four shapes a line of training data may have (reference/openai-contract.md §2.3-2.5)."""

    CHAT = "fine-tune-chat"
    COMPLETION = "prompt/completion"
    PREFERENCE = "fine-tune-preference"
    REINFORCEMENT = "fine-tune-reinforcement"


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
