"""The cache of base models: one folder each, described by its `base.json`. Shared by all data folders; no torch."""

from __future__ import annotations

from pathlib import Path

from milepost.config import Settings
from milepost.errors import Invalid
from milepost.resources.models import TUNED_AT_OPENAI, Base

CARD = "base.json"


def folder(settings: Settings, name: str) -> Path:
    """Where the base `name` lies, or would lie. The slash of `owner/name` cannot stand in a folder's name."""
    return settings.bases_dir / name.replace("/", "--")


def aliases(settings: Settings) -> dict[str, str]:
    """Ids that stand for a base: those OpenAI once let people tune, unless the operator turned them off."""
    return dict.fromkeys(TUNED_AT_OPENAI, settings.default_base) if settings.aliases else {}


def list_bases(settings: Settings) -> tuple[Base, ...]:
    """The bases in the cache, by name."""
    cards = sorted(settings.bases_dir.glob(f"[!.]*/{CARD}"))
    return tuple(sorted((Base.model_validate_json(card.read_bytes()) for card in cards), key=lambda base: base.name))


def get(settings: Settings, name: str) -> tuple[Base, Path]:
    """The base that `name`, an id or an alias, stands for, and its folder.

    Raises `Invalid` with the `milepost pull` to run if it is not in the cache.
    """
    wanted = aliases(settings).get(name, name)
    there = list_bases(settings)  # looked up, never made a path of: the name is a client's
    base = next((base for base in there if base.name == wanted), None)
    if base is None:
        raise Invalid(_absence(name, wanted, there), param="model", code="model_not_available")
    return base, folder(settings, wanted)


def _absence(name: str, wanted: str, there: tuple[Base, ...]) -> str:
    if name.startswith("ft:"):
        return (
            f"Model {name} does not exist or you do not have access to it. `client.models.list()` names the tuned "
            "models and checkpoints that training can go on from"
        )
    stands_for = f" (it stands for {wanted})" if wanted != name else ""
    known = f" In the cache: {', '.join(base.name for base in there)}." if there else ""
    return (
        f"Model {name} is not available for fine-tuning or does not exist{stands_for}. "
        f"Fetch the base model on the server first: `milepost pull {wanted}`.{known}"
    )
