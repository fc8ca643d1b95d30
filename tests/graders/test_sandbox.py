"""What a grader may do, what it is told when it fails, and what becomes of one that forges, crashes or takes too much."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from milepost.graders import sandbox, seccomp
from milepost.graders.sandbox import Limits
from tests.graders.test_escapes import needs


@pytest.fixture(autouse=True)
def _a_machine_with_a_sandbox():
    needs("everything")


SMALL = Limits(wall_s=20, cpu_s=5, memory_bytes=512 << 20, disk_bytes=4 << 20)


def grade(body: str, *, sample=None, item=None, limits=SMALL, before="", **options) -> sandbox.Ran:
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return sandbox.run(
        f"{before}\ndef grade(sample, item):\n{lines}\n", sample or {}, item or {}, limits=limits, **options
    )


def test_a_grader_sees_the_sample_and_the_item():
    ran = grade(
        "return item['wanted'] == sample['output_text'] and 0.25", sample={"output_text": "é\n"}, item={"wanted": "é\n"}
    )
    assert (ran.reward, ran.error, ran.fault) == (0.25, None, None)


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        ("1", 1.0),
        ("True", 1.0),
        ("-2.5", -2.5),
        ("numpy.float32(0.5)", 0.5),
        ("numpy.int64(3)", 3.0),
        ("fractions.Fraction(1, 4)", 0.25),
    ],
)
def test_a_number_is_a_reward(value, reward):
    assert grade(f"return {value}", before="import numpy, fractions").reward == reward


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("None", "TypeError: grade() returned None, which is not a number"),
        ("'1.0'", "TypeError: grade() returned '1.0', which is not a number"),
        ("1j", "TypeError: grade() returned 1j, which is not a number"),
        ("[1.0]", "TypeError: grade() returned [1.0], which is not a number"),
        ("float('nan')", "ValueError: grade() returned nan, which is not a finite number"),
        ("float('-inf')", "ValueError: grade() returned -inf, which is not a finite number"),
        ("10 ** 400", "OverflowError: int too large to convert to float"),
        ("sample['missing']", "KeyError: 'missing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("exit()", "NameError: name 'exit' is not defined"),
        ("(_ for _ in ()).throw(SystemExit(0))", "SystemExit: 0"),
        ("(_ for _ in ()).throw(KeyboardInterrupt)", "KeyboardInterrupt"),
        ("Evil()", "is not a number"),
        ("Pickled()", "is not a number"),
    ],
)
def test_what_is_no_number_is_an_error(value, error):
    before = "class Evil:\n    def __float__(self):\n        return 1.0\nclass Pickled:\n    def __reduce__(self):\n        return print, ()"
    ran = grade(f"return {value}", before=before)
    assert ran.reward is None
    assert ran.error.strip().endswith(error)


def test_a_traceback_is_that_of_the_grader_alone():
    ran = grade("def inner():\n    raise LookupError('nowhere')\nreturn inner()")
    assert ran.error == (
        "Traceback (most recent call last):\n"
        '  File "grader.py", line 5, in grade\n    return inner()\n           ^^^^^^^\n'
        "  File \"grader.py\", line 4, in inner\n    raise LookupError('nowhere')\n"
        "LookupError: nowhere\n"
    )


def test_a_source_without_grade_is_an_error():
    assert sandbox.run("x = 1", {}, {}).error == "The source defines no function `grade(sample, item)`"


def test_a_source_that_does_not_compile_is_an_error():
    assert sandbox.run("def grade(:", {}, {}).error.endswith("SyntaxError: invalid syntax\n")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def grade(sample, item):\n    return 1.0", None),
        ("def grade(*anything):\n    return 1.0", None),
        ("grade = lambda sample, item: 1.0", None),
        ("if True:\n    def grade(sample, item):\n        return 1.0", None),
        ("from math import pow as grade", None),
        ("raise RuntimeError('not run')\ndef grade(sample, item): ...", None),
        ("x = 1", "The source defines no function `grade(sample, item)`"),
        ("def grade(sample):\n    return 1.0", "`grade` must take two arguments: `def grade(sample, item)`"),
        ("def grade(sample, item):\n    retrun 1", "SyntaxError: invalid syntax (grader.py, line 2)"),
        ("(" * 100_000, "too many nested parentheses"),
        ("\0", "source code string cannot contain null bytes"),
        ("def grade(sample, item): ...\n" + "-" * 200_000 + "1", "MemoryError: it is nested too deep"),
    ],
)
def test_a_source_is_looked_over_without_being_run(source, problem):
    found = sandbox.check(source)
    assert found is None if problem is None else problem in found


def test_an_item_that_is_nested_too_deep_is_told():
    deep = []
    for _ in range(2000):
        deep = [deep]
    assert grade("return 1.0", item={"x": deep}).error.startswith(
        "The answer or the item cannot be given to a grader: "
    )


def test_what_is_printed_is_kept_in_part():
    ran = grade("for _ in range(10):\n    print('x' * 1_000_000)\nimport sys\nprint('y', file=sys.stderr)\nreturn 1.0")
    assert (ran.reward, ran.output) == (1.0, "x" * 16_000)


def test_a_grader_may_use_numpy_and_the_standard_library():
    before = "import numpy, json, re, math, statistics, difflib, decimal, datetime, zoneinfo, csv, random, hashlib, sqlite3, tempfile"
    ran = grade("return float(numpy.linalg.inv(numpy.eye(64) * 2).trace()) / 32", before=before)
    assert (ran.reward, ran.error) == (1.0, None)


def test_a_grader_may_use_threads_within_reason():
    body = """
