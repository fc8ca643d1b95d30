"""The `fine_tuning.job.checkpoint` object, under the names of its documentation page (reference/pages)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from milepost.resources.base import Frozen


class FineTuningJobCheckpointObject(StrEnum):
    """The object type of a checkpoint; it has one value only."""

    FINE_TUNING_JOB_CHECKPOINT = "fine_tuning.job.checkpoint"


Share = Annotated[float, Field(ge=0, le=1)]


class Metrics(Frozen):
    """What was measured at a checkpoint's step; a number that was not measured is null.

    Losses are nats per supervised token, averaged over those tokens and no hidden ones; accuracies are the share of
    them that the most likely prediction gets right. `train_*` are of the step's own batch, `valid_*` of a batch of
    the validation file, `full_valid_*` of the whole of it.

    With method `dpo` the losses are per pair of answers, the accuracies of the preferred answers' tokens, and more
    rides along: `…_reward_margin` and `…_reward_accuracy`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    step: Annotated[
        float | None,
        Field(description="The optimizer step the numbers were measured at, counted from 1.", examples=[100]),
    ] = None
    train_loss: Annotated[
        float | None,
        Field(description="Loss over the training batch of this step, in nats per token.", examples=[0.7312]),
    ] = None
    train_mean_token_accuracy: Annotated[
        Share | None,
        Field(description="Share of the training batch's supervised tokens predicted right.", examples=[0.8125]),
    ] = None
    valid_loss: Annotated[
        float | None,
        Field(description="Loss over a batch of the validation file, in nats per token.", examples=[0.7904]),
    ] = None
    valid_mean_token_accuracy: Annotated[
        Share | None,
        Field(description="Share of that validation batch's supervised tokens predicted right.", examples=[0.7891]),
    ] = None
    full_valid_loss: Annotated[
        float | None, Field(description="Loss over the whole validation file, in nats per token.", examples=[0.7856])
    ] = None
    full_valid_mean_token_accuracy: Annotated[
        Share | None,
        Field(description="Share of all supervised tokens of the validation file predicted right.", examples=[0.7934]),
    ] = None


class FineTuningJobCheckpoint(Frozen):
    """A model checkpoint of a fine-tuning job: weights at one step, published and ready to answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # facts of ours may ride along (DESIGN §2.1)

    id: Annotated[
        str,
        Field(
            description="Identifier of the checkpoint, `ftckpt_…`; the API's endpoints know it by this.",
            examples=["ftckpt_mWmVs9RdJMSHqCqPmMJ3W5oQ"],
        ),
    ]
    created_at: Annotated[
        int, Field(description="When the checkpoint was created, in Unix seconds.", examples=[1_790_000_400])
    ]
    fine_tuned_model_checkpoint: Annotated[
        str,
        Field(
            description="Name of the tuned model this checkpoint is; give it to chat completions as `model`.",
            examples=["ft:smollm2-135m-instruct:personal:demo:9uJPavMj:ckpt-step-100"],
        ),
    ]
    step_number: Annotated[int, Field(description="The optimizer step the checkpoint was created at.", examples=[100])]
    metrics: Annotated[Metrics, Field(description="What was measured at that step of the job.")]
    fine_tuning_job_id: Annotated[
        str,
        Field(
            description="The fine-tuning job this checkpoint came from, `ftjob-…`.",
            examples=["ftjob-4Q9hXKfQvyYtPzLVSLgMdWAB"],
        ),
    ]
    object: Annotated[
        FineTuningJobCheckpointObject, Field(description="The object type, always `fine_tuning.job.checkpoint`.")
    ]
    ready_ms: Annotated[
        int | None,
        Field(
            description="Milliseconds from publication to the first token it could answer with, measured; null where "
            "no engine of its base was up, or `milepost worker` trained it. Of Milepost's own: OpenAI's checkpoints "
            "have no such field."
        ),
    ] = None
