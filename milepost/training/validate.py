"""The task "validate": every line of the files is looked at with the base's own tokenizer. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from milepost.errors import Invalid
from milepost.modeling.template import Chat, load_chat
from milepost.resources.jobs import Level
from milepost.resources.methods import MIN_EXAMPLES
from milepost.resources.runs import DataFile, Outcome, Result
from milepost.training import kept
from milepost.training.data import BadLines, Dataset, load
from milepost.training.directory import Directory
from milepost.training.foresight import foresee
from milepost.training.start import adapter_config

#: Why an example may teach nothing.
LEFT_OUT = "their answers are empty, or begin only after the longest length that is trained"


def validate(run: Directory) -> Result:
    """Check the adapter that training goes on from, then both files, telling the bad lines of both as events.

    Raises what is wrong with the first that is bad.
    """
    run.beat("validating")
    adapter_config(run.spec)
    chat = load_chat(Path(run.spec.base.path))
    datasets, mistakes = [], []
    for check in (_training, _validation):
        try:
            datasets.append(check(run, chat))
        except Invalid as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise mistakes[0]
    training, validation = datasets
    assert training is not None
    foresight = foresee(run, training, validation)
    return Result(outcome=Outcome.VALIDATED, training_tokens=training.tokens, **foresight)


def _training(run: Directory, chat: Chat) -> Dataset | None:
    training = _load(run, run.spec.training, chat)
    least = f"but must have at least {MIN_EXAMPLES} examples"
    if (count := len(training.examples)) < MIN_EXAMPLES:
        raise Invalid(
            f"Training file has {count} example(s), {least}", param="training_file", code="invalid_n_examples"
        )
    _describe(run, training)
    if (teaching := len(training.teaching)) < MIN_EXAMPLES:
        raise Invalid(
            f"Training file has {teaching} example(s) with a token to learn, {least}: {LEFT_OUT}",
            param="training_file",
            code="invalid_n_examples",
        )
    return training


def _validation(run: Directory, chat: Chat) -> Dataset | None:
    if run.spec.validation is None:
        return None
    validation = _load(run, run.spec.validation, chat)
    _describe(run, validation)
    return validation


def _load(run: Directory, file: DataFile, chat: Chat) -> Dataset:
    try:
        dataset = load(file, run.spec.method, chat, run.spec.hyperparameters.max_length)
    except BadLines as error:
        for problem in error.problems:
            data = {"line": problem.number, "error_param": file.param, "fix": problem.fix}
            run.tell(str(problem), level=Level.ERROR, data=data)
        raise
    if not dataset.learnt:
        raise Invalid(
            f"The job failed due to an invalid {file.param.replace('_', ' ')}. No example has a token to learn: "
            f"{LEFT_OUT}",
            param=file.param,
            code=f"invalid_{file.param}",
        )
    kept.keep(run.path, run.spec, dataset)
    return dataset


def _describe(run: Directory, dataset: Dataset) -> None:
    kind = dataset.file.param.replace("_", " ").capitalize()
    run.tell(
        f"{kind}: {len(dataset.examples):,} examples of {dataset.tokens:,} tokens, of which {dataset.learnt:,} are "
        "learnt",
        data={
            "file": dataset.file.file_id,
            "examples": len(dataset.examples),
            "tokens": dataset.tokens,
            "learnt_tokens": dataset.learnt,
        },
    )
    if cut := dataset.cut:
        limit = run.spec.hyperparameters.max_length
        run.tell(
            f"{len(cut)} of {len(dataset.examples)} examples are longer than {limit:,} tokens and are cut at their "
            f"end: lines {_listed(cut)}",
            level=Level.WARN,
            data={"file": dataset.file.file_id, "cut_examples": len(cut), "max_length": limit},
        )
    if left_out := [example.number for example in dataset.examples if not example.teaches]:
        run.tell(
            f"{len(left_out)} of {len(dataset.examples)} examples have nothing to learn and are left out, for "
            f"{LEFT_OUT}: lines {_listed(left_out)}",
            level=Level.WARN,
            data={"file": dataset.file.file_id, "left_out_examples": len(left_out)},
        )


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:20])) + (" …" if len(lines) > 20 else "")
