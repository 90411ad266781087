"""Who is next: ready work in order of priority, turns, documents and remaining paths. Pure."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Entry", "ReadyQueue"]

Key = tuple[int, int, int, int]
"""Document (first come first served), minus the remaining path, step, item."""


class Entry(Protocol):
    """Wait for a slot."""

    is_queued: bool
    """Cleared to withdraw it: taking it out of the heap at once would cost time linear in its length."""

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

    def launch(self) -> None:
        """Go on with a slot in hand."""
        ...


class ReadyQueue:
    """Hold what is ready and has no slot.

    Higher priorities go first. Within a priority, runs and batches take turns, so that none waits
    for the whole of another. Within one of them the smallest key goes first.
    """

    __slots__ = ("_number", "_turns", "live")

    def __init__(self) -> None:
        # For each priority the groups in the order of their turns, each with its heap.
        self._turns: dict[int, OrderedDict[Hashable, list[tuple[Key, int, Entry]]]] = {}
        self.live = 0
        """How many entries wait."""
        self._number = 0

    def __len__(self) -> int:
        return self.live

    def push(self, entry: Entry) -> None:
        """Put an entry in its place."""
        entry.is_queued = True
        self.live += 1
        self._number += 1
        priority, group = entry.priority, entry.group
        groups = self._turns.get(priority)
        if groups is None:
            groups = self._turns[priority] = OrderedDict()
        heap = groups.get(group)
        if heap is None:
            heap = groups[group] = []
        heappush(heap, (entry.key, self._number, entry))

    def withdraw(self, entry: Entry) -> None:
        """Take back an entry that waits."""
        if entry.is_queued:
            entry.is_queued = False
            self.live -= 1
            if not self.live:
                self._turns.clear()  # what was withdrawn must not keep ended runs alive

    def pop(self) -> Entry | None:
        """Return the entry whose turn it is; None if nothing waits."""
        while self._turns:
            priority = max(self._turns)
            groups = self._turns[priority]
            while groups:
                group, heap = groups.popitem(last=False)
                entry = self._pop_live(heap)
                if heap:
                    groups[group] = heap  # to the end: the others have their turns first
                if entry is not None:
                    entry.is_queued = False
                    self.live -= 1
                    return entry
            del self._turns[priority]
        return None

    @staticmethod
    def _pop_live(heap: list[tuple[Key, int, Entry]]) -> Entry | None:
        while heap:
            entry = heappop(heap)[2]
            if entry.is_queued:
                return entry
        return None
