import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import APIError, AuthenticationError, OpenAI

from milepost.cli.server import LOCAL, Running, start_server
from milepost.config import Settings
from milepost.errors import Conflict, Unavailable


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", config_dir=tmp_path / "config", bases_dir=tmp_path / "bases", port=0)


def client(server: Running, key: str | None = None) -> OpenAI:
    return OpenAI(base_url=server.url, api_key=key or server.key, max_retries=0)


def test_it_answers_the_sdk_with_the_key_it_left_for_sql(settings: Settings) -> None:
    with start_server(settings, {}) as server:
        left = json.loads((settings.config_dir / LOCAL).read_text())
        assert left == {"url": server.url, "key": server.key, "data_dir": str(settings.data_dir)}
        assert client(server).models.list().data == []
        assert server.is_whole()
    assert (settings.config_dir / LOCAL).stat().st_mode & 0o777 == 0o600
    assert not server.is_whole()


def test_keys_are_told_at_the_first_start_only(settings: Settings) -> None:
    with start_server(settings, {}) as first:
        assert first.secrets.project_key == first.key
    with start_server(settings, {}) as second:
        assert second.secrets is None


def test_the_key_for_sql_stays_and_works(settings: Settings) -> None:
    with start_server(settings, {}) as first:
        pass
    with start_server(settings, {}) as second:
        assert second.key == first.key
        assert client(second).files.list().data == []


def test_where_the_key_for_sql_was_lost_there_is_a_new_one(settings: Settings) -> None:
    with start_server(settings, {}) as first:
        pass
    (settings.config_dir / LOCAL).unlink()
    with start_server(settings, {}) as second:
        assert second.key != first.key
        assert client(second).files.list().data == []


def test_the_first_key_may_be_given(settings: Settings) -> None:
    given = settings.model_copy(update={"bootstrap_key": Settings(bootstrap_key="sk-proj-given").bootstrap_key})
    with start_server(given, {}) as server:
        assert client(server, "sk-proj-given").files.list().data == []
        with pytest.raises(AuthenticationError):
            client(server, "sk-proj-other").files.list()


def test_a_second_server_on_the_folder_is_refused(settings: Settings) -> None:
    refused = pytest.raises(Conflict, match=rf"Another Milepost server \(process {os.getpid()}\) uses ")
    with start_server(settings, {}), refused, start_server(settings, {}):
        pass
    with start_server(settings, {}) as again:
        assert again.is_whole()


def test_a_port_that_is_taken_is_named(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = settings.model_copy(update={"port": port})
        refused = pytest.raises(Unavailable, match=rf"Cannot listen on 127\.0\.0\.1 port {port}: .*Choose another")
        with refused, start_server(taken, {}):
            pass
    with start_server(settings, {}) as server:
        assert server.secrets is not None  # the refused start has not used up the one showing of the keys


def test_no_thread_is_left(settings: Settings) -> None:
    before = set(threading.enumerate())
    with start_server(settings, {}):
        pass
    assert {thread.name for thread in set(threading.enumerate()) - before} & {"worker", "http"} == set()


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_two_lines_for_the_shell_and_ends_in_order(tmp_path: Path, number: int) -> None:
    environment = {**os.environ, "MILEPOST_CONFIG_DIR": str(tmp_path / "config")}
    command = [sys.executable, "-m", "milepost", "serve", "--port", "0", "--data", str(tmp_path / "data")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url, key = process.stdout.readline(), process.stdout.readline()
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
    assert url.startswith("export OPENAI_BASE_URL=http://127.0.0.1:")
    assert key.startswith("export OPENAI_API_KEY=sk-proj-")
    assert (process.returncode, told.splitlines()[-1]) == (0, "Stopped.")


@pytest.mark.e2e
def test_a_stream_that_outlasts_the_grace_ends_with_an_error_frame(settings: Settings, tiny_base: Path) -> None:
    given = settings.model_copy(update={"bases_dir": tiny_base.parent, "stop_grace_s": 0.5})
    with ExitStack() as running:
        server = running.enter_context(start_server(given, os.environ))
        stream = client(server).completions.create(
            model=tiny_base.name, prompt="a", max_tokens=2000, stream=True, logit_bias={"258": -100}
        )
        next(stream)
        stopping = threading.Thread(target=running.pop_all().close)
        stopping.start()
        with pytest.raises(APIError, match="The server is stopping"):
            for _ in stream:
                pass
        stopping.join()


@pytest.mark.e2e
def test_a_stream_ends_in_peace_while_the_server_stops(settings: Settings, tiny_base: Path) -> None:
    given = settings.model_copy(update={"bases_dir": tiny_base.parent, "stop_grace_s": 60})
    with ExitStack() as running:
        server = running.enter_context(start_server(given, os.environ))
        stream = client(server).completions.create(
            model=tiny_base.name, prompt="a", max_tokens=300, stream=True, logit_bias={"258": -100}
        )
        next(stream)
        stopping = threading.Thread(target=running.pop_all().close)
        stopping.start()
        assert [frame.choices[0].finish_reason for frame in stream][-1] == "length"
        stopping.join()
