"""Kill anything, anywhere: `python -m tests.torture --kills 200` (`make torture KILLS=200`).

Real fine-tunes run through a real server and the SDK, while SIGKILL hits the training processes, the engine, the
server, or all of them at random instants; what a user would start again is started again. In the end every job must have
come to what the same job comes to undisturbed, byte for byte. What was wrong is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

from milepost import config
from tests.torture.world import FINAL, PREFERENCES, REAL, SUPERVISED, Kind, World, until

#: How often each is hit, of ten shots.
TARGETS = {"child": 5, "engine": 2, "server": 2, "all": 1}
#: A job fails by design when its child dies three times without getting any further: shots stop short of that.
MOST_DEATHS = 2
AT_ONCE = 2


class Torture:
    """One session: its world, what each kind comes to undisturbed, and what was found."""

    def __init__(self, world: World, seed: int, kinds: list[Kind]) -> None:
        self.world = world
        self.kinds = kinds
        self.findings: list[str] = []
        self.shots: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.jobs: dict[str, Kind] = {}
        self.prints: dict[str, str] = {}
        self.expected: dict[str, dict[str, Any]] = {}
        self._draw = random.Random(seed)
        self._deaths: dict[str, tuple[int, int]] = {}  # job → (deaths at the same place, the furthest step)
        self._over: set[str] = set()
        self._seen: dict[str, list[tuple[Any, ...]]] = {}

    def undisturbed(self) -> None:
        for kind in self.kinds:
            began = time.monotonic()
            job = self.world.create(kind)
            until(lambda job=job: self.world.statuses()[job] in FINAL, f"the undisturbed job {kind.name}")
            self.expected[kind.name] = self.world.outcome(job)
            say(f"undisturbed {kind.name}: {time.monotonic() - began:.1f} s")
            if self.expected[kind.name]["status"] != "succeeded":
                raise SystemExit(f"{kind.name} does not even succeed undisturbed: {self.expected[kind.name]['error']}")

    def run(self, kills: int) -> None:
        silent = threading.Event()
        chatter = threading.Thread(target=self._chat, args=(silent,))
        chatter.start()
        try:
            while self.shots.total() < kills:
                self._fill()
                time.sleep(self._draw.uniform(0.0, 2.5))
                self._look()
                self._shoot()
                self._look()
        finally:
            silent.set()
            chatter.join()

    def finish(self) -> None:
        """Let all jobs end, and compare."""
        until(lambda: set(self.world.statuses().values()) <= FINAL, "every job to end", 600)
        self._look()
        for job, kind in self.jobs.items():
            found, expected = self.world.outcome(job), self.expected[kind.name]
            self.findings += [f"{job} ({kind.name}), {told}" for told in differences(found, expected)]
            for name in self.world.checkpoints(job):
                self._check_print(name, self.world.fingerprint(name))
        if left := self.world.children():
            self.findings.append(f"processes are left of jobs that have ended: {left}")

    # --- while it goes on

    def _fill(self) -> None:
        """Keep some jobs going, each kind in turn."""
        statuses = self.world.statuses()
        for job in self.jobs:
            if statuses.get(job) == "failed":
                error = self.world.sdk.fine_tuning.jobs.retrieve(job).error
                raise AssertionError(f"{job} failed: {error}")
        going = [job for job in self.jobs if statuses[job] not in FINAL]
        while len(going) < AT_ONCE:
            kind = self.kinds[len(self.jobs) % len(self.kinds)]
            going.append(self.world.create(kind))
            self.jobs[going[-1]] = kind

    def _shoot(self) -> None:
        [target] = self._draw.choices(list(TARGETS), weights=list(TARGETS.values()))
        children = {job: pid for job, pid in self.world.children().items() if self._may_die(job)}
        others = self.world.children()
        if target == "engine" and not self.world.engines():
            target = "child"
        if target == "child" and not children:
            target = "server"
        hit: list[tuple[str, int]] = []
        if target in {"child", "all"}:
            chosen = self._draw.choice(sorted(children)) if children else None
            hit += [("child", pid) for job, pid in children.items() if target == "all" or job == chosen]
            for job, pid in children.items():
                if ("child", pid) in hit:
                    self._note_death(job)
        if target in {"engine", "all"}:
            hit += [("engine", pid) for pid in self.world.engines()]
        if target in {"server", "all"}:
            hit.append(("server", self.world.process.pid))
        for name, pid in self._draw.sample(hit, len(hit)):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGKILL)
                self.killed[name] += 1
        self.shots[target] += 1
        if target in {"server", "all"}:
            self.world.process.wait()
            time.sleep(self._draw.choice([0.0, 0.0, 0.5, 2.0]))  # its children may end meanwhile
            self.world.start()
        self._check_undisturbed({job: pid for job, pid in others.items() if ("child", pid) not in hit})

    def _check_undisturbed(self, children: dict[str, int]) -> None:
        """Those that were not hit are the same processes as before, or have come to their result."""
        now = self.world.children()
        for job, pid in children.items():
            if now.get(job) == pid:
                continue
            results = [json.loads(path.read_text()) for path in self.world.data.glob(f"runs/{job}/*/result.json")]
            if not any(result["outcome"] in {"validated", "succeeded"} for result in results):
                self.findings.append(f"process {pid} of {job} was not hit and is gone; results: {results}")

    def _may_die(self, job: str) -> bool:
        deaths, furthest = self._deaths.get(job, (0, -1))
        return deaths < MOST_DEATHS or self.world.step(job) > furthest

    def _note_death(self, job: str) -> None:
        """As the worker counts."""
        deaths, furthest = self._deaths.get(job, (0, -1))
        step = self.world.step(job)
        self._deaths[job] = (1 if step > furthest else deaths + 1, max(step, furthest))

    def _look(self) -> None:
        """What was listed before is listed still, in the same order; only newer items stand above it."""
        found = self.world.listing()
        for name, before in self._seen.items():
            now = found.get(name, [])
            if now[len(now) - len(before) :] != before:
                self.findings.append(
                    f"the {name} were {before[:3]!r}… ({len(before)}), and are {now[:3]!r}… ({len(now)})"
                )
            ids = [item[0] for item in now]
            if len(ids) != len(set(ids)):
                self.findings.append(f"the {name} have an id twice")
        self._seen = found

    def _chat(self, silent: threading.Event) -> None:
        """Ask every checkpoint as soon as it is listed, and again; a killed server or engine may refuse, never lie."""
        draw = random.Random(0)
        while not silent.wait(0.2):
            try:
                asked = [name for job in list(self.jobs)[-AT_ONCE:] for name in self.world.checkpoints(job)]
                if not asked:
                    continue
                new = [name for name in asked if name not in self.prints]
                name = draw.choice(new or asked)
                answer = self.world.sdk.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": "Go on."}], max_tokens=4, temperature=0
                )
            except (openai.APIConnectionError, openai.InternalServerError) as error:
                self.answers[type(error).__name__] += 1
                continue
            except openai.APIStatusError as error:
                self.findings.append(f"a chat with a checkpoint that is listed was answered {error}")
                continue
            self.answers["answered"] += 1
            self._check_print(name, str(answer.system_fingerprint))

    def _check_print(self, name: str, found: str) -> None:
        if self.prints.setdefault(name, found) != found:
            self.findings.append(f"{name} answered as {self.prints[name]}, and now as {found}")


def differences(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """What is not as it was undisturbed, the first place of each part."""
    for part, wanted in expected.items():
        if (got := found[part]) == wanted:
            continue
        here, there = (value if isinstance(value, list) else [value] for value in (got, wanted))
        if isinstance(wanted, dict):
            here, there = sorted(got.items()), sorted(wanted.items())
        pairs = itertools.zip_longest(here, there)
        yield next(f"{part}: {a!r:.500}, undisturbed {b!r:.500}" for a, b in pairs if a != b)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="shots; one at `all` counts as one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="smollm2-135m-instruct, instead of the tiny model")
    parser.add_argument("--json", type=Path, help="where to write the report")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="milepost-torture-"))
    world = World(folder, config.load(os.environ).bases_dir)
    torture = Torture(world, given.seed, [REAL] if given.real else [SUPERVISED, PREFERENCES])
    began = time.monotonic()
    try:
        torture.undisturbed()
        torture.run(given.kills)
        torture.finish()
    finally:
        world.stop()
    report = {
        "seed": given.seed,
        "kinds": [kind.name for kind in torture.kinds],
        "shots": torture.shots.total(),
        "shots_by_target": torture.shots,
        "processes_killed": torture.killed,
        "jobs": len(torture.jobs),
        "checkpoints": len(torture.prints),
        "chats": torture.answers,
        "server_lives": world.lives,
        "seconds": round(time.monotonic() - began, 1),
        "findings": torture.findings,
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    if torture.findings:
        say(f"{len(torture.findings)} findings; everything is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
