"""The task "train": one loop for every method. A method is its examples and its loss (METHODS), nothing else.

The same job.json gives the same bytes, however often the process was killed: what a step does depends on the state
before it and on `Plan`, the number of threads is the job's, and only progress looks at the clock.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from milepost.errors import Corrupt
from milepost.modeling import device as devices
from milepost.modeling import trainers
from milepost.modeling.adapters import read_adapter
from milepost.modeling.base import load_base
from milepost.modeling.folders import folder_hash
from milepost.modeling.lora import Lora, fresh_tensors
from milepost.resources.checkpoints import Metrics
from milepost.resources.jobs import Level
from milepost.resources.methods import MethodType
from milepost.resources.runs import (
    ADAPTER_WEIGHTS,
    DAMAGE_NOTICE,
    CheckpointMetrics,
    DataFile,
    Outcome,
    Result,
    RunSpec,
)
from milepost.training import divergence, dpo, kept, supervised
from milepost.training.checkpointing import (
    Facts,
    State,
    newest_state,
    optimizer_state,
    publish_checkpoint,
    restore,
    save_state,
)
from milepost.training.conditions import conditions, versions
from milepost.training.data import Example, Pair, load
from milepost.training.directory import Directory
from milepost.training.method import NOTHING, Method, Score
from milepost.training.optimizer import AdamW
from milepost.training.plan import Plan
from milepost.training.start import adapter_config

if TYPE_CHECKING:
    from milepost.modeling.template import Chat

log = logging.getLogger(__name__)

METHODS: Mapping[MethodType, Method[Any, Any]] = {
    MethodType.SUPERVISED: supervised.METHOD,
    MethodType.DPO: dpo.METHOD,
}


def train(run: Directory) -> Result:
    """Train from the newest state to the end, or until something else is wanted of the run."""
    run.beat("starting")
    torch.set_num_threads(run.spec.threads)
    state = _newest_state(run)
    if state is None:
        devices.use(run.spec.device)
    else:
        devices.use(state.facts.device, why="the job began there")
    trainer = Trainer(run, state or _first_state(run))
    trainer.say_how()
    with trainers.told(run.path):
        for step in trainer.steps_left():
            if outcome := run.interruption():
                trainer.save()
                if outcome is Outcome.PAUSED:
                    trainer.publish()
                return trainer.result(outcome)
            trainer.take(step)
    result = trainer.result(Outcome.SUCCEEDED)
    run.beat("done", step=result.step, total_steps=result.total_steps, eta_s=0.0)
    return result


class Trainer:
    """What a run holds while it trains: its data, the adapter and its optimizer, and how far it has come."""

    def __init__(self, run: Directory, state: State) -> None:
        spec = run.spec
        self._run = run
        self._given = spec.hyperparameters
        self._method = METHODS[spec.method]
        with ThreadPoolExecutor(1) as beside:  # the base is hashed on another core: no later step waits for it
            found = beside.submit(folder_hash, Path(spec.base.path))
            self._training, self._validation = _read(run)
            self._lora = _starting_adapter(spec, getattr(torch, state.facts.dtype), found)
        self.plan = Plan(spec.hyperparameters, spec.seed, len(self._training))
        self._optimizer = AdamW(self._lora.flat, weight_decay=self._given.weight_decay)
        if state.tensors:
            restore(state, self._optimizer, self._lora)
        self._facts = state.facts
        self._saved_step = state.facts.step
        self._run.seq = state.facts.seq
        self._clock = _Clock(state.facts)
        self._train_loss: float | None = None

    def say_how(self) -> None:
        """The run's first events; a run that goes on has told them."""
        if self._facts.step:
            return
        threads, adapter = self._run.spec.threads, self._run.spec.adapter
        counted = f"{threads} {'thread' if threads == 1 else 'threads'}"
        self._run.tell(
            f"Training {self.plan.total_steps:,} steps in {self._facts.dtype} on "
            f"{devices.name(self._lora.flat.device) or counted}",
            data={"dtype": self._facts.dtype, "threads": threads, "total_steps": self.plan.total_steps},
        )
        if adapter is not None:
            config = self._lora.config
            self._run.tell(
                f"Training goes on from `{adapter.name}`: LoRA of rank {config.rank} and alpha {config.alpha:g} on "
                f"{', '.join(config.targets)}",
                data={"lora_rank": config.rank, "lora_alpha": config.alpha, "lora_targets": config.targets},
            )

    @property
    def is_over(self) -> bool:
        """After the last step, or when the validation loss has not got better for as long as was asked."""
        patience = self._given.early_stopping_patience
        return self._facts.step >= self.plan.total_steps or (patience is not None and self._facts.waited >= patience)

    def steps_left(self) -> Iterator[int]:
        while not self.is_over:
            yield self._facts.step + 1

    def take(self, step: int) -> None:
        """One optimizer step and what follows: an event, a checkpoint where one is due, now and then a state.

        A step that diverges fails the run, or is skipped: then it learns nothing, and all else follows.
        """
        chosen = [self._training[i] for i in self.plan.indices(step)]
        before = self._facts.trained_tokens
        score, fault = self._learn(step, chosen)
        if fault is None:
            self._facts = _learnt(self._facts, score.loss, sum(example.token_count for example in chosen))
        else:
            self._skip(step, fault, [example.number for example in chosen], score.loss)
        after = self._facts.trained_tokens
        metrics = self._metrics(step, score)
        if data := _event_data(metrics, self.plan):
            self._run.tell(_sentence(metrics, self.plan), kind="metrics", data=data)
        self._facts = _after(self._facts, metrics, is_measured=self._is_measured_in_full(step))
        if self.is_over:
            self._say_why_over()
        self._facts = self._facts.model_copy(update={"seq": self._run.seq})
        if self.plan.is_checkpoint(step):
            self.publish()
        every = self._given.state_every_tokens
        if self.plan.is_checkpoint(step) or before // every < after // every:
            self.save()

    def save(self) -> None:
        """Save the state after the last step; before the first there is nothing that a restart would not find again."""
        if self._facts.step != self._saved_step:
            self._beat("saving")
            self._run.sync()
            save_state(self._run.path, State(self._facts, optimizer_state(self._optimizer, self._lora)))
            self._saved_step = self._facts.step

    def publish(self) -> None:
        """Publish a checkpoint of the last step, with what was measured at it; before one is taken there is none."""
        step, total = self._facts.step, self.plan.total_steps
        if step == self._facts.skipped:
            return
        self._run.sync()
        found = CheckpointMetrics(
            step=step,
            total_steps=total,
            epoch=step / self.plan.steps_per_epoch,
            final=self.is_over,
            metrics=self._facts.metrics,
        )
        publish_checkpoint(self._run.path, self._lora, self._run.spec.base.name, found)
        self._run.published(found)

    def result(self, outcome: Outcome) -> Result:
        return Result(
            outcome=outcome,
            step=self._facts.step,
            total_steps=self.plan.total_steps,
            training_tokens=sum(example.token_count for example in self._training),
            trained_tokens=self._facts.trained_tokens,
            skipped_steps=self._facts.skipped,
            conditions=conditions(self._run.path, self._facts.dtype, self._lora.flat.device),
            versions=versions(self._lora.model.libraries),
        )

    def _learn(self, step: int, chosen: Sequence[Example | Pair]) -> tuple[Score, str | None]:
        """Add up the gradients of the step's batches and take the optimizer's step, unless something is wrong with it;
        returns the loss before it, and what is wrong.
        """
        count = self._method.count(chosen)
        linear = self._lora.with_dropout(self._given.lora_dropout, self.plan.dropout_seed(step))
        score = NOTHING
        for batch in self._method.batches(chosen):
            loss, measured = self._method.loss(self._lora, linear, batch, self._given)
            (loss / count).backward()
            score += measured
            self._beat("training")
            self._run.give_way()
        gradient = self._lora.flat.grad
        assert gradient is not None
        norm = torch.nn.utils.clip_grad_norm_([self._lora.flat], self._given.max_grad_norm)
        fault = divergence.fault(score.loss, norm.item(), self._facts.recent_losses, self._given.spike_threshold)
        if fault is None:
            self._train_loss = score.loss
            self._optimizer.step(self.plan.learning_rate(step))
            self._lora.refresh()
        gradient.zero_()  # autograd adds into this very tensor
        return score, fault

    def _skip(self, step: int, fault: str, lines: Sequence[int], loss: float) -> None:
        """Count and tell a step that was not taken, or fail with the last good state kept, for the world too."""
        if self._given.on_divergence == "fail":
            self.save()
            self.publish()
            raise divergence.failure(step, fault, lines, self._facts.step)
        facts, total = self._facts, self.plan.total_steps
        count, in_a_row = facts.skipped + 1, facts.skipped_in_a_row + 1
        if in_a_row == divergence.MAX_IN_A_ROW or count == total:
            self.save()
            self.publish()
            raise divergence.hopeless(step, fault, lines, in_a_row)
        self._facts = facts.model_copy(update={"skipped": count, "skipped_in_a_row": in_a_row})
        data = {"step": step, "total_steps": total, "lines": sorted(lines), "skipped_steps": count}
        data |= {"loss": loss} if math.isfinite(loss) else {}
        self._run.tell(divergence.skipped(step, total, fault, lines), level=Level.WARN, data=data)

    def _metrics(self, step: int, trained: Score) -> Metrics:
        """What is known after a step: of its batch always, of the validation file where `Plan` says so."""
        chosen = self.plan.valid_indices(step, len(self._validation))
        valid = self._measure([self._validation[i] for i in chosen]) if chosen else NOTHING
        full = self._measure(self._validation) if self._is_measured_in_full(step) else NOTHING
        for name, score in (("validation loss", valid), ("full validation loss", full)):
            if score.sums and not math.isfinite(score.loss):
                total = self.plan.total_steps
                self._run.tell(
                    f"Step {step}/{total}: the {name} is not a finite number",
                    level=Level.WARN,
                    data={"step": step, "total_steps": total},
                )
        return Metrics(step=step, **trained.means("train_"), **valid.means("valid_"), **full.means("full_valid_"))

    def _is_measured_in_full(self, step: int) -> bool:
        return bool(self._validation) and self.plan.is_checkpoint(step)

    def _measure(self, examples: Sequence[Example | Pair]) -> Score:
        score = NOTHING
        with torch.no_grad():
            for batch in self._method.batches(examples):
                score += self._method.loss(self._lora, self._lora.linear, batch, self._given)[1]
                self._beat("evaluating")
                self._run.give_way()
        return score

    def _say_why_over(self) -> None:
        """Nothing of the last step: that is where it was to end."""
        facts, total = self._facts, self.plan.total_steps
        if facts.step < total:
            waited = f"{facts.waited} {'checkpoint' if facts.waited == 1 else 'checkpoints'}"
            why = (
                f"the full validation loss was not a finite number at {waited}"
                if facts.best_loss is None
                else f"the full validation loss was lowest at step {facts.best_step} ({facts.best_loss:.4f}) and has "
                f"not been lower at {waited} since"
            )
            best = {"best_step": facts.best_step, "best_full_valid_loss": facts.best_loss}
            self._run.tell(
                f"Training stops early, at step {facts.step} of {total}: {why}",
                data={"step": facts.step} | ({} if facts.best_loss is None else best),
            )

    def _beat(self, phase: str) -> None:
        facts, total = self._facts, self.plan.total_steps
        forecast = self._clock.forecast(facts, total)
        self._run.beat(phase, step=facts.step, total_steps=total, train_loss=self._train_loss, **forecast)


