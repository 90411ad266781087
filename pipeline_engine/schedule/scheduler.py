"""What all runs of an engine share: its slots, the queue for them, its timers and its threads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush
from operator import itemgetter
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

from pipeline_engine.schedule.queue import CauseClock, Entry, Gate, Key, ReadyQueue
from pipeline_engine.schedule.sharing import Flights

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from pipeline_engine.resilience.governor import Governor, ModelStatistics
    from pipeline_engine.values import QueueCause

__all__ = ["Scheduler", "SchedulerStatistics", "Timer"]


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """Tell what an engine is doing right now."""

    capacity: int
    """How many attempts may be in flight."""
    in_flight: int
    """How many are."""
    ready: int
    """How many more wait for their turn: for a slot, or for what their model's limits allow."""
    timers: int
    """How many waits are under way."""
    models: Mapping[str, ModelStatistics] = field(default_factory=dict)
    """How each model is doing that was called."""


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
        self.room_waiters: list[tuple[int, int, trio.Event, Hashable]] = []
        """Batches that wait to admit their next document, by priority and turn."""
        self._turns = 0
        self._documents = 0
        self.arriving = 0
        """Documents that were admitted and have not taken their first slots yet."""
        self._clocks: WeakKeyDictionary[Gate, CauseClock] = WeakKeyDictionary()
        self._wakes: dict[Gate, tuple[float, Timer]] = {}
        self._is_dispatching = False
        self._afterwards: list[Callable[[], None]] = []

    def statistics(self, governors: Mapping[str, Governor] | None = None) -> SchedulerStatistics:
        """Return what is going on at this instant."""
        live = len(self._timers) - self._dead_timers
        models = {
            name: governor.statistics(self.now(), self.queue.waiting(governor))
            for name, governor in (governors or {}).items()
        }
        return SchedulerStatistics(self.capacity, self.capacity - self.free, len(self.queue), live, models)

    def next_document(self) -> int:
        """Return the number of a document's arrival: first come, first served."""
        self._documents += 1
        return self._documents

    # Slots

    def _may_admit(self, group: Hashable) -> bool:
        """Whether a batch may let its next document in: a slot is free, and nothing waits that could start in it.

        What waits for its model's limits does not count: one model's stall must not keep out the documents
        of others. How many documents are let in meanwhile is for each batch to bound. Where the calls of others
        wait for every slot there is never room, and a batch could not take its turns with them: so it may have
        as many calls ready beside theirs as there are slots.
        """
        if self.free > self.arriving:
            return True
        own = self.queue.waiting_in(group)
        return own < self.queue.live and own + self.arriving < self.capacity

    def _wake_room_waiter(self) -> None:
        for _priority, _turn, event, group in sorted(self.room_waiters, key=itemgetter(0, 1)):
            if self._may_admit(group):
                event.set()
                break

    def enqueue(self, entry: Entry) -> dict[QueueCause, float] | None:
        """Let ready work wait for its turn; return what its gate's clock shows, which `waits` must be given.

        The caller dispatches afterwards.
        """
        self.queue.push(entry)
        gate = entry.gate
        if gate is None:
            return None
        clock = self._clocks.get(gate)
        if clock is None:
            clock = self._clocks[gate] = CauseClock()
            clock.turn(self.now(), "slot")
        return clock.read(self.now())

    def withdraw(self, entry: Entry) -> None:
        """Take back work that waits for its turn."""
        self.queue.withdraw(entry)
        if self._wakes and not self.queue.live:
            self._forget_wakes()

    def _forget_wakes(self) -> None:
        """Nobody is left to be woken for."""
        for _at, timer in self._wakes.values():
            self.cancel(timer)
        self._wakes.clear()

    def waits(self, gate: Gate, since: dict[QueueCause, float]) -> tuple[tuple[QueueCause, float], ...]:
        """Return how long somebody has waited for what; nothing if it was for slots alone."""
        clock = self._clocks.get(gate)
        if clock is None:
            return ()
        waited = [
            (cause, seconds - since.get(cause, 0.0))
            for cause, seconds in clock.read(self.now()).items()
            if seconds > since.get(cause, 0.0)
        ]
        return () if all(cause == "slot" for cause, _seconds in waited) else tuple(waited)

    def causes(self, group: Hashable) -> dict[QueueCause, int]:
        """Return how many ready calls of a run or batch wait for what at this instant."""
        now = self.now()
        causes: dict[QueueCause, int] = {}
        for gate, count in self.queue.waiting_at(group).items():
            head = None if gate is None else self.queue.head(gate)
            refusal = None if gate is None or head is None else gate.refusal(now, head.tokens)
            cause: QueueCause = "slot" if refusal is None else refusal.cause
            causes[cause] = causes.get(cause, 0) + count
        return causes

    def release(self) -> None:
        """Give a slot back. The caller decides what happens with it, by `dispatch`."""
        self.free += 1
        if self.free > self.capacity:
            raise AssertionError("a slot was given back twice")

    def dispatch(self) -> None:
        """Start what waits, as long as slots are free and gates let it through."""
        queue = self.queue
        if queue.live and not self._is_dispatching:
            self._is_dispatching = True
            try:
                now = self.now()
                while self.free > 0:
                    entry = queue.pop(now)
                    if entry is None:
                        break
                    if entry.launch():
                        self.free -= 1
                if queue.live:
                    self._watch_gates(now)
            finally:
                self._is_dispatching = False
        if self._wakes and not queue.live:
            self._forget_wakes()
        while self._afterwards and not self._is_dispatching:
            self._afterwards.pop(0)()
        self._wake_room_waiter()

    def call_after_dispatch(self, callback: Callable[[], None]) -> None:
        """Call something once the work that is being started is started: now, if none is."""
        self._afterwards.append(callback)
        if not self._is_dispatching:
            self.dispatch()

    def _watch_gates(self, now: float) -> None:
        """Note what each gate's calls wait for from now on, and wake when a wait ends by time alone."""
        for gate in self.queue.gates:
            head = self.queue.head(gate)
            refusal = None if head is None else gate.refusal(now, head.tokens)
            clock = self._clocks.get(gate)
            if clock is not None:
                clock.turn(now, "slot" if refusal is None else refusal.cause)
            if refusal is not None and refusal.cause == "tokens":
                refusal = gate.refusal(now, self.queue.fewest_tokens(gate))  # not the head is the first that fits
            if refusal is None or refusal.until == math.inf:
                continue
            wake = self._wakes.get(gate)
            if wake is not None:
                if now < wake[0] <= refusal.until:
                    continue
                self.cancel(wake[1])
            self._wakes[gate] = refusal.until, self.call_at(refusal.until, partial(self._wake, gate))

    def _wake(self, gate: Gate) -> None:
        self._wakes.pop(gate, None)
        self.dispatch()

    async def wait_for_room(self, priority: int = 0, group: Hashable = None) -> None:
        """Wait until a document may be admitted, and it is one's turn to admit it.

        Batches take turns, those of a higher priority first. A cancelled caller leaves no trace.
        """
        if not self.room_waiters and self._may_admit(group):
            return
        self._turns += 1
        turn = (-priority, self._turns)
        while True:
            waiter = (*turn, trio.Event(), group)
            heappush(self.room_waiters, waiter)
            try:
                self._wake_room_waiter()
                await waiter[2].wait()
            finally:
                self.room_waiters.remove(waiter)
                heapify(self.room_waiters)
                self._wake_room_waiter()  # one that leaves passes its wake-up on
            before = [waiting for *place, _event, waiting in self.room_waiters if tuple(place) < turn]
            if self._may_admit(group) and not any(map(self._may_admit, before)):
                return

    async def take_slot(self, request: SlotRequest) -> None:
        """Wait for a slot in the order of the queue: for work that gave its slot back for a while."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.queue.push(request)
        self.dispatch()
        if request.has_slot:
            return
        request.task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.withdraw(request)
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
        self._wakes.clear()
        self._dead_timers = 0
        if self._timer_scope is not None:
            self._timer_scope.deadline = -math.inf


class SlotRequest:
    """Stand in the queue for a task that sleeps until it has a slot."""

    __slots__ = ("gate", "group", "has_slot", "key", "overtaken", "priority", "task", "ticket", "tokens")

    def __init__(self, like: Entry) -> None:
        self.group: Hashable = like.group
        self.priority: int = like.priority
        self.key: Key = like.key
        self.gate: Gate | None = None  # its call was admitted before: it needs the slot alone
        self.tokens = 0.0
        self.overtaken = 0
        self.ticket = 0
        self.has_slot = False
        self.task: trio.lowlevel.Task | None = None

    def launch(self) -> bool:
        """Wake the task; the slot is its own now."""
        self.has_slot = True
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
        return True
