"""A journal in a PostgreSQL database, for many processes at once.

One connection serves all runs of a process: the journal's thread is the only one that writes, a group of entries at
a time, so a second connection would have nothing to do. Other processes have connections of their own.

Every transaction says for itself where the tables are, how it is isolated and how durable it is, and nothing is
prepared on the server: so a pooler may give each of them another connection (pgbouncer in transaction mode).
"""

from __future__ import annotations

import contextlib
import logging
import time
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typing_extensions import override

from pipeline_engine.errors import JournalError, JournalFileError, JournalVersionError
from pipeline_engine.journal.addresses import Address
from pipeline_engine.journal.schema import APPLICATION_ID, MIGRATIONS, VERSION, engine_version, statements
from pipeline_engine.journal.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline_engine.values import Answer, Entry

__all__ = ["SCHEMA", "PostgresRows", "PostgresStore"]

SCHEMA = "pipeline_engine"
"""Where the tables are, unless the address says `options=-csearch_path=…`."""

T = TypeVar("T")

_log = logging.getLogger("pipeline_engine")
_PAUSES = (0.0, 1.0, 3.0, 6.0)
"""Seconds before each further try of a transaction: a server that is restarted is back by then."""
_PASSING = frozenset({"40001", "40P01", "55P03", "57014"})
"""Serialisation failure, deadlock, a lock that was not to be had, a statement that somebody has cancelled."""
_DEFAULTS = {
    "fallback_application_name": "pipeline_engine",
    "connect_timeout": "10",
    # A network that swallows packets would else hold the journal up for hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
# Repeatable read would fail where read committed waits, and looks at the row again. A process that is stopped in the
# midst of a transaction must not keep its documents from everybody: the server ends its connection.
_BEGIN = "begin isolation level read committed; set local idle_in_transaction_session_timeout to '10s'"


class PostgresStore(Store):
    """Keep a journal in a PostgreSQL database.

    A transaction that meets a lost connection, a deadlock or the like is made again, from its first statement: all
    that a `Store` does leads to the same rows the second time, so it does not matter whether a commit that was not
    answered has happened.

    Args:
        address: Such as "postgresql://user@host/database"; all that libpq knows may be in it.
        shown_name: The address without its password.
        worker: The name under which documents are claimed.

    Raises:
        JournalVersionError: If a newer engine has written it.
        JournalFileError: If it cannot be reached or used.
    """

    types = {"blob": "bytea", "real": "double precision", "big": "bigint", "text": "text"}  # noqa: RUF012 - as declared

    def __init__(self, address: str, shown_name: str, worker: str) -> None:
        held = Address(address, shown_name)
        del address  # an error's traceback may be printed with the variables of its frames
        super().__init__(worker, is_exclusive=False)
        self._name = shown_name
        self._conninfo, self._schema = _server(held)
        self._begin = _BEGIN if self._schema is None else f"{_BEGIN}; set local search_path to {self._schema}"
        try:
            self._connection = self._connect()
        except psycopg.Error as error:
            raise JournalFileError(shown_name, f"cannot be reached: {_told(error)}") from _cause(error)
        try:
            self._open()
        except psycopg.Error as error:
            self._connection.close()
            raise JournalFileError(shown_name, f"cannot be used: {_told(error)}") from _cause(error)
        except BaseException:
            self._connection.close()
            raise

    # What a database must do

    @override
    def begin(self) -> None:
        self._connection.execute(self._begin)

    @override
    def commit(self) -> None:
        told = self._connection.execute("commit").statusmessage
        if told != "COMMIT":  # so does PostgreSQL answer for a transaction that had failed
            raise JournalError(f"its database answered a commit with {told}")

    @override
    def rollback(self) -> None:
        with contextlib.suppress(psycopg.Error):  # the error that led here is the one to tell
            self._connection.execute("rollback")

    @override
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(_translated(sql), parameters).rowcount

    @override
    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        # In psycopg's pipeline mode: one wait for all rows. Some 60 µs for a row of 2 KB, over a local socket;
        # prepared on the server it would be half of that, and fail behind a pooler.
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(sql), rows)
            return max(cursor.rowcount, 0)

    @override
    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(_translated(sql), parameters).fetchall()

    @override
    def close(self) -> None:
        self._connection.close()

    @override
    def typed_parameter(self, kind: str) -> str:
        return f"?::{kind}"

    @override
    def for_update(self) -> str:
        return " for update"

    @override
    def for_share(self) -> str:
        return " for share"

    @override
    def lock(self, table: str) -> None:
        self.execute(f"lock table {table} in share row exclusive mode")

    @override
    def transact(self, work: Callable[[], T]) -> T:
        for pause in (*_PAUSES, None):
            try:
                if self._connection.closed:
                    self._connection = self._connect()
                return super().transact(work)
            except psycopg.Error as error:
                is_lost = self._connection.closed
                if pause is None or not (is_lost or error.sqlstate in _PASSING):
                    lost = f"its database was lost, and not found again in {len(_PAUSES)} more tries: "
                    raise JournalError(f"{lost if is_lost else ''}{_told(error)}") from _cause(error)
                _log.warning("journal %s: %s; trying again in %g s", self._name, _told(error), pause)
                time.sleep(pause)  # noqa: TID251 - on the journal's own thread
        raise AssertionError("the last try either returns or raises")

    @override
    def _apply(self, entries: Sequence[Entry]) -> list[Answer]:
        answers = super()._apply(entries)
        # Each group counts as a sign of life. A copy of the database that lags behind then gives itself away by its
        # next answer, whatever it is that it has not got.
        self._next_beat()
        return answers

    @override
    def apply(self, entries: Sequence[Entry]) -> list[Answer]:
        answers = super().apply(entries)
        self._beats += 1
        return answers

    # Opening

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return _connected(self._conninfo)

    def _open(self) -> None:
        """See that the tables are there, and that the database keeps what it acknowledges.

        Raises:
            JournalVersionError: If a newer engine has made the tables.
            JournalFileError: If they are somebody else's, or the database cannot hold all text.
        """
        encoding = self._connection.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8"):
            raise JournalFileError(self._name, f"has the encoding {encoding}; make a database for it that has UTF8")
        if super().transact(lambda: self.query("show synchronous_commit")) == [("off",)]:
            self._begin += "; set local synchronous_commit to on"
        if super().transact(self._version) < VERSION:
            super().transact(self._migrate)

    def _version(self) -> int:
        """Return the version of the tables; 0 where there are none.

        Raises:
            JournalVersionError: If it is newer than this engine.
            JournalFileError: If the tables are somebody else's.
        """
        # A look into the catalogue, not `to_regclass`, which would answer from before the wait for the lock.
        found = self.query(
            "select distinct tablename::text from pg_catalog.pg_tables "
            "where tablename in ('schema_version', 'step_outputs') and schemaname = any(current_schemas(false))"
        )
        if not found:
            return 0
        if len(found) == 1:
            other = f"has a table {found[0][0]!r}, but is no journal of pipeline_engine"
            raise JournalFileError(self._name, f"{other}; name another database, or another search_path")
        version: int = self.query("select max(version) from schema_version")[0][0]
        if version > VERSION:
            raise JournalVersionError(self._name, version, VERSION)
        return version

    def _migrate(self) -> None:
        """Bring the tables up to date: once, however many processes begin at the same time.

        No copy is made before, as it is of a file: here the transaction itself is the way back, since PostgreSQL takes
        back what was done to tables, too.
        """
        self.query("select pg_advisory_xact_lock(?)::text", (APPLICATION_ID,))
        version = self._version()  # again: who had the lock before may have done it
        if version == VERSION:
            return
        # Not "if not exists", which only somebody who may make one may say.
        find_schema = "select 1 from pg_catalog.pg_namespace where nspname = ?"
        if self._schema is not None and not self.query(find_schema, (self._schema,)):
            self.execute(f"create schema {self._schema}")
        for script in MIGRATIONS[version:]:
            for statement in statements(script, self.types):
                self.execute(statement)
        self.execute(
            "insert into schema_version(version, applied_at, engine_version) values(?, extract(epoch from now()), ?)",
            (VERSION, engine_version()),
        )