class _Clock:
    """How fast this process has trained so far, evaluations and all."""

    def __init__(self, facts: Facts) -> None:
        self._at, self._from = time.monotonic(), facts

    def forecast(self, facts: Facts, total_steps: int) -> dict[str, float]:
        spent, steps = time.monotonic() - self._at, facts.step - self._from.step
        if not steps:
            return {}
        tokens = facts.trained_tokens - self._from.trained_tokens
        return {"tokens_per_s": tokens / spent, "eta_s": spent / steps * (total_steps - facts.step)}


def _newest_state(run: Directory) -> State | None:
    """What training goes on from. A state whose bytes are not those of its hashes is told of, and not used."""

    def tell(folder: Path) -> None:
        log.error("%s is damaged", folder)
        number = DAMAGE_NOTICE + len(list(folder.parent.glob(".step-*.damaged-*")))
        message = (
            f"A saved state is damaged, and not used: {folder.parent.name}/{folder.name} has not the bytes that its "
            "MANIFEST.json promises. Training goes on from the state before it"
        )
        run.notice(number, message, level=Level.WARN)

    return newest_state(run.path, run.told_seq, tell)


def _first_state(run: Directory) -> State:
    """The facts before the first step, kept so that a restart computes there and in the same dtype; nothing is told
    before.
    """
    spec = run.spec
    dtype = _fastest_dtype() if spec.dtype == "auto" else spec.dtype
    state = State(Facts(step=0, seq=run.seq, dtype=dtype, device=str(torch.get_default_device())), {})
    save_state(run.path, state)
    return state


