"""`milepost chat` as a person runs it: another process, its server a script on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROBE = """
import sys
from milepost.cli.main import main
try:
    main()
finally:
    print('imported', sorted({'torch', 'fastapi', 'prompt_toolkit'} & sys.modules.keys()), file=sys.stderr)
"""


class Handler(BaseHTTPRequestHandler):
    """Says again what it was told last, with the model's name; of `ft:gone` it knows nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        if body["model"] == "ft:gone":
            self.reply(404, "application/json", json.dumps({"error": {"message": "No model ft:gone"}}))
            return
        pieces = [f"{body['model']} heard ", body["messages"][-1]["content"], "."]
        frames = [
            {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            for piece in pieces
            for choice in [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]
        ]
        self.reply(200, "text/event-stream", "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames))

    def reply(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def chat(server, tmp_path: Path):
    def run(*words: str, said: str, **environ: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        given = {"MILEPOST_URL": f"http://127.0.0.1:{server.server_port}/v1", "MILEPOST_API_KEY": "k"}
        return subprocess.run(
            [sys.executable, "-c", PROBE, "chat", *words],
            env=kept | given | {"HOME": str(tmp_path)} | environ,
            input=said,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def roles(asked) -> list[str]:
    return [message["role"] for message in asked["messages"]]


def test_each_line_is_answered_and_what_was_said_is_remembered(chat, server):
    done = chat("tiny", "--temperature", "0", said="one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, "tiny heard one.\ntiny heard two.\n")
    assert [message["content"] for message in server.asked[1]["messages"]] == ["one", "tiny heard one.", "two"]
    assert (server.asked[0]["temperature"], server.asked[0]["stream"]) == (0, True)
    assert done.stderr.splitlines()[-1] == "imported []"


def test_two_models_are_compared_each_with_its_own_memory(chat, server):
    done = chat("one", "--compare", "two", said="Hi\nBye\n")
    assert done.stdout == "[one]\none heard Hi.\n[two]\ntwo heard Hi.\n[one]\none heard Bye.\n[two]\ntwo heard Bye.\n"
    assert server.asked[3]["messages"][1]["content"] == "two heard Hi."


def test_a_system_message_begins_a_new_talk(chat, server):
    chat("tiny", "--system", "Be brief.", said="one\n/system Be kind.\ntwo\n/system\nthree\n")
    assert [asked["messages"][0]["content"] for asked in server.asked] == ["Be brief.", "Be kind.", "three"]
    assert [roles(asked) for asked in server.asked] == [["system", "user"], ["system", "user"], ["user"]]


def test_an_answer_is_made_again_in_place_of_the_last(chat, server):
    done = chat("tiny", said="/regenerate\none\n/regenerate\n")
    assert done.stdout == "tiny heard one.\ntiny heard one.\n"
    assert [roles(asked) for asked in server.asked] == [["user"], ["user"]]
    assert "Nothing was asked yet." in done.stderr


def test_help_and_what_is_no_command_ask_nobody(chat, server):
    done = chat("tiny", said="/help\n/hepl\n\n/quit\nnever\n")
    assert (done.returncode, done.stdout, server.asked) == (0, "", [])
    assert "No command /hepl." in done.stderr


def test_an_error_ends_a_pipe_with_the_servers_sentence(chat):
    done = chat("ft:gone", said="one\ntwo\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: No model ft:gone" in done.stderr.splitlines()


def test_without_a_key_it_says_how_to_get_one(chat):
    done = chat("tiny", said="one\n", MILEPOST_API_KEY="", MILEPOST_URL="http://127.0.0.1:1/v1")
    assert done.returncode == 2
    assert "milepost serve" in done.stderr