@cache
def _translated(sql: str) -> str:
    """Return a statement with psycopg's marks for parameters.

    Example:
        >>> _translated("select 1 from a where b = ? and c like 'x%'")
        "select 1 from a where b = %s and c like 'x%%'"
    """
    return sql.replace("%", "%%").replace("?", "%s")


def _server(address: Address) -> tuple[Address, str | None]:
    """Return how to connect to a database, and the schema of its tables; None if the address names one.

    Raises:
        JournalFileError: If the address says nothing that can be understood.
    """
    parameters = _parameters(address)
    if parameters is None:
        raise JournalFileError(
            address.shown,
            "is no valid address; it is postgresql://user:password@host:port/database?option=value, with other "
            "characters than letters and digits in a user or password written as %40 and the like",
        )
    schema = None if "search_path" in parameters.get("options", "") else SCHEMA
    return Address(make_conninfo("", **parameters), address.shown), schema


def _parameters(address: Address) -> dict[str, str] | None:
    """Return what an address says, and what it leaves to us; None if it says nothing that can be understood.

    It does not raise: an error would quote the address with its password, and so would the variables here.
    """
    if "\0" in address.reveal():
        return None  # libpq reads no further, and takes what it has for something else
    try:
        told = {name: str(value) for name, value in conninfo_to_dict(address.reveal()).items()}
    except (psycopg.ProgrammingError, UnicodeError):
        return None
    if any("@" in told.get(name, "") for name in ("dbname", "host", "port")):
        return None  # a "/", "?" or "@" in a password ends it too early: what follows is taken for a host or a database
    return {**_DEFAULTS, **told, "client_encoding": "UTF8"}


