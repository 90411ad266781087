"""A connection of apsw that looks like one of the standard library, as far as a store needs it.

apsw lets Python stand between SQLite and the disk, which the standard library does not.
"""

import sqlite3
from contextlib import contextmanager

import apsw


@contextmanager
def _translated():
    try:
        yield
    except apsw.Error as error:
        raise sqlite3.OperationalError(str(error)) from error


class _Result:
    def __init__(self, rows, rowcount):
        self._rows = rows
        self.rowcount = rowcount

    def fetchall(self):
        return self._rows

    def fetchone(self):
        return self._rows[0] if self._rows else None


class ApswConnection:
    def __init__(self, name, system):
        with _translated():
            self._connection = apsw.Connection(name, vfs=system)

    @property
    def in_transaction(self):
        return self._connection.in_transaction

    def execute(self, sql, parameters=()):
        with _translated():
            before = self._connection.total_changes()
            rows = self._connection.execute(sql, tuple(parameters)).fetchall()
            return _Result(rows, self._connection.total_changes() - before)

    def executemany(self, sql, rows):
        with _translated():
            before = self._connection.total_changes()
            self._connection.executemany(sql, [tuple(row) for row in rows])
            return _Result([], self._connection.total_changes() - before)

    def backup(self, target):
        with _translated(), target._connection.backup("main", self._connection, "main") as copying:
            while not copying.done:
                copying.step(-1)

    def setconfig(self, option, value):
        self._connection.config(option, int(value))

    def close(self):
        with _translated():
            self._connection.close()
