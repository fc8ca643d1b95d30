"""/models: everything that answers chat completions. Names hold `/` and `:`, so they are paths."""

from __future__ import annotations

from fastapi import APIRouter

from milepost.api.parts import Caller, Given
from milepost.resources.base import Deleted, Page
from milepost.resources.models import Model
from milepost.store import models

router = APIRouter(prefix="/models", tags=["Models"])

DELETED = {
    "content": {
        "application/json": {
            "example": {"id": "ft:smollm2-135m-instruct:personal:demo:9uJPbR69", "object": "model", "deleted": True}
        }
    }
}


@router.get("", summary="List models")
def page(key: Caller, given: Given) -> Page[Model]:
    """Base models, their aliases, and the project's own tuned models and checkpoints, all at once."""
    return Page(data=models.page(given.database, given.settings, key.project_id), has_more=False)


@router.get("/{model:path}", summary="Retrieve a model")
def retrieve(model: str, key: Caller, given: Given) -> Model:
    """A model by its name."""
    return models.get(given.database, given.settings, key.project_id, model)


@router.delete("/{model:path}", summary="Delete a fine-tuned model", responses={200: DELETED})
def delete(model: str, key: Caller, given: Given) -> Deleted:
    """Delete a tuned model or a checkpoint of the project. Its job still names it."""
    return models.delete(given.database, given.settings, key.project_id, model, given.now())
