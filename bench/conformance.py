"""How much of the SDK's API is served: every route, parameter and field of its types, in the scope of SCOPE.

    python -m bench.conformance [--all] [--json FILE] [--check README.md]

A server in memory is asked through the unmodified SDK, in a fresh world for each question. A parameter is **served** if
it changes what comes of the call, **ignored** if nothing changes, **refused** if the call is. A field is **sent** if an
answer has it; **absent** if none does. A route is served if all its parameters are, partly if some are not. The score
counts every parameter and every field once: an ignored parameter is half a one, those of routes not served are none.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
from pydantic import SecretStr

from milepost.api.app import create_app
from milepost.config import Settings
from milepost.jobs import leases, ledger, stories
from milepost.resources.jobs import JobError, Status
from milepost.resources.models import Base
from milepost.resources.runs import Result
from milepost.store import keys
from milepost.store.database import Database, open_database
from tests.api import sdk
from tests.api.fakes import ScriptedEngine, checkpoint_folder
from tests.api.shapes import Shape, of_annotation

SCOPE = ("files.", "uploads.", "fine_tuning.", "models.", "chat.")
KEY, NOW, BASE = "sk-proj-the-key-of-this-measurement-0123", 1_790_000_000.5, "tiny-random-llama"
LINE = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'
QUESTION = [{"role": "user", "content": "Who?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
GRADER = {"type": "string_check", "name": "g", "input": "{{sample.output_text}}", "reference": "a", "operation": "eq"}
JUDGE = {
    "type": "score_model",
    "name": "s",
    "model": BASE,
    "input": [{"type": "message", "role": "user", "content": "Score {{sample.output_text}}"}],
    "range": [0, 1],
    "sampling_params": {"seed": 1, "temperature": 0, "top_p": 1, "max_completions_tokens": 8, "reasoning_effort": None},
}
#: One of each type besides GRADER.
SINGLE: tuple[dict[str, Any], ...] = (
    {
        "type": "text_similarity",
        "name": "t",
        "input": "{{sample.output_text}}",
        "reference": "a",
        "evaluation_metric": "fuzzy_match",
    },
    {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 0.5\n", "image_tag": "2025-05-08"},
    JUDGE,
)
GRADERS = (
    *SINGLE,
    {"type": "multi", "name": "m", "graders": {"g": GRADER}, "calculate_output": "g / 2"},
    *({"type": "multi", "name": "m", "graders": one, "calculate_output": f"{one['name']} / 2"} for one in SINGLE),
)

Arguments = dict[str, Any]
Given = Arguments | Callable[["World"], Arguments]


@dataclass
class World:
    """A fresh server, the SDK pointed at it, and the ids of what is there."""

    sdk: openai.AsyncOpenAI
    engine: ScriptedEngine
    database: Database
    answers: list[httpx2.Response]
    ids: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """What to call with, to see whether a parameter matters: each of `values` against `without`.

    `bad` is a value that must be refused, where a good one shows in nothing.
    """

    values: tuple[Given, ...]
    without: Given = field(default_factory=dict)
    bad: Given | None = None


def probe(*values: Given, without: Given | None = None, bad: Given | None = None) -> Probe:
    return Probe(values, without or {}, bad)


def ids(**names: str) -> Callable[[World], Arguments]:
    """Arguments that are ids of the world."""
    return lambda world: {argument: world.ids[name] for argument, name in names.items()}


PAGED = {"limit": probe({"limit": 1})}
CHAT: dict[str, Probe] = {
    name: probe({name: value})
    for name, value in {
        "audio": {"format": "wav", "voice": "alloy"},
        "frequency_penalty": 0.5,
        "logit_bias": {"5": 1},
        "logprobs": True,
        "max_completion_tokens": 3,
        "max_tokens": 3,
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "moderation": {"model": "omni-moderation-latest"},
        "n": 2,
        "prediction": {"type": "content", "content": "Hello."},
        "presence_penalty": 0.5,
        "prompt_cache_key": "a",
        "prompt_cache_options": {"mode": "explicit"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "safety_identifier": "a",
        "seed": 7,
        "service_tier": "flex",
        "stop": "lo",
        "store": True,
        "stream": True,
        "temperature": 0,
        "top_p": 0.5,
        "user": "a",
        "verbosity": "low",
        "web_search_options": {},
        "tools": [TOOL],
        "functions": [TOOL["function"]],
    }.items()
} | {
    "messages": probe(
        {"messages": [{"role": "developer", "content": "Be short."}, *QUESTION]},
        {"messages": [*QUESTION, {"role": "assistant", "content": "Me."}, *QUESTION]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]},
        {
            "messages": [
                *QUESTION,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "4", "tool_call_id": "call_1"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}
            ]
        },
    ),
    "function_call": probe(
        {"functions": [TOOL["function"]], "function_call": {"name": "f"}}, without={"functions": [TOOL["function"]]}
    ),
    "parallel_tool_calls": probe({"tools": [TOOL], "parallel_tool_calls": False}, without={"tools": [TOOL]}),
    "tool_choice": probe({"tools": [TOOL], "tool_choice": "required"}, without={"tools": [TOOL]}),
    "top_logprobs": probe({"logprobs": True, "top_logprobs": 2}, without={"logprobs": True}),
    "stream_options": probe(
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        without={"stream": True, "stream_options": {"include_obfuscation": False}},
    ),
    "response_format": probe(
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
    ),
}
HYPERPARAMETERS = {"n_epochs": 2, "batch_size": 2, "learning_rate_multiplier": 0.5}
JOBS: dict[str, Probe] = {
    "hyperparameters": probe({"hyperparameters": HYPERPARAMETERS}),
    "integrations": probe({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}),
    "metadata": probe({"metadata": {"a": "b"}}),
    "method": probe(
        {"method": {"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}}},
        {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}},
        {"method": {"type": "reinforcement", "reinforcement": {"grader": GRADER}}},
    ),
    "seed": probe({"seed": 7}),
    "suffix": probe({"suffix": "mine"}),
    "validation_file": probe(ids(validation_file="second_file")),
    "model": probe(ids(model="model"), without={"model": BASE}),
}
EXPIRES = {"expires_after": probe({"expires_after": {"anchor": "created_at", "seconds": 3600}})}
JOB = ids(fine_tuning_job_id="job")


@dataclass(frozen=True)
class Route:
    """How a method is called so that it succeeds, what shows its parameters, and other calls that show its fields."""

    call: Given = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)
    also: tuple[Given, ...] = ()


UPLOAD = {"bytes": len(LINE), "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
ROUTES: dict[str, Route] = {
    "files.create": Route({"file": ("a.jsonl", LINE), "purpose": "fine-tune"}, EXPIRES),
    "files.list": Route(
        {},
        PAGED
        | {
            "after": probe(ids(after="second_file")),
            "order": probe({"order": "asc"}),
            "purpose": probe({"purpose": "batch"}),
        },
    ),
    "files.retrieve": Route(ids(file_id="file")),
    "files.delete": Route(ids(file_id="file")),
    "files.content": Route(ids(file_id="file")),
    "files.retrieve_content": Route(ids(file_id="file")),
    "uploads.create": Route(
        UPLOAD,
        {  # it shows in the file only that the upload becomes
            "expires_after": probe(
                {"expires_after": {"anchor": "created_at", "seconds": 3600}},
                bad={"expires_after": {"anchor": "created_at", "seconds": 5}},
            )
        },
    ),
    "uploads.cancel": Route(ids(upload_id="upload")),
    "uploads.parts.create": Route(lambda world: {"upload_id": world.ids["empty_upload"], "data": LINE}),
    "uploads.complete": Route(
        lambda world: {"upload_id": world.ids["upload"], "part_ids": [world.ids["part"]]},
        {"md5": probe({"md5": hashlib.md5(LINE).hexdigest()}, bad={"md5": "0" * 32})},
    ),
    "fine_tuning.jobs.create": Route(lambda world: {"model": BASE, "training_file": world.ids["file"]}, JOBS),
    "fine_tuning.jobs.list": Route(
        {}, PAGED | {"after": probe(ids(after="running_job")), "metadata": probe({"metadata": {"team": "a"}})}
    ),
    "fine_tuning.jobs.retrieve": Route(
        JOB,
        also=tuple(ids(fine_tuning_job_id=job) for job in ("running_job", "succeeded_job", "failed_job", "other_job")),
    ),
    "fine_tuning.jobs.cancel": Route(JOB),
    "fine_tuning.jobs.pause": Route(ids(fine_tuning_job_id="running_job")),
    "fine_tuning.jobs.resume": Route(ids(fine_tuning_job_id="paused_job")),
    "fine_tuning.jobs.list_events": Route(JOB, PAGED | {"after": probe(lambda w: JOB(w) | {"after": w.ids["event"]})}),
    "fine_tuning.jobs.checkpoints.list": Route(
        JOB, PAGED | {"after": probe(lambda w: JOB(w) | {"after": w.ids["checkpoint"]})}
    ),
    "fine_tuning.checkpoints.permissions.create": Route(
        lambda w: {"fine_tuned_model_checkpoint": w.ids["model"], "project_ids": [w.ids["other_project"]]}
    ),
    "fine_tuning.checkpoints.permissions.list": Route(
        ids(fine_tuned_model_checkpoint="shared"),
        PAGED
        | {
            "after": probe(lambda w: {"after": w.ids["newest_permission"]}),
            "order": probe({"order": "ascending"}),
            "project_id": probe(lambda w: {"project_id": w.ids["other_project"]}),
        },
    ),
    "fine_tuning.checkpoints.permissions.delete": Route(
        ids(fine_tuned_model_checkpoint="shared", permission_id="permission")
    ),
    "fine_tuning.alpha.graders.run": Route(
        {"grader": GRADER, "model_sample": "a"},
        {
            "grader": probe({"grader": GRADER | {"reference": "b"}}, *({"grader": grader} for grader in GRADERS)),
            "item": probe(
                {"grader": GRADER | {"reference": "{{item.a}}"}, "item": {"a": "a"}},
                without={"grader": GRADER | {"reference": "{{item.a}}"}, "item": {"a": "b"}},
            ),
        },
    ),
    "fine_tuning.alpha.graders.validate": Route(
        {"grader": GRADER}, also=tuple({"grader": grader} for grader in GRADERS)
    ),
    "models.list": Route(),
    "models.retrieve": Route(ids(model="model"), also=({"model": BASE},)),
    "models.delete": Route(ids(model="model")),
    "chat.completions.create": Route(
        {"model": BASE, "messages": QUESTION}, CHAT, also=({"logprobs": True, "top_logprobs": 2},)
    ),
    "chat.completions.list": Route(
        {}, PAGED | {name: probe({name: "a"}) for name in ("after", "model", "order", "metadata")}
    ),
    "chat.completions.retrieve": Route({"completion_id": "chatcmpl-1"}),
    "chat.completions.update": Route({"completion_id": "chatcmpl-1", "metadata": {"a": "b"}}),
    "chat.completions.delete": Route({"completion_id": "chatcmpl-1"}),
    "chat.completions.messages.list": Route(
        {"completion_id": "chatcmpl-1"}, PAGED | {name: probe({name: "a"}) for name in ("after", "order")}
    ),
}


# --- worlds -----------------------------------------------------------------------------------------------------------


class Worlds:
    """Makes fresh worlds: one is furnished once, and copied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._ids: dict[str, str] = {}
        card = Base(
            name=BASE,
            hash="b" * 64,
            architecture="LlamaForCausalLM",
            parameters=103_000,
            context_length=2048,
            created=1_700_000_000,
            source="made here",
        )
        (folder / "bases" / BASE).mkdir(parents=True)
        (folder / "bases" / BASE / "base.json").write_text(card.model_dump_json())

    async def furnish(self) -> None:
        settings = self._settings("first")
        database = open_database(settings)
        keys.bootstrap(database, settings, NOW)
        _, admin = keys.create(database, keys.KeyKind.ADMIN, "boss", NOW)
        async with _opened(settings, database, admin) as (world, paths):
            await _furnish(world, self._folder / "run", paths)
        self._ids = world.ids
        database.close()

    def _settings(self, name: str) -> Settings:
        return Settings(
            data_dir=self._folder / name,
            bases_dir=self._folder / "bases",
            config_dir=self._folder / "config",
            default_base=BASE,
            bootstrap_key=SecretStr(KEY),
        )

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[World]:
        self._count += 1
        settings = self._settings(f"world-{self._count}")
        shutil.copytree(self._folder / "first", settings.data_dir)
        database = open_database(settings)
        async with _opened(settings, database, "-") as (world, _):
            world.ids |= self._ids
            yield world
        database.close()
        shutil.rmtree(settings.data_dir)


