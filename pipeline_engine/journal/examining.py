"""What a doctor finds in a journal: bodies that are not what was written, and work that nobody goes on with."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal.keys import digest
from pipeline_engine.journal.processes import Process, has_died
from pipeline_engine.journal.rows import SqliteRows, bodies
from pipeline_engine.journal.schema import TABLES, VERSION
from pipeline_engine.journal.text import from_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline_engine.journal.rows import Rows
    from pipeline_engine.journal.store import Store

__all__ = ["Damage", "Examination", "Repairs", "examine", "repair"]

_DOCUMENT_KEY = ("pipeline", "document")
_CALL_KEY = ("pipeline", "document", "call_key")
_OUTPUT_KEY = ("pipeline", "document", "step", "item", "step_key")
_REPLY_KEY = ("namespace", "request", "ordinal")
_BLOB_KEY = ("sha",)
_SHOWN_CHECKS = 20


class Damage(NamedTuple):
    """A row whose body is not what was written."""

    table: str
    column: str
    key: tuple[Any, ...]
    """The row's key, as the database has it."""
    what: str
    """What it is, for people."""
    documents: tuple[tuple[str, str], ...]
    """The documents concerned, each with its pipeline."""
    consequence: str
    """What its removal leads to."""


@dataclass(slots=True)
class Examination:
    """Hold what was found."""

    name: str
    version: int = VERSION
    structure: list[str] = field(default_factory=list)
    """What the database says of its own structure; empty if all is well."""
    damages: list[Damage] = field(default_factory=list)
    checked: int = 0
    """How many bodies were compared with their hashes."""
    stuck: list[tuple[str, str, str]] = field(default_factory=list)
    """Documents in processing of which no living process is known: pipeline, document, worker."""
    in_work: int = 0
    """Documents that a process works on."""
    dead_workers: list[tuple[str, int]] = field(default_factory=list)
    """Processes that have ended without taking leave: their names and ids."""
    open_workers: list[tuple[str, int]] = field(default_factory=list)
    unknown_attempts: int = 0
    """Attempts whose end nobody has told: they may have been billed."""
    unknown_usd: float = 0.0
    """What they may have cost, as far as calls of their steps have known costs."""
    unknown_unpriced: int = 0
    """Of how many nobody knows."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Documents that are queued or parked."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Rows and bytes of each table, indexes included."""
    total_bytes: int = 0
    log_bytes: int = 0
    """What SQLite's log takes."""
    free_bytes: int = 0
    """What was deleted, and not given back."""

    @property
    def affected(self) -> list[tuple[str, str]]:
        """The documents that damaged bodies concern, each with its pipeline."""
        return list(dict.fromkeys(place for damage in self.damages for place in damage.documents))


def examine(rows: Rows, watch: Callable[[str, int], object] | None = None) -> Examination:
    """Look at every body of a journal, and at what was left behind.

    Args:
        rows: The journal.
        watch: Told of each table, and how many of its bodies were compared so far.

    Raises:
        JournalFileError: If it cannot be read at all.
    """
    found = Examination(rows.name)
    _check_structure(rows, found)
    try:
        for damage in _damages(rows, found, watch or (lambda _table, _count: None)):
            found.damages.append(damage)
        _check_work(rows, found)
        _measure(rows, found)
    except JournalFileError as error:
        if not found.structure:
            raise
        found.structure.append(error.reason)  # as was to be expected
    return found


def _check_structure(rows: Rows, found: Examination) -> None:
    if not isinstance(rows, SqliteRows):
        return  # PostgreSQL looks after that itself
    try:
        told = [row[0] for row in rows.query(f"pragma integrity_check({_SHOWN_CHECKS})")]
    except JournalFileError as error:
        told = [error.reason]
    found.structure = [line for line in told if line != "ok"]


# Bodies


