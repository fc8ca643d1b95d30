"""A backup of a server that trains, restored and started elsewhere; a restore onto a disk without room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.torture.__main__ import differences
from tests.torture.world import FINAL, SUPERVISED, World, since, until

pytestmark = pytest.mark.e2e

#: 450 steps, so that the job still trains when its backup is made, also on a busy machine.
LONG = replace(SUPERVISED, request=SUPERVISED.request | {"hyperparameters": {"n_epochs": 15, "batch_size": 2}})


def milepost(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milepost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def world(tmp_path: Path, tiny_base: Path) -> Iterator[World]:
    world = World(tmp_path / "world", tiny_base.parent, jobs=1)
    yield world
    world.stop()


def test_a_backup_of_a_server_that_trains_goes_on_elsewhere_to_the_same_bytes(world, tmp_path, tiny_base):
    job = world.create(LONG)
    until(lambda: len(world.checkpoints(job)) >= 2, "two checkpoints")
    listed = world.listing()
    kept = milepost("backup", str(tmp_path / "kept"), "--data", str(world.data))
    assert kept.returncode == 0, kept.stderr
    assert world.statuses()[job] == "running"
    refused = milepost("restore", str(tmp_path / "kept"), "--data", str(world.data))
    assert (refused.returncode, refused.stderr.split(":")[1]) == (6, f" A server or worker uses {world.data}")

    elsewhere = tmp_path / "elsewhere"
    restored = milepost("restore", str(tmp_path / "kept"), "--data", str(elsewhere / "data"))
    assert restored.returncode == 0, restored.stderr
    then = World(elsewhere, tiny_base.parent, jobs=1)
    try:
        assert all(then.fingerprint(name) for name in then.checkpoints(job))
        until(lambda: then.statuses()[job] in FINAL, "the restored job to end")
        until(lambda: world.statuses()[job] in FINAL, "the undisturbed job to end")
        assert list(differences(then.outcome(job), world.outcome(job))) == []
        found = then.listing()
        assert all(since(found[name], rows) or rows for name, rows in listed.items())
    finally:
        then.stop()


def test_a_restore_without_room_leaves_nothing(world, tmp_path):
    world.sdk.files.create(file=("much.bin", os.urandom(8 << 20)), purpose="user_data")
    assert milepost("backup", str(tmp_path / "kept"), "--data", str(world.data)).returncode == 0
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "milepost-test", str(disk)]
    if (mounted := subprocess.run(mount, capture_output=True, check=False)).returncode:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"needs to mount a small file system, as root may: {mounted.stderr.decode().strip()}")
    try:
        restored = milepost("restore", str(tmp_path / "kept"), "--data", str(disk / "data"))
        assert (restored.returncode, list(disk.iterdir())) == (10, [])
        assert "There is no room for the backup" in restored.stderr
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        assert milepost("restore", str(tmp_path / "kept"), "--data", str(disk / "data")).returncode == 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
