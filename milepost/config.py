"""Every setting, parsed once, frozen.

Only `cli` calls `load`; everything else is handed a `Settings`. The settings page (docs/reference/settings.md) is
generated from the field descriptions, and a test compares them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from milepost.errors import Invalid

PREFIX = "MILEPOST_"


def _home(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "milepost"


def cache_dir() -> Path:
    """Where what can be made again is kept."""
    return _home("XDG_CACHE_HOME", ".cache")


class Settings(BaseModel):
    """Everything an operator may set, as `MILEPOST_<NAME>`; a misspelt variable is refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    data_dir: Path = Field(
        Path("milepost-data"), description="Folder of the database, uploaded files, runs and adapters."
    )
    database_url: SecretStr | None = Field(
        None,
        description="URL of a Postgres database (`postgresql://user:password@host/name`) instead of SQLite in the data "
        "folder: for several servers and workers over one data folder.",
    )
    host: str = Field(
        "127.0.0.1", description="Address `milepost serve` listens on. Loopback unless you say otherwise."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port of `milepost serve`; 0 takes a free one.")
    organization: str = Field(
        "personal",
        pattern=r"^[a-z0-9-]{1,40}$",
        description="Name of the organisation in model names: `ft:BASE:ORGANISATION:SUFFIX:ID`.",
    )
    log_format: Literal["human", "json"] = Field(
        "human", description="How the server's log is written: for people, or (`json`) an object a line."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least that is logged; `debug` has a line for each request."
    )
    metrics_key: SecretStr | None = Field(
        None, description="A key that opens `/metrics` and nothing else, for Prometheus. Admin keys open it too."
    )
    metrics_open: bool = Field(default=False, description="Whether `/metrics` needs no key.")
    bootstrap_key: SecretStr | None = Field(
        None, description="First project key, instead of one drawn at the first start (containers, tests)."
    )
    url: str | None = Field(
        None, description="Base URL of the SQL provider `local`, instead of the one `milepost serve` left behind."
    )
    api_key: SecretStr | None = Field(
        None, description="Key of the SQL provider `local`, instead of the one `milepost serve` left behind."
    )
    bases_dir: Path = Field(
        default_factory=lambda: _home("XDG_CACHE_HOME", ".cache") / "bases",
        description="Cache of base models, shared by all data folders.",
    )
    config_dir: Path = Field(
        default_factory=lambda: _home("XDG_CONFIG_HOME", ".config"),
        description="Where `milepost serve` leaves its URL and key for the SQL provider `local`.",
    )
    default_base: str = Field(
        "smollm2-135m-instruct", description="The base model that aliases such as `gpt-4o-mini` stand for."
    )
    aliases: bool = Field(
        default=True, description="Whether the ids OpenAI once let people tune stand for `default_base`."
    )
    max_running_jobs: int = Field(1, ge=1, description="Jobs that train at the same time.")
    max_running_per_project: int | None = Field(
        None, ge=1, description="Jobs of one project that train at the same time. Default: as many as train at all."
    )
    max_waiting_per_project: int | None = Field(
        None,
        ge=1,
        description="Jobs of one project that may wait to be trained; one more is answered 429. Default: any number.",
    )
    lease_s: float = Field(
        60.0,
        ge=2,
        description="Seconds after which a worker that is not heard of loses its jobs to another, where several work "
        "over one database. Its training processes end when half of it is over without a renewal.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="What trains and answers: `cpu`, `cuda`, `cuda:1` …; `auto` is a GPU of NVIDIA's if torch finds "
        "one. Fixed per job. Nothing was tried on a GPU yet.",
    )
    training_threads: int | None = Field(
        None, ge=1, description="Threads of a training process; fixed per job. Default: all cores."
    )
    training_memory_bytes: int | None = Field(
        None,
        ge=1,
        description="Most memory a training process may have for its data, so that it and not the server goes when "
        "memory is short; fixed per job. Forecasts say what fits. Default: what the machine or its container has.",
    )
    silence_s: float = Field(
        600.0,
        gt=0,
        description="Seconds without a sign of life after which a training process is taken to hang: it is killed and "
        "goes on from its last saved state, three times at most. Loading a base and one batch must take less.",
    )
    min_free_bytes: int = Field(
        256 * 1024 * 1024,
        ge=0,
        description="Free bytes on the disk of the data folder below which no job is started and /readyz not ready. A "
        "job that ran out of room is paused, and goes on by itself when there is this much again.",
    )
    engine: Literal["milepost", "openai_proxy"] = Field(
        "milepost",
        description="What answers chats: engines of Milepost's own, or (`openai_proxy`) another server that loads "
        "adapters at run time, such as vLLM.",
    )
    engine_url: str | None = Field(
        None, description="Base URL of that server, with its `/v1`. It reads adapters from this data folder."
    )
    engine_key: SecretStr | None = Field(None, description="Key of that server.")
    engine_threads: int | None = Field(
        None, ge=1, description="Threads of the engine that answers chats. Default: half the cores."
    )
    engine_cache_bytes: int | None = Field(
        None,
        ge=1,
        description="Memory for the keys and values of running chats, a quarter of it for beginnings of prompts to be "
        "used again. It bounds how many chats run at once. Default: a quarter of what this machine, its container or "
        "service may have.",
    )
    engine_adapter_bytes: int | None = Field(
        None,
        ge=1,
        description="Memory for adapters that were asked for lately, some 15 MB each for a model of 135 million "
        "parameters. Default: a sixteenth of what this machine, its container or service may have.",
    )
    engine_slots: int = Field(
        8, ge=1, le=64, description="Adapters that can share a forward pass; each in use adds to the time of a token."
    )
    max_waiting: int = Field(
        256, ge=1, description="Requests of one project that may wait for their first token; more are answered 429."
    )
    token_budget_ms: int = Field(
        100,
        ge=0,
        description="Milliseconds a token of a chat may take while a job trains. When it takes longer, training pauses "
        "between its batches, but keeps 60 % of its speed; what it computes stays the same. 0 never pauses it.",
    )
    chat_pace: float = Field(
        1.8,
        ge=1,
        le=100,
        description="How many times its fastest a token of a chat may take while a job trains on this machine. In what "
        "is left of that time the engine rests, and training has all cores; while a token is computed, it keeps off "
        "the engine's. 1 never rests: chats as fast as can be, training at half its speed.",
    )
    stop_grace_s: float = Field(
        5.0, ge=0, description="Seconds in which answers may end when the server stops; then they end with an error."
    )
    client_patience_s: float = Field(
        60.0,
        gt=0,
        description="Seconds a client gets to send a request's headers, to go on with its body (16 KiB in half of "
        "them) or to read on in its answer. Then, after half of them at the earliest, its connection is cut. Time in "
        "which the server computes does not count.",
    )
    result_csv_base64: bool = Field(
        default=True,
        description="Whether `step_metrics.csv` is served as base64 text, as OpenAI's is; `false` gives plain CSV.",
    )
    paused_status: Literal["paused", "queued"] = Field(
        "paused",
        description="The status a paused job shows. The SDKs' types have no `paused`: for clients that are strict "
        "about them say `queued`. The job's `is_paused` is true either way.",
    )
    max_file_bytes: int = Field(
        512 * 1024 * 1024, ge=1, description="Largest file that may be uploaded in one request, in bytes."
    )
    max_upload_bytes: int = Field(
        8 * 1024 * 1024 * 1024, ge=1, description="Largest file that may be uploaded in parts, in bytes."
    )
    max_part_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Largest part of such an upload, in bytes.")
    tensorboard_dir: Path | None = Field(
        None,
        description="Folder in which each job writes TensorBoard's event files, in a folder of its own.",
    )
    wandb_api_key: SecretStr | None = Field(
        None,
        description="Key of Weights & Biases for jobs with an integration `wandb`; it reaches their training processes "
        "only. Without it they send nothing, unless WANDB_MODE is `offline` in the server's environment.",
    )
    evals_as_user_data: bool = Field(
        default=False,
        description="Whether files of purpose `evals` are answered as `user_data`, for clients that check answers "
        "against the SDK's types: those let a file be uploaded with `evals`, but not be answered with it.",
    )
    sql_budget: int = Field(
        1000, ge=0, description="How often one SQL statement may ask a model, by `chat()` and graders."
    )


def load(environ: Mapping[str, str], **overrides: object) -> Settings:
    """Read the settings from `environ`; `overrides` (command-line flags that were given) win.

    Raises `Invalid` for a variable that is not a setting, or a value that does not fit it.
    """
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    given = {name for name in environ if name.startswith(PREFIX)}
    if unknown := sorted(given - set(known)):
        raise Invalid(
            f"{unknown[0]} is not a setting of Milepost. Settings: {', '.join(sorted(known))}", param=unknown[0]
        )
    values: dict[str, object] = {known[name]: environ[name] for name in given}
    values.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise Invalid(f"{name}: {first['msg']} (got {first['input']!r})", param=name) from None
