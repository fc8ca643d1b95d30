"""`milepost chat` as a person runs it: another process, its server a script on this machine."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
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


#: What an answer that is not as it should be does; see Handler.
SILENT, GONE, BREAKS, WAITS, BEGINS = "silent", "gone", "breaks", "waits", "begins"
#: prompt_toolkit turns bracketed paste on when it begins to read a line.
READY = "\x1b[?2004h"
NOT_ANSWERED = "Not answered: /regenerate asks again, another message takes its place."


class Handler(BaseHTTPRequestHandler):
    """Says again what it was told last, with the model's name; of `ft:gone` it knows nothing. `moods` of the server are
    what a model's next answers are instead: WAITS says nothing until the test is over, BEGINS no more than its name."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        moods = self.server.moods[body["model"]]
        mood = moods.pop(0) if moods else None
        self.server.asked.append(body)
        if mood == WAITS:
            self.server.waiting.set()
            self.server.is_over.wait()
            return
        if mood == GONE or body["model"] == "ft:gone":
            self.reply(404, "application/json", json.dumps({"error": {"message": f"No model {body['model']}"}}))
            return
        pieces = [f"{body['model']} heard ", body["messages"][-1]["content"], "."]
        shown = {SILENT: [], BREAKS: pieces[:1], BEGINS: pieces[:1]}.get(mood, pieces)
        frames = [
            {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            for piece in shown
            for choice in [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]
        ]
        text = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames)
        self.reply(200, "text/event-stream", text, missing=9 if mood in (BREAKS, BEGINS) else 0)
        if mood == BEGINS:
            self.server.is_over.wait()

    def reply(self, status: int, kind: str, text: str, missing: int = 0) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text) + missing))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.moods = [], defaultdict(list)
    server.waiting, server.is_over = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def environ(server, tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
    given = {"MILEPOST_URL": f"http://127.0.0.1:{server.server_port}/v1", "MILEPOST_API_KEY": "k"}
    return kept | given | {"HOME": str(tmp_path)}


@pytest.fixture
def chat(environ):
    def run(*words: str, said: str | bytes, **others: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROBE, "chat", *words],
            env=environ | others,
            input=said,
            capture_output=True,
            text=isinstance(said, str),
            timeout=60,
            check=False,
        )

    return run


class Terminal:
    """`milepost chat` on a terminal of its own, and the person before it."""

    def __init__(self, words: tuple[str, ...], environ: dict[str, str], stdout: int | None = None) -> None:
        self.end, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "milepost", "chat", *words],
            env=environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            stdin=inner,
            stdout=inner if stdout is None else stdout,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self.seen, self.read_to = "", 0

    def see(self, text: str) -> None:
        """Wait until this is on the screen, after what was waited for before."""
        ends_at = time.monotonic() + 60
        while text not in self.seen[self.read_to :]:
            assert select.select([self.end], [], [], max(0, ends_at - time.monotonic()))[0], self.seen
            self.seen += os.read(self.end, 65536).decode()
        self.read_to = self.seen.index(text, self.read_to) + len(text)

    def say(self, *lines: str) -> None:
        for line in lines:
            self.see(READY)
            os.write(self.end, line.encode(errors="surrogateescape") + b"\r")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def leave(self) -> list[str]:
        """What was on the screen, line by line, without the prompt's drawing."""
        self.see(READY)
        os.write(self.end, b"\x04")
        assert self.process.wait(timeout=60) == 0
        while select.select([self.end], [], [], 0)[0]:
            try:
                self.seen += os.read(self.end, 65536).decode()
            except OSError:  # nobody is left at the other end
                break
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.seen).replace("\r", "").splitlines()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)


@pytest.fixture
def terminal(environ):
    opened: list[Terminal] = []

    def open_one(*words: str, stdout: int | None = None) -> Terminal:
        opened.append(Terminal(words, environ, stdout))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def roles(asked) -> list[str]:
    return [message["role"] for message in asked["messages"]]


def told(server, model: str) -> list[list[str]]:
    """What each request to the model said, turn by turn."""
    return [[turn["content"] for turn in asked["messages"]] for asked in server.asked if asked["model"] == model]


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


def test_a_tab_may_follow_a_command(chat, server):
    chat("tiny", said="/system\tBe kind.\n\tone\ttwo\n")
    assert told(server, "tiny") == [["Be kind.", "one\ttwo"]]


def test_a_pipe_goes_on_after_an_empty_answer(chat, server):
    server.moods["tiny"] = [SILENT]
    done = chat("tiny", said="one\ntwo")
    assert (done.returncode, done.stdout) == (0, "tiny heard two.\n")
    assert told(server, "tiny") == [["one"], ["two"]]


def test_a_line_that_is_no_text_is_named(chat):
    done = chat("tiny", said=b"one\ntw\xf6\n")
    assert (done.returncode, done.stdout) == (2, b"tiny heard one.\n")
    assert b"error: This is not UTF-8: b'tw\\xf6'" in done.stderr.splitlines()


def test_a_server_that_is_not_there_is_named(chat):
    done = chat("tiny", said="one\n", MILEPOST_URL="http://127.0.0.1:1/v1")
    assert done.returncode == 3
    assert "error: No connection to http://127.0.0.1:1/v1/: " in done.stderr
    assert "hint: is `milepost serve` running?" in done.stderr


