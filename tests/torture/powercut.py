"""Power cuts: `python -m tests.torture.powercut`. What a disk holds for certain is put together anew, and opened.

A server, its training processes and its engine run with `syncs.c` preloaded, which keeps what every fsync made last.
After each of them the power may have gone: a file then has the bytes of its last fsync, a folder the names of its own,
and whatever was written or renamed since is lost. Of many such cuts the folder is made and looked at: the database is
whole, every row's bytes are there with the hash it says, what a client was told is kept. Of some the server is started
again, and the job must come to what it comes to undisturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milepost import config
from milepost.modeling.folders import file_hash
from tests.torture.__main__ import differences, say
from tests.torture.world import FINAL, SUPERVISED, World, until


@dataclass(frozen=True, slots=True)
class Sync:
    """One fsync: of a file (`f`) or a folder (`d`)."""

    number: int
    kind: str
    identity: str
    path: str


def compiled(folder: Path) -> Path:
    """The library to preload. Raises `FileNotFoundError` without a C compiler."""
    library = folder / "syncs.so"
    source = Path(__file__).with_name("syncs.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class Recording:
    """What was fsynced, in order."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._data = data

    def syncs(self) -> list[Sync]:
        try:
            lines = (self._folder / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        words = (line.split(" ", 3) for line in lines)
        return [Sync(int(number), kind, identity, path) for number, kind, identity, path in words]

    def materialise(self, after: int, target: Path) -> None:
        """The data folder as it is if the power goes after that fsync."""
        last = {sync.identity: sync for sync in self.syncs() if sync.number <= after}
        [root] = [sync for sync in last.values() if sync.path == str(self._data)][-1:] or [None]
        target.mkdir()
        if root is not None:
            self._folder_of(root, last, target)

    def _folder_of(self, folder: Sync, last: dict[str, Sync], target: Path) -> None:
        for line in (self._folder / str(folder.number)).read_text().splitlines():
            kind, identity, name = line.split(" ", 2)
            synced = last.get(identity)
            if synced is None:  # its name is there, its bytes or names never were fsynced
                (target / name).mkdir() if kind == "d" else (target / name).touch()
            elif synced.kind == "d":
                (target / name).mkdir()
                self._folder_of(synced, last, target / name)
            else:
                shutil.copyfile(self._folder / str(synced.number), target / name)


def faults(data: Path, promised: set[str]) -> Iterator[str]:
    """What is not whole in a data folder that nobody has opened since the power went. `promised` are ids."""
    if not (data / "milepost.db").exists():
        if promised:
            yield f"no database, but a client was told of {promised}"
        return
    with sqlite3.connect(data / "milepost.db") as database:
        if (found := database.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
            yield f"integrity_check: {found}"
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
            if promised:
                yield f"no tables, but a client was told of {promised}"
            return
        yield from (f"foreign key: {row}" for row in database.execute("PRAGMA foreign_key_check"))
        known = {
            row[0] for table in ("files", "jobs", "checkpoints") for row in database.execute(f"SELECT id FROM {table}")
        }
        yield from (f"{each} was answered, and is gone" for each in promised - known)
        for file_id, sha256 in database.execute("SELECT id, sha256 FROM files WHERE deleted_at IS NULL"):
            yield from _wrong(data / "files" / sha256, sha256, file_id)
        for checkpoint, sha256 in database.execute("SELECT id, adapter_sha256 FROM checkpoints"):
            yield from _wrong(data / "adapters" / sha256 / "adapter_model.safetensors", sha256, checkpoint)
        query = (
            "SELECT job_id, count(*), max(position), count(child_seq), count(DISTINCT child_seq) FROM events GROUP BY 1"
        )
        for job, count, last, seqs, distinct in database.execute(query):
            if count != last or seqs != distinct:
                yield f"{job}: {count} events up to position {last}, {seqs} of the child, {distinct} distinct"


def _wrong(file: Path, sha256: str, owner: str) -> Iterator[str]:
    if not file.exists():
        yield f"{owner}: {file.name} is not there"
    elif file_hash(file) != sha256:
        yield f"{owner}: {file} has not its hash"


def record(folder: Path, bases: Path) -> tuple[Recording, list[tuple[int, str]], dict[str, Any]]:
    """Run an upload and a job, undisturbed; returns also (number of the last fsync when a client was told, id)."""
    recording = Recording(folder / "syncs", folder / "world" / "data")
    (folder / "syncs").mkdir(parents=True)
    preload = {"LD_PRELOAD": str(compiled(folder)), "SYNCS": str(folder / "syncs")}
    world = World(folder / "world", bases, jobs=1, environment=preload)
    told: list[tuple[int, str]] = []
    try:
        file = world.sdk.files.create(file=("train.jsonl", SUPERVISED.data()), purpose="fine-tune").id
        told.append((len(recording.syncs()), file))
        jobs = world.sdk.fine_tuning.jobs
        job = jobs.create(model=SUPERVISED.model, training_file=file, **SUPERVISED.request).id
        told.append((len(recording.syncs()), job))
        while world.statuses()[job] not in FINAL:
            seen = {each for _, each in told}
            new = [each.id for each in jobs.checkpoints.list(job) if each.id not in seen]
            told += [(len(recording.syncs()), each) for each in new]
            time.sleep(0.02)
        outcome = world.outcome(job)
    finally:
        world.stop()
    return recording, told, outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.powercut", description=__doc__)
    parser.add_argument("--cuts", type=int, default=1000, help="most folders that are looked at")
    parser.add_argument("--starts", type=int, default=8, help="of how many of them a server is started")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    folder, draw = Path(tempfile.mkdtemp(prefix="milepost-powercut-")), random.Random(given.seed)
    bases = config.load(os.environ).bases_dir
    recording, told, expected = record(folder, bases)
    (folder / "world").rename(folder / "recorded")
    total = len(recording.syncs())
    say(f"{total} fsyncs recorded; {len(told)} answers; the job {expected['status']}")
    cuts = sorted(draw.sample(range(1, total + 1), min(given.cuts, total)))
    started = [told[1][0], *sorted(draw.sample(range(told[1][0], total + 1), max(0, given.starts - 1)))]
    findings = []
    for cut in cuts:
        data = folder / "cut"
        recording.materialise(cut, data)
        findings += [f"cut {cut}: {each}" for each in faults(data, _promised(told, cut))]
        shutil.rmtree(data)
    for cut in started[: given.starts]:
        findings += [f"cut {cut}, started: {each}" for each in _goes_on(recording, cut, folder, bases, told, expected)]
    report = {"seed": given.seed, "fsyncs": total, "cuts": len(cuts), "starts": len(started), "findings": findings}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if findings:
        say(f"{len(findings)} findings; everything is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _promised(told: list[tuple[int, str]], cut: int) -> set[str]:
    return {each for _, each in told[: bisect_right(told, cut, key=lambda one: one[0])]}


def _goes_on(
    recording: Recording, cut: int, folder: Path, bases: Path, told: list[tuple[int, str]], expected: dict[str, Any]
) -> list[str]:
    """Start a server on what is left: the job goes on to what it comes to undisturbed."""
    place = folder / "world"  # where it was: job.json names paths
    place.mkdir()
    recording.materialise(cut, place / "data")
    world = World(place, bases, jobs=1)
    try:
        job = told[1][1]
        until(lambda: world.statuses()[job] in FINAL, f"the job to end after a cut at {cut}")
        found = world.outcome(job)
    finally:
        world.stop()
    wrong = list(differences(found, expected))
    place.rename(folder / f"start-{cut}") if wrong else shutil.rmtree(place)
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
