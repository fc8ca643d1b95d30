"""Providers by configuration: a section of a TOML file, or ATTACH, becomes a provider.

::

    [prod]
    type = "openai"               # openai, openai_admin, anthropic, groq or together
    url = "https://…/v1"          # the SDK's own address if it is left out
    key_env = "PROD_KEY"          # the variable that holds the key; or key = "…"
    organization = "org-…"        # and project = "proj_…", for openai
    headers = { X-Team = "ml" }
    concurrency = 16              # requests in flight
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from milepost.errors import Denied, Invalid
from milepost.sql.providers import AT_ONCE, Provider, openai_provider, sdk_provider

if TYPE_CHECKING:
    from milepost.sql.statements import Attach

#: Where each SDK's own key is kept, if no other variable is named.
KEYS = {
    "openai": "OPENAI_API_KEY",
    "openai_admin": "OPENAI_ADMIN_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "groq": "GROQ_API_KEY",
    "together": "TOGETHER_API_KEY",
}
NAME = re.compile(r"[a-z][a-z0-9_]*")


class Section(BaseModel):
    """What may be said of a provider; a misspelt word is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["openai", "openai_admin", "anthropic", "groq", "together"] = "openai"
    url: str | None = Field(None, pattern=r"^https?://")
    key: SecretStr | None = None
    key_env: str | None = None
    organization: str | None = None
    project: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    concurrency: int = Field(AT_ONCE, ge=1, le=1000)


def configured(path: Path, environ: Mapping[str, str]) -> dict[str, Provider]:
    """The providers of a configuration file; none if there is no such file."""
    if not path.exists():
        return {}
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"Cannot read {path}: {error}") from None
    return {name: provider_of(name, section, environ, str(path)) for name, section in sections.items()}


def attached(statement: Attach, environ: Mapping[str, str] | None) -> Provider:
    """The provider of an ATTACH. A key is named by its variable, so that none stands in a statement."""
    if environ is None:
        raise Denied("Providers cannot be attached here")
    words = {"key_env": "key_env", "type": "type", "organization": "organization", "project": "project"}
    said: dict[str, Any] = {"url": statement.url}
    for option, value in statement.options.items():
        if option in ("key", "api_key"):
            raise Invalid("A key has no place in a statement.\nhint: KEY_ENV 'NAME_OF_A_VARIABLE'", param=option)
        if option == "concurrency":
            said["concurrency"] = value
        else:
            said[words.get(option, option)] = value
    return provider_of(statement.name, said, environ, "ATTACH")


def provider_of(name: str, said: Any, environ: Mapping[str, str], source: str) -> Provider:
    """A provider by its section. Raises `Invalid` for what cannot be understood."""
    if not NAME.fullmatch(name):
        raise Invalid(f"{source}: `{name}` cannot name a provider; small letters, digits and _ can")
    try:
        section = Section.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        word = ".".join(map(str, first["loc"]))
        raise Invalid(f"{source}: {word or name} of `{name}`: {first['msg']}", param=word) from None
    variable = section.key_env or KEYS[section.type]
    key = section.key.get_secret_value() if section.key else environ.get(variable)
    if section.type in ("openai", "openai_admin"):
        return openai_provider(
            name,
            base_url=section.url or "https://api.openai.com/v1",
            api_key=key,
            root=section.type,
            key_from=f"set {variable}",
            organization=section.organization,
            project=section.project,
            headers=section.headers,
            at_once=section.concurrency,
        )
    return sdk_provider(
        name,
        sdk=section.type,
        base_url=section.url,
        api_key=key,
        key_from=f"set {variable}",
        headers=section.headers,
        at_once=section.concurrency,
    )
