"""What a power cut leaves of a journal's files, at every moment at which it can come.

A real store writes through a SQLite that notes each write, truncation, sync, and change of a name. At each of
these moments the files are made as a disk might hold them: with what was not synced dropped, kept, or kept in
part, 512 bytes at a time. What is opened there must be a journal, and what it holds must be what it held after
some transaction: with FULL none that was acknowledged is missing.

Names of files are durable once their folder was synced, contents once their file was; changes of names reach the
disk in order, as they do on file systems with a journal of their own. What is not modelled: sectors that are torn
within, and disks that lie about a sync.

    python -m tests.journal.power_cut          # all moments, many seeds: minutes
"""

import argparse
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from hashlib import sha256
from pathlib import Path

import apsw

from pipeline_engine.journal.schema import MIGRATIONS
from pipeline_engine.journal.sqlite import SqliteStore
from tests.journal.entries import begun, whole_document
from tests.journal.sqlite_of_apsw import ApswConnection

NAME = "runs.db"
NEXT = len(MIGRATIONS) + 1
NEXT_VERSION = "create table notes(document text not null); alter table documents add column colour text;"
SECTOR = 512
_TABLES = (
    "select document, status, fence, crash_count from documents order by document",
    "select call_key, reply_sha, is_void from calls order by call_key",
    "select document, step, output_sha from step_outputs order by document, step",
    "select document, step, attempt from attempts order by document, step, attempt",
    "select worker, is_open, beat from workers order by worker",
    "select batch, state from batches order by batch",
    "select document, run, records from runs order by document, run",
)


def state_of(connection):
    """Return what a journal holds: its version, and a hash of its rows; None before it exists."""
    version = connection.execute("pragma user_version").fetchone()[0]
    has_notes = bool(connection.execute("select 1 from sqlite_master where name = 'notes'").fetchall())
    if has_notes != (version == NEXT):
        return "between two versions"
    rows = [connection.execute(table).fetchall() for table in _TABLES]
    return version, sha256(repr(rows).encode()).hexdigest()


