"""A fault at every operation of a SQLite journal: nothing acknowledged is missing, and nothing paid is lost.

All faults of the files, not each fourth, with PIPELINE_ENGINE_ALL_FAULTS=1 in the environment.
"""

import logging
import os
import sqlite3
import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio

from pipeline_engine.errors import JournalError, JournalFileError, JournalWriteError
from pipeline_engine.journal.opening import _opened
from pipeline_engine.journal.spilling import read_spilled, spilled_files
from pipeline_engine.journal.sqlite import SqliteStore, connect_to_read
from pipeline_engine.journal.writing import ThreadedJournal
from pipeline_engine.values import CallFinished, OutputAccepted
from tests.journal.entries import begun, whole_document
from tests.journal.faulty import connection_faults, disk_faults

ALL = bool(os.environ.get("PIPELINE_ENGINE_ALL_FAULTS"))
DOCUMENTS = [f"letter {number}" for number in range(4)]
FAULTS = {
    "disk full": (partial(sqlite3.OperationalError, "database or disk is full"), {}),
    "input/output error": (partial(sqlite3.OperationalError, "disk I/O error"), {}),
    "locked": (partial(sqlite3.OperationalError, "database is locked"), {}),
    "once": (partial(sqlite3.OperationalError, "disk I/O error"), {"lasts": False}),
    "done, and not told": (partial(sqlite3.OperationalError, "disk I/O error"), {"is_late": True}),
}


@pytest.fixture
def folder():
    """Return a folder in memory, where there is one: every fault costs a dozen syncs."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as path:
        yield Path(path).resolve()


def paid(entries):
    return {(type(entry).__name__, entry.document, entry.key) for entry in entries if is_paid(entry)}


def is_paid(entry):
    return isinstance(entry, CallFinished | OutputAccepted)


class WatchedStore(SqliteStore):
    """Remember how each group has ended."""

    def apply(self, entries):
        self.groups.append("failed")
        answers = super().apply(entries)
        self.groups[-1] = "written"
        return answers


class Load:
    """A few documents at once, and what was told to them."""

    def __init__(self, folder, connect=None):
        self.path = folder / "runs.db"
        self.folders = [folder]
        self.options = {"checkpoint_frames": 20}
        if connect is not None:
            self.options["connect"] = connect
        self.submitted, self.acknowledged, self.groups, self.errors = set(), set(), [], []

    def open(self):
        def open_store():
            store = WatchedStore(self.path, f"worker {id(self)}", **self.options)
            store.groups = self.groups
            return _opened(store, str(self.path), self.folders)

        return ThreadedJournal(open_store, str(self.path), spill_folders=self.folders)

    async def _document(self, journal, document):
        for entries in whole_document(document):
            self.submitted |= paid(entries)
            try:
                await journal.write(*entries)
            except JournalError as error:
                self.errors.append(error)
                return
            self.acknowledged |= paid(entries)

    def run(self):
        journal = self.open()

        async def main():
            try:
                await journal.write(begun())
            except JournalError as error:
                self.errors.append(error)
                return
            async with trio.open_nursery() as nursery:
                for document in DOCUMENTS:
                    nursery.start_soon(self._document, journal, document)

        try:
            trio.run(main)
        finally:
            journal.close()

    def kept(self):
        """Return the paid results in the journal, and whether it is whole."""
        connection = connect_to_read(self.path)
        try:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
            calls = connection.execute("select 'CallFinished', document, call_key from calls").fetchall()
            outputs = connection.execute("select 'OutputAccepted', document, step_key from step_outputs").fetchall()
            return {*calls, *outputs}
        finally:
            connection.close()


def check(folder, connect, countdown, words):
    """Let one load meet one fault, and see what is left of it."""
    load, refusal = Load(folder, connect), None
    try:
        load.run()
    except JournalFileError as error:
        refusal = error
    if refusal is not None:  # at the opening: nothing has run
        assert countdown.has_struck
        assert isinstance(refusal.__cause__, sqlite3.Error)
        assert words in str(refusal)
        assert load.submitted == set()
    if load.errors:
        assert all(isinstance(error, JournalWriteError) for error in load.errors)
        assert len({str(error.__cause__) for error in load.errors}) == 1
        assert words in str(load.errors[0])
        assert "failed" not in load.groups[:-1]
        spilled = [entry for path in spilled_files(str(load.path), load.folders) for entry in read_spilled(path)]
        assert load.submitted - load.acknowledged <= paid(spilled)
        assert max(error.unsaved for error in load.errors) == sum(map(is_paid, spilled))

    if load.acknowledged:
        assert load.acknowledged <= load.kept()

    again = Load(folder)
    again.open().close()

    assert spilled_files(str(load.path), load.folders) == []
    assert again.kept() == load.submitted
    left = {path.name.removeprefix("runs.db") for path in folder.iterdir()}
    assert left <= {"", ".lock", "-wal", "-shm"}  # reading has left the log


def sweep(folder, faults, name, words, stride):
    error, options = FAULTS[name]
    at, struck = 1, True
    while struck:
        place = folder / f"{at}"
        place.mkdir()
        with faults(at, error, **options) as (connect, countdown):
            check(place, connect, countdown, words)
            struck = countdown.has_struck
        at += stride
    return at


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_operation_of_the_connection_loses_nothing(folder, name, caplog):
    """A disk that fills up at an unlucky moment must cost no result that was paid for."""
    caplog.set_level(logging.CRITICAL)
    words = "database is locked" if name == "locked" else "full" if name == "disk full" else "disk I/O error"

    assert sweep(folder, connection_faults, name, words, stride=1) > 60


@pytest.mark.parametrize("name", ["disk full", "input/output error", "once"])
def test_a_fault_at_any_operation_on_the_files_loses_nothing(folder, name, caplog):
    """What SQLite makes of a failed write or sync is not ours to guess: the disk itself fails here."""
    apsw = pytest.importorskip("apsw", reason="apsw lets Python stand between SQLite and the disk")
    caplog.set_level(logging.CRITICAL)
    kind = apsw.FullError if name == "disk full" else apsw.IOError

    def faults(at, _error, **options):
        return disk_faults(at, kind, **options)

    assert sweep(folder, faults, name, "", stride=1 if ALL else 4) > 100
