"""The main flows over a socket with other clients than Python's async one: the official Node SDK, curl, and the sync SDK
with every departure from its types an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from milepost.store import keys
from milepost.store.database import open_database
from tests.e2e.test_server import BASE, KEY, QUESTION, Live, chats

pytestmark = pytest.mark.e2e

NODE = Path(__file__).parent / "node"
LINE = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'

#: Each flow of node/flows.mjs, and what the document must have for it: a path, or a header of job creation.
FLOWS = {
    "files": "/v1/files",
    "job": "/v1/fine_tuning/jobs",
    "cancel": "/v1/fine_tuning/jobs",
    "chat": "/v1/chat/completions",
    "checkpoints": "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "errors": "/v1/files",
    "idempotency": "idempotency-key",
    "uploads": "/v1/uploads",
    "pause": "/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause",
    "permissions": "/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions",
    "models": "/v1/models",  # last: it deletes a checkpoint
}


def needs(there: object, what: str) -> None:
    """Skip where a tool is missing, but never in CI: what is skipped there is untested."""
    if not there:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {what}")


class Served(Live):
    """A live server with one job that has succeeded, and an admin key."""

    def __init__(self, folder: Path, bases: Path) -> None:
        super().__init__(folder, bases)
        file = self.sdk.files.create(file=("chats.jsonl", chats(12, seed=1)), purpose="fine-tune")
        made = self.sdk.fine_tuning.jobs.create(
            model=BASE, training_file=file.id, hyperparameters={"n_epochs": 3, "batch_size": 4}
        )
        self.job = self.finish(made.id)
        assert self.job.status == "succeeded"
        self.url = str(self.sdk.base_url).rstrip("/")
        self.document = self.curl(self.url.removesuffix("/v1") + "/openapi.json").json()
        self.admin = self._admin_key()

    def _admin_key(self) -> str:
        from milepost.config import Settings

        database = open_database(Settings(data_dir=self.data))
        _, secret = keys.create(database, keys.KeyKind.ADMIN, "e2e", 0)
        database.close()
        return secret

    def serves(self, what: str) -> bool:
        """Whether the document has this path, or job creation this header."""
        create = self.document["paths"]["/v1/fine_tuning/jobs"]["post"]
        headers = {p["name"].lower() for p in create.get("parameters", ()) if p["in"] == "header"}
        return what in self.document["paths"] or what in headers

    def curl(self, url: str, *words: str) -> Answer:
        url = url if url.startswith("http") else self.url + url
        command = ["curl", "--silent", "--show-error", "--include", "--max-time", "60", url, *words]
        return Answer(subprocess.run(command, capture_output=True, check=True).stdout)


class Answer:
    """What curl printed: the last status line, its headers, and the bytes after them."""

    def __init__(self, printed: bytes) -> None:
        head, _, self.content = printed.partition(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head, _, self.content = self.content.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def json(self) -> dict:
        return json.loads(self.content)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Served]:
    needs(shutil.which("curl"), "curl")
    server = Served(tmp_path_factory.mktemp("served"), tiny_base.parent)
    yield server
    server.stop()


# --- Node -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", FLOWS)
def test_the_node_sdk(served, flow):
    needs(shutil.which("node") and (NODE / "node_modules" / "openai").exists(), "node, and npm ci in tests/e2e/node")
    if not served.serves(FLOWS[flow]):
        pytest.skip(f"{FLOWS[flow]} is not served yet")
    environment = os.environ | {
        "OPENAI_BASE_URL": served.url,
        "OPENAI_API_KEY": KEY,
        "OPENAI_ADMIN_KEY": served.admin,
        "MILEPOST_BASE": BASE,
        "MILEPOST_JOB": served.job.id,
    }
    command = ["node", "flows.mjs", flow]
    done = subprocess.run(command, cwd=NODE, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_every_flow_of_node_is_a_test():
    flows = re.findall(r"^  async (\w+)\(\) \{$", (NODE / "flows.mjs").read_text(), re.MULTILINE)
    assert set(flows) == set(FLOWS)


# --- curl -------------------------------------------------------------------------------------------------------------

AUTHORIZED = ("-H", f"Authorization: Bearer {KEY}")
JSON = ("-H", "Content-Type: application/json", "-d")


def test_curl_uploads_and_gets_the_same_bytes(served, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(LINE * 12)
    made = served.curl("/files", *AUTHORIZED, "-F", "purpose=fine-tune", "-F", f"file=@{tmp_path / 'train.jsonl'}")
    assert made.status == 200
    assert list(made.json()) == [
        "id",
        "object",
        "bytes",
        "created_at",
        "filename",
        "purpose",
        "status",
        "expires_at",
        "status_details",
        "report",
    ]
    content = served.curl(f"/files/{made.json()['id']}/content", *AUTHORIZED)
    assert content.content == LINE * 12
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["content-disposition"] == 'attachment; filename="train.jsonl"'


def test_curl_sees_a_job_with_every_documented_key(served):
    job = served.curl(f"/fine_tuning/jobs/{served.job.id}", *AUTHORIZED).json()
    documented = {
        "object", "id", "model", "created_at", "finished_at", "fine_tuned_model", "organization_id", "result_files",
        "status", "validation_file", "training_file", "hyperparameters", "trained_tokens", "error",
        "user_provided_suffix", "seed", "estimated_finish", "integrations", "method", "metadata", "usage_metrics",
        "shared_with_openai",
    }  # fmt: skip
    assert documented - job.keys() == set()
    assert job["error"] is None
    assert isinstance(job["hyperparameters"]["n_epochs"], int)
    events = served.curl(f"/fine_tuning/jobs/{served.job.id}/events?limit=1", *AUTHORIZED).json()
    assert {"object": "list", "has_more": True}.items() <= events.items()


def test_curl_streams_frames_in_openais_order(served):
    body = {
        "model": BASE,
        "messages": QUESTION,
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = served.curl("/chat/completions", *AUTHORIZED, *JSON, json.dumps(body))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    *frames, done, rest = answer.content.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    first, *_, ended, usage = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert ended["choices"][0]["finish_reason"] in {"stop", "length"}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 4)


def test_curl_gets_errors_in_the_envelope_with_its_headers(served):
    answer = served.curl("/files/file-nobody", *AUTHORIZED)
    assert answer.status == 404
    assert answer.json() == {
        "error": {
            "message": "No such File object: file-nobody",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }
    }
    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["openai-version"] == "2020-10-01"
    assert answer.headers["openai-processing-ms"].isdecimal()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("/files",), 401),
        (("/nothing", *AUTHORIZED), 404),
        (("/files", *AUTHORIZED, "-X", "PUT"), 405),
        (("/fine_tuning/jobs", *AUTHORIZED, *JSON, "{"), 400),
        (("/files", *AUTHORIZED, "--path-as-is", "-X", "POST"), 400),
        (("/files/../../etc/passwd", *AUTHORIZED, "--path-as-is"), 404),
    ],
)
def test_curl_is_refused_in_the_envelope(served, words, status):
    answer = served.curl(*words)
    assert answer.status == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_curl_may_send_an_empty_body_with_a_json_type(served):
    answer = served.curl(
        f"/fine_tuning/jobs/{served.job.id}/cancel", *AUTHORIZED, "-X", "POST", "-H", "Content-Type: application/json"
    )
    assert answer.status == 400
    assert served.job.id in answer.json()["error"]["message"]


def test_curl_reads_the_documentation_without_a_key(served):
    page = served.curl(served.url.removesuffix("/v1") + "/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"Create a fine-tuning job" in page.content


# --- the sync SDK, strictly -------------------------------------------------------------------------------------------


def test_the_sync_sdk_finds_all_it_gets_to_be_of_its_types(served):
    with openai.OpenAI(api_key=KEY, base_url=served.url, max_retries=0, _strict_response_validation=True) as sdk:
        file = sdk.files.create(file=("a.jsonl", LINE * 12), purpose="fine-tune")
        assert sdk.files.wait_for_processing(file.id).status == "processed"
        assert sdk.files.content(file.id).content == LINE * 12
        assert file.id in [found.id for found in sdk.files.list(limit=1)]
        assert sdk.files.delete(file.id).deleted
        job = sdk.fine_tuning.jobs.retrieve(served.job.id)
        assert job.id in [found.id for found in sdk.fine_tuning.jobs.list(limit=1)]
        assert len(list(sdk.fine_tuning.jobs.list_events(job.id, limit=2))) > 10
        names = [c.fine_tuned_model_checkpoint for c in sdk.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
        assert names[0] == job.fine_tuned_model
        assert sdk.models.retrieve(names[0]).id == names[0]
        asked = {"model": names[0], "messages": QUESTION, "max_tokens": 8, "temperature": 0}
        whole = sdk.chat.completions.create(**asked).choices[0].message.content
        chunks = sdk.chat.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.fine_tuning.jobs.cancel(job.id)
        assert caught.value.request_id.startswith("req_")