import concurrent.futures as f
with f.ThreadPoolExecutor(8) as pool:
    return sum(pool.map(float, range(10)))
"""
    assert grade(body).reward == 45.0


def test_a_grader_has_a_scratch_folder_that_is_empty_each_time():
    body = """
import os, tempfile
there = [name for name in os.listdir('.') if os.path.isfile(name)]  # folders are mounts: an interpreter under /tmp
with tempfile.NamedTemporaryFile('w+', delete=False) as file:
    file.write('kept?')
return float(len(there))
"""
    assert [grade(body).reward, grade(body).reward] == [0.0, 0.0]


def test_without_mount_namespaces_nothing_can_be_written():
    ran = grade("open('/tmp/x', 'w').write('x')\nreturn 1.0", layers=sandbox.LAYERS - {"namespaces", "view"})
    assert ran.error.strip().endswith("PermissionError: [Errno 13] Permission denied: '/tmp/x'")


# --- forged results ---------------------------------------------------------------------------------------------------

FORGED = "value 0x1.0p+0"


@pytest.mark.parametrize(
    "body",
    [
        f"print('{FORGED}')\nos._exit(0)",
        f"os.write(3, b'{FORGED}')\nos._exit(0)",
        f"os.write(3, b'{'0' * 32} {FORGED}')\nos._exit(0)",
        f"for fd in range(3, 64):\n    try:\n        os.write(fd, b'{FORGED}\\n' * 3)\n    except OSError:\n        pass\nos._exit(0)",
        "os.write(3, b'{\"reward\": 1.0}')\nreturn 1.0",
        "os.write(3, b'x' * 10_000_000)\nreturn 1.0",
        "os.close(3)\nreturn 1.0",
        "os.dup2(1, 3)\nreturn 1.0",
        "os._exit(0)",
        "os._exit(77)",
        "os.abort()",
        "import ctypes\nctypes.string_at(0)",
        "import ctypes\nreturn ctypes.cast(8, ctypes.py_object).value",
    ],
)
def test_a_result_is_not_forged_by_writing_one(body):
    ran = grade(body, before="import os")
    assert (ran.reward, ran.fault) == (None, None)
    assert ran.error


@pytest.mark.parametrize(
    "body",
    [
        "numbers.Real.register(Evil)\nreturn Evil()",
        "math.isfinite = lambda _: True\nreturn float('nan')",
        "builtins.float = lambda _: Evil()\nreturn Evil()",
        "import json.encoder\njson.dumps = json.encoder.encode_basestring = lambda *_: 'NaN'\nreturn float('nan')",
        "builtins.isinstance = lambda *_: True\nreturn Evil()",
    ],
)
def test_a_result_is_a_finite_number_whatever_is_patched(body):
    before = "import builtins, math, numbers\nclass Evil:\n    def __float__(self):\n        return float('nan')\n    def hex(self):\n        return 'nan'"
    ran = grade(body, before=before)
    assert (ran.reward, ran.fault) == (None, None)
    assert ran.error


def test_one_who_finds_the_token_can_give_no_more_than_a_number():
    """In one process nothing can be hidden: but a grader may return any number anyway."""
    steal = """