def _damages(rows: Rows, found: Examination, watch: Callable[[str, int], object]) -> Iterator[Damage]:
    def counted(table: str, rest: Iterator[Any]) -> Iterator[Any]:
        for count, row in enumerate(rest):
            if count % 1000 == 0:
                watch(table, count)
            found.checked += 1
            yield row

    for key, body, _ in counted("blobs", bodies(rows, "blobs", _BLOB_KEY, "body")):
        if digest(body) != key[0]:
            places = tuple(rows.query("select pipeline, document from documents where inputs = ?", key))
            what = "stored inputs"
            yield Damage("blobs", "body", key, what, _names(places), "they are stored anew when it is run again")
    for key, body, (sha,) in counted("calls", bodies(rows, "calls", _CALL_KEY, "reply", "reply_sha")):
        if digest(body) != sha:
            step = rows.query("select step from calls where pipeline = ? and document = ? and call_key = ?", key)[0][0]
            yield _of_document(key, "calls", "reply", f"a reply to step {from_name(step)!r}", _REPLY_LOST)
    for key, body, _ in counted("prompts", bodies(rows, "calls", _CALL_KEY, "prompt")):
        if not _is_json(body, list):
            yield _of_document(key, "calls", "prompt", "a prompt", "it cannot be shown; nothing else needs it")
    columns = ("output", "output_sha", "call_keys")
    for key, body, (sha, calls) in counted("outputs", bodies(rows, "step_outputs", _OUTPUT_KEY, *columns)):
        if digest(body) != sha or not _is_json(bytes(calls), list):
            yield _of_document(key, "step_outputs", "output", f"the output of step {from_name(key[2])!r}", _OUTPUT_LOST)
    for key, body, _ in counted("documents", bodies(rows, "documents", _DOCUMENT_KEY, "outcomes")):
        if not _is_json(body, dict):
            yield _of_document(key, "documents", "outcomes", "how its steps ended", _OUTPUT_LOST)
    for key, body, (sha,) in counted("cache", bodies(rows, "cached_replies", _REPLY_KEY, "reply", "reply_sha")):
        if digest(body) != sha:
            yield Damage("cached_replies", "reply", key, "a shared reply", (), "the model is asked again")


_REPLY_LOST = "an output that was made of it stays; where there is none, it is asked for again"
_OUTPUT_LOST = "the document is run again: from its replies, as far as they are there"


def _of_document(key: tuple[Any, ...], table: str, column: str, what: str, consequence: str) -> Damage:
    return Damage(table, column, key, what, _names((key[:2],)), consequence)


def _names(places: Sequence[tuple[Any, ...]]) -> tuple[tuple[str, str], ...]:
    return tuple((from_name(pipeline), from_name(document)) for pipeline, document in places)


def _is_json(body: bytes, kind: type[Any]) -> bool:
    try:
        return isinstance(json.loads(body), kind)
    except (ValueError, RecursionError):
        return False


# Work


def _check_work(rows: Rows, found: Examination) -> None:
    workers = {
        worker: (int(pid), not is_open or has_died(Process(place, pid, birth)), bool(is_open))
        for worker, place, pid, birth, is_open in rows.query("select worker, place, pid, birth, is_open from workers")
    }
    found.dead_workers = [(name, pid) for name, (pid, is_dead, is_open) in workers.items() if is_dead and is_open]
    found.open_workers = [(name, pid) for name, (pid, is_dead, _) in workers.items() if not is_dead]
    for status, count in rows.query(
        "select status, count(*) from documents where status in ('queued', 'parked') group by status"
    ):
        found.waiting[status] = int(count)
    for pipeline, document, worker in rows.query(
        "select pipeline, document, worker from documents where status = 'processing' order by pipeline, document"
    ):
        if workers.get(worker, (0, True, False))[1]:
            found.stuck.append((from_name(pipeline), from_name(document), worker or ""))
        else:
            found.in_work += 1
    _check_attempts(rows, found, {name for name, (_, is_dead, _) in workers.items() if not is_dead})


