"""The virtual clock of simulations: when nothing is left to do, it is already the next instant. Sleepers wake in turn.

trio asks its clock how long to sleep only when no task can run. This clock answers by being there at once. It also
keeps the sleepers of a simulation in a heap of its own: a task that is woken costs a third of one whose cancel scope
runs out, and one at a time they do not depend on the order in which trio runs its tasks, which is drawn at random.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import count

import trio

__all__ = ["VirtualClock"]


class _Sleeper:
    """Hold a task that sleeps, until it is woken or cancelled."""

    __slots__ = ("task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task: trio.lowlevel.Task | None = task


class VirtualClock(trio.abc.Clock):
    """Jump to the next instant at which anything happens, whenever all tasks wait.

    It knows nothing of threads: time jumps while they work.

    Example:
        >>> async def main():
        ...     await trio.sleep(3600)
        ...     return trio.current_time()
        >>> trio.run(main, clock=VirtualClock())
        3600.0
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._numbers = count()
        self._sleepers: list[tuple[float, tuple[int, ...], int, _Sleeper]] = []

    def start_clock(self) -> None:
        """Begin at zero, whenever that is."""

    def current_time(self) -> float:
        """Return the virtual instant."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Go to the next instant, because nothing else is left to do; what trio has to do there comes first.

        Then one sleeper is woken, and the next one of the same instant when all that follows from it is done.
        """
        sleepers = self._sleepers
        while sleepers and sleepers[0][0] < deadline:
            at, _order, _number, sleeper = heappop(sleepers)
            task = sleeper.task
            if task is not None:
                self._now = max(self._now, at)
                trio.lowlevel.reschedule(task)
                return 0.0
        if deadline == math.inf:
            return math.inf  # only a thread can go on from here
        self._now = max(self._now, deadline)
        return 0.0

    async def sleep(self, seconds: float, order: tuple[int, ...] = (), deadline: float = math.inf) -> None:
        """Sleep so many virtual seconds, or until `deadline` if that comes first.

        Args:
            seconds: How long.
            order: Which of several sleepers that wake at the same instant goes first: the smallest.
            deadline: The instant at which a cancel scope around this ends. Told beforehand, those that are
                ended at the same instant end one by one, in their order, too.
        """
        until = min(self._now + seconds, deadline)
        sleeper = _Sleeper(trio.lowlevel.current_task())
        heappush(self._sleepers, (until, order, next(self._numbers), sleeper))

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            if until <= self._now:
                return trio.lowlevel.Abort.FAILED  # it is about to wake, in its turn
            sleeper.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if until >= deadline:
            await trio.lowlevel.checkpoint_if_cancelled()
