"""Which journal is meant: a path, an address or an object; opened once in a process, however many runs use it."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable
from urllib.parse import unquote

from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal.addresses import Address
from pipeline_engine.journal.processes import this_process
from pipeline_engine.journal.spilling import read_spilled, spilled_files
from pipeline_engine.journal.writing import ThreadedJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from pipeline_engine.journal.rows import Rows
    from pipeline_engine.journal.sqlite import Synchronous
    from pipeline_engine.journal.store import Store
    from pipeline_engine.values import Journal

__all__ = ["JournalPlace", "KeepDocuments", "PostgresJournal", "SqliteJournal", "held", "journal_place"]

T = TypeVar("T")

KeepDocuments = Literal["store", "reference", "none"]
"""What a journal keeps of documents: their inputs, once; where they can be read again, and their hash; their
hash alone."""
_INTAKE = 500


@runtime_checkable
class JournalPlace(Protocol):
    """Say where a journal is, and how it is opened."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def documents(self) -> str:
        """What is kept of documents."""
        ...

    def open(self) -> Journal:
        """Return the journal, ready to be written."""
        ...

    def close(self, journal: Any) -> None:
        """Part with what `open` returned."""
        ...


class _Shared:
    """Journals that are open in this process, and by how many runs: a file has one writer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Hashable, tuple[ThreadedJournal, int]] = {}

    def take(self, key: Hashable, make: Callable[[], ThreadedJournal]) -> ThreadedJournal:
        with self._lock:
            journal, users = self._open.get(key) or (make(), 0)
            self._open[key] = journal, users + 1
            return journal

    def give_back(self, journal: ThreadedJournal) -> None:
        with self._lock:
            # Found by itself: its path may lead elsewhere by now.
            found = next(((key, users) for key, (opened, users) in self._open.items() if opened is journal), None)
            if found is None:
                return
            key, users = found
            if users > 1:
                self._open[key] = journal, users - 1
                return
            del self._open[key]
            # Under the lock: whoever opens it next must find it closed.
            journal.close()

    def forget(self) -> None:
        """Begin anew in a forked child: it has none of its parent's threads, and the lock may have been held."""
        self._lock = threading.Lock()
        self._open = {}


_SHARED = _Shared()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SHARED.forget)


class SqliteJournal:
    """Keep a journal in a SQLite file, for one process at a time.

    Args:
        path: The file; it is made if it does not exist.
        synchronous: When SQLite waits for the disk. With "NORMAL" a power cut, but no crash of the process, may
            take the last results.
        documents: What is kept of documents: "store" keeps their inputs, "reference" where they can be read
            again and their hash, "none" their hash alone.

    Raises:
        ValueError: If an option is none of its values.

    Example:
        >>> SqliteJournal("runs.db").name
        'runs.db'
    """

    def __init__(
        self, path: str | Path, *, synchronous: Synchronous = "FULL", documents: KeepDocuments = "store"
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f'synchronous={synchronous!r}: it is "FULL" or "NORMAL".')
        self.path = Path(path)
        self.synchronous: Synchronous = synchronous
        self.documents = _checked(documents)

    def __repr__(self) -> str:
        return f"SqliteJournal({str(self.path)!r})"

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return str(self.path)

    def open(self) -> ThreadedJournal:
        """Return the journal, ready to be written.

        Raises:
            JournalInUseError: If another process writes it.
            JournalVersionError: If a newer engine has written it.
            JournalFileError: If it is no journal, or cannot be written.
        """
        resolved = self._resolved()  # once: a link that is changed later changes nothing
        open_store, folders = partial(self._open_store, resolved), _folders(resolved.parent)
        return _SHARED.take(str(resolved), lambda: ThreadedJournal(open_store, str(resolved), spill_folders=folders))

    def close(self, journal: Any) -> None:
        """Part with what `open` returned."""
        _SHARED.give_back(journal)

    def open_store(self) -> Store:
        """Return the tables, for those who look after them while no run uses them.

        Raises:
            JournalError: As `open`.
        """
        return self._open_store(self._resolved())

    def _open_store(self, resolved: Path) -> Store:
        from pipeline_engine.journal.sqlite import SqliteStore

        store = SqliteStore(resolved, _worker_name(), synchronous=self.synchronous)
        return _opened(store, str(resolved), _folders(resolved.parent))

    def open_to_read(self) -> Rows:
        """Return its rows, for those who only look; another process may write it meanwhile.

        Raises:
            JournalVersionError: If an engine of another version has written it.
            JournalFileError: If it is no journal, or cannot be read.
        """
        from pipeline_engine.journal.rows import SqliteRows

        return SqliteRows(self.path)

    @property
    def spilled(self) -> list[Path]:
        """The files with what an earlier process could not write; the next opening takes them in."""
        resolved = self._resolved()
        return spilled_files(str(resolved), _folders(resolved.parent))

    def _resolved(self) -> Path:
        try:
            return self.path.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise JournalFileError(self.name, f"cannot be found: {error}") from error