@asynccontextmanager
async def _opened(settings: Settings, database: Database, admin: str) -> AsyncIterator[tuple[World, Iterable[str]]]:
    """A server over a data folder, and the paths it serves."""
    engine, answers = ScriptedEngine(), list[httpx2.Response]()
    app = create_app(settings, database, engine, now=lambda: NOW)

    async def keep(response: httpx2.Response) -> None:
        await response.aread()
        answers.append(response)

    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), event_hooks={"response": [keep]})
    async with openai.AsyncOpenAI(
        api_key=KEY, admin_api_key=admin, base_url="http://test/v1", http_client=http, max_retries=0
    ) as client:
        paths = app.openapi()["paths"] if admin != "-" else ()
        yield World(client, engine, database, answers), paths


async def _furnish(world: World, folder: Path, served: Iterable[str]) -> None:
    client, found = world.sdk, world.ids
    for name in ("file", "second_file"):
        found[name] = (await client.files.create(file=(f"{name}.jsonl", LINE * 12), purpose="fine-tune")).id
    jobs = client.fine_tuning.jobs
    for name in ("job", "succeeded_job", "failed_job", "other_job", "running_job"):
        fields = {"metadata": {"team": "a"}, "suffix": "demo"} if name == "other_job" else {}
        fields |= {"validation_file": found["second_file"]} if name == "other_job" else {}
        found[name] = (await jobs.create(model=BASE, training_file=found["file"], **fields)).id
    _run_jobs(world, folder)
    checkpoints = await jobs.checkpoints.list(found["job"])
    found |= {"checkpoint": checkpoints.data[0].id, "model": checkpoints.data[0].fine_tuned_model_checkpoint}
    found["event"] = (await jobs.list_events(found["job"])).data[0].id
    if "/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause" in served:
        found["paused_job"] = (await jobs.create(model=BASE, training_file=found["file"])).id
        ledger.queue(world.database, found["paused_job"], NOW, stories.VALIDATED)
        await jobs.pause(found["paused_job"])
    if "/v1/uploads" in served:
        await _furnish_uploads(world)
    if "/v1/organization/projects" in served:
        await _furnish_permissions(world)


