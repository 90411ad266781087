"""A bounded channel from the trio loop to a reader on another thread, or on an asyncio loop."""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

import trio

__all__ = ["ThreadChannel"]

T = TypeVar("T")


class ThreadChannel(Generic[T]):
    """Hand items over in their order; a sender waits while the reader has not taken enough.

    An item is taken by a read that returns, never by one that is cancelled or interrupted.

    Args:
        max_waiting: How many items may wait to be taken before the sender does.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting: float = max_waiting
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._readers: list[Future[None]] = []
        self._has_room: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_closed = False

    async def send(self, item: T) -> None:
        """Add an item, from the trio loop; waits for room, and does nothing once the channel is closed.

        A sender that is cancelled while it waits has added nothing.
        """
        while True:
            with self._lock:
                if self._is_closed:
                    return
                if len(self._items) < self._max_waiting:
                    self._items.append(item)
                    break
                self._has_room, self._token = trio.Event(), trio.lowlevel.current_trio_token()
                has_room = self._has_room
            await has_room.wait()
        self._wake_readers()

    def unbound(self) -> None:
        """Let no sender wait any more: what the reader has not taken is kept, however much it is."""
        with self._lock:
            self._max_waiting = math.inf
            self._wake_sender()

    def close(self) -> None:
        """Say, from any thread, that nothing more will come. What was sent can still be read."""
        with self._lock:
            self._is_closed = True
            self._wake_sender()
        self._wake_readers()

    def receive(self) -> T | None:
        """Return the next item, or None when nothing more will come; blocks this thread until then."""
        while True:
            item, has_changed = self._poll()
            if has_changed is None:
                return item
            has_changed.result()

    async def receive_in_asyncio(self) -> T | None:
        """Return the next item, or None when nothing more will come; for readers on an asyncio loop."""
        import asyncio  # noqa: TID251 - the reader's own loop

        while True:
            item, has_changed = self._poll()
            if has_changed is None:
                return item
            await asyncio.wrap_future(has_changed)

    def _poll(self) -> tuple[T | None, Future[None] | None]:
        """Take an item, or None at the end; else return what tells that there is something new."""
        with self._lock:
            if self._items:
                item = self._items.popleft()
                self._wake_sender()
                return item, None
            if self._is_closed:
                return None, None
            has_changed: Future[None] = Future()
            self._readers.append(has_changed)
            return None, has_changed

    def _wake_readers(self) -> None:
        with self._lock:
            readers, self._readers = self._readers, []
        for reader in readers:
            if reader.set_running_or_notify_cancel():
                reader.set_result(None)

    def _wake_sender(self) -> None:
        if self._has_room is not None and self._token is not None:
            try:
                self._token.run_sync_soon(self._has_room.set)
            except trio.RunFinishedError:
                pass  # the sender ended with its loop
            self._has_room = None
