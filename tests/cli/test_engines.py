from typing import get_args

import pytest

from milepost.cli.engines import ENGINES, make
from milepost.config import Settings
from milepost.errors import Invalid
from milepost.serving.client import Engines
from milepost.serving.proxy import OpenAIProxy


def test_every_engine_of_the_setting_is_in_the_table():
    assert set(get_args(Settings.model_fields["engine"].annotation)) == set(ENGINES)


@pytest.mark.parametrize(
    ("given", "kind"),
    [({}, Engines), ({"engine": "openai_proxy", "engine_url": "http://127.0.0.1:8001/v1"}, OpenAIProxy)],
    ids=["milepost", "openai_proxy"],
)
async def test_the_setting_says_which_answers(tmp_path, given, kind):
    async with make(Settings(data_dir=tmp_path, **given), {}) as engine:
        assert isinstance(engine, kind)


def test_a_proxy_without_a_url_names_the_setting(tmp_path):
    with pytest.raises(Invalid, match="MILEPOST_ENGINE_URL"):
        make(Settings(data_dir=tmp_path, engine="openai_proxy"), {})
