"""The providers of a person: the SDK's own variables, their configuration file, and the server they started last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from milepost import config
from milepost.sql.providers import Provider, openai_provider

OPENAI_URL = "https://api.openai.com/v1"
#: What `milepost serve` leaves in the configuration folder, and what a person may write there.
LOCAL, PROVIDERS = "local.json", "providers.toml"


def providers(environ: Mapping[str, str]) -> dict[str, Provider]:
    """`openai`, `openai_admin`, `local`, and those of providers.toml, which may take the place of the first three."""
    settings = config.load(environ)
    url = environ.get("OPENAI_BASE_URL") or OPENAI_URL
    organization = environ.get("OPENAI_ORG_ID")
    known = [
        openai_provider(
            "openai",
            base_url=url,
            api_key=environ.get("OPENAI_API_KEY"),
            key_from="set OPENAI_API_KEY (and OPENAI_BASE_URL for another server); `local` is your own server",
            organization=organization,
            project=environ.get("OPENAI_PROJECT_ID"),
        ),
        openai_provider(
            "openai_admin",
            base_url=url,
            api_key=environ.get("OPENAI_ADMIN_KEY"),
            organization=organization,
            root="openai_admin",
            key_from="set OPENAI_ADMIN_KEY",
        ),
        _local(settings),
    ]
    named = {provider.name: provider for provider in known}
    path = settings.config_dir / PROVIDERS
    if not path.exists():
        return named
    from milepost.sql.attach import configured

    return named | configured(path, environ)


def _local(settings: config.Settings) -> Provider:
    path = settings.config_dir / LOCAL
    left: dict[str, str] = {}
    if path.exists():
        with suppress(ValueError):  # a note that cannot be read is none; the next start writes it anew
            left = json.loads(path.read_bytes())
    url = settings.url or left.get("url") or f"http://{settings.host}:{settings.port}/v1"
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if key is None and url == left.get("url"):  # to no other server than the one it is of
        key = left.get("key")
    return openai_provider(
        "local", base_url=url, api_key=key, key_from="start `milepost serve`, or set MILEPOST_API_KEY"
    )
