"""What the demo prints where nothing can move: lines, and never more of them than one wants to read."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from milepost.cli.screen import Screen


@pytest.fixture
def printed():
    return io.StringIO()


@pytest.fixture
def screen(printed):
    return Screen(Console(file=printed, width=100), moving=False)


def test_a_bar_that_cannot_move_is_a_line_now_and_then(screen, printed):
    with screen.bar() as bar:
        for step in range(1, 121):
            bar.move(step, 120, loss=0.5, tokens_per_s=612.4, left_s=75.0)
    lines = printed.getvalue().splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  step 120/120 · loss 0.500 · 612 tokens/s · 1:15 left"


def test_before_a_second_step_nobody_knows_how_fast_it_goes(screen, printed):
    with screen.bar() as bar:
        bar.move(4, 4, loss=2.25, tokens_per_s=None, left_s=None)
    assert printed.getvalue() == "  step 4/4 · loss 2.250\n"


def test_what_models_say_is_never_taken_for_markup(screen, printed):
    screen.say("[bold]SELECT[/bold]")
    screen.table(["[red]column"], [["[/nonsense]"]])
    assert "[bold]SELECT[/bold]" in printed.getvalue()
    assert "[/nonsense]" in printed.getvalue()


def test_structs_nulls_and_floats_are_shown_short(screen, printed):
    screen.records(["metrics", "error"], [[{"step": 30.0, "train_loss": 0.123456789}, None]])
    assert printed.getvalue().split() == ["metrics", "step", "30,", "train_loss", "0.1235", "error", "NULL"]
