"""Who is next: ready work in order of priority, turns, documents and remaining paths, where it may start. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from pipeline_engine.resilience.governor import Refusal
    from pipeline_engine.values import QueueCause

__all__ = ["CauseClock", "Entry", "Gate", "Key", "ReadyQueue"]

Key = tuple[int, float, int, int]
"""Document (first come first served), rank (the longest remaining path first), step, item."""
_LOOK_PAST = 16
"""How many calls that are too large for the tokens at hand may be looked past, to find one that fits; …"""
_MOST_OVERTAKEN = 64
"""… and how often one of them is overtaken, before tokens are saved for it."""


class Gate(Protocol):
    """Say whether calls to one model may start."""

    @property
    def counts_tokens(self) -> bool:
        """Whether that depends on the call's size."""
        ...

    def refusal(self, now: float, tokens: float = 0.0) -> Refusal | None:
        """Return why a call may not start now; None if it may."""
        ...


class Entry(Protocol):
    """Wait for its turn."""

    ticket: int
    """The number of its place in the queue, 0 if it has none. A place whose number is not the entry's is
    dead: taking it out of the heap at once would cost time linear in its length."""
    overtaken: int
    """How often a smaller call went first."""

    @property
    def group(self) -> Hashable:
        """The run or batch that it belongs to: groups take turns."""
        ...

    @property
    def priority(self) -> int:
        """Higher goes first."""
        ...

    @property
    def key(self) -> Key:
        """Its place within the group, which it keeps when it comes back."""
        ...

    @property
    def gate(self) -> Gate | None:
        """The model that it calls; None for a function, which needs nothing but a slot."""
        ...

    @property
    def tokens(self) -> float:
        """What its call may need, of request and reply together."""
        ...

    def launch(self) -> bool:
        """Go on with a slot in hand; return False if it cannot, so that the slot goes to another one."""
        ...


class CauseClock:
    """Add up, for one gate, how long its calls have waited for what: each reads off what passed while it waited."""

    __slots__ = ("_cause", "_seconds", "_since")

    def __init__(self) -> None:
        self._cause: QueueCause = "slot"
        self._since = 0.0
        self._seconds: dict[QueueCause, float] = {}

    def turn(self, now: float, cause: QueueCause) -> None:
        """Say what binds from now on."""
        if cause != self._cause:
            self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now - self._since
            self._cause, self._since = cause, now

    def read(self, now: float) -> dict[QueueCause, float]:
        """Return the seconds of each cause so far."""
        seconds = dict(self._seconds)
        seconds[self._cause] = seconds.get(self._cause, 0.0) + now - self._since
        return seconds


Place = tuple[Key, int, Entry]
"""Where an entry stands, and its ticket: no two are equal, so entries are never compared."""
Heap = list[Place]


