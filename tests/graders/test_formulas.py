import math
import time

import pytest

from milepost.graders import formulas
from milepost.resources.graders import FUNCTIONS

VALUES = {"a": 0.5, "b": 2.0, "c_1": -3.0}
NAMES = frozenset(VALUES)


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a", 0.5),
        ("  a\t+\nb ", 2.5),
        ("a + b * c_1", -5.5),
        ("(a + b) * c_1", -7.5),
        ("b - a - a", 1.0),
        ("b / a / b", 2.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("-2 ^ 2", -4.0),
        ("2 ^ -1", 0.5),
        ("--a", 0.5),
        ("-+-a", 0.5),
        ("2 * -a", -1.0),
        ("1e3 + .5 + 2. + 1.5E-1", 1002.65),
        ("min(a, b, c_1)", -3.0),
        ("min(a)", 0.5),
        ("max(a, b)", 2.0),
        ("abs(c_1)", 3.0),
        ("floor(-a) + ceil(a)", 0.0),
        ("exp(0) + sqrt(4) + log(1)", 3.0),
        ("max(0, min(1, 0.8 * a + 0.2 * b))", 0.8),
        ("0 ^ 0", 1.0),
    ],
)
def test_a_formula_has_its_value(formula, value):
    assert formulas.read(formula, NAMES)(VALUES) == pytest.approx(value)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "The formula breaks off; a number, a name or `(` should follow"),
        ("a +", "The formula breaks off"),
        ("(a", "`)` is missing before the end"),
        ("a)", "`)` is not expected there; an operator or the end is"),
        ("a b", "`b` is not expected there; an operator or the end is"),
        ("* a", "`*` is not expected there; a number, a name or `(` is"),
        ("a ** b", "`*` is not expected there"),
        ("d + 1", "`d` is no grader of this formula; they are a, b, c_1"),
        ("min", "`(` is missing before the end"),
        ("min()", "`)` is not expected there"),
        ("sqrt(a, b)", "`sqrt` takes one value, not 2"),
        ("max(" + "a," * 64 + "a)", "`max` takes up to 64 values, not 65"),
        ("__import__('os')", "`'os')` cannot be read."),
        ("a.real", "`.real` cannot be read."),
        ("a if b else c_1", "`if` is not expected there"),
        ("a; b", "`; b` cannot be read."),
        ("[a]", "`[a]` cannot be read."),
        ("a % b", "`% b` cannot be read."),
        ("(" * 51 + "a" + ")" * 51, "The formula is nested more than 50 deep"),
        ("2^" * 60 + "2", "The formula is nested more than 50 deep"),
        ("a" * 4001, "The formula has 4001 characters; 4000 are read at most"),
    ],
)
def test_what_cannot_be_read_is_told(formula, message):
    with pytest.raises(formulas.FormulaError) as caught:
        formulas.read(formula, NAMES)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("1 / (a - a)", "The formula has no value for a = 0.5, b = 2, c_1 = -3: float division by zero"),
        ("log(0)", "The formula has no value"),
        ("sqrt(c_1)", "The formula has no value"),
        ("c_1 ^ a", "The formula has no value"),
        ("exp(1000)", "The formula has no value"),
        ("10 ^ 10 ^ 10", "The formula has no value"),
        ("1e999", "The formula has no finite value"),
        ("1e308 * 10", "The formula has no finite value"),
        ("1e999 - 1e999", "The formula has no finite value"),
    ],
)
def test_a_formula_without_a_finite_value_says_for_what(formula, message):
    read = formulas.read(formula, NAMES)
    with pytest.raises(formulas.FormulaError) as caught:
        read(VALUES)
    assert str(caught.value).startswith(message)


def test_the_longest_formula_is_read_at_once():
    began = time.process_time()
    assert formulas.read("+".join(["a"] * 2000), NAMES)(VALUES) == 1000.0
    assert time.process_time() - began < 1


def test_no_grader_may_be_named_like_a_function():
    assert set(formulas.FUNCTIONS) == set(FUNCTIONS)
    assert math.isclose(formulas.read("log(exp(1))", NAMES)(VALUES), 1.0)
