"""The demo, phase by phase, told through the unmodified `openai` SDK and the SQL session."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from milepost import config
from milepost.cli.demo import exam, forecast, questions
from milepost.cli.demo.course import Course
from milepost.cli.demo.follow import Pace, Tried, follow, tokens_per_s
from milepost.cli.demo.questions import Pair
from milepost.cli.demo.report import Report, RowsRight
from milepost.cli.demo.server import Server, running
from milepost.cli.following import FINAL
from milepost.cli.pull import fetch
from milepost.cli.screen import Screen
from milepost.errors import Unavailable
from milepost.sql.session import Outcome, Session, openai_provider
from milepost.store import bases

#: The query of the README, and the question every user asks next.
CHECKPOINTS = """SELECT id, created_at, fine_tuned_model_checkpoint, fine_tuning_job_id, metrics, object, step_number
FROM openai.fine_tuning.job_checkpoints
WHERE fine_tuning_job_id = '{job}'"""
BEST = """SELECT fine_tuned_model_checkpoint AS best, step_number, metrics.full_valid_loss AS full_valid_loss
FROM openai.fine_tuning.job_checkpoints
WHERE fine_tuning_job_id = '{job}' ORDER BY full_valid_loss LIMIT 1"""

NOTES = "demo"  # folder in the data folder: the server's log, URL and key
SHOWN_CHARACTERS = 160

BY_HAND = """{milepost} serve --data {data}

export OPENAI_BASE_URL=http://127.0.0.1:8000/v1
export OPENAI_API_KEY={key}
{milepost} sql "SELECT id, status, fine_tuned_model FROM openai.fine_tuning.jobs"

from openai import OpenAI
answer = OpenAI().chat.completions.create(model="{model}", messages=[
    {{"role": "system", "content": "{system}"}},
    {{"role": "user", "content": "Which jobs failed?"}}])
print(answer.choices[0].message.content)"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the phases share once the server runs."""

    course: Course
    server: Server
    client: AsyncOpenAI
    screen: Screen
    report: Report

    def session(self) -> Session:
        """SQL whose `openai` is this server, whatever the user's environment says."""
        return Session({"openai": openai_provider("openai", base_url=self.server.url, api_key=self.server.key)})


async def tell(course: Course, data: Path, screen: Screen, environ: Mapping[str, str]) -> Report:
    """Run the whole demo; what is done already in the folder `data` is not done again."""
    report = Report()
    settings = config.load(environ)
    fetched = (bases.folder(settings, course.base) / bases.CARD).exists()
    with report.phase("forecast"):
        expected = await asyncio.to_thread(forecast.seconds, course, fetched=fetched)
    minutes = max(1, round(expected / 60))
    screen.say(f"By a short measurement a first run takes about {minutes} min on this machine, as busy as it is now.")
    with report.phase("pull"):
        screen.title(f"1 · The base model {course.base}")
        base = bases.get(settings, course.base)[0] if fetched else await asyncio.to_thread(fetch, settings, course.base)
        screen.say(f"{base.parameters:,} parameters, licence {base.license or 'none'}, hash {base.hash[:12]}")
    screen.title("2 · A server")
    began = time.perf_counter()
    async with running(data, data / NOTES, environ) as server:
        direct = DefaultAsyncHttpxClient(trust_env=False)  # whatever proxy the user's environment names
        client = AsyncOpenAI(base_url=server.url, api_key=server.key, http_client=direct)
        report.phases["serve"] = round(time.perf_counter() - began, 2)
        screen.say(f"milepost serve answers at {server.url}; its log is {data / NOTES / 'server.log'}")
        stage = Stage(course, server, client, screen, report)
        job = await train(stage)
        await ask_sql(stage, job)
        await examine(stage, job)
    go_on_by_hand(stage, job, data)
    return report


async def train(stage: Stage) -> FineTuningJob:
    """The job, new or found, and its checkpoints' answers beside the base's."""
    course, client, screen, report = stage.course, stage.client, stage.screen, stage.report
    asked = [pair.question for pair in course.shown]
    screen.title("3 · A fine-tuning job, through the openai SDK")
    job = await find_job(client, course)
    if job:
        then = "it is not run again" if job.status in FINAL else "it goes on"
        screen.say(f"{job.id} was created by an earlier run with the same data and settings: {then}.")
    else:
        with report.phase("upload"):
            job = await create_job(stage)
    screen.say("While it runs, the base and each of its checkpoints are asked for the SQL that answers:")
    for number, question in enumerate(asked, start=1):
        screen.say(f"  {number} {question}")
    with report.phase("ask_base"):
        answers = await exam.ask_all(client, course.base, asked)
    with report.phase("train"):
        screen.title("4 · Every checkpoint answers while the job goes on")
        tried = await watch(stage, job, answers)
    job = await client.fine_tuning.jobs.retrieve(job.id)
    if job.fine_tuned_model is None:
        why = job.error.message if job.error and job.error.message else "see its events"
        raise Unavailable(f"The job {job.id} ended as {job.status}: {why}")
    report.checkpoints = [each.facts for each in tried]
    report.train_tokens_per_s = await tokens_per_s(client, job)
    screen.say(f"{job.id} succeeded: {job.trained_tokens or 0:,} tokens trained. Base and checkpoints side by side:")
    await show_side_by_side(stage, answers, tried)
    return job


async def find_job(client: AsyncOpenAI, course: Course) -> FineTuningJob | None:
    """A job of this very course that an earlier run left, finished or to be gone on with."""
    jobs = client.fine_tuning.jobs.list(metadata={"milepost_demo": course.mark})
    return await anext((job async for job in jobs if job.status not in {"failed", "cancelled"}), None)


