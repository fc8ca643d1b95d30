import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.postgres import Cluster

REAL_MODEL = "smollm2-135m-instruct"


def pytest_configure() -> None:
    """Ctrl-C reaches the processes that tests start, also where a shell has begun the tests in the background: it has
    SIGINT ignored then, and so would they.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """All modules and tests are there, and stay: the garbage collector need not walk through them again and again, up to a
    second each time.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or what libraries count at exit looks leaked


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the real model are skipped where it was not fetched, but never in CI: what is skipped there is untested."""
    from milepost import config
    from milepost.store import bases

    if item.get_closest_marker("real_model") is None:
        return
    if not (bases.folder(config.load(os.environ), REAL_MODEL) / bases.CARD).exists():
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"needs `milepost pull {REAL_MODEL}`")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Postgres of this test process's own, started when a test first asks for it."""
    with postgres.running() as cluster:
        yield cluster


@pytest.fixture
def database_url() -> str | None:
    """Where the store is: in SQLite. Folders whose tests are of the store run them on Postgres as well."""
    return None


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bases folder's `tiny-random-llama`, made once per test process."""
    from milepost.modeling.pull import pull

    target = tmp_path_factory.mktemp("bases") / "tiny-random-llama"
    pull(target, target.name, from_dir=None, on_progress=lambda *_: None)
    return target


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny random base of a family (tests/families.py), pulled once per test process."""
    from milepost.modeling.pull import pull
    from tests.families import FAMILIES, make_base

    bases = tmp_path_factory.mktemp("families")

    def base(name: str) -> Path:
        target = bases / f"tiny-{name}"
        if not target.exists():
            source = tmp_path_factory.mktemp(name)
            make_base(source, *FAMILIES[name])
            pull(target, target.name, from_dir=source, on_progress=lambda *_: None)
        return target

    return base
