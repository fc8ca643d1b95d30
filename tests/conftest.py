from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bases folder's `tiny-random-llama`, made once per test process."""
    from milepost.modeling.pull import pull

    target = tmp_path_factory.mktemp("bases") / "tiny-random-llama"
    pull(target, target.name, from_dir=None, on_progress=lambda *_: None)
    return target
