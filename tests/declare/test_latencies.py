"""Distributions: what is drawn from them, and how a command line says them."""

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine import Constant, Empirical, LogNormal, Uniform
from pipeline_engine.declare import as_distribution, parse_distribution

POSITIVE = st.floats(0.001, 1000)


@given(POSITIVE, st.floats(1, 20), st.integers())
def test_a_log_normal_has_the_median_and_the_percentile_that_were_said(middle, factor, seed):
    """Both figures are read off a dashboard; a simulation must give them back."""
    dice = random.Random(seed)
    distribution = LogNormal(middle, middle * factor)

    drawn = sorted(distribution.sample(dice) for _ in range(4000))

    assert median(drawn) == pytest.approx(middle, rel=0.15 * (factor - 1) + 1e-9)
    assert drawn[3800] == pytest.approx(middle * factor, rel=0.3)


@given(POSITIVE, POSITIVE, st.integers())
def test_a_uniform_value_is_between_its_bounds(one, other, seed):
    """A value outside would be a timeout that nobody has declared."""
    low, high = sorted((one, other))

    assert low <= Uniform(low, high).sample(random.Random(seed)) <= high


@given(st.lists(POSITIVE, min_size=1), st.integers())
def test_an_empirical_value_is_one_that_was_measured(samples, seed):
    """What was never seen is not made up."""
    assert Empirical(samples).sample(random.Random(seed)) in samples


@pytest.mark.parametrize("distribution", [Constant(2), Uniform(1, 4), LogNormal(2, 8), Empirical([1, 2, 3])])
def test_the_same_dice_draw_the_same_values(distribution):
    """A simulation is repeated when somebody does not believe it."""
    first, second = random.Random(7), random.Random(7)

    assert [distribution.sample(first) for _ in range(9)] == [distribution.sample(second) for _ in range(9)]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2", Constant(2.0)),
        ("2s", Constant(2.0)),
        ("250ms", Constant(0.25)),
        ("2m", Constant(120.0)),
        (" uniform:1..4 ", Uniform(1.0, 4.0)),
        ("Uniform: 100ms .. 4s", Uniform(0.1, 4.0)),
        ("lognormal:2,8", LogNormal(2.0, 8.0)),
    ],
)
def test_short_forms_are_read(text, meant):
    """On a command line there are no constructors."""
    assert parse_distribution(text) == as_distribution(text) == as_distribution(meant) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "'fast' in 'fast' is no number that is not negative."),
        ("-1", "'-1' in '-1' is no number that is not negative."),
        ("nan", "'nan' in 'nan' is no number that is not negative."),
        ("normal:2,8", "'normal:2,8' is no distribution."),
        ("uniform:1", "'uniform:1' has 1 of two figures."),
        ("uniform:4..1", "Uniform(4.0, 1.0): the least comes first. Write Uniform(1.0, 4.0)."),
        ("lognormal:8,2", "LogNormal(8.0, 2.0): the median is positive"),
    ],
)
def test_a_short_form_that_makes_no_sense_is_told_with_an_example(text, said):
    """Nobody remembers the notation of a tool that is used twice a year."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared
        parse_distribution(text)

    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(-1),
        lambda: Constant(float("inf")),
        lambda: Uniform(4, 1),
        lambda: LogNormal(0, 1),
        lambda: LogNormal(2, 1),
        lambda: Empirical([]),
        lambda: Empirical([1, float("nan")]),
    ],
)
def test_a_distribution_that_cannot_be_is_refused(make):
    """A negative second would run a clock backwards."""
    with pytest.raises(ValueError, match=r"\w+\("):
        make()


def test_what_is_no_number_is_a_mistake_in_the_program():
    """Text that looks like a number is read by `as_distribution`, and by nobody else."""
    with pytest.raises(TypeError, match="'2' is no number"):
        Constant("2")