def _fastest_dtype() -> str:
    return str(devices.dtype_of(torch.get_default_device())).removeprefix("torch.")


def _read(run: Directory) -> tuple[tuple[Example | Pair, ...], tuple[Example | Pair, ...]]:
    """What is trained on and what it is measured with, as validation has tokenised it or anew."""
    spec = run.spec

    @cache
    def chat() -> Chat:
        from milepost.modeling.template import load_chat  # tokenizers: not for what validation has tokenised

        return load_chat(Path(spec.base.path))

    def read(file: DataFile) -> tuple[Example | Pair, ...]:
        found = kept.find(run.path, spec, file)
        return (found or load(file, spec.method, chat(), spec.hyperparameters.max_length)).teaching

    return read(spec.training), read(spec.validation) if spec.validation else ()


def _starting_adapter(spec: RunSpec, dtype: torch.dtype, base_hash: Future[str]) -> Lora:
    """The base with a fresh adapter, or with the one that training goes on from."""
    config = adapter_config(spec)
    try:
        model = load_base(Path(spec.base.path), dtype)
    finally:  # whatever is wrong with files that were changed, it is told that they were
        if (found := base_hash.result()) != spec.base.hash:
            raise Corrupt(
                f"The base model in {spec.base.path} has hash {found}, not {spec.base.hash}: its files were changed"
            )
    if spec.adapter is None:
        return Lora(model, config, fresh_tensors(model.config, config.rank, spec.seed, config.targets))
    file = Path(spec.adapter.path) / ADAPTER_WEIGHTS
    _, tensors = read_adapter(file, sha256=spec.adapter.hash, base_hash=spec.base.hash)
    return Lora(model, config, tensors, reference=tensors if METHODS[spec.method].has_reference else None)