class Trace:
    """What was done to the files of a folder, in order, and what the journal held after each transaction."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.operations = []
        self.states = [None]

    def note(self, kind, path, *rest):
        if str(path).startswith(self.folder) and not str(path).endswith((".lock", "-shm")):
            self.operations.append((kind, str(path)[len(self.folder) + 1 :], *rest))

    def acknowledge(self, state):
        self.states.append(state)
        self.operations.append(("acknowledged", "", len(self.states) - 1))


_tracing = None


def _audit(event, arguments):
    """Note what is done to files without SQLite. A folder is opened to be synced, and for nothing else."""
    if _tracing is None:
        return
    if event == "open" and isinstance(arguments[0], str | Path):
        path, flags = Path(arguments[0]), arguments[2]
        if flags & os.O_CREAT and not path.exists():
            _tracing.note("made", path)
        elif str(path) == _tracing.folder:
            _tracing.operations.append(("folder synced", ""))
    elif event == "os.rename":
        _tracing.note("renamed", arguments[0], str(arguments[1])[len(_tracing.folder) + 1 :])
    elif event == "os.remove" and Path(arguments[0]).exists():
        _tracing.note("removed", arguments[0])


sys.addaudithook(_audit)


class TracedFile(apsw.VFSFile):
    def __init__(self, vfs, name, flags):
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._is_new = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and not Path(self._path).exists()
        # SQLite syncs the folder with the first sync of a log or a rollback journal.
        self._syncs_folder = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)) and self._is_new
        if self._is_new:
            _tracing.note("made", self._path)
        super().__init__("", name, flags)

    def xWrite(self, data, offset):  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        _tracing.note("written", self._path, offset, bytes(data))

    def xTruncate(self, size):  # noqa: N802 - SQLite's name
        super().xTruncate(size)
        _tracing.note("truncated", self._path, size)

    def xSync(self, flags):  # noqa: N802 - SQLite's name
        super().xSync(flags)
        _tracing.note("synced", self._path)
        if self._syncs_folder:
            self._syncs_folder = False
            _tracing.operations.append(("folder synced", ""))


class TracedSystem(apsw.VFS):
    def __init__(self):
        super().__init__("traced", "")

    def xOpen(self, name, flags):  # noqa: N802 - SQLite's name
        return TracedFile(self, name, flags)

    def xDelete(self, path, sync):  # noqa: N802 - SQLite's name
        super().xDelete(path, sync)
        _tracing.note("removed", path)
        if sync:
            _tracing.operations.append(("folder synced", ""))


class TracedStore(SqliteStore):
    """Note what the journal holds after each transaction, as that is acknowledged."""

    def __init__(self, path, synchronous, migrations):
        super().__init__(
            path,
            "worker",
            synchronous=synchronous,
            migrations=migrations,
            connect=lambda name: ApswConnection(name, "traced"),
            checkpoint_frames=20,
        )
        _tracing.acknowledge(state_of(self._connection))

    def commit(self):
        super().commit()
        _tracing.acknowledge(state_of(self._connection))


def traced(folder, synchronous, documents):
    """Return the trace of a journal that is made, filled, left, brought up to the next version, and filled further."""
    global _tracing
    system = TracedSystem()
    _tracing = trace = Trace(folder)
    try:
        numbers = iter(range(documents))
        for migrations, share in ((MIGRATIONS, documents // 2), ((*MIGRATIONS, NEXT_VERSION), documents)):
            store = TracedStore(Path(folder) / NAME, synchronous, migrations)
            store.apply([begun()])
            for number in numbers:
                for entries in whole_document(f"letter {number}"):
                    store.apply(entries)
                    store.maintain()
                if number == share:
                    break
            store.close()
    finally:
        _tracing = None
        system.unregister()
    return trace


class Disk:
    """What would be found after a power cut."""

    def __init__(self):
        self._durable = {}  # file -> what it certainly holds
        self._pending = {}  # file -> what was done to it since its last sync
        self._names = {}  # name -> file
        self._durable_names = {}
        self._pending_names = []
        self._count = 0

    def do(self, operation):
        kind, name, *rest = operation
        if kind == "made":
            self._count += 1
            self._durable[self._count], self._pending[self._count] = b"", []
            self._rename((None, name, self._count))
        elif kind in ("written", "truncated"):
            self._pending[self._names[name]].append((kind, *rest))
        elif kind == "synced":
            file = self._names[name]
            self._durable[file] = _content(self._durable[file], self._pending[file])
            self._pending[file] = []
        elif kind == "removed":
            self._rename((name, None, None))
        elif kind == "renamed":
            self._rename((name, rest[0], self._names[name]))
        elif kind == "folder synced":
            self._durable_names = dict(self._names)
            self._pending_names = []

    def _rename(self, change):
        self._pending_names.append(change)
        _apply_name(self._names, change)

    def image(self, fate):
        """Return the files by name; `fate` says how many of so many, and which parts of what, have reached the disk."""
        names = dict(self._durable_names)
        for change in self._pending_names[: fate.count(len(self._pending_names))]:
            _apply_name(names, change)
        return {
            name: _content(self._durable[file], [fate.part(change) for change in self._pending[file]])
            for name, file in sorted(names.items())
        }


def _apply_name(names, change):
    old, new, file = change
    if old is not None:
        names.pop(old, None)
    if new is not None:
        names[new] = file


def _content(durable, changes):
    content = bytearray(durable)
    for change in changes:
        if change is None:
            continue
        kind, place, *rest = change
        if kind == "truncated":
            content = content[:place] + bytes(max(0, place - len(content)))
            continue
        for start, data in [(place, rest[0])] if rest and isinstance(rest[0], bytes) else rest[0]:
            content.extend(bytes(max(0, start + len(data) - len(content))))
            content[start : start + len(data)] = data
    return bytes(content)


class Dropped:
    def count(self, _total):
        return 0

    def part(self, _change):
        return None


class Kept:
    def count(self, total):
        return total

    def part(self, change):
        return change


class InPart:
    """Some changes have reached the disk, others have not, and of some only a few sectors."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def count(self, total):
        return self._random.randint(0, total)

    def part(self, change):
        lot = self._random.random()
        if lot < 0.3:
            return None
        if lot < 0.6 or change[0] == "truncated":
            return change
        place, data = change[1:]
        sectors = []
        start = 0
        while start < len(data):
            end = min(len(data), start + SECTOR - (place + start) % SECTOR)
            if self._random.random() < 0.5:
                sectors.append((place + start, data[start:end]))
            start = end
        return "written", place, sectors


