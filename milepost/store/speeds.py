"""How fast this machine was measured to be: one file beside the cache of base models, for all data folders."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from milepost.config import Settings
from milepost.resources.forecasts import Speed
from milepost.store import blobs

NAME = "speed.json"
log = logging.getLogger(__name__)


def get(settings: Settings) -> Speed | None:
    """What was measured last, on whatever machine that was; None if nothing was, or the file cannot be read."""
    try:
        return Speed.model_validate_json(_path(settings).read_bytes())
    except (OSError, ValidationError):  # measured anew, and written over
        return None


def put(settings: Settings, speed: Speed) -> Speed:
    """Keep a measurement, or the better parts of it and of the earlier one; returns what is to be kept.

    Where nothing can be written it is measured again next time: no job is to fail for it.
    """
    speed = speed.better(get(settings))
    try:
        _path(settings).parent.mkdir(parents=True, exist_ok=True)
        blobs.write_whole(_path(settings), speed.model_dump_json(indent=1) + "\n")
    except OSError as error:
        log.warning("the machine's speed could not be kept in %s: %s", _path(settings), error.strerror)
    return speed


def _path(settings: Settings) -> Path:
    return settings.bases_dir.parent / NAME