def _learnt(facts: Facts, loss: float, tokens: int) -> Facts:
    """The facts after a step that was taken, as far as they follow from its batch."""
    changes = {
        "trained_tokens": facts.trained_tokens + tokens,
        "recent_losses": divergence.remembered(facts.recent_losses, loss),
        "skipped_in_a_row": 0,
    }
    return facts.model_copy(update=changes)


def _after(facts: Facts, metrics: Metrics, *, is_measured: bool) -> Facts:
    """The facts after a step, as far as they follow from what it measured: of the whole validation file, if it did, a
    loss or what was no number.
    """
    step, loss = facts.step + 1, metrics.full_valid_loss
    facts = facts.model_copy(update={"metrics": metrics})
    if not is_measured:
        return facts.model_copy(update={"step": step})
    if loss is not None and (facts.best_loss is None or loss < facts.best_loss):
        return facts.model_copy(update={"step": step, "best_loss": loss, "best_step": step, "waited": 0})
    return facts.model_copy(update={"step": step, "waited": facts.waited + 1})


def _sentence(metrics: Metrics, plan: Plan) -> str:
    """As OpenAI writes it: "Step 10/300: training loss=1.05, validation loss=0.31"."""
    losses = {
        "training loss": metrics.train_loss,
        "validation loss": metrics.valid_loss,
        "full validation loss": metrics.full_valid_loss,
    }
    told = ", ".join(f"{name}={loss:.2f}" for name, loss in losses.items() if loss is not None)
    return f"Step {metrics.step:.0f}/{plan.total_steps}: {told}"


def _event_data(metrics: Metrics, plan: Plan) -> dict[str, float]:
    """Empty if nothing was measured: the loss of a skipped step may be no number."""
    measured = metrics.model_dump(exclude_none=True, exclude={"step"})
    return measured and {"step": int(metrics.step or 0), "total_steps": plan.total_steps, **measured}
