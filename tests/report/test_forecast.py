"""What is said of the rest of a batch must hold as often as it says."""

import random
from math import inf

import pytest

from pipeline_engine.report.forecast import Forecast, evenly, forecast, seconds_between


def proportional(dice, size):
    """As tokens of prompts are."""
    return size / 4 * dice.uniform(0.9, 1.1)


def constant(dice, size):
    """As calls of a document are, where some are tried again."""
    return 3 + (dice.random() < 0.1)


def saturating(dice, size):
    """As replies are: longer for longer documents, up to a point, which no straight line knows."""
    return min(400, 50 + size / 20) * dice.uniform(0.5, 1.5)


@pytest.mark.parametrize("law", [proportional, constant, saturating])
def test_a_range_holds_about_9_times_of_10(law):
    """A range that is too narrow is a promise that is broken; the definition of this one is counted."""
    dice, held, trials = random.Random(5), 0, 400
    for _ in range(trials):
        sizes = sorted(dice.lognormvariate(8, 1) for _ in range(300))
        values = [law(dice, size) for size in sizes]
        sample = evenly(len(sizes), 20)
        rest = set(range(len(sizes))) - set(sample)
        told = forecast(
            [sizes[place] for place in sample],
            [values[place] for place in sample],
            sum(sizes[place] for place in rest),
            len(rest),
        )
        held += told.low <= sum(values[place] for place in rest) <= told.high

    assert held / trials >= 0.87


def test_what_every_document_takes_is_not_multiplied_by_characters():
    """Three calls for each document are three calls for each document, however long they are."""
    assert forecast([10, 20, 40, 80, 500], [3] * 5, 100_000, 7) == Forecast(21, 21, 21)


def test_documents_of_one_size_are_counted():
    """There is no line through one point, and none is needed."""
    told = forecast([100] * 5, [9, 10, 11, 10, 10], 1000, 10)

    assert told.value == 100
    assert 0 < told.high - told.value < 20


def test_a_sample_that_is_too_small_has_no_range():
    """Two documents say little, and nothing about how little."""
    told = forecast([100, 300], [10, 30], 1000, 5)

    assert told == Forecast(100, 0, inf)
    assert not told.has_range


def test_what_is_taken_is_never_less_than_nothing():
    """A line may fall below it."""
    told = forecast([100, 200, 300, 400, 500], [50, 5, 1, 0, 0], 50_000, 10)

    assert told.value == told.low == 0


@pytest.mark.parametrize(("count", "sample"), [(1, 1), (7, 3), (1204, 20), (20, 20), (5, 20)])
def test_a_sample_is_spread_evenly_and_no_document_comes_twice(count, sample):
    """It must say something about small and large documents."""
    places = evenly(count, sample)

    assert len(set(places)) == len(places) == min(count, sample)
    assert places == sorted(places)
    assert 0 <= places[0] < count / sample + 1
    assert count - count / sample - 1 <= places[-1] < count


def test_more_slots_cannot_beat_the_longest_chain():
    """Ten documents on a thousand slots take as long as one."""
    assert seconds_between(Forecast(100, 100, 100), 1000, [8, 12]) == (10, 12.1)
