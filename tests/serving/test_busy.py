"""When an engine asks those who train to give way, and when it does itself."""

import os

import pytest

from milepost.serving.busy import Busy, Rest


class Clock:
    now = 5000.0

    def __call__(self):
        return self.now


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


@pytest.mark.parametrize(
    ("age_s", "budget_ms", "took_s", "rest_s"),
    [
        (1, 100, 0.02, 0.01),
        (1, 100, 0.08, 0.02),
        (1, 100, 0.2, 0),
        (1, 0, 0.02, 0.01),
        (1, 0, 0.4, 0.05),
        (4.9, 100, 0.02, 0.01),
        (5.1, 100, 0.02, 0),
        (-5.1, 100, 0.02, 0),
        (None, 100, 0.02, 0),
    ],
)
def test_it_rests_within_the_budget_while_training_needs_every_core(file, age_s, budget_ms, took_s, rest_s):
    if age_s is not None:
        file.touch()
        os.utime(file, (5000.0 - age_s, 5000.0 - age_s))
    assert Rest(file, budget_ms, Clock()).after(took_s) == pytest.approx(rest_s)


def test_it_finds_out_when_training_begins_and_ends(file):
    clock = Clock()
    rest = Rest(file, 100, clock)
    found = [rest.after(0.02)]
    file.touch()
    os.utime(file, (5001.0, 5001.0))
    for now in (5000.4, 5001.0, 5007.0):
        clock.now = now
        found.append(rest.after(0.02))
    assert found == pytest.approx([0, 0, 0.01, 0])


def test_where_nobody_trains_it_never_rests():
    assert Rest(None, 0, Clock()).after(10) == 0