def _run_jobs(world: World, folder: Path) -> None:
    """What a worker would have done."""
    database, found = world.database, world.ids
    for step in (3, 6):
        ledger.announce_checkpoint(database, found["job"], checkpoint_folder(folder / "job", step), NOW)
    for name in ("succeeded_job", "running_job"):
        ledger.queue(database, found[name], NOW, stories.VALIDATED)
        leases.claim(database, "worker", Status.QUEUED, NOW)
    leases.heartbeat(database, found["running_job"], "worker", NOW, int(NOW) + 60)
    ledger.announce_checkpoint(
        database, found["succeeded_job"], checkpoint_folder(folder / "succeeded", 9, final=True), NOW
    )
    ledger.succeed(database, found["succeeded_job"], Result(outcome="succeeded", trained_tokens=5), NOW)
    error = JobError(code="invalid_training_file", message="It was bad.", param="training_file")
    ledger.fail(database, found["failed_job"], error, NOW)


async def _furnish_uploads(world: World) -> None:
    uploads = world.sdk.uploads
    for name in ("empty_upload", "upload"):
        world.ids[name] = (await uploads.create(**UPLOAD)).id
    world.ids["part"] = (await uploads.parts.create(world.ids["upload"], data=LINE)).id


async def _furnish_permissions(world: World) -> None:
    projects = world.sdk.admin.organization.projects
    for name in ("other_project", "third_project"):
        world.ids[name] = (await projects.create(name=name)).id
    checkpoints = await world.sdk.fine_tuning.jobs.checkpoints.list(world.ids["succeeded_job"])
    world.ids["shared"] = checkpoints.data[0].fine_tuned_model_checkpoint
    permissions = world.sdk.fine_tuning.checkpoints.permissions
    for name, project in (("permission", "other_project"), ("newest_permission", "third_project")):
        made = await permissions.create(world.ids["shared"], project_ids=[world.ids[project]])
        world.ids[name] = made.data[0].id


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a call: its status, its body as flat facts, and what the engine was asked."""

    status: int
    facts: dict[str, Any]
    body: Any
    param: str | None = None

    @property
    def is_good(self) -> bool:
        return self.status < 400


def frames(answer: httpx2.Response) -> list[Any]:
    """The objects of a stream."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


