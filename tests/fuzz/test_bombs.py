"""Input that is small, or nearly legal, and would cost much: it is refused in a sentence, in bounded memory and time.

One process of its own reads them all, so that its peak of memory is theirs.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.api.conftest import BASE

MB = 2**20
#: Runs in a process without the libraries that tests import; prints what was said of each, then the peak in MB.
READ = """
import json, resource, sys, tempfile
from milepost.resources.lines import check_lines, read_lines

def fill(head, unit, tail, size=32 * 2**20):
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail

BOMBS = {
    "no line breaks": lambda: b"a" * (100 * 2**20),
    "zeros": lambda: bytes(100 * 2**20),
    "a good line, then one without end": lambda: b'{"prompt":"a","completion":"b"}\\n' + b'{"prompt":"' + b"a" * (100 * 2**20),
    "messages that are nothing": lambda: fill(b'{"messages":[{}', b",{}", b"]}"),
    "empty lists": lambda: fill(b'{"prompt":"a","completion":[[]', b",[]", b"]}"),
    "one key a million times": lambda: fill(b'{"messages":[]', b',"a":1', b"}"),
    "deep": lambda: b'{"a":' * 4_000_000 + b"1" + b"}" * 4_000_000,
    "backslashes": lambda: fill(b'{"a":"', b"\\\\", b""),
    "quotes": lambda: b'"' * (32 * 2**20),
}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, make in BOMBS.items():
    with tempfile.TemporaryFile() as file:
        file.write(make())
        file.seek(0)
        written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = check_lines(read_lines(file))
    print(json.dumps([name, str(report.problems[-1])[:90]]))
print(json.dumps(["peak", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]))
"""
SAID = {
    "no line breaks": "Line 1: is longer than 32 MiB: are its line breaks missing?",
    "zeros": "Line 1: is longer than 32 MiB: are its line breaks missing?",
    "a good line, then one without end": "Line 2: is longer than 32 MiB: are its line breaks missing?",
    "messages that are nothing": "Line 1: holds more than 500,000 values: are several examples on one line?",
    "empty lists": "Line 1: holds more than 500,000 values: are several examples on one line?",
    "one key a million times": "Line 1: holds more than 500,000 values: are several examples on one line?",
    "deep": "Line 1: holds more than 500,000 values: are several examples on one line?",
    "backslashes": 'Line 1: is not a dictionary (HINT: line starts with: "{"a":"\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\',
    "quotes": 'Line 1: is not a dictionary (HINT: line starts with: """""""""""""""""""""""""""""""""""',
}


def test_lines_that_would_fill_memory_are_refused_by_name():
    ended = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True, timeout=120)
    *said, (_, peak_mb) = map(json.loads, ended.stdout.splitlines())
    assert {name: told[: len(SAID[name])] for name, told in said} == SAID
    assert peak_mb < 400  # a bomb is written from memory: 100 MB of that are the test's own, twice


def bomb(head: str, unit: str, tail: str, size: int = MB) -> str:
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


BODIES = [
    ("/chat/completions", bomb(f'{{"model":"{BASE}","messages":[{{}}', ",{}", "]}"), 413, "The body holds more than 100,000 JSON values. Send fewer"),
    ("/completions", bomb(f'{{"model":"{BASE}","prompt":[1', ",1", "]}"), 413, "The body holds more than 100,000 JSON values. Send fewer"),
    ("/completions", bomb(f'{{"model":"{BASE}","prompt":["a"', ',"a"', "]}", 300_000), 400, "Invalid value for 'prompt"),
    ("/chat/completions", bomb(f'{{"model":"{BASE}","messages":[{{}}', ",{}", "]}", 140_000), 400, "Missing required parameter: 'messages[0].role'."),
    ("/fine_tuning/jobs", '{"model":"a","training_file":"b","hyperparameters":{' + ",".join(f'"k{n}":1' for n in range(90_000)) + "}}", 400, "Unknown parameter: 'hyperparameters.k0'."),
    ("/fine_tuning/jobs", '{"a":' * 90_000 + "1" + "}" * 90_000, 400, "We could not parse the JSON body of your request."),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "message"), BODIES, ids=range(len(BODIES)))
async def test_bodies_that_would_cost_much_are_refused_quickly(http, path, body, status, message):
    answer = await http.post(path, content=body.encode(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"][: len(message)]) == (status, message)
    assert len(answer.content) < 2000