def _check_attempts(rows: Rows, found: Examination, living: set[str]) -> None:
    """Count the attempts of which neither an end nor a reply is known, and that are not in flight."""
    unknown = rows.query(
        "select a.pipeline, a.step, a.model, d.worker, count(*) from attempts a "
        "left join documents d on d.pipeline = a.pipeline and d.document = a.document and d.status = 'processing' "
        "where a.ended_at is null and a.model is not null and not exists (select 1 from calls c where "
        "c.pipeline = a.pipeline and c.document = a.document and c.run = a.run and c.step = a.step "
        "and c.item = a.item and c.attempt = a.attempt) group by a.pipeline, a.step, a.model, d.worker"
    )
    for pipeline, step, model, worker, count in unknown:
        if worker in living:
            continue
        priced, micro = rows.query(
            "select count(cost_micro_usd), coalesce(sum(cost_micro_usd), 0) from "
            "(select cost_micro_usd from calls where pipeline = ? and step = ? and model = ? limit 1000) as some_calls",
            (pipeline, step, model),
        )[0]
        found.unknown_attempts += int(count)
        if priced:
            found.unknown_usd += int(count) * int(micro) / int(priced) / 1_000_000
        else:
            found.unknown_unpriced += int(count)


# Sizes


def _measure(rows: Rows, found: Examination) -> None:
    if isinstance(rows, SqliteRows):
        found.total_bytes, found.log_bytes = rows.sizes()
        [(page,)], [(free,)] = rows.query("pragma page_size"), rows.query("pragma freelist_count")
        found.free_bytes = int(page) * int(free)
    try:
        if isinstance(rows, SqliteRows):
            sizes = dict(
                rows.query(
                    "select m.tbl_name, sum(s.pgsize) from dbstat s join sqlite_master m on m.name = s.name "
                    "where s.aggregate = 1 group by m.tbl_name"
                )
            )
        else:
            sizes = {name: rows.query(f"select pg_total_relation_size('{name}'::regclass)")[0][0] for name in TABLES}
            found.total_bytes = sum(sizes.values())
    except (JournalFileError, sqlite3.Error):
        sizes = {}  # not every SQLite has dbstat
    for table in TABLES:
        rows_in = rows.query(f"select count(*) from {table}")[0][0]  # noqa: S608 - our own names
        found.sizes[table] = int(rows_in), int(sizes.get(table, 0))


# Repair


class Repairs(NamedTuple):
    """What was done."""

    removed: int
    """Entries that were taken out."""
    queued: int
    """Documents that will be run again."""
    freed: int
    """Documents that were given back by processes that had ended."""


_REMOVALS = {
    ("blobs", "body"): ("delete from blobs where sha = ?", "update documents set inputs = null where inputs = ?"),
    ("calls", "reply"): ("delete from calls where pipeline = ? and document = ? and call_key = ?",),
    ("calls", "prompt"): ("update calls set prompt = '[]' where pipeline = ? and document = ? and call_key = ?",),
    ("step_outputs", "output"): (
        "delete from step_outputs where pipeline = ? and document = ? and step = ? and item = ? and step_key = ?",
    ),
    ("documents", "outcomes"): ("update documents set outcomes = '{}' where pipeline = ? and document = ?",),
    ("cached_replies", "reply"): ("delete from cached_replies where namespace = ? and request = ? and ordinal = ?",),
}
_REQUEUE = (
    "update documents set status = 'queued', worker = null, fence = fence + 1 where pipeline = ? and document = ? "
    "and status in ('completed', 'partial', 'failed')"
)


def repair(store: Store, found: Examination) -> Repairs:
    """Remove what is damaged, so that only this is made again, and give back what ended processes have held.

    Args:
        store: The journal, open to write.
        found: What `examine` has found in it.
    """
    removed = queued = 0
    for damage in found.damages:

        def remove(damage: Damage = damage) -> int:
            for statement in _REMOVALS[damage.table, damage.column]:
                store.execute(_with_bytes(statement, store.types["blob"]), damage.key)
            if (damage.table, damage.column) in (("step_outputs", "output"), ("documents", "outcomes")):
                return store.execute(_REQUEUE, damage.key[:2])
            return 0

        queued += store.transact(remove)
        removed += 1

    def free() -> int:
        return store.execute(
            "update documents set status = 'queued', worker = null where status = 'processing' and "
            "(worker is null or worker not in (select worker from workers where is_open = 1))"
        )

    return Repairs(removed, queued, store.transact(free))


def _with_bytes(statement: str, kind: str) -> str:
    """Return a statement whose literals are bytes, as the columns are."""
    for literal in ("'[]'", "'{}'"):
        statement = statement.replace(literal, f"cast({literal} as {kind})")
    return statement
