"""Curves in letters, dot by dot."""

from __future__ import annotations

import math

from milepost.cli.charts import Chart, sparkline


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"


def test_many_values_become_the_means_of_pieces():
    assert sparkline([1, 3, 6, 8, 0, 0], 3) == "▃█▁"


def test_what_is_flat_empty_or_no_number_is_drawn_without_a_fuss():
    assert (sparkline([2, 2], 8), sparkline([], 8), sparkline([math.nan, 1], 8)) == ("▁▁", "", "▁")


def test_a_chart_joins_its_points():
    drawn = Chart([(1, 2.0), (8, 1.0)], width=4, height=2).lines()
    assert drawn == ["2.000 ┤⠑⢄", "1.000 ┤  ⠑⢄", "      └────", "       1  8"]


def test_marks_lie_on_the_curve_and_ticks_below_it():
    drawn = Chart([(1, 1.0), (3, 0.0)], {"o": [(3, 0.0)]}, [3], width=3, height=2).lines()
    assert drawn == ["1.000 ┤⠱⡀", "0.000 ┤ ⠈o", "      └──▲", "       1 3"]


def test_a_single_point_is_a_chart():
    drawn = Chart([(1, 2.0)], width=3, height=3).lines()
    assert drawn == ["      ┤", "2.000 ┤⠄", "      ┤", "      └───", "       1"]


def test_nothing_is_no_chart():
    assert Chart([]).lines() == []
