"""/fine_tuning/checkpoints/…/permissions: sharing a checkpoint with other projects of the organisation.

The names of checkpoints hold `:` and `/`, so they are paths. Keys of both kinds are taken (`auth.TAKES`): OpenAI asks
for an admin key here, and its Python SDK sends the project's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from milepost.api.bodies import StrictRoute
from milepost.api.parts import Either, Given
from milepost.resources.base import Deleted, Page
from milepost.resources.permissions import Permission, PermissionRequest
from milepost.store import permissions

router = APIRouter(prefix="/fine_tuning/checkpoints", tags=["Fine-tuning"], route_class=StrictRoute)

Checkpoint = Annotated[
    str,
    Path(
        description="The checkpoint's name, its job's `fine_tuned_model` or a `fine_tuned_model_checkpoint`.",
        examples=["ft:smollm2-135m-instruct:milepost:demo:9ABel2dg:ckpt-step-88"],
    ),
]


@router.post("/{fine_tuned_model_checkpoint:path}/permissions", summary="Share a checkpoint with projects")
def create(
    fine_tuned_model_checkpoint: Checkpoint, body: PermissionRequest, key: Either, given: Given
) -> Page[Permission]:
    """Let other projects chat with a checkpoint, see it among their models and go on training from it. All of the
    projects get the permission, or none; those that have it keep it, and it is in the answer like a new one.
    """
    return permissions.create(given.database, key, fine_tuned_model_checkpoint, body.project_ids, given.now())


@router.get("/{fine_tuned_model_checkpoint:path}/permissions", summary="List who a checkpoint is shared with")
def page(
    *,
    fine_tuned_model_checkpoint: Checkpoint,
    key: Either,
    given: Given,
    project_id: Annotated[
        str | None,
        Query(description="Only the permission of this project.", examples=["proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"]),
    ] = None,
    after: Annotated[str | None, Query(description="The id of the last permission already seen.")] = None,
    limit: Annotated[int, Query(ge=0, lt=2**31, description="How many at most.", examples=[10])] = 10,
    order: Annotated[
        Literal["ascending", "descending"], Query(description="By `created_at`.", examples=["ascending"])
    ] = "descending",
) -> Page[Permission]:
    """The permissions of a checkpoint, newest first unless `order` says otherwise."""
    return permissions.page(
        given.database,
        key,
        fine_tuned_model_checkpoint,
        project=project_id,
        after=after,
        limit=limit,
        descending=order == "descending",
    )


@router.delete(
    "/{fine_tuned_model_checkpoint:path}/permissions/{permission_id}",
    summary="Stop sharing a checkpoint with a project",
)
def delete(
    fine_tuned_model_checkpoint: Checkpoint,
    permission_id: Annotated[
        str, Path(description="The permission, `cp_…`.", examples=["cp_4f8Qw2nB7xLkZ0cVtYpR1dHs"])
    ],
    key: Either,
    given: Given,
) -> Deleted:
    """Take a permission back: for its project, the checkpoint does not exist from here on. Jobs that were created from
    it go on.
    """
    return permissions.delete(given.database, key, fine_tuned_model_checkpoint, permission_id, given.now())