import sys, os
frame = sys._getframe()
while 'tell' not in frame.f_locals:
    frame = frame.f_back
tell = frame.f_locals['tell']
tell(*item['told'])
os._exit(0)
"""
    assert grade(steal, item={"told": ["value", "0x1p+1"]}).reward == 2.0
    assert grade(steal, item={"told": ["value", "nan"]}).error == "The grader gave no finite number, but 'nan'"
    assert grade(steal, item={"told": ["value", "1" * 60_000]}).error.startswith("The grader gave no finite number")
    assert grade(steal, item={"told": ["refused", "seccomp"]}).error.startswith("The grader ended its process")
    assert grade(steal, item={"told": ["broken", "x"]}).fault is None
    assert len(grade(steal, item={"told": ["error", "x" * 1_000_000]}).error) <= sandbox.MAX_RESULT_BYTES


# --- too much ---------------------------------------------------------------------------------------------------------


def test_a_deep_recursion_is_its_own_error():
    assert "RecursionError" in grade("return grade(sample, item)").error


def test_a_crash_by_recursion_in_c_is_its_own_error():
    ran = grade(
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x):\n    return f([x] + sorted([x], key=f))\nreturn f(1)"
    )
    assert ran.reward is None
    assert ran.error


def test_a_loop_is_ended_by_its_processor_time():
    ran = grade("while True:\n    pass", limits=replace(SMALL, cpu_s=1))
    assert ran.error == "The grader was killed: it used more than 1 s of processor time, or too much memory"


def test_one_that_waits_is_ended_by_the_clock():
    began = time.monotonic()
    ran = grade("import time\ntime.sleep(100)", limits=replace(SMALL, wall_s=0.5))
    assert ran.error == "The grader was ended: it ran for more than 0.5 s"
    assert time.monotonic() - began < 10


def test_one_that_prints_without_end_is_ended():
    ran = grade("while True:\n    print('x' * 1_000_000)")
    assert (ran.error, ran.output) == ("The grader was ended: it printed more than 64 MiB", "x" * 16_000)


def test_one_whose_server_dies_is_ended(tmp_path):
    source = "def grade(sample, item):\n    import time\n    time.sleep(60)"
    script = f"from milepost.graders import sandbox; sandbox.run({source!r}, {{}}, {{}})"
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # a server that is killed leaves an empty folder
    server = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 20
    while len(left := jails_of(psutil.Process(server.pid))) < 2 and time.monotonic() < deadline:
        assert server.poll() is None
    server.kill()
    server.wait()
    _, alive = psutil.wait_procs(left, timeout=10)
    assert (len(left), alive) == (2, [])


def jails_of(process: psutil.Process) -> list[psutil.Process]:
    """The warder and the inmate."""
    return [child for child in process.children(recursive=True) if str(sandbox.JAIL) in child.cmdline()]


def test_one_that_takes_no_signal_is_ended_all_the_same():
    body = "import signal, time\nfor n in range(1, 65):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\ntime.sleep(100)"
    assert grade(body, limits=replace(SMALL, wall_s=0.5)).error == "The grader was ended: it ran for more than 0.5 s"


def test_one_that_nobody_waits_for_is_ended():
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    ran = grade("import time\ntime.sleep(100)", stop=stop)
    assert (ran.reward, ran.fault) == (None, "stopped")


@pytest.mark.parametrize(
    "body",
    [
        "x = bytearray(2 << 30)",
        "x = []\nwhile True:\n    x.append(bytearray(10 << 20))",
        "import mmap\nx = mmap.mmap(-1, 1 << 30)",
        "import numpy\nx = numpy.ones(1 << 28)",
    ],
)
def test_memory_is_limited(body):
    error = grade(f"{body}\nreturn 1.0").error
    assert "MemoryError" in error or "Cannot allocate memory" in error


@pytest.mark.parametrize(
    "body",
    [
        "with open('/tmp/large', 'wb') as file:\n    for _ in range(100):\n        file.write(bytes(1 << 20))",
        "for n in range(100):\n    with open(f'/tmp/{n}', 'wb') as file:\n        file.write(bytes(1 << 20))",
        "for n in range(1_000_000):\n    open(f'/tmp/{n}', 'w').close()",
        "kept = []\nimport os\nfor n in range(50):\n    file = open('/tmp/gone', 'wb', buffering=0)\n    kept.append(file)\n    file.write(bytes(1 << 20))\n    os.unlink('/tmp/gone')",
        "import os\nos.truncate('/tmp/sparse', 1 << 40) if open('/tmp/sparse', 'w') else 0",
    ],
)
def test_the_disk_is_limited(body):
    error = grade(f"{body}\nreturn 1.0").error.strip().splitlines()[-1]
    assert error.startswith(("OSError: [Errno 28]", "OSError: [Errno 27]", "PermissionError"))


def test_threads_are_limited():
    body = """
