"""How much of each kind went on at once, over the time of many runs: in memory that does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from math import floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.report.spans import SegmentKind

__all__ = ["MAX_PARTS", "Timeline", "TimelineSums"]

MAX_PARTS = 480
"""Into how many parts the time is divided at most: a page has about two of its points for each."""
_FINEST = 2.0**-10
"""Seconds of the shortest part: about a thousandth."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Say how many segments of each kind there were at once, on average over each part of the time."""

    start: float = 0.0
    """When the first part begins, in seconds since the epoch."""
    width: float = _FINEST
    """The seconds of a part."""
    heights: Mapping[SegmentKind, tuple[float, ...]] = field(default_factory=dict)
    """For each kind one number for each part."""

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return len(next(iter(self.heights.values()), ()))


class TimelineSums:
    """Take in one interval after the other, and keep the seconds that fell into each part of the time.

    Parts lie on a grid of whole multiples of their width. When there are more than `max_parts`, the width doubles:
    two neighbours become one, and nothing is lost but detail.

    Example:
        >>> sums = TimelineSums()
        >>> sums.add("attempt", 0.0, 2.0)
        >>> sums.add("attempt", 1.0, 3.0)
        >>> timeline = sums.result()
        >>> timeline.width * sum(timeline.heights["attempt"])
        4.0
        >>> timeline.heights["attempt"][0], max(timeline.heights["attempt"])
        (1.0, 2.0)
    """

    def __init__(self, max_parts: int = MAX_PARTS) -> None:
        self._max_parts = max_parts
        self._width = _FINEST
        self._first: int | None = None
        self._last = 0
        self._seconds: dict[SegmentKind, dict[int, float]] = {}
        # Where an interval fills whole parts only its ends are noted: it may be as long as the batch.
        self._changes: dict[SegmentKind, dict[int, int]] = {}

    def add(self, kind: SegmentKind, start: float, end: float) -> None:
        """Take in one interval, in seconds since the epoch."""
        first, last = self._make_room(start, end)
        seconds = self._seconds.setdefault(kind, {})
        width = self._width
        if first == last:
            seconds[first] = seconds.get(first, 0.0) + end - start
            return
        seconds[first] = seconds.get(first, 0.0) + (first + 1) * width - start
        seconds[last] = seconds.get(last, 0.0) + end - last * width
        if last > first + 1:
            changes = self._changes.setdefault(kind, {})
            changes[first + 1] = changes.get(first + 1, 0) + 1
            changes[last] = changes.get(last, 0) - 1

    def result(self) -> Timeline:
        """Return what was taken in so far."""
        if self._first is None:
            return Timeline()
        parts = range(self._first, self._last + 1)
        heights: dict[SegmentKind, tuple[float, ...]] = {}
        for kind, seconds in self._seconds.items():
            changes = self._changes.get(kind, {})
            whole = accumulate(changes.get(part, 0) for part in parts)
            # What differs from nothing by rounding alone is nothing.
            heights[kind] = tuple(
                max(0.0, count + seconds.get(part, 0.0) / self._width) for part, count in zip(parts, whole, strict=True)
            )
        return Timeline(self._first * self._width, self._width, heights)

    def _make_room(self, start: float, end: float) -> tuple[int, int]:
        """Return the parts in which an interval begins and ends, after making them wide enough for all there is."""
        while True:
            first, last = floor(start / self._width), floor(end / self._width)
            lowest = first if self._first is None else min(first, self._first)
            highest = last if self._first is None else max(last, self._last)
            if highest - lowest < self._max_parts:
                self._first, self._last = lowest, highest
                return first, last
            self._double()

    def _double(self) -> None:
        for kind, changes in self._changes.items():
            seconds, count = self._seconds[kind], 0
            for part in range(min(changes, default=0), max(changes, default=0)):
                count += changes.get(part, 0)
                if count:
                    seconds[part] = seconds.get(part, 0.0) + count * self._width
        self._changes.clear()
        for kind, narrow in self._seconds.items():
            wide: dict[int, float] = {}
            for part, passed in narrow.items():
                wide[part // 2] = wide.get(part // 2, 0.0) + passed
            self._seconds[kind] = wide
        self._width *= 2
        if self._first is not None:
            self._first, self._last = self._first // 2, self._last // 2
