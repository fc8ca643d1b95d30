"""/fine_tuning/jobs: create, watch, pause, resume and cancel jobs; their events and checkpoints."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from milepost.api.bodies import StrictRoute
from milepost.api.parts import Caller, Given, IdempotencyKey, Parts
from milepost.errors import Invalid
from milepost.jobs import ledger, waiting
from milepost.resources.base import Page
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.resources.jobs import Event, Job, JobRequest, Status
from milepost.store import bases, models
from milepost.store.idempotency import Once

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"], route_class=StrictRoute)

#: SQLite's integers end at 2^63; nobody has as many jobs as 2^31.
Limit = Annotated[int, Query(ge=0, lt=2**31, description="How many to answer with at most.", examples=[20])]
After = Annotated[str | None, Query(description="The id of the last one already seen.")]
JobId = Annotated[str, Path(description="The id of a job.", examples=["ftjob-4Q9hXKfQvyYtPzLVSLgMdWAB"])]
#: What `metadata` of a list may be; read from the query by `_metadata`, since FastAPI knows no `name[key]=value`.
METADATA = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "description": (
                "`metadata[k]=v` keeps the jobs with that pair, several the jobs with all of them; `metadata[k]=` "
                "those whose value is empty; `metadata=null` those without any pair."
            ),
            "schema": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
            "example": {"team": "support"},
        }
    ]
}


@router.post("", summary="Create a fine-tuning job")
def create(body: JobRequest, key: Caller, given: Given, idempotency_key: IdempotencyKey = None) -> Job:
    """Create a job, which starts by itself. `method` wins over the deprecated top-level `hyperparameters`; what `auto`
    became is in the job at once and explained in its first events. A tuned model or checkpoint as `model` is trained
    on from its weights.
    """
    once = None if idempotency_key is None else _once(idempotency_key, body)
    # before anything is looked up: what the first request named may have been deleted since
    if once and (made := ledger.made_before(given.database, key.project_id, once)):
        return _shown(made, given)
    parent = models.checkpoint_for_training(given.database, key.project_id, body.model)
    base, _ = bases.get(given.settings, body.model if parent is None else parent.base)
    most = given.settings.max_waiting_per_project
    made = ledger.create(given.database, key, body, base, given.now(), parent=parent, once=once, most_waiting=most)
    return _shown(made, given)


@router.get("", summary="List fine-tuning jobs", openapi_extra=METADATA)
def page(request: Request, key: Caller, given: Given, after: After = None, limit: Limit = 20) -> Page[Job]:
    """The jobs of the key's project, newest first. `metadata[k]=v` keeps those with that pair, `metadata=null` those
    that have none.
    """
    pairs, without = _metadata(request)
    found = ledger.page(
        given.database, key.project_id, after=after, limit=limit, metadata=pairs, without_metadata=without
    )
    return found.model_copy(update={"data": _all_shown(found.data, given)})


@router.get("/{fine_tuning_job_id}", summary="Retrieve a fine-tuning job")
def retrieve(fine_tuning_job_id: JobId, key: Caller, given: Given) -> Job:
    """A job as it is now."""
    return _shown(ledger.get(given.database, key.project_id, fine_tuning_job_id), given)


@router.post("/{fine_tuning_job_id}/cancel", summary="Cancel a fine-tuning job")
def cancel(fine_tuning_job_id: JobId, key: Caller, given: Given) -> Job:
    """Cancel a job that has not ended. The checkpoints it has published go on answering."""
    return _shown(ledger.cancel(given.database, key.project_id, fine_tuning_job_id, given.now()), given)


@router.post("/{fine_tuning_job_id}/pause", summary="Pause a fine-tuning job")
def pause(fine_tuning_job_id: JobId, key: Caller, given: Given) -> Job:
    """Pause a job that is queued or running. One that runs writes a checkpoint of the step it has reached, which can
    be used like any other, and stops; until it is resumed it takes nothing but disk space.
    """
    return _shown(ledger.pause(given.database, key.project_id, fine_tuning_job_id, given.now()), given)


@router.post("/{fine_tuning_job_id}/resume", summary="Resume a fine-tuning job")
def resume(fine_tuning_job_id: JobId, key: Caller, given: Given) -> Job:
    """Put a paused job back in the queue. It goes on exactly where it stopped: to the same losses and weights, bit for
    bit, as if it had never been paused.
    """
    job = ledger.resume(given.database, key.project_id, fine_tuning_job_id, given.now())
    most = given.settings.max_running_per_project
    waiting.announce(given.database, job.id, given.now(), most_of_project=most)
    return _shown(job, given)


@router.get("/{fine_tuning_job_id}/events", summary="List the events of a job")
def events(fine_tuning_job_id: JobId, key: Caller, given: Given, after: After = None, limit: Limit = 20) -> Page[Event]:
    """The history of a job, newest first."""
    return ledger.events_page(given.database, key.project_id, fine_tuning_job_id, after=after, limit=limit)


@router.get("/{fine_tuning_job_id}/checkpoints", summary="List the checkpoints of a job")
def checkpoints(
    fine_tuning_job_id: JobId, key: Caller, given: Given, after: After = None, limit: Limit = 10
) -> Page[FineTuningJobCheckpoint]:
    """The checkpoints of a job, highest step first. Each answers chat completions under its model name already."""
    return ledger.checkpoints_page(given.database, key.project_id, fine_tuning_job_id, after=after, limit=limit)


def _shown(job: Job, given: Parts) -> Job:
    return _all_shown((job,), given)[0]


def _all_shown(jobs: Sequence[Job], given: Parts) -> tuple[Job, ...]:
    """Jobs with their places in the queue; a paused one under the status that the operator wants clients to see."""
    most = given.settings.max_running_per_project
    queued = [job.id for job in jobs if job.status is Status.QUEUED]
    places = waiting.places(given.database, queued, given.now(), most_of_project=most)
    paused = {"status": Status(given.settings.paused_status)}
    return tuple(job.model_copy(update=paused if job.is_paused else {"queue": places.get(job.id)}) for job in jobs)


def _once(idempotency_key: str, body: JobRequest) -> Once:
    """What was sent, not what it was understood as: a later version that knows more fields still knows it again."""
    sent = body.model_dump(mode="json", exclude_unset=True)
    text = json.dumps(["POST", "/fine_tuning/jobs", sent], sort_keys=True)
    return Once(idempotency_key, hashlib.sha256(text.encode()).hexdigest())


def _metadata(request: Request) -> tuple[dict[str, str], bool]:
    """The pairs of `metadata[k]=v` in a query, and whether it says `metadata=null`. A bare `metadata=` says nothing."""
    matches = ((re.fullmatch(r"metadata\[(.*)\]", name), value) for name, value in request.query_params.multi_items())
    found = [(match[1], value) for match, value in matches if match]
    pairs = dict(found)
    plain = set(request.query_params.getlist("metadata")) - {""}
    if strange := plain - {"null"}:
        raise Invalid(
            f"Invalid value for 'metadata': {strange.pop()!r}. Give metadata[key]=value, or metadata=null for the jobs "
            "that have none",
            param="metadata",
            code="invalid_value",
        )
    if pairs and plain:
        raise Invalid("Give either metadata=null or metadata[key]=value, not both", param="metadata")
    if len(pairs) < len(set(found)):
        twice = next(name for name, value in found if pairs[name] != value)
        raise Invalid(
            f"metadata[{twice}] is given with two values: no job has both", param="metadata", code="invalid_value"
        )
    return pairs, bool(plain)
