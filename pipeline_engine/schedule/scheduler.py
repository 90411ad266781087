"""What all runs of an engine share: its slots, the queue for them, its timers and its threads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import trio

from pipeline_engine.schedule.queue import Entry, ReadyQueue
from pipeline_engine.schedule.sharing import Flights

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Scheduler", "SchedulerStatistics", "Timer"]


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """Tell what an engine is doing right now."""

    capacity: int
    """How many attempts may be in flight."""
    in_flight: int
    """How many are."""
    ready: int
    """How many more could be, if there were slots."""
    timers: int
    """How many waits are under way."""


class Timer:
    """Call something at an instant, unless it is cancelled before."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback


class Scheduler:
    """Hand out slots, never by waiting: a slot is free or the work goes into the queue.

    A slot is an integer and a hand-over, not trio's limiter: taking a free one costs no checkpoint,
    and the order of the waiting is ours (trio shuffles the tasks it wakes).
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: at least one slot is needed to run anything.")
        self.capacity = capacity
        self.now: Callable[[], float] = trio.current_time
        """Reads the engine's one clock."""
        self.free = capacity
        self.queue = ReadyQueue()
        self.flights = Flights()
        """The calls that equal ones wait for."""
        self.threads = trio.CapacityLimiter(math.inf)  # the slots bound the threads
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_number = 0
        self._dead_timers = 0
        self._timer_scope: trio.CancelScope | None = None
        self.room_waiters: list[tuple[int, int, trio.Event]] = []
        """Batches that wait to admit their next document, by priority and turn."""
        self._turns = 0
        self._documents = 0
        self.arriving = 0
        """Documents that were admitted and have not taken their first slots yet."""

    def statistics(self) -> SchedulerStatistics:
        """Return what is going on at this instant."""
        live = len(self._timers) - self._dead_timers
        return SchedulerStatistics(self.capacity, self.capacity - self.free, len(self.queue), live)

    def next_document(self) -> int:
        """Return the number of a document's arrival: first come, first served."""
        self._documents += 1
        return self._documents

    # Slots

    @property
    def has_room(self) -> bool:
        """Whether a slot is free and nothing ready waits for it."""
        return self.free > self.arriving and not self.queue

    def release(self) -> None:
        """Give a slot back. The caller decides what happens with it, by `dispatch`."""
        self.free += 1
        if self.free > self.capacity:
            raise AssertionError("a slot was given back twice")

    def dispatch(self) -> None:
        """Start what waits, as long as slots are free."""
        while self.free > 0 and self.queue:
            entry = self.queue.pop()
            if entry is None:
                break
            self.free -= 1
            entry.launch()
        if self.room_waiters and self.has_room:
            self.room_waiters[0][2].set()

    async def wait_for_room(self, priority: int = 0) -> None:
        """Wait until a slot is free, nothing ready waits, and it is one's turn to admit a document.

        Batches take turns, those of a higher priority first. A cancelled caller leaves no trace.
        """
        if self.has_room and not self.room_waiters:
            return
        self._turns += 1
        turn = (-priority, self._turns)
        while True:
            waiter = (*turn, trio.Event())
            heappush(self.room_waiters, waiter)
            try:
                await waiter[2].wait()
            finally:
                self.room_waiters.remove(waiter)
                heapify(self.room_waiters)
                if self.room_waiters and self.has_room:
                    self.room_waiters[0][2].set()  # one that leaves passes its wake-up on
            if self.has_room and (not self.room_waiters or turn < self.room_waiters[0][:2]):
                return

    async def take_slot(self, request: SlotRequest) -> None:
        """Wait for a slot in the order of the queue: for work that gave its slot back for a while."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.free > 0 and not self.queue:
            self.free -= 1
            return
        self.queue.push(request)
        request.task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.queue.withdraw(request)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    # Timers

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` at the instant `at` of trio's clock.

        Waits end here rather than in a sleeping task each: a task and a cancel scope for every
        back-off cost ten times as much.
        """
        timer = Timer(callback)
        self._timer_number += 1
        heappush(self._timers, (at, self._timer_number, timer))
        if self._timer_scope is None:
            self._timer_scope = trio.CancelScope(deadline=at)
            trio.lowlevel.spawn_system_task(self._run_timers, name="pipeline_engine timers")
        elif at < self._timer_scope.deadline:
            self._timer_scope.deadline = at
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget a timer. Does nothing to one that has called or was cancelled before."""
        if timer.callback is None:
            return
        timer.callback = None
        self._dead_timers += 1
        if self._dead_timers > 64 and self._dead_timers > len(self._timers) // 2:
            # Long deadlines of short steps would pile up; rarely enough to cost nothing on average.
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapify(self._timers)
            self._dead_timers = 0

    async def _run_timers(self) -> None:
        while self._timers:
            self._timer_scope = scope = trio.CancelScope(deadline=self._timers[0][0])
            with scope:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._timers and (self._timers[0][0] <= now or self._timers[0][2].callback is None):
                timer = heappop(self._timers)[2]
                callback, timer.callback = timer.callback, None
                if callback is None:
                    self._dead_timers -= 1
                else:
                    callback()
        self._timer_scope = None

    def close(self) -> None:
        """Forget all timers, so that their task ends."""
        self._timers.clear()
        self._dead_timers = 0
        if self._timer_scope is not None:
            self._timer_scope.deadline = -math.inf


class SlotRequest:
    """Stand in the queue for a task that sleeps until it has a slot."""

    __slots__ = ("group", "is_queued", "key", "priority", "task")

    def __init__(self, like: Entry) -> None:
        self.group = like.group
        self.priority = like.priority
        self.key = like.key
        self.is_queued = False
        self.task: trio.lowlevel.Task | None = None

    def launch(self) -> None:
        """Wake the task; the slot is its own now."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
