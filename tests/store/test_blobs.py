import hashlib
import io
from pathlib import Path

import pytest

from milepost.errors import Corrupt, Invalid
from milepost.resources.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, METRICS, Manifest
from milepost.store import blobs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    blobs.make_folders(tmp_path)
    return tmp_path


def whole_checkpoint(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    content = {ADAPTER_WEIGHTS: weights, ADAPTER_CONFIG: b"{}", METRICS: b"{}"}
    for name, value in content.items():
        (folder / name).write_bytes(value)
    manifest = Manifest(sha256={name: hashlib.sha256(value).hexdigest() for name, value in content.items()})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def incoming(folder: Path) -> list[Path]:
    return list((folder / "incoming").iterdir())


def test_a_blob_is_named_by_its_bytes(folder: Path) -> None:
    blob = blobs.put(folder, io.BytesIO(b"hello"), limit=5)
    assert blob == blobs.Blob("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", 5)
    assert blobs.path(folder, blob.hash).read_bytes() == b"hello"


def test_the_same_bytes_twice_are_one_blob(folder: Path) -> None:
    assert blobs.put(folder, io.BytesIO(b"a"), limit=9) == blobs.put(folder, io.BytesIO(b"a"), limit=9)
    assert len(list((folder / "files").iterdir())) == 1


def test_too_many_bytes_are_refused_and_leave_nothing(folder: Path) -> None:
    with pytest.raises(Invalid, match="limit of 4 bytes"):
        blobs.put(folder, io.BytesIO(b"hello"), limit=4)
    assert list((folder / "files").iterdir()) == incoming(folder) == []


class Broken(io.BytesIO):
    """A client that hangs up after the first bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise ConnectionResetError
        return super().read(2)


def test_an_upload_that_breaks_off_leaves_nothing(folder: Path) -> None:
    with pytest.raises(ConnectionResetError):
        blobs.put(folder, Broken(b"hello"), limit=5)
    assert list((folder / "files").iterdir()) == incoming(folder) == []


def test_what_a_crash_cut_short_is_forgotten_at_the_next_start(folder: Path) -> None:
    (folder / "incoming" / "half").mkdir()
    (folder / "incoming" / "half" / "blob").write_bytes(b"ha")
    blobs.forget_incoming(folder)
    assert incoming(folder) == []


def test_an_adapter_is_named_by_its_weights(folder: Path) -> None:
    sha256 = blobs.publish_adapter(folder, whole_checkpoint(folder / "step-1", b"weights"))
    assert sha256 == hashlib.sha256(b"weights").hexdigest()
    kept = sorted(file.name for file in blobs.adapter_folder(folder, sha256).iterdir())
    assert kept == [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    assert incoming(folder) == []


def test_an_adapter_published_twice_is_one_folder(folder: Path) -> None:
    checkpoint = whole_checkpoint(folder / "step-1")
    assert blobs.publish_adapter(folder, checkpoint) == blobs.publish_adapter(folder, checkpoint)


def test_weights_that_are_not_those_of_the_manifest_are_refused(folder: Path) -> None:
    checkpoint = whole_checkpoint(folder / "step-1")
    (checkpoint / ADAPTER_WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(Corrupt, match="but its manifest says"):
        blobs.publish_adapter(folder, checkpoint)
    assert list((folder / "adapters").iterdir()) == []


def test_a_file_is_replaced_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    target = tmp_path / "control.json"
    blobs.write_whole(target, "old")
    blobs.write_whole(target, "new")
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]