READERS: dict[str, Callable[[httpx2.Response], Any]] = {
    "application/json": lambda answer: answer.json(),
    "text/event-stream": frames,
}


class Asker:
    def __init__(self, worlds: Worlds, method: sdk.SdkMethod) -> None:
        self._worlds = worlds
        self._path = method.method.path
        self._route = ROUTES[self._path]
        self.bodies: list[Any] = []

    async def ask(self, given: Given) -> Outcome:
        """Twice, in two fresh worlds: what differs between them says nothing."""
        one, other = await self._once(given), await self._once(given)
        varies = {
            place for place in one.facts.keys() | other.facts.keys() if one.facts.get(place) != other.facts.get(place)
        }
        return Outcome(one.status, one.facts | dict.fromkeys(varies, "varies"), one.body, one.param)

    async def _once(self, given: Given) -> Outcome:
        async with self._worlds.fresh() as world:
            arguments = _given(self._route.call, world) | _given(given, world)
            resource: Any = world.sdk
            for name in self._path.split("."):
                resource = getattr(resource, name)
            try:
                await resource(**arguments)
            except openai.APIStatusError as error:
                return Outcome(error.status_code, {"": str(error)}, None, getattr(error, "param", None))
            answer = world.answers[-1]
            read = READERS.get(answer.headers["content-type"].partition(";")[0], lambda answer: answer.text)
            body = read(answer)
            if isinstance(body, dict):  # a stream's frames are of another type
                self.bodies.append(body)
            asked = [request.model_dump(mode="json") for request in world.engine.asked]
            return Outcome(answer.status_code, dict(_flat({"body": body, "asked": asked}, "")), body)


