"""In which order ready steps start, where the seconds of all of them are known. Pure."""

from __future__ import annotations

import random
from bisect import bisect_right
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["best_order", "longest_paths"]

_EFFORT = 24_000
"""How many starts of steps are simulated for orders that are drawn: it bounds the time, about 1 µs each."""
_LARGE = 1_000
"""From how many steps on the rules are left out that take more than time linear in them."""
_SAME = 1e-9
"""The share by which sums of the same floats may differ."""


def longest_paths(followers: Sequence[Sequence[int]], seconds: Sequence[float]) -> list[float]:
    """Return for each step the seconds of the longest path from its start to the end of the graph, its own included.

    Args:
        followers: For each step, the steps that need it. Every step stands after its needs.
        seconds: For each step, how long it takes.

    Example:
        >>> longest_paths([[2], [2], []], [1.0, 5.0, 2.0])
        [3.0, 7.0, 2.0]
    """
    longest = list(seconds)
    for step in range(len(longest) - 1, -1, -1):
        longest[step] += max((longest[follower] for follower in followers[step]), default=0.0)
    return longest


def best_order(followers: Sequence[Sequence[int]], seconds: Sequence[float], slots: int) -> list[int]:
    """Return for each step its place: of the steps that are ready, the one with the smallest place goes first.

    The order is the best of several, each tried on a simulation of the dispatcher: whenever a slot is free and
    something is ready, a step starts. No rule is the best for every graph, and none can be that is quick to
    follow (Graham 1969). The longest remaining path is tried first: the order is never worse than that one.

    Args:
        followers: For each step, the steps that need it. Every step stands after its needs.
        seconds: For each step, how long it takes.
        slots: How many steps may run at once.

    Example:
        With two slots, the long step is not kept waiting by the short ones.

        >>> best_order([[], [], []], [1.0, 1.0, 2.0], slots=2)
        [1, 2, 0]
    """
    places = [0] * len(seconds)
    if places:
        for place, step in enumerate(_Search(followers, seconds, slots).best().order):
            places[step] = place
    return places


class _Schedule(NamedTuple):
    """Hold what an order leads to."""

    makespan: float
    order: list[int]
    """The steps as they start. As an order, it leads to this very schedule."""
    starts: list[float]
    """For each step, when it starts."""


class _Dispatcher:
    """Simulate how a graph's steps are started.

    Args:
        followers: For each step, the steps that need it.
        missing: For each step, how many steps it needs.
        seconds: For each step, how long it takes.
        slots: How many steps may run at once.
    """

    def __init__(
        self, followers: Sequence[Sequence[int]], missing: list[int], seconds: Sequence[float], slots: int
    ) -> None:
        self._followers = followers
        self._missing = missing
        self._seconds = seconds
        self._slots = slots

    def run(self, order: Sequence[int] | None, *, late_first: bool = False) -> _Schedule:
        """Start what is ready by its place in an order; first come, first served if there is none.

        Args:
            order: All steps.
            late_first: Whether, of steps that end at the same instant, the one that started last ends first.
        """
        followers, missing, seconds = self._followers, self._missing.copy(), self._seconds
        steps = [step for step, count in enumerate(missing) if not count] if order is None else list(order)
        places = [0] * len(missing)
        for place, step in enumerate(steps):
            places[step] = place
        ready = sorted(places[step] for step in steps if not missing[step])
        starts = [0.0] * len(missing)
        started: list[int] = []
        running: list[tuple[float, int, int]] = []
        now, free, sign = 0.0, self._slots, -1 if late_first else 1
        while True:
            while free and ready:
                step = steps[heappop(ready)]
                starts[step] = now
                heappush(running, (now + seconds[step], sign * len(started), step))
                started.append(step)
                free -= 1
            if not running:
                return _Schedule(now, started, starts)
            # One end after the other, even at the same instant: that is how the engine hears of them.
            now, _, step = heappop(running)
            free += 1
            for follower in followers[step]:
                missing[follower] -= 1
                if not missing[follower]:
                    if order is None:
                        places[follower] = len(steps)
                        steps.append(follower)
                    heappush(ready, places[follower])


