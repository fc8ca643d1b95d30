"""What `auto` stands for: resolved when the job is created, since the number of examples is known from the upload.

The reasons come with the numbers (`jobs.reasons`), and become events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milepost.errors import Invalid
from milepost.jobs import reasons
from milepost.resources.jobs import Hyperparameters as Shown
from milepost.resources.jobs import JobRequest
from milepost.resources.methods import Dpo, DpoHyperparameters, Hyperparameters, Method, MethodType, Supervised
from milepost.resources.models import Base
from milepost.resources.runs import RunHyperparameters

if TYPE_CHECKING:
    from milepost.store.models import Tuned  # SQLAlchemy: not for `milepost check`

#: Learning rate that a multiplier of 1.0 stands for, with LoRA of rank 16 on all linear layers: (up to how many
#: parameters of the base, rate). Small bases bear more, and need it to learn from a few hundred examples.
BASE_RATES = ((500_000_000, 1e-3), (3_000_000_000, 4e-4), (float("inf"), 2e-4))

#: Of that rate, for each method. Of preferences one value was tried: 20 steps of 8 pairs at 1e-4 made SmolLM2-135M
#: prefer all of 16 held-out answers, the preferred ones likelier by 3 to 5 nats, the others less likely by 3 to 4.
SHARES = {MethodType.SUPERVISED: 1.0, MethodType.DPO: 0.1}
NAMES = {MethodType.SUPERVISED: "LoRA", MethodType.DPO: "preferences with LoRA"}

RANK, BETA = 16, 0.1

# The rule of OpenAI's cookbook for n_epochs (reference/openai-contract.md §2.2).
_TARGET_EPOCHS = 3
_MIN_SEEN, _MAX_SEEN = 100, 25_000
_MAX_AUTO_EPOCHS = 25

# OpenAI took 0.2 % of the examples, which is 1 below 750: on a CPU eight short chats cost little more time than one,
# and a small model's steps are noisy. So up to 8, but never fewer than 32 steps an epoch.
_SMALL_BATCH, _MIN_STEPS = 8, 32
_BATCH_SHARE, _MAX_BATCH = 0.002, 256


#: Of a run's numbers, what no request can ask for.
_OUR_OWN = {"state_every_tokens"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """`shown` is what the job shows, `run` what the training process gets. `settings` has every number by its name,
    those of the adapter that training goes on from included; `reason` and `further` are a line each for people.
    """

    shown: Shown
    run: RunHyperparameters
    settings: Mapping[str, Any]
    reason: str
    further: str


def asked(request: JobRequest) -> Hyperparameters:
    """What `method` says; the deprecated top-level `hyperparameters` where it says nothing."""
    method = request.method or Method()
    named: Hyperparameters = (method.supervised or Supervised()).hyperparameters
    if method.type is MethodType.DPO:
        named = (method.dpo or Dpo()).hyperparameters
    return type(named).model_validate(_given(request.hyperparameters) | _given(named))


def resolve(
    asked: Hyperparameters, examples: int, base: Base, *, has_validation: bool = False, parent: Tuned | None = None
) -> Resolved:
    """Turn what was asked for into numbers, for a training file of `examples` lines.

    `parent` is what training goes on from: rank, alpha and targets are those of its adapter.
    """
    method = MethodType.DPO if isinstance(asked, DpoHyperparameters) else MethodType.SUPERVISED
    extras = {name: value for name, value in _given(asked).items() if name not in Shown.model_fields}
    _refuse_contradictions(asked, extras, base, has_validation=has_validation)
    if parent is not None:
        _refuse_another_shape(extras, parent)
    n_epochs = auto_epochs(examples) if asked.n_epochs == "auto" else asked.n_epochs
    batch_size = auto_batch_size(examples) if asked.batch_size == "auto" else asked.batch_size
    base_rate = SHARES[method] * next(rate for most, rate in BASE_RATES if base.parameters <= most)
    multiplier = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    if asked.learning_rate != "auto":
        multiplier = asked.learning_rate / base_rate
    settings = _adapter(extras, base, is_continued=parent is not None) | extras
    if method is MethodType.DPO:
        extras = {"beta": BETA} | extras
    run = RunHyperparameters.model_validate(
        {
            "n_epochs": n_epochs,
            "batch_size": batch_size,
            "learning_rate": base_rate * multiplier,
            "max_length": min(RunHyperparameters.model_fields["max_length"].default, base.context_length),
        }
        | settings
    )
    shown = {"n_epochs": n_epochs, "batch_size": batch_size, "learning_rate_multiplier": multiplier}
    rates = {"learning_rate_multiplier": multiplier, "base_learning_rate": base_rate}
    every = _every(run, method, parent) | rates
    rank = "" if parent else f" of rank {run.lora_rank}"
    rate = f"the rate for {NAMES[method]}{rank} on a base of {base.parameters:,} parameters"
    return Resolved(
        Shown.model_validate(shown | extras),
        run,
        every,
        reasons.first(asked, every, examples, rate),
        reasons.further(asked, every, base, parent.name if parent else None),
    )


def auto_epochs(examples: int) -> int:
    """Three, but more for few examples and fewer for very many: the cookbook's rule."""
    if examples * _TARGET_EPOCHS < _MIN_SEEN:
        return min(_MAX_AUTO_EPOCHS, _MIN_SEEN // max(examples, 1))
    if examples * _TARGET_EPOCHS > _MAX_SEEN:
        return max(1, _MAX_SEEN // examples)
    return _TARGET_EPOCHS


def auto_batch_size(examples: int) -> int:
    small = min(_SMALL_BATCH, examples // _MIN_STEPS)
    return min(_MAX_BATCH, max(1, small, round(_BATCH_SHARE * examples)))


def _given(said: Hyperparameters | None) -> dict[str, Any]:
    """What was said and is not `auto`."""
    found = said.model_dump(exclude_unset=True) if said else {}
    return {name: value for name, value in found.items() if value != "auto"}


def _adapter(extras: Mapping[str, Any], base: Base, *, is_continued: bool) -> dict[str, Any]:
    """A fresh adapter's shape is a number of the job, whatever a later version would take."""
    if is_continued:
        return {}
    rank = extras.get("lora_rank", RANK)
    return {"lora_rank": rank, "lora_alpha": 2.0 * rank, "lora_targets": base.targets}


def _every(run: RunHyperparameters, method: MethodType, parent: Tuned | None) -> dict[str, Any]:
    unused = _OUR_OWN if method is MethodType.DPO else _OUR_OWN | {"beta"}
    shape = parent.shape.model_dump(mode="json") if parent and parent.shape else {}
    return run.model_dump(mode="json", exclude=unused) | shape


def _refuse_another_shape(extras: Mapping[str, Any], parent: Tuned) -> None:
    """The training process looks again, at the weights themselves; a client hears of it here at once."""
    there = parent.shape.model_dump() if parent.shape else {}
    for name, found in there.items():
        wanted = extras.get(name, found)
        is_same = set(wanted) == set(found) if name == "lora_targets" else wanted == found
        if not is_same:
            raise Invalid(
                f"Training goes on from `{parent.name}`, whose {name} is {reasons.shown(found)}: it cannot become "
                f"{reasons.shown(wanted)}. Leave {name} out, or start from `{parent.base}`",
                param=name,
                code="invalid_value",
            )


def _refuse_contradictions(
    asked: Hyperparameters, extras: Mapping[str, Any], base: Base, *, has_validation: bool
) -> None:
    if asked.learning_rate != "auto" and asked.learning_rate_multiplier != "auto":
        raise Invalid(
            f"learning_rate {asked.learning_rate:g} and learning_rate_multiplier {asked.learning_rate_multiplier:g} "
            "were both given. Give one of them",
            param="learning_rate",
        )
    if (length := extras.get("max_length", 0)) > base.context_length:
        raise Invalid(
            f"max_length is {length}, but `{base.name}` reads {base.context_length} tokens at most", param="max_length"
        )
    targets = extras.get("lora_targets", ())
    if twice := [target for number, target in enumerate(targets) if target in targets[:number]]:
        raise Invalid(
            f"Invalid value for 'lora_targets': {twice[0]!r} is named twice. Name each module once",
            param="lora_targets",
            code="invalid_value",
        )
    if unknown := [target for target in targets if target not in base.targets]:
        raise Invalid(
            f"Invalid value: {unknown[0]!r} for 'lora_targets', which `{base.name}` has no module of. Supported values "
            f"are: {', '.join(map(repr, base.targets))}.",
            param="lora_targets",
            code="invalid_value",
        )
    if "early_stopping_patience" in extras and not has_validation:
        raise Invalid(
            "early_stopping_patience needs a validation_file, whose loss tells when to stop",
            param="early_stopping_patience",
        )
