"""The journal in motion: a thread of its own writes what runs submit, in groups that form by themselves.

While one group is being written the next one gathers: under load a commit serves dozens of entries, and a
lone one is not kept waiting. So durability costs a thread hop and its share of one wait for the disk, and
the event loop never waits (Hagmann, "Reimplementing the Cedar File System Using Logging and Group Commit",
SOSP 1987).

The first write that fails ends the journal. Nothing is acknowledged after it, whoever still submits is told
why, and what was not written is spilled beside. A process that ends with an open journal writes what waits.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from pipeline_engine.errors import JournalClosedError, JournalError, JournalFileError, JournalWriteError
from pipeline_engine.journal.spilling import spill
from pipeline_engine.values import CallFinished, Claim, Claimed, DocumentEnded, OutputAccepted, ReplyCached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline_engine.journal.store import Store
    from pipeline_engine.values import Answer, Entry

__all__ = ["InlineJournal", "ThreadedJournal"]

_log = logging.getLogger("pipeline_engine")
_GROUP_ENTRIES = 2000
_GROUP_BYTES = 16 * 1024 * 1024
_MAX_PENDING_BYTES = 64 * 1024 * 1024
_CLOSE_SECONDS = 60.0
_EXIT_SECONDS = 5.0
_CHECK_SECONDS = 10.0


def _seconds() -> float:
    # The thread lives outside of trio, and what it measures is how long this process was really silent.
    return time.monotonic()  # noqa: TID251


class InlineJournal:
    """Keep a journal in memory: entries are applied at once, on the caller's thread.

    Args:
        store: What applies them.
        lock: Held meanwhile, as runs in several threads may share one store.
    """

    def __init__(self, store: Store, lock: threading.Lock) -> None:
        self._store = store
        self._lock = lock
        self.worker = store.worker

    def submit(
        self,
        entries: Sequence[Entry],
        done: Callable[[Sequence[Answer] | Exception], None] | None = None,
    ) -> Sequence[Answer] | None:
        """Apply entries and return their answers."""
        del done
        with self._lock:
            return self._store.apply(entries)

    async def write(self, *entries: Entry) -> Sequence[Answer]:
        """Apply entries and return their answers."""
        with self._lock:
            return self._store.apply(entries)

    async def wait_for_room(self) -> None:
        """Return at once."""

    def may_call(self, pipeline: str, document: str) -> bool:
        """Return True: nobody else has this memory."""
        del pipeline, document
        return True

    def has_lost(self, pipeline: str, document: str) -> bool:
        """Return False: nobody else has this memory."""
        del pipeline, document
        return False

    def close(self) -> None:
        """Do nothing: the memory is the caller's."""


class _Item(NamedTuple):
    entries: Sequence[Entry]
    size: int
    done: Callable[[Sequence[Answer] | Exception], None] | None
    token: trio.lowlevel.TrioToken | None


