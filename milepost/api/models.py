"""/models: everything that answers chat completions. Names hold `/` and `:`, so they are paths."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from milepost.api.parts import Caller, Given
from milepost.resources.base import Deleted, Page
from milepost.resources.models import Model
from milepost.store import models

router = APIRouter(prefix="/models", tags=["Models"])

Name = Annotated[
    str,
    Path(
        description="The model's name: a base, an alias, a tuned model or any checkpoint.",
        examples=["ft:smollm2-135m-instruct:milepost:demo:9ABel2dg"],
    ),
]


@router.get("", summary="List models")
def page(key: Caller, given: Given) -> Page[Model]:
    """Base models, their aliases, and the tuned models and checkpoints that are the project's own or shared with it,
    all at once. Extra fields tell the base, the project, the job and the step.
    """
    return Page(data=models.page(given.database, given.settings, key.project_id), has_more=False)


@router.get("/{model:path}", summary="Retrieve a model")
def retrieve(model: Name, key: Caller, given: Given) -> Model:
    """A model by its name. Of one that was deleted the 404 says so, and when."""
    return models.get(given.database, given.settings, key.project_id, model)


@router.delete("/{model:path}", summary="Delete a fine-tuned model")
def delete(model: Name, key: Caller, given: Given) -> Deleted:
    """Delete a tuned model or a checkpoint of the project, for every project it is shared with too. Its job still names
    it. One that is only shared with the project is not its to delete (403).
    """
    return models.delete(given.database, given.settings, key.project_id, model, given.now())
