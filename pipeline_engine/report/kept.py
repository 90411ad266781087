"""Which runs of a batch are kept in full: as many as there is room for, and those first that somebody will look at."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_engine.report.trace import Trace

__all__ = ["KeptTraces"]

_MAX_SLOWEST = 100
_MAX_FAILED = 100


class KeptTraces:
    """Take in one trace after the other, and keep no more than `max_spans` spans of them.

    When there is no more room, runs are given up at random, but not the slowest hundred and the first hundred
    that did not complete; those only if they alone are too many. At least one run is always kept.

    The same traces in the same order leave the same ones: the dice have a fixed seed.
    """

    def __init__(self, max_spans: int) -> None:
        self._max_spans = max_spans
        self._spans = 0
        self._count = 0
        self._kept: dict[int, Trace] = {}
        self._failed: list[int] = []
        self._slowest: list[tuple[float, int]] = []
        self._others: list[tuple[float, int]] = []
        self._dice = random.Random("kept traces")

    def add(self, trace: Trace) -> None:
        """Take in one trace."""
        place, self._count = self._count, self._count + 1
        self._kept[place] = trace
        self._spans += len(trace.spans)
        if trace.status != "completed" and len(self._failed) < _MAX_FAILED:
            self._failed.append(place)
        else:
            # Of two equally slow ones the earlier one stays: the heap drops the later one first.
            heapq.heappush(self._slowest, (trace.makespan, -place))
            if len(self._slowest) > _MAX_SLOWEST:
                _, fastest = heapq.heappop(self._slowest)
                heapq.heappush(self._others, (self._dice.random(), -fastest))
        while self._spans > self._max_spans and len(self._kept) > 1:
            self._give_up()

    def _give_up(self) -> None:
        if self._others:
            place = heapq.heappop(self._others)[1]
        elif len(self._slowest) > len(self._failed):
            place = -heapq.heappop(self._slowest)[1]
        else:
            place = self._failed.pop()
        self._spans -= len(self._kept.pop(place).spans)

    def result(self) -> tuple[Trace, ...]:
        """Return what is kept, in the order in which it came."""
        return tuple(self._kept[place] for place in sorted(self._kept))
