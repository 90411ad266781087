"""Following a run: pieces of replies and outcomes on their way to one reader."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from pipeline_engine.values import Delta, Restarted, StepFinished

if TYPE_CHECKING:
    from pipeline_engine.values import Record

__all__ = ["Event", "Follower"]

Event = Delta | Restarted | StepFinished
"""What whoever follows a run is told."""


class Follower:
    """Keep what a reader has not taken yet.

    Whoever has a piece of a reply asks `is_full` first and waits for room: so a slow reader slows the
    provider, and memory is bounded. Outcomes never wait.

    Args:
        max_waiting: How many events may wait before the next piece of a reply does.
    """

    def __init__(self, max_waiting: int = 64) -> None:
        self._max_waiting = max_waiting
        self._events: deque[Event] = deque()
        self._has_events = trio.Event()
        self._has_room = trio.Event()
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether the next piece of a reply has to wait."""
        return len(self._events) >= self._max_waiting

    async def wait_for_room(self) -> None:
        """Wait until the reader has taken enough."""
        while self.is_full:
            if self._has_room.is_set():  # else others wait for this very event: it must stay theirs, too
                self._has_room = trio.Event()
            await self._has_room.wait()

    def tell(self, event: Event) -> None:
        """Add an event, without waiting."""
        self._events.append(event)
        self._has_events.set()

    def read(self, record: Record) -> None:
        """Take a record of the run: outcomes are events."""
        if isinstance(record, StepFinished):
            self.tell(record)

    def close(self) -> None:
        """Say that nothing more will come."""
        self._is_closed = True
        self._has_events.set()

    async def next(self) -> Event | None:
        """Return the next event, or None when nothing more will come."""
        while not self._events:
            if self._is_closed:
                return None
            if self._has_events.is_set():
                self._has_events = trio.Event()
            await self._has_events.wait()
        event = self._events.popleft()
        if not self.is_full:
            self._has_room.set()
        return event
