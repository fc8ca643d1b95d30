"""Our training process, step by step: its own loop, over a run directory, with events, states and all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from turns import Turns, given

from milepost.training.directory import held
from milepost.training.loop import Trainer, _first_state
from milepost.training.plan import Plan


@dataclass(frozen=True, slots=True)
class Listed(Plan):
    """The comparison's own batches in place of the shuffled ones, so that all train on the same."""

    batches: tuple[tuple[int, ...], ...] = ()

    def indices(self, step: int) -> list[int]:
        return list(self.batches[step - 1])


def main() -> None:
    told, turns = given(), Turns()
    torch.set_num_threads(told["threads"])
    with held(told["folder"] / told["run"]) as directory:
        trainer = Trainer(directory, _first_state(directory))
        plan = trainer.plan
        trainer.plan = Listed(
            plan.hyperparameters, plan.seed, plan.examples, tuple(map(tuple, told["orders"][told["order"]]))
        )
        for step in trainer.steps_left():
            turns.before_step()
            trainer.take(step)
            turns.after_step(trainer._train_loss or 0.0)  # noqa: SLF001
            if step == 1:
                turns.facts = {"save_s": timed(trainer.save), "publish_s": timed(trainer.publish)}


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
