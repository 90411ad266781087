"""SQLite with a fault at its n-th operation: of the connection, or of the file system below it."""

import sqlite3
from contextlib import contextmanager

from tests.journal.sqlite_of_apsw import ApswConnection


class Countdown:
    """Raise an error at the n-th operation, before or after it was done; and from then on, if it lasts."""

    def __init__(self, at, error, *, is_late=False, lasts=True):
        self._left = at
        self._error = error
        self._is_late = is_late
        self._lasts = lasts
        self.has_struck = False

    def do(self, operation, *arguments):
        self._left -= 1
        strikes = self._left == 0 or (self.has_struck and self._lasts)
        if not strikes:
            return operation(*arguments)
        if self._is_late and not self.has_struck:
            self.has_struck = True
            operation(*arguments)  # it was done, and nobody learns of it
        self.has_struck = True
        raise self._error()


class FaultyConnection:
    """A connection of the standard library, with a fault at its n-th operation."""

    def __init__(self, name, countdown):
        self._connection = sqlite3.connect(name, isolation_level=None, timeout=0, check_same_thread=False)
        self._countdown = countdown

    @property
    def in_transaction(self):
        return self._connection.in_transaction

    def execute(self, sql, parameters=()):
        return self._countdown.do(self._connection.execute, sql, parameters)

    def executemany(self, sql, rows):
        return self._countdown.do(self._connection.executemany, sql, rows)

    def setconfig(self, option, value):
        self._connection.setconfig(option, value)

    def close(self):
        self._connection.close()


@contextmanager
def connection_faults(at, error, **options):
    """Give what connects, and the countdown, for a fault of the n-th operation of the connection."""
    countdown = Countdown(at, error, **options)
    yield lambda name: FaultyConnection(name, countdown), countdown


@contextmanager
def disk_faults(at, error, **options):
    """Give what connects, and the countdown, for a fault of the n-th operation of SQLite on its files."""
    import apsw

    countdown = Countdown(at, error, **options)

    class FaultyFile(apsw.VFSFile):
        def __init__(self, name, flags):
            super().__init__("", name, flags)

        def xWrite(self, data, offset):  # noqa: N802 - SQLite's name
            countdown.do(super().xWrite, data, offset)

        def xTruncate(self, size):  # noqa: N802 - SQLite's name
            countdown.do(super().xTruncate, size)

        def xSync(self, flags):  # noqa: N802 - SQLite's name
            countdown.do(super().xSync, flags)

    class FaultyFiles(apsw.VFS):
        def __init__(self):
            super().__init__("faulty", "")

        def xOpen(self, name, flags):  # noqa: N802 - SQLite's name
            return countdown.do(FaultyFile, name, flags)

        def xDelete(self, path, sync):  # noqa: N802 - SQLite's name
            countdown.do(super().xDelete, path, sync)

    files = FaultyFiles()
    try:
        yield lambda name: ApswConnection(name, "faulty"), countdown
    finally:
        files.unregister()