def test_ctrl_c_ends_a_pipe(environ, server):
    server.moods["tiny"] = [WAITS]
    words = [sys.executable, "-m", "milepost", "chat", "tiny"]
    with subprocess.Popen(words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"one\ntwo\n")
        process.stdin.flush()
        assert server.waiting.wait(60)
        process.send_signal(signal.SIGINT)
        assert (process.stdout.read(), process.wait(timeout=60)) == (b"", 130)
    assert told(server, "tiny") == [["one"]]


# --- at a prompt ------------------------------------------------------------------------------------------------------


def test_who_failed_at_the_first_message_is_asked_it_again(terminal, server):
    server.moods["two"] = [GONE]
    one = terminal("one", "--compare", "two")
    one.say("hi", "/regenerate")
    screen = one.leave()
    assert told(server, "one") == told(server, "two") == [["hi"], ["hi"]]
    assert [line for line in screen if "error" in line] == ["error: No model two"]
    assert screen.count(NOT_ANSWERED) == 1


def test_who_failed_at_a_later_message_is_asked_that_one_again(terminal, server):
    server.moods["two"] = [None, GONE]
    one = terminal("one", "--compare", "two")
    one.say("first", "second", "/regenerate")
    one.leave()
    assert told(server, "one")[1:] == [["first", "one heard first.", "second"]] * 2
    assert told(server, "two")[1:] == [["first", "two heard first.", "second"]] * 2


def test_the_next_message_takes_the_place_of_one_not_answered(terminal, server):
    server.moods["two"] = [GONE, GONE]
    one = terminal("one", "--compare", "two")
    one.say("first", "second", "third")
    one.leave()
    assert told(server, "two") == [["first"], ["second"], ["third"]]
    assert told(server, "one")[2] == ["first", "one heard first.", "second", "one heard second.", "third"]


@pytest.mark.parametrize("mood", [SILENT, GONE, BREAKS])
def test_a_first_message_without_an_answer_is_asked_again(terminal, server, mood):
    server.moods["tiny"] = [mood, mood]
    one = terminal("tiny")
    one.say("hi", "/regenerate", "/regenerate", "bye")
    assert one.leave().count(NOT_ANSWERED) == 2
    assert told(server, "tiny") == [["hi"], ["hi"], ["hi"], ["hi", "tiny heard hi.", "bye"]]


def test_ctrl_c_before_the_first_token_leaves_the_message_to_be_asked_again(terminal, server):
    server.moods["tiny"] = [None, WAITS]
    one = terminal("tiny")
    one.say("first", "second")
    assert server.waiting.wait(60)
    one.interrupt()
    one.see(NOT_ANSWERED)
    one.say("/regenerate")
    one.leave()
    assert told(server, "tiny")[1:] == [["first", "tiny heard first.", "second"]] * 2


def test_ctrl_c_ends_one_answer_and_the_other_model_is_asked(terminal, server):
    server.moods["one"] = [WAITS]
    one = terminal("one", "--compare", "two")
    one.say("hi")
    assert server.waiting.wait(60)
    one.interrupt()
    one.say("bye")
    one.leave()
    assert (told(server, "one")[1], told(server, "two")[1]) == (["bye"], ["hi", "two heard hi.", "bye"])


def test_what_was_said_before_ctrl_c_is_the_answer(terminal, server):
    server.moods["tiny"] = [BEGINS]
    one = terminal("tiny")
    one.say("hi")
    one.see("tiny heard ")
    one.interrupt()
    one.say("bye")
    one.leave()
    assert told(server, "tiny")[1] == ["hi", "tiny heard ", "bye"]


@pytest.mark.parametrize("mood", [SILENT, GONE, BREAKS])
def test_an_answer_stays_until_there_is_another(terminal, server, mood):
    server.moods["tiny"] = [None, mood]
    one = terminal("tiny")
    one.say("hi", "/regenerate", "bye")
    assert "Not answered again: the answer before stays." in one.leave()
    assert told(server, "tiny") == [["hi"], ["hi"], ["hi", "tiny heard hi.", "bye"]]


def test_a_new_talk_has_nothing_to_ask_again(terminal, server):
    server.moods["two"] = [GONE]
    one = terminal("one", "--compare", "two")
    one.say("hi", "/system Be kind.", "/regenerate", "bye", "/regenerate")
    assert "Nothing was asked yet." in one.leave()
    assert told(server, "one") == told(server, "two") == [["hi"], ["Be kind.", "bye"], ["Be kind.", "bye"]]


def test_ctrl_c_while_nothing_is_answered_ends_nothing(terminal, server):
    server.moods["one"] = [WAITS]
    one = terminal("one", "--compare", "two")
    one.see(READY)
    one.interrupt()
    one.say("hi")
    assert server.waiting.wait(60)
    one.interrupt()
    one.interrupt()
    one.say("bye")
    one.leave()
    assert told(server, "one") == [["hi"], ["bye"]]


def test_answers_alone_go_into_a_file(terminal, tmp_path):
    with (tmp_path / "answers").open("wb") as file:
        one = terminal("tiny", stdout=file.fileno())
    one.say("hi", "/help", "bye")
    one.leave()
    assert (tmp_path / "answers").read_text() == "tiny heard hi.\ntiny heard bye.\n"


def test_what_is_no_text_at_a_prompt_is_named_and_not_sent(terminal, server):
    one = terminal("tiny")
    one.say("tw\udcf6", "hi")
    assert "error: This is not UTF-8: b'tw\\xf6'" in one.leave()
    assert told(server, "tiny") == [["hi"]]
