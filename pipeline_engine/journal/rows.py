"""Rows of a journal for those who only look: SQL goes in, rows come out, and nothing can be changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal.sqlite import connect_to_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Readable", "Rows", "SqliteRows", "StoreRows", "bodies", "pages"]

_PAGE = 500
_GROUP_BYTES = 4_000_000


class Rows(Protocol):
    """Answer questions about a journal, each in a short transaction of its own.

    A long one would keep SQLite's log from being moved into the file, and PostgreSQL's tables from being cleaned up.
    """

    name: str
    """What the journal is called in messages."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement finds; `?` stands for a parameter.

        Raises:
            JournalFileError: If they cannot be read.
        """
        ...

    def close(self) -> None:
        """Part with the journal."""
        ...


@runtime_checkable
class Readable(Protocol):
    """Say where a journal is that can be read while it is written."""

    def open_to_read(self) -> Rows:
        """Return its rows.

        Raises:
            JournalError: If it cannot be opened.
        """
        ...


class SqliteRows:
    """Read a journal's file, while another process may write it.

    Args:
        path: The file.

    Raises:
        JournalVersionError: If an engine of another version has written it.
        JournalFileError: If it is no journal, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._connection = connect_to_read(path)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement finds."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(self.name, error) from error

    def close(self) -> None:
        """Part with the file."""
        self._connection.close()

    def sizes(self) -> tuple[int, int]:
        """Return the bytes that the file takes, and its log."""
        path = Path(self.name)
        log = path.with_name(f"{path.resolve().name}-wal")
        return path.stat().st_size, log.stat().st_size if log.exists() else 0


class StoreRows:
    """Read the journal of somebody who has it open to write, such as one in memory.

    Args:
        name: What it is called in messages.
        query: Runs a statement and returns its rows.
    """

    def __init__(self, name: str, query: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]) -> None:
        self.name = name
        self._query = query

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement finds."""
        try:
            return self._query(sql, parameters)
        except sqlite3.Error as error:
            raise _unreadable(self.name, error) from error

    def close(self) -> None:
        """Do nothing: it stays open for its owner."""


def _unreadable(name: str, error: sqlite3.Error) -> JournalFileError:
    cure = "look at it with `pipeline-engine doctor`, or put a copy in its place"
    return JournalFileError(name, f"cannot be read ({error}); {cure}")


def pages(
    rows: Rows,
    columns: Sequence[str],
    table: str,
    keys: Sequence[str],
    where: str = "",
    parameters: Sequence[Any] = (),
    size: int = _PAGE,
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a table in the order of its key, a page at a time, however many there are.

    Args:
        rows: The journal.
        columns: What is wanted of each row.
        table: The table.
        keys: The columns of its key, or those that tell the rows apart that are wanted.
        where: What the rows must be, too.
        parameters: What `where` asks for.
        size: Rows of a page.
    """
    key, marks = ", ".join(keys), ", ".join("?" * len(keys))
    select = f"select {', '.join((*keys, *columns))} from {table} where"  # noqa: S608 - our own names
    end = f"order by {key} limit {size}"
    condition = where or "1 = 1"
    page = rows.query(f"{select} {condition} {end}", parameters)
    while page:
        yield [row[len(keys) :] for row in page]
        if len(page) < size:
            return
        last = page[-1][: len(keys)]
        page = rows.query(f"{select} {condition} and ({key}) > ({marks}) {end}", (*parameters, *last))


def bodies(
    rows: Rows, table: str, keys: Sequence[str], body: str, *more: str
) -> Iterator[tuple[tuple[Any, ...], bytes, tuple[Any, ...]]]:
    """Yield the key, the body and further columns of every row of a table, with few megabytes in memory at once."""
    key, marks = ", ".join(keys), ", ".join("?" * len(keys))
    columns = ", ".join((*keys, body, *more))
    select = f"select {columns} from {table} where ({key}) >= ({marks}) and ({key}) <= ({marks}) order by {key}"  # noqa: S608 - our own names
    for heads in pages(rows, (*keys, f"length({body})"), table, keys):
        for first, last in _groups(heads):
            for row in rows.query(select, (*first, *last)):
                yield row[: len(keys)], bytes(row[len(keys)]), row[len(keys) + 1 :]


def _groups(heads: Sequence[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Yield the first and the last key of as many rows as are read in one go."""
    start, size = 0, 0
    for place, head in enumerate(heads):
        size += head[-1] or 0
        if size >= _GROUP_BYTES or place == len(heads) - 1:
            yield heads[start][:-1], head[:-1]
            start, size = place + 1, 0
