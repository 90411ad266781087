"""A journal and its tables behind its back, and entries that a test changes in one field."""

import sqlite3
from contextlib import contextmanager

from pipeline_engine.errors import JournalError
from pipeline_engine.journal import MemoryJournal, SqliteJournal
from pipeline_engine.values import (
    BatchBegun,
    Busy,
    CallFinished,
    Claim,
    DocumentEnded,
    OutputAccepted,
)


class Kept:
    """A journal's place, opened and closed as runs do it, and its tables behind its back."""

    def __init__(self, place) -> None:
        self.place = place
        self.journal = None

    @contextmanager
    def opened(self):
        """Open the journal; afterwards it has taken leave, unless it has died."""
        self.journal = self.place.open()
        try:
            yield self.journal
        finally:
            self.place.close(self.journal)

    def die(self) -> None:
        """End the process, as far as the tables can tell: nobody takes leave."""
        if isinstance(self.place, MemoryJournal):
            self.place._store.worker += "'"
            self.place._store._held.clear()
        else:
            self.journal._error = JournalError("it has died")

    async def take_over(self, claim):
        """Claim a document, also from a worker that has died, once that is certain."""
        [answer] = await self.journal.write(claim)
        if isinstance(answer, Busy):
            [answer] = await self.journal.write(claim._replace(dead=(answer.worker, answer.beat)))
        return answer

    def sql(self, statement, *parameters):
        """Run a statement on the tables, and return the rows that it finds."""
        if isinstance(self.place, MemoryJournal):
            return self.place._store.query(statement, parameters)
        if isinstance(self.place, SqliteJournal):
            with sqlite3.connect(self.place.path) as connection:
                rows = connection.execute(statement, parameters).fetchall()
            connection.close()
            return rows
        import psycopg

        with psycopg.connect(self.place._address, options="-csearch_path=pipeline_engine") as connection:
            cursor = connection.execute(statement.replace("?", "%s"), parameters)
            return cursor.fetchall() if cursor.description else []


def claim(document="a.txt", **changes) -> Claim:
    return Claim("letters", document, "batch-1", "plan-1", "content-1", 1.0)._replace(**changes)


def call(number=0, document="a.txt", **changes) -> CallFinished:
    entry = CallFinished(
        pipeline="letters",
        document=document,
        key=f"request.{number}",
        request="request",
        ordinal=number,
        batch="batch-1",
        run="run-1",
        step="summary",
        item=-1,
        attempt=1,
        model="offline:small",
        prompt=b"[]",
        reply=b'{"text":"reply %d"}' % number,
        usage=b"{}",
        tokens=100,
        cost_micro_usd=7,
        at=2.0 + number,
    )
    return entry._replace(**changes)


def output(fence=1, document="a.txt", **changes) -> OutputAccepted:
    entry = OutputAccepted(
        "letters", document, fence, "summary", -1, "key-1", b'"short"', ("request.0",), None, "r", 3.0
    )
    return entry._replace(**changes)


def ended(fence=1, document="a.txt", status="completed", **changes) -> DocumentEnded:
    entry = DocumentEnded("letters", document, fence, status, b"{}", "", 1.5, b"{}", 7, 0, "run-1", 4.0)
    return entry._replace(**changes)


def batch(name="batch-1", **changes) -> BatchBegun:
    entry = BatchBegun(
        batch=name,
        pipeline="letters",
        plan="plan-1",
        parts=b'{"summary":"1"}',
        command=b"{}",
        version="0.1.0",
        is_single=False,
        refuses_change=False,
        at=1.0,
    )
    return entry._replace(**changes)