class PostgresJournal:
    """Keep a journal in a PostgreSQL database, which many processes may share.

    They share documents by leases: each document is worked on by one process at a time, and one whose process
    has given no sign of life for `lease` seconds is taken over by another.

    Args:
        address: Such as "postgresql://user@host/database".
        lease: Seconds of silence after which a process counts as dead; it gives a sign every sixth part of them.
        documents: What is kept of documents, as for `SqliteJournal`.

    Raises:
        ValueError: If an option is none of its values.

    Example:
        >>> PostgresJournal("postgresql://me:secret@db.example/runs").name
        'postgresql://me@db.example/runs'
    """

    def __init__(self, address: str, *, lease: float = 60.0, documents: KeepDocuments = "store") -> None:
        self._held = Address(address, without_password(address))
        del address  # an error's traceback may be printed with the variables of its frames
        if lease <= 0:
            raise ValueError(f"lease={lease}: a positive number of seconds.")
        self.lease = lease
        self.documents = _checked(documents)

    def __repr__(self) -> str:
        return f"PostgresJournal({self.name!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PostgresJournal):
            return NotImplemented
        return (self._held, self.lease, self.documents) == (other._held, other.lease, other.documents)

    def __hash__(self) -> int:
        return hash(self._held)

    @property
    def name(self) -> str:
        """What it is called in messages: the address without its password."""
        return self._held.shown

    @property
    def _address(self) -> str:
        # With its password: for the call that connects, and for no variable.
        return self._held.reveal()

    def open(self) -> ThreadedJournal:
        """Return the journal, ready to be written.

        Raises:
            JournalVersionError: If a newer engine has written it.
            JournalFileError: If the database cannot be reached, or psycopg is not installed.
        """
        folders = _folders(Path.cwd())
        return _SHARED.take(
            self._held,
            lambda: ThreadedJournal(self.open_store, self.name, spill_folders=folders, lease=self.lease),
        )

    def close(self, journal: Any) -> None:
        """Part with what `open` returned."""
        _SHARED.give_back(journal)

    def open_store(self) -> Store:
        """Return the tables, for those who look after them; other processes may use them meanwhile.

        Raises:
            JournalError: As `open`.
        """
        store = self._room().PostgresStore(self._address, self.name, _worker_name())
        return _opened(store, self.name, _folders(Path.cwd()))

    def open_to_read(self) -> Rows:
        """Return its rows, for those who only look.

        Raises:
            JournalVersionError: If an engine of another version has written it.
            JournalFileError: If the database cannot be reached, is no journal, or psycopg is not installed.
        """
        rows: Rows = self._room().PostgresRows(self._address, self.name)
        return rows

    @property
    def spilled(self) -> list[Path]:
        """The files with what an earlier process could not write; the next opening from this folder takes them in."""
        return spilled_files(self.name, _folders(Path.cwd()))

    def _room(self) -> Any:
        try:
            from pipeline_engine.journal import postgres
        except ImportError as error:
            cure = "needs psycopg; install it with pip install 'pipeline-engine[postgres]'"
            raise JournalFileError(self.name, cure) from error
        return postgres


def held(journal: T) -> T | PostgresJournal | str:
    """Return what was given as `journal=` as it may be a variable of a function that raises: without a password.

    It means the same to `journal_place`. Public functions put it in the place of what they were given.

    Example:
        >>> held("runs.db"), held("postgresql://me:secret@host/runs"), held("mysql://me:secret@host/runs")
        ('runs.db', PostgresJournal('postgresql://me@host/runs'), 'mysql://…')
    """
    if not isinstance(journal, str) or "://" not in journal:
        return journal
    if journal.startswith(("postgresql://", "postgres://")):
        return PostgresJournal(journal)
    return journal.partition("://")[0] + "://…"


def journal_place(journal: object) -> JournalPlace:
    """Return the journal that is meant by a path, an address or an object.

    Raises:
        TypeError: If it is none of these.

    Example:
        >>> journal_place("runs.db"), journal_place("postgresql://localhost/runs")
        (SqliteJournal('runs.db'), PostgresJournal('postgresql://localhost/runs'))
    """
    if isinstance(journal, str) and journal.startswith(("postgresql://", "postgres://")):
        return PostgresJournal(journal)
    if isinstance(journal, str) and "://" in journal:
        raise JournalFileError(
            journal.partition("://")[0] + "://…", "names no journal; give a path, or postgresql://user@host/database"
        )
    if isinstance(journal, str | Path):
        return SqliteJournal(journal)
    if isinstance(journal, JournalPlace) and not isinstance(journal, type):
        return journal
    raise TypeError(
        f"journal= takes a path, a postgresql:// address, or a journal object, not a {type(journal).__name__}."
    )


def without_password(address: str) -> str:
    """Return a database's address as it may be shown.

    Example:
        >>> without_password("postgresql://me:pa@s/s?@host/db?password=x&sslmode=require")
        'postgresql://me@host/db?sslmode=require'
    """
    scheme, separator, rest = address.partition("://")
    user, at, place = rest.rpartition("@")
    # All that may belong to a password goes, also one with characters that should have been written as %40.
    rest = f"{user.partition(':')[0]}{at}{place}"
    rest, question, query = rest.partition("?")
    kept = "&".join(part for part in query.split("&") if "password" not in unquote(part).lower())
    return f"{scheme}{separator}{rest}{question if kept else ''}{kept}"


def _checked(documents: KeepDocuments) -> KeepDocuments:
    if documents not in ("store", "reference", "none"):
        raise ValueError(f'documents={documents!r}: it is "store", "reference" or "none".')
    return documents


def _folders(first: Path) -> list[Path]:
    """Return where entries are kept that a journal could not take."""
    return [first, Path(tempfile.gettempdir())]


def _worker_name() -> str:
    return f"{os.getpid()}-{token_hex(6)}"


def _opened(store: Store, name: str, folders: Sequence[Path]) -> Store:
    """Make this process known in a journal, and take in what an earlier one could not write."""
    try:
        store.open_worker(this_process(), _wall_time())
        for path in spilled_files(name, folders):
            entries = list(read_spilled(path))
            for start in range(0, len(entries), _INTAKE):
                store.apply(entries[start : start + _INTAKE])
            with suppress(FileNotFoundError):  # another process may have taken it in, too: entries are written once
                path.unlink()
    except BaseException:
        store.close()
        raise
    return store


def _wall_time() -> float:
    # For people who look at the tables; nothing is decided by it.
    return time.time()  # noqa: TID251
