from pathlib import Path

import pytest

from milepost.checks.tokens import Tokenizer, load_tokenizer
from tests.checks.measuring import tool_base


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path) -> Tokenizer:
    """Of the tiny base: a byte is a token, and its chat template knows no tools."""
    return load_tokenizer(tiny_base, "tiny-random-llama", 2048)


@pytest.fixture(scope="session")
def tool_tokenizer(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tool_base(tiny_base, tmp_path_factory.mktemp("bases") / "with-tools")
