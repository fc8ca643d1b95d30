"""The report of an uploaded file of training data, as the unmodified SDK shows it."""

import json
import shutil
from pathlib import Path

import pytest

from milepost.config import Settings
from milepost.modeling import machine
from milepost.resources.forecasts import Speed
from milepost.store import speeds
from tests.api.conftest import BASE

LINE = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}


def jsonl(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def numbered(count: int) -> list[dict]:
    return [
        {"messages": [{"role": "user", "content": f"Which is {n}?"}, {"role": "assistant", "content": str(n)}]}
        for n in range(count)
    ]


async def upload(client, *lines):
    return await client.files.create(file=("train.jsonl", jsonl(*lines)), purpose="fine-tune")


async def test_without_the_default_base_the_report_says_why_tokens_are_not_counted(client):
    file = await upload(client, *numbered(12))
    assert file.report["is_trainable"] is True
    assert file.report["tokens"] is None
    assert file.report["tokens_note"].startswith("Tokens were not counted: The base model tiny-random-llama has no ")


async def test_faults_that_fail_a_job_are_told_at_upload_with_what_mends_them(client):
    file = await upload(client, *numbered(10), {"messages": [{"role": "bot", "content": "x"}]})
    assert file.status == "processed"
    assert file.report["bad_lines"] == 1
    assert file.report["bad"] == [
        {
            "line": 11,
            "kinds": ["unknown_role"],
            "reason": "message 1 has role 'bot'; roles are system, developer, user, assistant, tool, function",
            "fix": 'Write "role": "assistant"',
        }
    ]
    assert (await client.files.retrieve(file.id)).report == file.report


async def test_lists_leave_the_lists_of_lines_out_and_say_so(client):
    file = await upload(client, *numbered(10), LINE, LINE, {"messages": []})
    [listed] = (await client.files.list()).data
    assert (listed.report["bad_lines"], listed.report["bad"], listed.report["is_short"]) == (1, [], True)
    assert (listed.report["duplicates"]["exact"], listed.report["duplicates"]["exact_groups"]) == (1, [])
    assert len(file.report["duplicates"]["exact_groups"]) == 1


async def test_a_file_of_another_purpose_has_no_report(client):
    file = await client.files.create(file=("a.txt", b"hello"), purpose="user_data")
    assert file.report is None


async def test_a_refused_upload_is_told_what_the_file_is_and_how_to_mend_it(client):
    array = json.dumps(numbered(10)).encode()
    with pytest.raises(Exception, match="Expected file to have JSONL format") as caught:
        await client.files.create(file=("train.jsonl", array), purpose="fine-tune")
    assert "the file is one JSON array. Write one object a line: jq -c '.[]' FILE > NEW.jsonl" in str(caught.value)


class TestWithTheBase:
    @pytest.fixture
    def settings(self, settings: Settings, tiny_base: Path) -> Settings:
        folder = settings.bases_dir / BASE
        shutil.rmtree(folder)
        shutil.copytree(tiny_base, folder)
        return settings

    async def test_tokens_are_counted_and_training_is_forecast(self, client, settings):
        speeds.put(settings, Speed(machine=machine.name(), dtype="float32", gflops={1: 100.0}))
        file = await upload(client, *numbered(40))
        assert (file.report["tokens"]["model"], file.report["tokens"]["counted"]) == (BASE, 40)
        forecast = file.report["forecast"]
        assert (forecast["epochs"], forecast["steps"]) == (3, 120)
        assert forecast["tokens"] == 3 * file.report["tokens"]["total"]
        assert forecast["seconds"] > 0
        assert forecast["machine_gflops"] == 100.0

    async def test_a_machine_that_was_not_measured_leaves_time_open(self, client):
        forecast = (await upload(client, *numbered(40))).report["forecast"]
        assert (forecast["seconds"], forecast["steps"]) == (None, 120)
        assert forecast["memory_bytes"] > 10**8
        assert forecast["note"].startswith("This machine was not measured yet")