class ThreadedJournal:
    """Keep a journal in a database, written by a thread of its own.

    Args:
        open_store: Opens the database; called on the thread.
        name: What the journal is called in messages.
        spill_folders: Where entries go that could not be written: the first one that takes them.
        lease: After how many seconds without a sign of life another process may take this one's documents;
            None where no other process can.
        check_seconds: How often the database is looked after while there is nothing to write.
        clock: Tells the seconds by which silence is measured.

    Raises:
        JournalError: If the database cannot be opened.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        name: str,
        *,
        spill_folders: Sequence[Path],
        lease: float | None = None,
        check_seconds: float = _CHECK_SECONDS,
        clock: Callable[[], float] = _seconds,
    ) -> None:
        self._open_store = open_store
        self._name = name
        self._spill_folders = spill_folders
        self._lease = lease
        self._clock = clock
        self._patience = check_seconds if lease is None else min(check_seconds, lease / 6)
        self._queue: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._opened = threading.Event()
        self._error: JournalError | None = None
        self._is_closing = False
        self._pending_bytes = 0
        self._lost: set[tuple[str, str]] = set()
        self._beat_at = 0.0
        self._pid = os.getpid()
        self.worker = ""
        self._thread = threading.Thread(target=self._main, name="pipeline_engine journal", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            reason = "cannot be opened, because no thread can start; look at `ulimit -u` and at the memory"
            raise JournalFileError(name, reason) from error
        _OPEN.add(self)
        self._opened.wait()
        if self._error is not None:
            raise self._error

    # Called on trio's thread

    def submit(
        self,
        entries: Sequence[Entry],
        done: Callable[[Sequence[Answer] | Exception], None] | None = None,
    ) -> Sequence[Answer] | None:
        """Let the thread write entries; `done` is called on this trio thread when they are durable.

        Raises:
            JournalError: If the journal has failed or is closed.
        """
        size = sum(map(_size_of, entries))
        token = None if done is None else trio.lowlevel.current_trio_token()
        self._append(_Item(entries, size, done, token))
        return None

    def _append(self, item: _Item) -> None:
        if os.getpid() != self._pid:
            raise JournalClosedError(self._name, "belongs to the process that this one was forked from")
        with self._lock:
            if self._error is not None:
                raise self._refusal(self._error, item.entries)
            if self._is_closing:
                raise JournalClosedError(self._name, "is closed")
            self._queue.append(item)
            self._pending_bytes += item.size
        if not self._wake.is_set():  # the thread looks into the queue after it has reset it
            self._wake.set()

    def _refusal(self, error: JournalError, entries: Sequence[Entry]) -> JournalError:
        """Return why nothing is kept any more. What was paid for all the same goes where the rest has gone."""
        if isinstance(error, JournalWriteError):
            spilled_to = None if error.spilled_to is None else Path(error.spilled_to)
            unsaved, place = spill(entries, self._name, self._spill_folders, onto=spilled_to)
            if unsaved and place is None and spilled_to is not None:
                _log.error("journal %s: a further %d could not be saved anywhere", self._name, unsaved)
            elif unsaved:
                cause = error.__cause__ or error
                self._error = error = _not_written(self._name, cause, error.unsaved + unsaved, place)
        return _copy_of(error)

    async def write(self, *entries: Entry) -> Sequence[Answer]:
        """Return the answers once the entries, and all that were submitted before, are durable.

        Raises:
            JournalError: If the journal has failed or is closed.
        """
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

        def wake(answers: Sequence[Answer] | Exception) -> None:
            nonlocal task
            if task is not None:
                waiting, task = task, None
                trio.lowlevel.reschedule(waiting, _outcome(answers))

        def abandon(_raise_cancel: Any) -> trio.lowlevel.Abort:
            nonlocal task
            task = None  # the entries stay: they have happened
            return trio.lowlevel.Abort.SUCCEEDED

        self.submit(entries, wake)
        answers: Sequence[Answer] = await trio.lowlevel.wait_task_rescheduled(abandon)
        return answers

    async def wait_for_room(self) -> None:
        """Return once fewer than 64 MiB wait to be written."""
        while self._pending_bytes > _MAX_PENDING_BYTES:
            await self.write()

    def may_call(self, pipeline: str, document: str) -> bool:
        """Whether this process has given a sign of life lately, and has not lost the document."""
        if self._lease is None:
            return True
        is_alive = self._clock() - self._beat_at < self._lease / 2
        return is_alive and (pipeline, document) not in self._lost

    def has_lost(self, pipeline: str, document: str) -> bool:
        """Whether another process has taken over a document of this one."""
        return (pipeline, document) in self._lost

    def close(self) -> None:
        """Write what waits, then part with the database. Does nothing the second time."""
        self.ask_to_close()
        self.wait_closed(_CLOSE_SECONDS)

    def ask_to_close(self) -> None:
        """Take no more entries, and let the thread end when it has written those that wait."""
        if os.getpid() != self._pid:
            return  # the thread, and the lock in whatever state, are the parent process's
        with self._lock:
            self._is_closing = True
        self._wake.set()

    def wait_closed(self, seconds: float) -> None:
        """Return when the thread has ended, or after some seconds."""
        if os.getpid() != self._pid:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.error("journal %s: its thread has not ended in %g s", self._name, seconds)

    # The thread

    def _main(self) -> None:
        try:
            store = self._open_store()
        except BaseException as error:  # noqa: BLE001 - it crosses to the thread that waits for the opening
            self._error = _not_opened(self._name, error)
            self._opened.set()
            return
        self.worker = store.worker
        self._beat_at = self._clock()
        self._opened.set()
        try:
            self._serve(store)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the journal ends with its thread
            self._fail(error, [])
        for close in [store.close_worker, store.close] if self._error is None else [store.close]:
            try:
                close()
            except Exception as error:  # noqa: BLE001 - all that was acknowledged is durable
                _log.warning("journal %s: closing it failed: %s; nothing is lost", self._name, error)

    def _serve(self, store: Store) -> None:
        checked_at = self._clock()
        while True:
            self._wake.wait(max(0.0, checked_at + self._patience - self._clock()))
            self._wake.clear()
            while group := self._next_group():
                try:
                    answers = store.apply([entry for item in group for entry in item.entries])
                except BaseException as error:  # noqa: BLE001 - fail-stop: whatever it is, the journal ends with it
                    self._fail(error, group)
                    return
                if self._lost:
                    self._forget_lost(group, answers)
                self._deliver(group, answers)
                store.maintain()
                self._keep_alive(store)
            if self._clock() >= checked_at + self._patience:
                checked_at = self._clock()
                store.maintain()
                self._keep_alive(store)
            with self._lock:
                if self._is_closing and not self._queue:
                    return

    def _keep_alive(self, store: Store) -> None:
        if self._lease is None:
            return
        silence = self._clock() - self._beat_at
        if silence < self._lease / 6:
            return
        began = self._clock()
        store.beat()
        if silence > self._lease / 2:
            # This process has slept: others may have taken its documents. Until that is known it pays for no call.
            self._lost = self._lost | store.lost_claims()
        self._beat_at = began

    def _forget_lost(self, group: Sequence[_Item], answers: Sequence[Answer]) -> None:
        entries = [entry for item in group for entry in item.entries]
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(entry, Claim) and isinstance(answer, Claimed):
                self._lost = self._lost - {(entry.pipeline, entry.document)}

    def _next_group(self) -> list[_Item]:
        group: list[_Item] = []
        entries = size = 0
        with self._lock:
            while self._queue and entries < _GROUP_ENTRIES and size < _GROUP_BYTES:
                item = self._queue.popleft()
                group.append(item)
                entries += len(item.entries)
                size += item.size
        return group

    def _deliver(self, group: Sequence[_Item], answers: Sequence[Answer] | JournalError) -> None:
        """Tell everybody of a group what has become of their entries: one wake-up for each event loop."""
        told: dict[trio.lowlevel.TrioToken, list[tuple[Any, Sequence[Answer] | Exception]]] = {}
        place = 0
        for item in group:
            own = _copy_of(answers) if isinstance(answers, JournalError) else answers[place : place + len(item.entries)]
            place += len(item.entries)
            if item.done is not None and item.token is not None:
                told.setdefault(item.token, []).append((item.done, own))
        with self._lock:
            self._pending_bytes -= sum(item.size for item in group)
        for token, calls in told.items():
            try:
                token.run_sync_soon(_call_all, calls)
            except trio.RunFinishedError:
                pass  # its event loop has ended: nobody is left to be told

    def _fail(self, error: BaseException, group: Sequence[_Item]) -> None:
        """End the journal: keep what could not be written, and tell everybody."""
        with self._lock:
            left = [*group, *self._queue]
            self._queue.clear()
            entries = [entry for item in left for entry in item.entries]
            unsaved, place = spill(entries, self._name, self._spill_folders)
            self._error = _not_written(self._name, error, unsaved, place)
        _log.error("%s", self._error)
        self._deliver(left, self._error)


_OPEN: weakref.WeakSet[ThreadedJournal] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Write what waits in journals that nobody has closed: the interpreter ends, and would end their threads."""
    left = list(_OPEN)
    for journal in left:
        journal.ask_to_close()
    deadline = _seconds() + _EXIT_SECONDS
    for journal in left:
        journal.wait_closed(max(0.0, deadline - _seconds()))