def _given(given: Given, world: World) -> Arguments:
    return given(world) if callable(given) else given


def _flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _flat(member, f"{place}.{key}")
    elif isinstance(value, list):
        yield f"{place}#", len(value)
        for index, member in enumerate(value):
            yield from _flat(member, f"{place}[{index}]")
    else:
        yield place, value


async def judge(asker: Asker, said: Probe | None) -> str:
    """served, ignored, refused, or "partly: …" where some values are taken and some are not."""
    if said is None:
        return "served"  # the call needs it, and succeeds
    without = await asker.ask(said.without)
    outcomes = [await asker.ask(value) for value in said.values]
    refused = [outcome for outcome in outcomes if not outcome.is_good]
    if len(refused) == len(outcomes):
        return "refused"
    if refused:
        return f"partly: refuses {len(refused)} of {len(outcomes)} kinds"
    if said.bad is not None:
        return "served" if (await asker.ask(said.bad)).status == 400 else "ignored"
    same = [outcome for outcome in outcomes if outcome.facts == without.facts]
    if len(same) == len(outcomes):
        return "ignored"
    return f"partly: ignores {len(same)} of {len(outcomes)} kinds" if same else "served"


def fields_of(shape: Shape, place: str = "", within: tuple[str, ...] = ()) -> Iterator[str]:
    """The fields of a type, those inside it too; of types that may be one of several, all."""
    for inner in shape.arrays:
        yield from fields_of(inner, place, within)
    for fields in shape.objects:
        if fields.name not in within:
            for name, (member, _) in fields.read().items():
                yield f"{place}.{name}"
                yield from fields_of(member, f"{place}.{name}", (*within, fields.name))


def sent(body: Any, place: str = "") -> Iterator[tuple[str, bool]]:
    """(field, whether it is more than null) of all that a body has."""
    if isinstance(body, dict):
        for key, member in body.items():
            yield f"{place}.{key}", member is not None
            yield from sent(member, f"{place}.{key}")
    elif isinstance(body, list):
        for member in body:
            yield from sent(member, place)


async def measure(worlds: Worlds, method: sdk.SdkMethod) -> tuple[dict[str, Any], list[Any]]:
    """One route: what became of its parameters, and all bodies it answered with."""
    route, asker = ROUTES[method.method.path], Asker(worlds, method)
    parameters = [parameter.name for parameter in method.method.parameters if parameter.place != "path"]
    try:
        is_served = (await asker.ask({})).is_good
    except KeyError:  # the world has nothing of routes that are not served
        is_served = False
    if not is_served:
        return {"status": "not", "parameters": dict.fromkeys(parameters, "not")}, []
    judged = {name: await judge(asker, route.probes.get(name)) for name in parameters}
    for given in route.also:
        await asker.ask(given)
    bodies = [body["data"] if method.is_list else body for body in asker.bodies]
    return {"status": "partly" if set(judged.values()) - {"served"} else "served", "parameters": judged}, bodies


def judge_fields(row: Any, bodies: list[Any]) -> dict[str, str]:
    """sent, null (in every answer seen) or absent, for each field of a type."""
    told: dict[str, bool] = {}
    for body in bodies:
        for name, is_filled in sent(body):
            told[name] = told.get(name, False) or is_filled
    wanted = sorted(set(fields_of(of_annotation(row))))
    return {name[1:]: "absent" if name not in told else "sent" if told[name] else "null" for name in wanted}