class ReadyQueue:
    """Hold what is ready and has not started.

    Higher priorities go first. Within a priority, runs and batches take turns, so that none waits for the
    whole of another. Within one of them the smallest key goes first. What its gate keeps from starting is
    passed over, and keeps its place: a stalled model holds up nobody else's calls. A call that is too large
    for the tokens at hand is overtaken by smaller ones for a while; then tokens are saved for it.
    """

    __slots__ = ("_number", "_saving", "_turns", "_waiting", "live")

    def __init__(self) -> None:
        # For each priority the groups in the order of their turns, each with a heap for each gate.
        self._turns: dict[int, OrderedDict[Hashable, dict[Gate | None, Heap]]] = {}
        self.live = 0
        """How many entries wait."""
        self._waiting: dict[Gate | None, int] = {}
        self._saving: dict[Gate, Entry] = {}
        self._number = 0

    def __len__(self) -> int:
        return self.live

    def push(self, entry: Entry) -> None:
        """Put an entry in its place."""
        self.live += 1
        self._number += 1
        entry.ticket = self._number
        gate = entry.gate
        self._waiting[gate] = self._waiting.get(gate, 0) + 1
        groups = self._turns.get(entry.priority)
        if groups is None:
            groups = self._turns[entry.priority] = OrderedDict()
        heaps = groups.get(entry.group)
        if heaps is None:
            heaps = groups[entry.group] = {}
        heap = heaps.get(gate)
        if heap is None:
            heap = heaps[gate] = []
        heappush(heap, (entry.key, self._number, entry))

    def withdraw(self, entry: Entry) -> None:
        """Take back an entry that waits."""
        if entry.ticket:
            self._leave(entry)
            if not self.live:
                self._turns.clear()  # what was withdrawn must not keep ended runs alive

    def _leave(self, entry: Entry) -> None:
        entry.ticket = 0
        self.live -= 1
        gate = entry.gate
        left = self._waiting[gate] - 1
        if left:
            self._waiting[gate] = left
        else:
            del self._waiting[gate]
        if gate is not None and self._saving.get(gate) is entry:
            del self._saving[gate]

    def waiting(self, gate: Gate | None) -> int:
        """Return how many entries wait for one gate."""
        return self._waiting.get(gate, 0)

    def waiting_in(self, group: Hashable) -> int:
        """Return how many entries of a run or batch wait; some that were withdrawn may still count."""
        return sum(sum(map(len, groups[group].values())) for groups in self._turns.values() if group in groups)

    def waiting_at(self, group: Hashable) -> dict[Gate | None, int]:
        """Return how many entries of a run or batch wait for which gate; some that were withdrawn may still count."""
        waiting: dict[Gate | None, int] = {}
        for groups in self._turns.values():
            for gate, heap in groups.get(group, {}).items():
                waiting[gate] = waiting.get(gate, 0) + len(heap)
        return waiting

    @property
    def gates(self) -> list[Gate]:
        """The gates that anybody waits for."""
        return [gate for gate in self._waiting if gate is not None]

    def entries(self, gate: Gate) -> Iterator[Entry]:
        """Yield whoever waits for one gate, in no particular order."""
        for groups in self._turns.values():
            for heaps in groups.values():
                for _key, number, entry in heaps.get(gate, ()):
                    if entry.ticket == number:
                        yield entry

    def head(self, gate: Gate) -> Entry | None:
        """Return somebody who waits for a gate and is first in its group."""
        saved_for = self._saving.get(gate)
        if saved_for is not None:
            return saved_for
        for priority in sorted(self._turns, reverse=True):
            for heaps in self._turns[priority].values():
                heap = heaps.get(gate)
                if heap and self._drop_dead(heap):
                    return heap[0][2]
        return None

    def fewest_tokens(self, gate: Gate) -> float:
        """Return the tokens of the smallest call that may go next: the first one that time alone will let start."""
        saved_for = self._saving.get(gate)
        fewest = math.inf if saved_for is None else saved_for.tokens
        for priority, groups in self._turns.items():
            if saved_for is not None and priority <= saved_for.priority:
                continue
            for heaps in groups.values():
                heap = heaps.get(gate, [])
                passed: list[Place] = []
                while len(passed) < _LOOK_PAST and self._drop_dead(heap):
                    passed.append(heappop(heap))
                for place in passed:
                    heappush(heap, place)
                    fewest = min(fewest, place[2].tokens)
        return fewest

    def pop(self, now: float) -> Entry | None:
        """Return the entry whose turn it is, among those that may start now; None if there is none."""
        if not self.live:
            return None
        is_free: dict[Gate | None, bool] = {None: True}
        for priority in sorted(self._turns, reverse=True) if len(self._turns) > 1 else list(self._turns):
            groups = self._turns[priority]
            emptied = []
            found = None
            for group, heaps in groups.items():
                found = self._first(group, heaps, now, is_free)
                if not heaps:
                    emptied.append(group)
                if found is not None:
                    if heaps:
                        groups.move_to_end(group)  # the others have their turns first
                    break
            for group in emptied:
                del groups[group]
            if not groups:
                del self._turns[priority]
            if found is not None:
                if found.gate is not None and found.gate.counts_tokens:
                    self._count_overtaken(found, found.gate, now)
                return found
        return None

    def _count_overtaken(self, found: Entry, gate: Gate, now: float) -> None:
        """Note whom a call goes before that is too large for the tokens at hand, and save tokens after too often."""
        for priority, groups in self._turns.items():
            if priority < found.priority:
                continue
            for group, heaps in groups.items():
                heap = heaps.get(gate)
                if not heap or not self._drop_dead(heap):
                    continue
                key, _number, first = heap[0]
                is_before = group != found.group or key < found.key
                if is_before and gate.refusal(now, first.tokens) is not None:
                    first.overtaken += 1
                    if first.overtaken >= _MOST_OVERTAKEN:
                        self._saving.setdefault(gate, first)

    def _first(
        self, group: Hashable, heaps: dict[Gate | None, Heap], now: float, is_free: dict[Gate | None, bool]
    ) -> Entry | None:
        """Take the first entry of a group that may start now."""
        best: Place | None = None
        emptied = []
        for gate, heap in heaps.items():
            if not self._drop_dead(heap):
                emptied.append(gate)
                continue
            free = is_free.get(gate)
            if free is None and gate is not None:
                free = is_free[gate] = gate.refusal(now) is None
            if not free or (best is not None and heap[0] > best):
                continue
            first: Place | None = heap[0]
            if gate is not None and gate.counts_tokens:
                first = self._fitting(gate, group, heap, now)
            if first is not None and (best is None or first < best):
                best = first
        for gate in emptied:
            del heaps[gate]
        if best is None:
            return None
        entry = best[2]
        heap = heaps[entry.gate]
        if heap[0] is best:
            heappop(heap)
            if not heap:
                del heaps[entry.gate]
        self._leave(entry)
        return entry

    def _fitting(self, gate: Gate, group: Hashable, heap: Heap, now: float) -> Place | None:
        """Return the first call that fits into the tokens at hand, past a few larger ones."""
        saved_for = self._saving.get(gate)
        if saved_for is not None and saved_for.priority >= heap[0][2].priority:
            is_its_turn = saved_for.group == group and gate.refusal(now, saved_for.tokens) is None
            return (saved_for.key, saved_for.ticket, saved_for) if is_its_turn else None
        if gate.refusal(now, heap[0][2].tokens) is None:
            return heap[0]
        passed = [heappop(heap)]
        found = None
        while found is None and len(passed) < _LOOK_PAST and self._drop_dead(heap):
            passed.append(heappop(heap))
            if gate.refusal(now, passed[-1][2].tokens) is None:
                found = passed[-1]
        for place in passed:
            heappush(heap, place)
        return found

    @staticmethod
    def _drop_dead(heap: Heap) -> bool:
        """Drop what was withdrawn from the head; return whether anything is left."""
        while heap and heap[0][1] != heap[0][2].ticket:
            heappop(heap)
        return bool(heap)
