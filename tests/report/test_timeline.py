"""The timeline: how much went on at once, in memory that does not grow with the batch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_engine.report.timeline import TimelineSums

INSTANTS = st.integers(0, 400_000).map(lambda number: 1_700_000_000 + number / 16)
INTERVALS = st.lists(
    st.tuples(st.sampled_from(["slot", "attempt"]), INSTANTS, INSTANTS).filter(lambda one: one[1] < one[2]),
    min_size=1,
    max_size=40,
)


def at_once(intervals, kind, start, end):
    """How many intervals of a kind there were between two instants, on average: counted in the plainest way."""
    inside = sum(max(0.0, min(end, to) - max(start, since)) for its, since, to in intervals if its == kind)
    return inside / (end - start)


@settings(max_examples=100, deadline=None)
@given(INTERVALS, st.integers(1, 32))
def test_each_part_holds_what_was_at_once_in_it_in_whatever_order_it_was_told(intervals, max_parts):
    """Documents end in an order of their own, and a batch may last a week: the picture is exact all the same."""
    sums = TimelineSums(max_parts=max_parts)
    for interval in intervals:
        sums.add(*interval)
    timeline = sums.result()

    assert 1 <= timeline.parts <= max_parts
    assert timeline.start <= min(start for _, start, _ in intervals)
    assert timeline.start + timeline.parts * timeline.width >= max(end for *_, end in intervals)
    for kind, heights in timeline.heights.items():
        for part, height in enumerate(heights):
            start = timeline.start + part * timeline.width
            assert height == pytest.approx(at_once(intervals, kind, start, start + timeline.width), abs=1e-9)


def test_parts_are_no_wider_than_they_must_be():
    """A run of a second and one of a day each fill the picture."""
    for seconds in (0.4, 30.0, 86_400.0):
        sums = TimelineSums()
        sums.add("attempt", 1_700_000_000.0, 1_700_000_000.0 + seconds)
        assert 240 <= sums.result().parts <= 480


def test_nothing_is_an_empty_timeline():
    """A batch whose documents were all refused has a page, too."""
    assert TimelineSums().result().parts == 0
