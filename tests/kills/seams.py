"""Journals that are watched, or broken on purpose: what a harness is worth is known when it has failed on these."""

import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline_engine.journal import SqliteJournal
from pipeline_engine.journal.opening import _opened, _worker_name
from pipeline_engine.journal.schema import MIGRATIONS
from pipeline_engine.journal.sqlite import _CHECKPOINT_FRAMES, SqliteStore, _connect
from pipeline_engine.journal.writing import ThreadedJournal

NEXT_VERSION = """
alter table calls add column region text;
create index calls_by_model on calls(model, finished_at);
create table regions(region text primary key, calls {big} not null);
"""
"""A version of the tables that nobody has released."""
_LAZY_SECONDS = 0.25


class EarlyStore(SqliteStore):
    """Acknowledge what is written, and commit it some time later: quick, and wrong."""

    _committed_at = 0.0

    def transact(self, work):
        if not self._connection.in_transaction:
            self.begin()
        result = work()
        if time.monotonic() > self._committed_at + _LAZY_SECONDS:  # noqa: TID251 - as such a thing would be written
            self.commit()
            self._committed_at = time.monotonic()  # noqa: TID251
        return result

    def maintain(self) -> None:
        pass

    def close(self) -> None:
        if self._connection.in_transaction:
            self.commit()
        super().close()


class Announcing(sqlite3.Connection):
    """Call somebody before each statement."""

    before: Callable[[str], None] = staticmethod(lambda _sql: None)

    def execute(self, sql, *arguments):
        type(self).before(sql)
        return super().execute(sql, *arguments)

    def executemany(self, sql, *arguments):
        type(self).before(sql)
        return super().executemany(sql, *arguments)


def announcing(before: Callable[[str], None]) -> Callable[[str], sqlite3.Connection]:
    """Return what opens connections that call somebody before each statement."""
    kind = type("Told", (Announcing,), {"before": staticmethod(before)})

    def connect(name: str) -> sqlite3.Connection:
        return sqlite3.connect(
            name, isolation_level=None, timeout=5.0, check_same_thread=False, cached_statements=256, factory=kind
        )

    return connect


class WatchedJournal(SqliteJournal):
    """A journal in a file that tells of its statements, or acknowledges too early, or has newer tables."""

    def __init__(self, path, *, is_broken=False, announced="", frames=None, migrates=False, say=print) -> None:
        super().__init__(path)
        self._kind = EarlyStore if is_broken else SqliteStore
        self._announced = announced
        self._migrations = (*MIGRATIONS, NEXT_VERSION) if migrates else MIGRATIONS
        self._frames = frames or _CHECKPOINT_FRAMES
        self._say = say

    def open(self) -> ThreadedJournal:
        path = self.path.resolve()
        folders = [path.parent, Path(tempfile.gettempdir())]

        def before(sql: str) -> None:
            if self._announced in sql:
                self._say("AT", " ".join(sql.split())[:60])

        def open_store():
            connect = announcing(before) if self._announced else _connect
            store = self._kind(
                path,
                _worker_name(),
                migrations=self._migrations,
                connect=connect,
                checkpoint_frames=self._frames,
            )
            return _opened(store, str(path), folders)

        return ThreadedJournal(open_store, str(path), spill_folders=folders)

    def close(self, journal) -> None:
        journal.close()
