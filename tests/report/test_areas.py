"""Stacked areas: their surface is what was going on, neither more nor less."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.report.areas import draw_areas
from pipeline_engine.report.timeline import Timeline, TimelineSums

KINDS = ("attempt", "failed", "slot")


def surface(path):
    """Return the surface of a path of horizontal and vertical lines, by the trapezoids below each of them."""
    x, y = (float(part) for part in re.match(r"M([\d.]+) ([\d.]+)", path).groups())
    start, total = (x, y), 0.0
    for way, text in re.findall(r"([HV])([\d.]+)", path):
        if way == "H":
            total += (float(text) - x) * (100 - y)
            x = float(text)
        else:
            y = float(text)
    return total + (start[0] - x) * (100 - start[1])


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 90), st.integers(1, 40)), min_size=1, max_size=30))
def test_the_surface_of_each_area_is_the_time_of_its_kind(intervals):
    """Whatever is stacked below it: an area that hides another one, or shines through it, would lie."""
    sums = TimelineSums()
    for kind, start, length in intervals:
        sums.add(kind, float(start), float(start + length))
    timeline = sums.result()
    seconds = timeline.parts * timeline.width

    paths = dict(re.findall(r'class="s-(\w+)" d="([^"]+)"', draw_areas(timeline, KINDS, timeline.start, seconds)))

    heights = [sum(column) for column in zip(*timeline.heights.values(), strict=True)]
    for kind, path in paths.items():
        part = sum(timeline.heights[kind]) / len(heights) / max(heights)
        assert surface(path) == pytest.approx(100_000 * part, rel=0.01, abs=120)


def test_of_nothing_nothing_is_drawn():
    """A page of a run that did nothing has no chart."""
    assert draw_areas(Timeline(), KINDS, 0.0, 1.0) == ""
