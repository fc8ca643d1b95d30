"""What a job is made from: its files and the checkpoint it goes on from, looked up as it is created."""

from __future__ import annotations

from sqlalchemy import Connection, select

from milepost.errors import Invalid, NotFound
from milepost.jobs.stories import slug
from milepost.resources.files import Purpose
from milepost.resources.jobs import JobRequest
from milepost.resources.models import Base
from milepost.store import files as store
from milepost.store.models import Tuned
from milepost.store.schema import checkpoints, files

_UPLOAD = "Upload it with `client.files.create(file=…, purpose='fine-tune')` first"


def examples(connection: Connection, project: str, request: JobRequest, now: float) -> int:
    """The number of examples in the training file, once both files can be trained on and measured."""
    count = _lines(connection, project, request.training_file, "training_file", now)
    if request.validation_file is None:
        return count
    if request.validation_file == request.training_file:
        raise Invalid(
            f"validation_file is the training file ({request.training_file}): what was trained on says nothing about "
            "new data. Give a file of examples that are held back, or leave validation_file out",
            param="validation_file",
        )
    _lines(connection, project, request.validation_file, "validation_file", now)
    return count


def refuse_unfit(request: JobRequest) -> None:
    """Texts that cannot be kept, or of which nothing would be left."""
    if "\\u0000" in request.model_dump_json():  # Postgres keeps no NUL, nor finds anything in JSON that has one
        raise Invalid("The request has a NUL character (\\u0000) in one of its texts. Leave it out")
    _refuse_empty_slug(request.suffix)


def _refuse_empty_slug(suffix: str | None) -> None:
    """A suffix of which nothing would be seen in the names that it was given for."""
    if suffix is not None and not slug(suffix):
        raise Invalid(
            f"Invalid value for 'suffix': {suffix!r} has nothing that can stand in the name of a model. Give it a "
            "letter of a to z or a digit",
            param="suffix",
            code="invalid_value",
        )


def check_parent(connection: Connection, parent: Tuned, base: Base) -> None:
    """Whether training can go on from the parent: it is there still, and its base is the one the server has."""
    query = select(checkpoints.c.id).where(checkpoints.c.id == parent.id, checkpoints.c.deleted_at.is_(None))
    if connection.scalar(query) is None:
        raise NotFound(f"The model '{parent.name}' was deleted just now", param="model", code="model_not_found")
    if parent.base_hash != base.hash:
        raise Invalid(
            f"{parent.name} was tuned from another {base.name} than the server has now (hash {parent.base_hash}, not "
            f"{base.hash}): restore the base it was tuned from, or tune the new one anew",
            param="model",
            code="model_not_available",
        )


def _lines(connection: Connection, project: str, file_id: str, param: str, now: float) -> int:
    mine = select(files).where(files.c.id == file_id, files.c.project_id == project)
    row = connection.execute(mine.where(store.is_there(now))).one_or_none()
    if row is None:
        raise Invalid(f"{store.absence(connection, project, file_id)}. {_UPLOAD}", param=param)
    if row.purpose != Purpose.FINE_TUNE or row.lines is None:
        raise Invalid(f"File {file_id} has purpose '{row.purpose}', which cannot be trained on. {_UPLOAD}", param=param)
    return int(row.lines)
