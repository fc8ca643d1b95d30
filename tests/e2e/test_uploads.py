"""Large files over a socket: the server's memory does not grow with them, and their bytes are written once."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.forms import FILE, FORM, PURPOSE
from tests.e2e.test_server import KEY, Live, until

pytestmark = pytest.mark.e2e

LINE = b'{"messages":[{"role":"user","content":"' + b"a" * 900 + b'"},{"role":"assistant","content":"Me."}]}\n'
SIZE = 150_000_000
#: What one upload may add to a server's memory, whatever its size: 5 MiB were measured, for 500 MB as for 50.
MOST_BYTES = 24 * 1024 * 1024


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("uploads")
    live = Live(folder, folder / "bases")
    yield live
    live.stop()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "train.jsonl"
    with path.open("wb") as out:
        for _ in range(SIZE // len(LINE) // 1000 + 1):
            out.write(LINE * 1000)
    return path


def memory(live: Live, what: str) -> int:
    """VmRSS, or VmHWM: its highest since the last look."""
    status = Path(f"/proc/{live.process.pid}/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) * 1024


def written(live: Live) -> int:
    return int(re.search(r"wchar: (\d+)", Path(f"/proc/{live.process.pid}/io").read_text())[1])


@pytest.mark.parametrize("purpose", ["user_data", "fine-tune"])
def test_a_large_file_takes_no_memory_and_is_written_once(live: Live, large: Path, purpose: str) -> None:
    live.sdk.files.create(file=("small.jsonl", LINE), purpose=purpose)
    Path(f"/proc/{live.process.pid}/clear_refs").write_text("5")  # the highest is that of now
    before, wrote = memory(live, "VmRSS"), written(live)
    file = live.sdk.files.create(file=large, purpose=purpose)
    assert file.bytes == large.stat().st_size
    assert memory(live, "VmHWM") - before < MOST_BYTES
    assert written(live) - wrote < file.bytes + 1_000_000
    live.sdk.files.delete(file.id)


def test_the_sdk_uploads_in_parts_of_its_own_size(live: Live, large: Path) -> None:
    Path(f"/proc/{live.process.pid}/clear_refs").write_text("5")
    before = memory(live, "VmRSS")
    md5 = hashlib.md5(large.read_bytes()).hexdigest()
    done = live.sdk.uploads.upload_file_chunked(file=large, mime_type="text/jsonl", purpose="fine-tune", md5=md5)
    assert (done.status, done.file.bytes) == ("completed", large.stat().st_size)
    assert memory(live, "VmHWM") - before < MOST_BYTES
    content = hashlib.md5()
    with live.sdk.files.with_streaming_response.content(done.file.id) as answer:
        for chunk in answer.iter_bytes(1024 * 1024):
            content.update(chunk)
    assert content.hexdigest() == md5


def test_an_upload_that_breaks_off_leaves_nothing(live: Live) -> None:
    incoming, kept = live.data / "incoming", sorted((live.data / "files").iterdir())
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {FORM}\r\n"
        "Content-Length: 9000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", live.sdk.base_url.port)) as client:
        client.sendall(head.encode() + PURPOSE + FILE[:-2] + b"a" * 3_000_000)
        until(lambda: any(path.stat().st_size for path in incoming.iterdir()), "the upload to begin")
    until(lambda: not any(incoming.iterdir()), "what had come to be removed")
    assert sorted((live.data / "files").iterdir()) == kept


def test_what_a_killed_server_was_sent_is_forgotten(live: Live) -> None:
    stray = live.data / "incoming" / "tmp-half"
    stray.write_bytes(b"half a file")
    unknown = live.data / "files" / hashlib.sha256(b"whole, but nobody was told").hexdigest()
    unknown.write_bytes(b"whole, but nobody was told")
    live.kill()
    live.start()
    assert not stray.exists()
    assert not unknown.exists()