async def create_job(stage: Stage) -> FineTuningJob:
    course, client, screen = stage.course, stage.client, stage.screen
    files = [
        await client.files.create(file=(f"{name}.jsonl", questions.jsonl(pairs)), purpose="fine-tune")
        for name, pairs in (("training", course.training), ("validation", course.validation))
    ]
    for file in files:
        screen.say(f"{file.filename}: {file.id}, {file.bytes:,} bytes")
    return await client.fine_tuning.jobs.create(
        model=course.base,
        training_file=files[0].id,
        validation_file=files[1].id,
        suffix="demo",
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": course.hyperparameters}},
        metadata={"milepost_demo": course.mark},
    )


async def watch(stage: Stage, job: FineTuningJob, base_answers: Sequence[str]) -> list[Tried]:
    """Show a job's events until it has ended, and what its checkpoints answer meanwhile; oldest first."""
    asked = [pair.question for pair in stage.course.shown]
    pace = Pace(job.training_file, stage.course.n_epochs)
    async with exam.examiner() as session:
        await show_answers(stage, session, f"base · {stage.course.base}", base_answers)
        with stage.screen.bar() as bar:

            def tell_event(event: FineTuningJobEvent) -> None:
                if event.type == "metrics":
                    bar.move(*pace.at(event))
                else:
                    pace.hear(event)
                    stage.screen.say(event.message, "dim")

            async def tell_try(tried: Tried) -> None:
                await show_try(stage, session, tried)

            return await follow(stage.client, job.id, asked, tell_event, tell_try)


async def show_try(stage: Stage, session: Session, tried: Tried) -> None:
    facts = tried.facts
    loss = facts.metrics.get("full_valid_loss")
    said = f"step {facts.step_number}" + ("" if loss is None else f" · full_valid_loss {loss:.3f}")
    if facts.ready_s is not None:
        said += f" · first token {facts.ready_s:.1f} s after publication"
    said += " · the job is still running" if facts.answered_while_running else ""
    await show_answers(stage, session, said, tried.answers)


async def show_answers(stage: Stage, session: Session, who: str, answers: Sequence[str]) -> None:
    marks = [await mark(session, pair, answer) for pair, answer in zip(stage.course.shown, answers, strict=True)]
    stage.screen.say(who, "bold")
    for number, (marked, answer) in enumerate(zip(marks, answers, strict=True), start=1):
        stage.screen.line(f"  {number} {marked} {' '.join(answer.split())}")


async def show_side_by_side(stage: Stage, base: Sequence[str], tried: Sequence[Tried]) -> None:
    shown = stage.course.shown
    rows = [("base", base), *((f"step {each.facts.step_number}", each.answers) for each in tried)]
    async with exam.examiner() as session:
        cells = [
            [name, *[f"{await mark(session, p, a)} {shortened(a)}" for p, a in zip(shown, answers, strict=True)]]
            for name, answers in rows
        ]
    stage.screen.table(["", *(pair.question for pair in shown)], cells)


async def ask_sql(stage: Stage, job: FineTuningJob) -> None:
    """The query of the README, and the best checkpoint: over HTTP, from the server that trained them."""
    with stage.report.phase("sql"):
        stage.screen.title("5 · Every resource is a SQL table")
        async with stage.session() as session:
            for sql, show in ((CHECKPOINTS, stage.screen.records), (BEST, stage.screen.table)):
                stage.screen.code(sql.format(job=job.id) + "\n")
                result = await session.execute(sql.format(job=job.id))
                assert not isinstance(result, Outcome)
                show(result.columns, await result.fetchall())


async def examine(stage: Stage, job: FineTuningJob) -> None:
    """Run what base and tuned model answer to the held-out questions; count exactly the expected rows."""
    course, tuned = stage.course, job.fine_tuned_model
    assert tuned is not None
    with stage.report.phase("exam"):
        stage.screen.title(
            f"6 · The exam: {len(course.held_out)} questions that were never trained, answers run as SQL"
        )
        base, final = await asyncio.gather(
            *(exam.grade(stage.client, model, course.held_out) for model in (course.base, tuned))
        )
    stage.report.rows_right = RowsRight(base=base, final=final, of=len(course.held_out))
    stage.screen.table(
        ["model", "exactly the expected rows"],
        [[course.base, f"{base} of {len(course.held_out)}"], [tuned, f"{final} of {len(course.held_out)}"]],
    )


def go_on_by_hand(stage: Stage, job: FineTuningJob, data: Path) -> None:
    stage.screen.title("Go on by hand")
    stage.screen.code(
        BY_HAND.format(
            milepost=_milepost(),
            data=shlex.quote(str(data)),
            key=stage.server.key,
            model=job.fine_tuned_model,
            system=questions.prompt("")[0]["content"],
        )
    )
    stage.screen.say(
        "\nYour own scripts need those two variables and nothing else: files, jobs, events, checkpoints and chats "
        "go to this machine. gpt-4o-mini and the other ids OpenAI let people tune stand for the default base."
    )


def _milepost() -> str:
    """The command as it was called, which need not be on the PATH."""
    called = sys.argv[0]
    return shlex.quote(called) if Path(called).name == "milepost" else f"{shlex.quote(sys.executable)} -m milepost"


async def mark(session: Session, pair: Pair, answer: str) -> str:
    """Whether an answer, run as SQL on the demo's tables, gives the expected rows."""
    return "✓" if await exam.is_right(session, pair, answer) else "✗"


def shortened(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