def _connected(conninfo: Address) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a new connection.

    Raises:
        psycopg.OperationalError: If there is none to be had. It has psycopg's word and nothing else of its error: the
            frames of that one, and the connection that it refers to, have the password.
    """
    try:
        return psycopg.connect(conninfo.reveal(), autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        ended: BaseException = psycopg.OperationalError(_told(error))
    except BaseException as error:  # noqa: BLE001 - raised below, without those frames
        ended = error.with_traceback(None)
    raise ended


def _told(error: psycopg.Error) -> str:
    """Return what a database has said, on one line and without the values of a row, which are somebody's documents."""
    text = error.diag.message_primary or str(error)
    code = "" if error.sqlstate is None else f" (SQLSTATE {error.sqlstate})"
    return f"{' '.join(text.split()).rstrip('.')}{code}"


def _cause(error: psycopg.Error) -> psycopg.Error | None:
    """Return an error to be chained: one of the server's own may quote a row, so its code and message must do."""
    return error if error.sqlstate is None else None


class PostgresRows:
    """Read a journal in a PostgreSQL database, while processes write it.

    Args:
        address: Such as "postgresql://user@host/database".
        shown_name: The address without its password.

    Raises:
        JournalVersionError: If an engine of another version has made the tables.
        JournalFileError: If it cannot be reached, or is no journal.
    """

    def __init__(self, address: str, shown_name: str) -> None:
        held = Address(address, shown_name)
        del address  # an error's traceback may be printed with the variables of its frames
        self.name = shown_name
        conninfo, schema = _server(held)
        self._begin = "begin isolation level repeatable read, read only"
        if schema is not None:
            self._begin += f"; set local search_path to {schema}"
        try:
            self._connection = _connected(conninfo)
        except psycopg.Error as error:
            raise JournalFileError(shown_name, f"cannot be reached: {_told(error)}") from _cause(error)
        try:
            if self.query("select to_regclass('schema_version')::text") == [(None,)]:
                raise JournalFileError(shown_name, "holds no journal yet; run documents with --journal to make one")
            version = self.query("select max(version) from schema_version")[0][0]
            if version != VERSION:
                raise JournalVersionError(shown_name, version, VERSION)
        except BaseException:
            self._connection.close()
            raise

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement finds."""
        try:
            self._connection.execute(self._begin)
            try:
                return self._connection.execute(_translated(sql), parameters).fetchall()
            finally:
                with contextlib.suppress(psycopg.Error):  # nothing was changed, so nothing is lost
                    self._connection.execute("rollback")
        except psycopg.Error as error:
            raise JournalFileError(self.name, f"cannot be read: {_told(error)}") from _cause(error)

    def close(self) -> None:
        """Part with the database."""
        self._connection.close()
