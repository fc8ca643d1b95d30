"""The `checkpoint.permission` object: another project that may use a checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from milepost.resources.base import Frozen

ProjectId = Annotated[
    str, Field(min_length=1, description="A project, `proj_…`.", examples=["proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"])
]


class Permission(Frozen):
    """A project other than its own may chat with a checkpoint and go on training from it."""

    id: Annotated[
        str, Field(description="Identifier of the permission, `cp_…`.", examples=["cp_4f8Qw2nB7xLkZ0cVtYpR1dHs"])
    ]
    object: Annotated[Literal["checkpoint.permission"], Field(description="Always `checkpoint.permission`.")] = (
        "checkpoint.permission"
    )
    created_at: Annotated[int, Field(description="When it was given, in Unix seconds.", examples=[1_790_000_000])]
    project_id: Annotated[
        str, Field(description="The project that may use the checkpoint.", examples=["proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"])
    ]


class PermissionRequest(Frozen):
    """The projects that a checkpoint is to be shared with: all of them, or if one cannot be, none."""

    project_ids: Annotated[
        tuple[ProjectId, ...],
        Field(
            min_length=1,
            description="The projects. One that has the permission keeps it.",
            examples=[["proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"]],
        ),
    ]
