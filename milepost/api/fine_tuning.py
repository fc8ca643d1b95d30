"""/fine_tuning/jobs: create, watch and cancel jobs; their events and checkpoints."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request

from milepost.api.bodies import StrictRoute
from milepost.api.parts import Caller, Given
from milepost.errors import Invalid
from milepost.jobs import ledger
from milepost.resources.base import Page
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.resources.jobs import Event, Job, JobRequest
from milepost.store import bases

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"], route_class=StrictRoute)

#: SQLite's integers end at 2^63; nobody has as many jobs as 2^31.
Limit = Annotated[int, Query(ge=0, lt=2**31, description="How many items a page has at most.")]
After = Annotated[str | None, Query(description="The id of the last one already seen.")]

#: Read by hand, since its names are the client's.
METADATA = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    "description": "Only jobs with these pairs, `metadata[key]=value`; all of them must be there.",
}


@router.post("", summary="Create a fine-tuning job")
def create(body: JobRequest, key: Caller, given: Given) -> Job:
    """Create a job, which starts by itself. `method` wins over the deprecated top-level `hyperparameters`; what `auto`
    became is in the job at once and explained in its first events.
    """
    base, _ = bases.get(given.settings, body.model)
    return ledger.create(given.database, key, body, base, given.now())


@router.get("", summary="List fine-tuning jobs", openapi_extra={"parameters": [METADATA]})
def page(request: Request, key: Caller, given: Given, after: After = None, limit: Limit = 20) -> Page[Job]:
    """The jobs of the key's project, newest first. `metadata[k]=v` keeps those with that pair, `metadata=null` those
    that have none.
    """
    pairs = _metadata(request)
    without = request.query_params.get("metadata") == "null"
    if pairs and without:
        raise Invalid("Give either metadata=null or metadata[key]=value, not both", param="metadata")
    return ledger.page(
        given.database, key.project_id, after=after, limit=limit, metadata=pairs, without_metadata=without
    )


@router.get("/{fine_tuning_job_id}", summary="Retrieve a fine-tuning job")
def retrieve(fine_tuning_job_id: str, key: Caller, given: Given) -> Job:
    """A job as it is now."""
    return ledger.get(given.database, key.project_id, fine_tuning_job_id)


@router.post("/{fine_tuning_job_id}/cancel", summary="Cancel a fine-tuning job")
def cancel(fine_tuning_job_id: str, key: Caller, given: Given) -> Job:
    """Cancel a job. The checkpoints it has published go on answering."""
    return ledger.cancel(given.database, key.project_id, fine_tuning_job_id, given.now())


@router.get("/{fine_tuning_job_id}/events", summary="List the events of a job")
def events(fine_tuning_job_id: str, key: Caller, given: Given, after: After = None, limit: Limit = 20) -> Page[Event]:
    """The history of a job, newest first."""
    return ledger.events_page(given.database, key.project_id, fine_tuning_job_id, after=after, limit=limit)


@router.get("/{fine_tuning_job_id}/checkpoints", summary="List the checkpoints of a job")
def checkpoints(
    fine_tuning_job_id: str, key: Caller, given: Given, after: After = None, limit: Limit = 10
) -> Page[FineTuningJobCheckpoint]:
    """The checkpoints of a job, highest step first. Each answers chat completions under its model name already."""
    return ledger.checkpoints_page(given.database, key.project_id, fine_tuning_job_id, after=after, limit=limit)


def _metadata(request: Request) -> dict[str, str]:
    """The pairs of `metadata[k]=v` in a query."""
    found = ((re.fullmatch(r"metadata\[(.*)\]", name), value) for name, value in request.query_params.multi_items())
    return {match[1]: value for match, value in found if match}