class _Search:
    """Try orders on one graph.

    Args:
        followers: For each step, the steps that need it. Every step stands after its needs.
        seconds: For each step, how long it takes.
        slots: How many steps may run at once.
    """

    def __init__(self, followers: Sequence[Sequence[int]], seconds: Sequence[float], slots: int) -> None:
        needs: list[list[int]] = [[] for _ in seconds]
        for step, after in enumerate(followers):
            for follower in after:
                needs[follower].append(step)
        self._followers = followers
        self._needs = needs
        self._seconds = seconds
        self._slots = slots
        self._steps = range(len(seconds))
        self._forwards = _Dispatcher(followers, [len(before) for before in needs], seconds, slots)
        self._backwards = _Dispatcher(needs, [len(after) for after in followers], seconds, slots)
        self._longest = longest_paths(followers, seconds)
        self._best = self._surely(self._forwards.run(self._by_path()))

    def best(self) -> _Schedule:
        """Return the first of the shortest schedules that were found."""
        bound = max(*self._longest, sum(self._seconds) / self._slots) * (1 + _SAME)
        if self._best.makespan > bound:
            for schedule in self._found():
                enough = self._best.makespan * (1 - _SAME)
                if schedule.makespan < enough and (sure := self._surely(schedule)).makespan < enough:
                    self._best = sure
                    if sure.makespan <= bound:
                        break
        return self._best

    def _surely(self, schedule: _Schedule) -> _Schedule:
        """Return a schedule with the makespan that its order leads to however steps that end together take turns.

        Which of them the engine hears of first is chance. Seconds are often rounded, and a step ready too
        early for another one can cost a lot; so both ways count, and the worse one is the order's.
        """
        other = self._forwards.run(schedule.order, late_first=True)
        return schedule._replace(makespan=max(schedule.makespan, other.makespan))

    def _found(self) -> Iterator[_Schedule]:
        """Yield what the rules lead to, and then what is drawn near the best of it; each also justified."""
        for order in self._rules():
            schedule = self._forwards.run(order)
            yield schedule
            yield self._justified(schedule)
        dice = random.Random(1)  # the same each time: equal runs have equal orders
        nearby = self._best
        for _ in range(_EFFORT // (3 * len(self._steps))):
            drawn = self._forwards.run(self._moved(nearby.order, dice))
            yield drawn
            justified = self._justified(drawn)
            yield justified
            # Going on from one that is only as good leads out of dead ends.
            nearby = min(justified, drawn, nearby, key=lambda schedule: schedule.makespan)

    def _justified(self, schedule: _Schedule) -> _Schedule:
        """Push a schedule to the end of time and back to its beginning, which closes gaps.

        That is double justification (Valls, Ballestín and Quintanilla 2005): the dispatcher runs the graph
        backwards, what ended last first, and then forwards again, what started first in that run first.
        """
        seconds = self._seconds
        late = self._backwards.run(
            sorted(self._steps, key=lambda step: (schedule.starts[step] + seconds[step], step), reverse=True)
        )
        return self._forwards.run(
            sorted(self._steps, key=lambda step: (late.starts[step] + seconds[step], -step), reverse=True)
        )

    def _moved(self, order: Sequence[int], dice: random.Random) -> list[int]:
        """Return an order in which a few steps have other places."""
        moved = list(order)
        size = len(moved)
        for _ in range(dice.choice((1, 2, 3, 5, 8))):
            place = dice.randrange(size)
            step = moved.pop(place)
            moved.insert(min(size - 1, max(0, round(dice.gauss(place, 0.3 * size)))), step)
        return moved

    # Rules: different ones win on different graphs

    def _rules(self) -> Iterator[list[int] | None]:
        steps, longest, seconds = self._steps, self._longest, self._seconds
        yield self._by_path()
        yield None
        yield list(steps)
        yield sorted(steps, key=lambda step: seconds[step] - longest[step])
        if len(steps) < _LARGE:
            yield self._by_insertion()
            counts, work = self._descendants()
            yield sorted(steps, key=lambda step: -longest[step] - work[step] / self._slots)
            yield sorted(steps, key=lambda step: (-counts[step], -longest[step]))
        layers = self._layers()
        yield sorted(steps, key=lambda step: (layers[step], -longest[step]))

    def _by_path(self) -> list[int]:
        """Order by the longest remaining path: the critical path first."""
        return sorted(self._steps, key=lambda step: -self._longest[step])

    def _layers(self) -> list[int]:
        layers = [0] * len(self._steps)
        for step, after in enumerate(self._followers):
            for follower in after:
                layers[follower] = max(layers[follower], layers[step] + 1)
        return layers

    def _descendants(self) -> tuple[list[int], list[float]]:
        """Return for each step how many steps depend on it, and their seconds."""
        counts, work = [0] * len(self._steps), [0.0] * len(self._steps)
        below = [0] * len(self._steps)
        for step in reversed(self._steps):
            bits = 0
            for follower in self._followers[step]:
                bits |= below[follower] | 1 << follower
            below[step] = bits
            counts[step] = bits.bit_count()
            while bits:
                lowest = bits & -bits
                work[step] += self._seconds[lowest.bit_length() - 1]
                bits ^= lowest
        return counts, work

    def _by_insertion(self) -> list[int]:
        """Order by the starts in the schedule that HEFT makes (Topcuoglu, Hariri and Wu 2002), all slots being equal.

        By their longest remaining paths, steps get the earliest gap that is wide enough, even before
        steps that were placed earlier. The dispatcher never waits for a step that is yet to come, so it
        may not repeat that schedule, but it follows its order.
        """
        seconds = self._seconds
        starts, ends = [0.0] * len(seconds), [0.0] * len(seconds)
        # From times[i] to times[i + 1], busy[i] slots are taken. Intervals of which no more than `slots` overlap
        # can always be dealt out to the slots.
        times, busy = [0.0], [0]
        for step in self._by_path():
            start = max((ends[need] for need in self._needs[step]), default=0.0)
            first = bisect_right(times, start) - 1
            while seconds[step]:
                while busy[first] >= self._slots:
                    first += 1
                    start = times[first]
                after = first + 1
                while after < len(times) and times[after] < start + seconds[step] and busy[after] < self._slots:
                    after += 1
                if after == len(times) or times[after] >= start + seconds[step]:
                    break
                first = after
            starts[step], ends[step] = start, start + seconds[step]
            if ends[step] > start:
                begin = _cut(times, busy, start)
                for place in range(begin, _cut(times, busy, ends[step])):
                    busy[place] += 1
        return sorted(self._steps, key=starts.__getitem__)


def _cut(times: list[float], busy: list[int], at: float) -> int:
    """Let an interval begin at an instant, and return its place."""
    place = bisect_right(times, at) - 1
    if times[place] < at:
        place += 1
        times.insert(place, at)
        busy.insert(place, busy[place - 1])
    return place