def _not_opened(name: str, error: BaseException) -> JournalError:
    if isinstance(error, JournalError):
        return error
    told = JournalFileError(name, f"cannot be opened: {_worded(error)}")
    told.__cause__ = error
    return told


def _not_written(name: str, error: BaseException, unsaved: int, place: Path | None) -> JournalError:
    cause = error if isinstance(error, Exception) else RuntimeError(f"its thread was ended by {_worded(error)}")
    told = JournalWriteError(name, cause, unsaved, None if place is None else str(place))
    told.__cause__ = error
    return told


def _copy_of(error: JournalError) -> JournalError:
    """Return an error that says the same: each who is told gets their own, as a traceback belongs to one."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


def _worded(error: BaseException) -> str:
    return str(error) or type(error).__name__


_ENTRY_BYTES = 400
"""What an entry weighs besides its bodies."""


def _size_of(entry: Entry) -> int:
    """Return about how much memory an entry takes; quickly, as each of them is asked."""
    match entry:
        case CallFinished():
            return _ENTRY_BYTES + len(entry.prompt) + len(entry.reply)
        case OutputAccepted():
            return _ENTRY_BYTES + len(entry.output)
        case Claim():
            return _ENTRY_BYTES + len(entry.inputs or b"")
        case ReplyCached():
            return _ENTRY_BYTES + len(entry.reply)
        case DocumentEnded():
            return _ENTRY_BYTES + len(entry.outcomes)
        case _:
            return _ENTRY_BYTES


def _call_all(calls: Sequence[tuple[Any, Any]]) -> None:
    for done, answers in calls:
        done(answers)


def _outcome(answers: Sequence[Answer] | Exception) -> Any:
    import outcome

    return outcome.Error(answers) if isinstance(answers, Exception) else outcome.Value(answers)
