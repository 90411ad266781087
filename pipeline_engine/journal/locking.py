"""One process writes a file: a lock that the operating system gives back when its holder ends, however it ends."""

from __future__ import annotations

import json
import os
import sys
import weakref
from typing import TYPE_CHECKING

from pipeline_engine.errors import JournalFileError, JournalInUseError

# Loaded here, not where a file is locked: then there may be no descriptor left to load it with.
if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileLock", "sync_folder"]

_TEXT_LIMIT = 4096


class FileLock:
    """Hold the right to write a journal's file, from `acquire` until `release`.

    The lock lies beside the file and stays there: to remove it would let two processes lock two files of
    the same name. A forked child has no share in it.

    Args:
        path: The journal's file.
    """

    def __init__(self, path: Path) -> None:
        self._journal = path
        self._path = path.with_name(f"{path.name}.lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            JournalInUseError: If another process, or another part of this one, has it.
            JournalFileError: If this process was forked from one that had it.
            OSError: If the file cannot be made, or its file system has no locks.
        """
        if self._journal in _INHERITED:
            raise JournalFileError(
                str(self._journal),
                "was open in the process that this one was forked from, and SQLite's locks do not outlive a fork; "
                "open it in a process that was started anew",
            )
        # Nobody who may put files beside the journal may lead us to write elsewhere.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        file = os.open(self._path, flags, 0o600)
        try:
            _lock(file)
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, json.dumps({"pid": os.getpid()}).encode())
        except (BlockingIOError, PermissionError):
            holder = _read_holder(file)
            os.close(file)
            raise JournalInUseError(str(self._journal), holder) from None
        except BaseException:
            os.close(file)
            raise
        self._file = file
        _HELD.add(self)

    def renew(self) -> None:
        """Take the lock anew if its file was removed: it binds nobody then.

        Raises:
            JournalFileError: If another process was quicker.
        """
        if self._file is None:
            return
        held = os.fstat(self._file)
        try:
            found = os.stat(self._path)  # noqa: PTH116 - in each commit, and three times as quick
        except FileNotFoundError:
            pass
        else:
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return
        lost, self._file = self._file, None
        os.close(lost)
        try:
            self.acquire()
        except JournalInUseError as error:
            raise JournalFileError(
                str(self._journal),
                f"was taken over by another process, because its lock {str(self._path)!r} was removed",
            ) from error

    def release(self) -> None:
        """Give the lock back. Does nothing the second time."""
        if self._file is not None:
            file, self._file = self._file, None
            _HELD.discard(self)
            try:
                os.ftruncate(file, 0)
            finally:
                os.close(file)

    def forget(self) -> None:
        """Part with the lock without giving it back: it is the parent process's."""
        if self._file is not None:
            file, self._file = self._file, None
            _INHERITED.add(self._journal)
            os.close(file)


_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()
_INHERITED: set[Path] = set()
"""What the parent had open when it forked: SQLite goes on as if it held locks there (https://sqlite.org/faq.html#q6)."""


def _forget_all() -> None:
    # Else a child that outlives its parent would keep the lock.
    for lock in list(_HELD):
        lock.forget()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _lock(file: int) -> None:
    if sys.platform == "win32":
        os.lseek(file, _TEXT_LIMIT, os.SEEK_SET)  # behind the text, which others must be able to read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_holder(file: int) -> int | None:
    """Return the process that has the lock, as far as it has said so."""
    try:
        told = json.loads(os.read(file, _TEXT_LIMIT))
        return int(told["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it has just taken the lock, and not written its name yet


def sync_folder(folder: Path) -> None:
    """Return when the names of a folder's files are on the disk; at once where that cannot be asked for."""
    if sys.platform == "win32":
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