def verdict(image, states, acknowledged, folder, opens):
    """Return how many acknowledged transactions are missing; "corrupt" or "no prefix" if it is worse."""
    path = folder / NAME
    for old in folder.iterdir():
        old.unlink()
    for name, content in image.items():
        (folder / name).write_bytes(content)
    try:
        if not path.exists():
            state = None
        elif path.stat().st_size == 0:
            return "corrupt"
        else:
            connection = sqlite3.connect(path)
            try:
                if connection.execute("pragma integrity_check").fetchall() != [("ok",)]:
                    return "corrupt"
                state = state_of(connection)
            finally:
                connection.close()
        if opens:
            SqliteStore(path, "next worker", migrations=(*MIGRATIONS, NEXT_VERSION)).close()
    except Exception:
        return "corrupt"
    if state not in states:
        return "no prefix"
    # Between two transactions that change nothing the later one is meant.
    reached = len(states) - 1 - states[::-1].index(state)
    return max(0, acknowledged - reached)


def replay(trace, folder, seeds, stride=1, opening_stride=10):
    """Return the verdicts on the files at every moment, counted; `stride` looks at each so many-th only."""
    disk, acknowledged = Disk(), 0
    known, verdicts = {}, Counter()
    moments = 0
    for number, operation in enumerate(trace.operations):
        if operation[0] == "acknowledged":
            acknowledged = operation[2]
        else:
            disk.do(operation)
        if number % stride and operation[0] == "written":
            continue
        moments += 1
        for fate in (Dropped(), Kept(), *(InPart(f"{number} {seed}") for seed in range(seeds))):
            image = disk.image(fate)
            key = acknowledged, sha256(repr(sorted(image.items())).encode()).digest()
            if key not in known:
                known[key] = verdict(image, trace.states, acknowledged, folder, len(known) % opening_stride == 0)
            verdicts[known[key]] += 1
    return moments, verdicts


def told(synchronous, trace, moments, verdicts):
    losses = [lost for lost in verdicts if isinstance(lost, int)]
    return (
        f"{synchronous}: {len(trace.operations)} operations, {len(trace.states)} transactions, {moments} moments, "
        f"{sum(verdicts.values())} images: {verdicts['corrupt']} corrupt, {verdicts['no prefix']} no prefix, "
        f"{sum(verdicts[lost] for lost in losses if lost)} with losses, at worst {max(losses, default=0)}"
    )


def scratch():
    """Return a new folder, in memory where there is one: what is replayed is synced, but needs no disk."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None)).resolve()


def examine(synchronous, seeds, stride=1, documents=12):
    """Return the trace of a journal's life, at how many moments the power was cut, and the verdicts, counted."""
    folder, images = scratch(), scratch()
    try:
        trace = traced(folder, synchronous, documents)
        return trace, *replay(trace, images, seeds, stride)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(images)


def main():
    parser = argparse.ArgumentParser(description="Cut the power at each moment of a journal's life.")
    parser.add_argument("--seeds", type=int, default=5, help="how many partly written disks for each moment")
    parser.add_argument("--stride", type=int, default=1, help="look at each so many-th write only")
    options = parser.parse_args()
    for synchronous in ("FULL", "NORMAL", "OFF"):
        print(told(synchronous, *examine(synchronous, options.seeds, options.stride)), flush=True)


if __name__ == "__main__":
    main()
