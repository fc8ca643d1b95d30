"""Weights that are programs are not opened."""

import pickle

import pytest
import torch

from milepost.errors import Error
from milepost.modeling.base import load_base
from milepost.modeling.pull import pull


class Bomb:
    def __reduce__(self):
        return open, (Bomb.path, "w")


@pytest.fixture
def bomb(tmp_path):
    """A pickle that makes a file when it is opened."""
    Bomb.path = str(tmp_path / "went-off")
    return pickle.dumps(Bomb())


def test_a_base_of_pickles_is_refused_unopened(tiny_base, tmp_path, bomb):
    folder = tmp_path / "evil"
    folder.mkdir()
    for path in tiny_base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises((Error, FileNotFoundError)):
        load_base(folder, torch.float32)
    with pytest.raises(Error, match=r"Pickles \(pytorch_model\.bin\) are programs and are not opened"):
        pull(tmp_path / "pulled", "evil", from_dir=folder, on_progress=lambda *_: None)
    assert not (tmp_path / "went-off").exists()
    assert not (tmp_path / "pulled").exists()
