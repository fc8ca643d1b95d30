"""What may answer chats: a table from the setting `engine` to what makes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol, Self
from urllib.parse import urlsplit

from milepost.config import Settings
from milepost.errors import Invalid
from milepost.jobs import runs
from milepost.jobs.launchers import without_secrets
from milepost.resources.runs import BUSY, SUMS_IN_ORDER, TRAINERS
from milepost.serving.client import Engine, Engines, launcher
from milepost.serving.protocol import Limits


class RunningEngine(Engine, Protocol):
    """An engine with a lifetime: leaving its `async with` ends what it has started."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...


def make(settings: Settings, environment: Mapping[str, str]) -> RunningEngine:
    return ENGINES[settings.engine](settings, environment)


def _milepost(settings: Settings, environment: Mapping[str, str]) -> RunningEngine:
    folder = settings.data_dir.resolve()
    (folder / runs.RUNS / TRAINERS).mkdir(parents=True, exist_ok=True)
    launch = launcher(
        threads=settings.engine_threads or max(1, (os.cpu_count() or 1) // 2),
        log_file=folder / "engine.log",
        environment=without_secrets(environment) | SUMS_IN_ORDER,
        limits=Limits(
            cache_bytes=settings.engine_cache_bytes,
            adapter_bytes=settings.engine_adapter_bytes,
            slots=settings.engine_slots,
            busy_file=str(folder / runs.RUNS / BUSY),  # beside the run directories, where their children look for it
            token_budget_ms=settings.token_budget_ms,
            device=settings.device,
            trainers=str(folder / runs.RUNS / TRAINERS),
            pace=settings.chat_pace,
        ),
    )
    return Engines(launch, most_waiting=settings.max_waiting)


def _openai_proxy(settings: Settings, _environment: Mapping[str, str]) -> RunningEngine:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    from milepost.serving.proxy import OpenAIProxy

    if settings.engine_url is None:
        raise Invalid(
            "MILEPOST_ENGINE is openai_proxy, but MILEPOST_ENGINE_URL does not say where that server is "
            "(http://127.0.0.1:8001/v1)",
            param="MILEPOST_ENGINE_URL",
        )
    # A proxy has no way to this machine's own loopback address.
    is_here = urlsplit(settings.engine_url).hostname in {"127.0.0.1", "::1", "localhost"}
    client = AsyncOpenAI(
        api_key=settings.engine_key.get_secret_value() if settings.engine_key else "none",
        base_url=settings.engine_url,
        http_client=DefaultAsyncHttpxClient(trust_env=False) if is_here else None,
        max_retries=0,
    )
    return OpenAIProxy(client, most_waiting=settings.max_waiting)


ENGINES: Mapping[str, Callable[[Settings, Mapping[str, str]], RunningEngine]] = {
    "milepost": _milepost,
    "openai_proxy": _openai_proxy,
}
