"""The engine's process: what happens when it, or its server, is killed."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import aclosing

import pytest

from milepost.errors import Corrupt, Invalid, Unavailable
from milepost.modeling.folders import folder_hash
from milepost.resources.runs import Source
from milepost.serving.client import Engines, launcher
from milepost.serving.protocol import Generation


class Launched:
    """The real launcher; remembers the processes it started."""

    def __init__(self, log_file):
        self._launch = launcher(threads=1, log_file=log_file, environment=os.environ)
        self.processes = []

    async def __call__(self, base, end):
        self.processes.append(await self._launch(base, end))
        return self.processes[-1]


@pytest.fixture
def launch(tmp_path):
    return Launched(tmp_path / "engine.log")


async def test_a_killed_engine_fails_its_answer_and_a_new_one_answers_the_next(launch, base):
    async with Engines(launch) as engines:
        async with aclosing(engines.generate(Generation(base=base, prompt="a", max_tokens=2000))) as answers:
            await anext(answers)
            os.kill(launch.processes[0].pid, signal.SIGKILL)
            with pytest.raises(Unavailable):
                async for _ in answers:
                    pass
        again = engines.generate(Generation(base=base, prompt="a", max_tokens=1))
        assert len([answer async for answer in again]) == 2
    assert [process.returncode for process in launch.processes] == [-9, -9]


async def test_a_base_that_cannot_be_served_says_why(launch, base, tmp_path):
    seeing = tmp_path / "seeing"
    seeing.mkdir()
    (seeing / "config.json").write_text(json.dumps({"architectures": ["SeeingForCausalLM"], "vision_config": {}}))
    async with Engines(launch) as engines:
        with pytest.raises(Invalid, match="it reads images or sounds too"):
            await engines.warm(Source(name="seeing", path=str(seeing), hash=folder_hash(seeing)))


async def test_a_base_whose_files_are_others_than_the_adapters_were_trained_on_does_not_answer(launch, base):
    async with Engines(launch) as engines:
        with pytest.raises(Corrupt, match="its files were changed"):
            await engines.warm(base.model_copy(update={"hash": "c" * 64}))


async def test_a_base_that_is_gone_names_the_pull_to_run(launch, tmp_path):
    async with Engines(launch) as engines:
        with pytest.raises(Corrupt, match="milepost pull gone"):
            await engines.warm(Source(name="gone", path=str(tmp_path / "gone"), hash="c" * 64))


SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from milepost.resources.runs import Source
from milepost.serving.client import Engines, launcher

async def main():
    launch = launcher(threads=1, log_file=Path(sys.argv[2]), environment=os.environ)
    async def told(base, end):
        process = await launch(base, end)
        print(process.pid, flush=True)
        return process
    await Engines(told).warm(Source.model_validate_json(sys.argv[1]))
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_no_engine_outlives_its_server(base, tmp_path):
    command = (sys.executable, "-c", SERVER, base.model_dump_json(), str(tmp_path / "engine.log"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        engine = os.pidfd_open(int(server.stdout.readline()))
        assert server.stdout.readline() == "ready\n"
        server.wait()
    readable, _, _ = select.select([engine], [], [], 30)  # a pidfd is readable once its process has ended
    assert readable == [engine]
    os.close(engine)
