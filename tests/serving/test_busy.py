"""When an engine asks those who train to give way."""

import pytest

from milepost.serving.busy import Busy
from tests.serving.fakes import Clock


@pytest.fixture
def file(tmp_path):
    return tmp_path / "busy"


def test_a_token_within_the_budget_asks_for_nothing(file):
    Busy(file, 100, Clock()).took(0.09)
    assert not file.exists()


def test_a_slow_token_asks_for_a_second(file):
    Busy(file, 100, Clock()).took(0.11)
    assert file.stat().st_mtime == 5001.0


def test_as_long_as_tokens_are_slow_it_is_asked_for_again_but_not_at_each(file):
    clock = Clock()
    busy = Busy(file, 100, clock)
    told = []
    for _ in range(4):
        busy.took(0.2)
        told.append(file.stat().st_mtime)
        clock.now += 0.25
    assert told == [5001.0, 5001.0, 5001.5, 5001.5]


def test_without_a_budget_nobody_is_told(file):
    Busy(file, 0, Clock()).took(10)
    assert not file.exists()


def test_it_is_asked_for_though_the_time_of_day_was_set_back(file):
    clock = Clock()
    busy = Busy(file, 100, clock)
    busy.took(0.2)
    clock.now -= 3600
    busy.took(0.2)
    assert file.stat().st_mtime == 1401.0