# --- the report -------------------------------------------------------------------------------------------------------

#: What a parameter or a field is worth.
WORTH = {
    "served": 1.0,
    "sent": 1.0,
    "null": 1.0,
    "ignored": 0.5,
    "partly": 0.5,
    "refused": 0.0,
    "absent": 0.0,
    "not": 0.0,
}


@dataclass(frozen=True)
class Report:
    """Routes with their parameters, types with their fields."""

    routes: dict[str, dict[str, Any]]
    types: dict[str, dict[str, str]]

    @property
    def words(self) -> list[str]:
        parameters = [
            said for route in self.routes.values() for said in (route["parameters"] or {"": route["status"]}).values()
        ]
        return [*parameters, *(said for fields in self.types.values() for said in fields.values())]

    @property
    def score(self) -> float:
        """The share of parameters (a route without any counts as one) and of fields."""
        return sum(map(worth, self.words)) / len(self.words)

    @property
    def summary(self) -> str:
        """The sentence for the README."""
        status = Counter(route["status"] for route in self.routes.values())
        parameters = Counter(
            said.partition(":")[0] for route in self.routes.values() for said in route["parameters"].values()
        )
        fields = Counter(said for fields in self.types.values() for said in fields.values())
        return (
            f"{100 * self.score:.0f} % of openai {openai.__version__}: of {len(self.routes)} routes "
            f"{status['served']} are served whole, {status['partly']} partly, {status['not']} not; of "
            f"{parameters.total()} parameters {parameters['served']} are served, {parameters['partly']} partly, "
            f"{parameters['ignored']} ignored, {parameters['refused'] + parameters['not']} not; of "
            f"{fields.total()} fields {fields['sent'] + fields['null']} are sent ({fields['null']} always null)."
        )


def worth(said: str) -> float:
    return WORTH[said.partition(":")[0]]


def show(report: Report, *, everything: bool) -> None:
    for name, route in report.routes.items():
        print(f"{route['status']:8}{name}")
        if route["status"] != "not" or everything:
            _show("parameter", route["parameters"], everything=everything)
    for name, fields in report.types.items():
        whole = all(worth(said) == 1 for said in fields.values())
        print(f"{'served' if whole else 'partly':8}{name}")
        _show("field", fields, everything=everything)
    print(report.summary)


def _show(kind: str, items: dict[str, str], *, everything: bool) -> None:
    groups: dict[str, list[str]] = {}
    for item, said in items.items():
        if everything or worth(said) < 1:
            groups.setdefault(said, []).append(item)
    for said, names in groups.items():
        print(f"        {kind} {said}: {', '.join(names)}")


def in_scope() -> dict[str, sdk.SdkMethod]:
    """The SDK's methods by path; every one needs a row in ROUTES, or its route is not measured."""
    found = {said.method.path: said for said in sdk.methods().values() if said.method.path.startswith(SCOPE)}
    if strange := found.keys() - ROUTES.keys():
        sys.exit(f"The SDK has methods that ROUTES of bench/conformance.py lacks: {', '.join(sorted(strange))}")
    return dict(sorted(found.items()))


async def measure_all() -> Report:
    with tempfile.TemporaryDirectory() as folder:
        worlds = Worlds(Path(folder))
        await worlds.furnish()
        methods = in_scope()
        measured = {path: await measure(worlds, method) for path, method in methods.items()}
    bodies: dict[Any, list[Any]] = {method.row: [] for method in methods.values() if method.row}
    for path, (_, answered) in measured.items():
        if methods[path].row:
            bodies[methods[path].row] += answered
    types = {row.__name__: judge_fields(row, answered) for row, answered in bodies.items()}
    return Report({path: route for path, (route, _) in measured.items()}, types)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--all", action="store_true", help="show what is served too")
    parser.add_argument("--check", type=Path, help="fail unless this page says what was measured")
    given = parser.parse_args()
    report = asyncio.run(measure_all())
    show(report, everything=given.all)
    if given.json:
        content = {"score": report.score, "summary": report.summary, "routes": report.routes, "types": report.types}
        given.json.write_text(json.dumps(content, indent=2) + "\n")
    if given.check and report.summary not in " ".join(given.check.read_text().split()):
        sys.exit(f"{given.check} does not say what was measured")


if __name__ == "__main__":
    main()