import threading, time
threading.stack_size(64 * 1024)
count = 0
try:
    while count < 1000:
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
return count
"""
    assert 1 < grade(body).reward < 64


def test_open_files_are_limited():
    body = "kept = []\nimport os\nwhile True:\n    kept.append(os.open('/dev/null', os.O_RDONLY))"
    assert "Too many open files" in grade(body).error


def test_threads_left_behind_end_with_the_grader():
    began = time.monotonic()
    assert (
        grade("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nreturn 1.0").reward
        == 1.0
    )
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "code", [b"\xb8\x14\x00\x00\x00\xcd\x80\xc3", b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"], ids=["int 0x80", "x32"]
)
def test_the_other_doors_into_the_kernel_are_deadly(code):
    if os.uname().machine != "x86_64":
        pytest.skip("these doors are of x86_64")
    body = f"""
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write({code!r})
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
return 1.0
"""
    ran = grade(body)
    assert (ran.reward, ran.error) == (None, "The grader's process crashed (Bad system call)")


def test_no_process_is_left():
    grade("import time\ntime.sleep(100)", limits=replace(SMALL, wall_s=0.3))
    ours = jails_of(psutil.Process())
    orphans = [
        p
        for p in psutil.process_iter(["ppid", "cmdline"])
        if p.info["ppid"] == 1 and str(sandbox.JAIL) in (p.info["cmdline"] or ())
    ]
    assert ours + orphans == []


def test_machines_of_another_kind_have_no_filter():
    assert seccomp.program("riscv64") is None
    assert len(seccomp.program("x86_64")) % 8 == 0
    assert len(seccomp.program("aarch64")) % 8 == 0


def test_a_sandbox_that_does_not_start_is_not_the_graders_fault():
    ran = grade("return 1.0", limits=replace(SMALL, memory_bytes=1 << 20))
    assert (ran.reward, ran.fault) == (None, "sandbox_start_failed")
