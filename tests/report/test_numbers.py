"""Numbers as people read them, at the borders where rounding changes the unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.report.numbers import counted, nice_ticks, seconds_text, tick_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1e-9, "0 s"),
        (0.000_4, "0.4 ms"),
        (0.009_96, "10 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (359_970.0, "100 h 00 min"),
    ],
)
def test_a_duration_never_shows_a_full_unit_of_the_smaller_kind(seconds, text):
    """A "60.0 s" or a "1000 ms" makes a reader stop and wonder."""
    assert seconds_text(seconds) == text


def test_a_part_keeps_the_unit_of_its_whole_until_it_would_vanish():
    """The words "0.2 s of 4.2 s" compare at a glance; "0.0 s" would deny that there was anything."""
    assert [seconds_text(part, is_part=True) for part in (0.2, 0.05, 0.049)] == ["0.2 s", "0.1 s", "49 ms"]


def test_one_thing_is_singular():
    """A "1 steps" looks like a bug, and then the other numbers look like bugs too."""
    assert [counted(count, "step") for count in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


@given(st.floats(1e-6, 1e8), st.integers(2, 20))
def test_an_axis_has_few_round_ticks_within_its_length(length, max_ticks):
    """An axis is read, so its labels must be few, in order, and different from each other."""
    ticks = nice_ticks(length, max_ticks)
    labels = [tick_text(tick) for tick in ticks]

    assert ticks[0] == 0
    assert len(ticks) <= max_ticks
    assert ticks[-1] <= length * (1 + 1e-6)
    assert len(set(labels)) == len(labels)
