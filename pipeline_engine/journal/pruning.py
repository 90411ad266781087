"""What may be forgotten of a journal: documents that have ended long ago, or only how their results came about."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline_engine.journal.rows import StoreRows, bodies, pages
from pipeline_engine.journal.text import from_name, to_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline_engine.journal.rows import Rows
    from pipeline_engine.journal.store import Store

__all__ = ["Prunable", "PruneRule", "prunable", "prune"]

_GROUP = 200
_INPUTS = re.compile(rb'"of":"([0-9a-f]{32})"')
"""How a prompt names a document's inputs; in a text the quotes would be escaped."""
_UNFINISHED = (
    "select pipeline, batch from batches b where is_single = 0 and state <> 'done' and not exists (select 1 from "
    "batches later where later.pipeline = b.pipeline and later.is_single = 0 and later.created_at > b.created_at)"
)
_UNUSED = "sha not in (select inputs from documents where inputs is not null)"
_OF_DOCUMENTS = (
    "exists (select 1 from documents d where d.pipeline = t.pipeline and d.document = t.document and {rule})"
)


@dataclass(frozen=True, slots=True)
class PruneRule:
    """Say what may be forgotten."""

    before: float | None = None
    """Documents that ended before this time, in seconds since the epoch."""
    batch: str | None = None
    """Documents of this batch."""
    keeps_results: bool = False
    """Whether documents and their outputs stay, so that they are not run again, and only the rest goes."""
    with_unfinished: bool = False
    """Whether what an unfinished batch would go on with may go, too."""

    def where(self, protected: Sequence[str]) -> tuple[str, list[Any]]:
        """Return the condition that documents must fulfil, and its parameters."""
        asked: list[Any] = ["completed", "partial", "failed", *(["queued", "parked"] if self.with_unfinished else [])]
        where = [f"d.status in ({', '.join('?' * len(asked))})"]
        if self.before is not None:
            where.append("coalesce(d.ended_at, d.admitted_at) < ?")
            asked.append(self.before)
        if self.batch is not None:
            where.append("d.batch = ?")
            asked.append(to_name(self.batch))
        if protected:
            where.append(f"d.pipeline not in ({', '.join('?' * len(protected))})")
            asked += protected
        return " and ".join(where), asked


@dataclass(slots=True)
class Prunable:
    """Say what would be forgotten, or was."""

    documents: int = 0
    outputs: int = 0
    calls: int = 0
    attempts: int = 0
    inputs: int = 0
    """Stored inputs that nothing needs any more."""
    batches: int = 0
    shared_replies: int = 0
    size: int = 0
    """Bytes of replies, prompts, outputs, inputs and records."""
    unfinished: dict[str, str] = field(default_factory=dict)
    """Pipelines of which nothing is forgotten, and the batch of each that has not ended."""

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to forget."""
        return not (self.documents or self.calls or self.attempts or self.batches or self.shared_replies)


def prunable(rows: Rows, rule: PruneRule) -> Prunable:
    """Return what a rule would have forgotten; nothing is changed."""
    found = Prunable(unfinished=_unfinished(rows, rule))
    protected = [to_name(pipeline) for pipeline in found.unfinished]
    where, asked = rule.where(protected)

    def total(table: str, size: str) -> tuple[int, int]:
        sql = f"select count(*), coalesce(sum({size}), 0) from {table} t where {_OF_DOCUMENTS.format(rule=where)}"  # noqa: S608 - our own text
        count, length = rows.query(sql, asked)[0]
        return int(count), int(length)

    found.calls, of_calls = total("calls", "length(prompt) + length(reply)")
    found.attempts, _ = total("attempts", "0")
    _, of_runs = total("runs", "length(records)")
    kept = f"select inputs from documents d where inputs is not null and not ({where})"  # noqa: S608 - our own text
    sizes = rows.query(
        f"select count(*), coalesce(sum(size), 0) from blobs where sha not in ({kept}) and sha in "  # noqa: S608 - our own text
        f"(select inputs from documents d where {where})",
        (*asked, *asked),
    )
    found.inputs, of_inputs = (int(figure) for figure in sizes[0])
    found.size = of_calls + of_runs + of_inputs
    if not rule.keeps_results:
        found.outputs, of_outputs = total("step_outputs", "length(output)")
        found.size += of_outputs
        found.documents = int(rows.query(f"select count(*) from documents d where {where}", asked)[0][0])  # noqa: S608 - our own text
        batches, of_batches = _batches(rule, protected, f"not ({where})", asked)
        found.batches = int(rows.query(f"select count(*) from batches b where {batches}", of_batches)[0][0])  # noqa: S608 - our own text
        if rule.before is not None:
            sql = "select count(*), coalesce(sum(length(reply)), 0) from cached_replies where cached_at < ?"
            found.shared_replies, of_replies = (int(figure) for figure in rows.query(sql, (rule.before,))[0])
            found.size += of_replies
    return found


def _unfinished(rows: Rows, rule: PruneRule) -> dict[str, str]:
    if rule.with_unfinished:
        return {}
    return {from_name(pipeline): from_name(batch) for pipeline, batch in rows.query(_UNFINISHED)}


def _batches(rule: PruneRule, protected: Sequence[str], left: str, of_left: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the condition for batches that may go, and its parameters.

    The last one of a pipeline stays: it tells what the plan was.

    Args:
        rule: What may be forgotten.
        protected: Pipelines of which nothing may.
        left: Which documents stay.
        of_left: The parameters of that.
    """
    where = [
        "exists (select 1 from batches later where later.pipeline = b.pipeline and later.created_at > b.created_at)",
        f"not exists (select 1 from documents d where d.batch = b.batch and {left})",  # noqa: S608 - our own text
    ]
    asked = [*of_left]
    if not rule.with_unfinished:
        where.append("(b.state = 'done' or b.is_single = 1)")
    if rule.before is not None:
        where.append("b.created_at < ?")
        asked.append(rule.before)
    if rule.batch is not None:
        where.append("b.batch = ?")
        asked.append(to_name(rule.batch))
    if protected:
        where.append(f"b.pipeline not in ({', '.join('?' * len(protected))})")
        asked += protected
    return " and ".join(where), asked


def prune(store: Store, name: str, rule: PruneRule, watch: Callable[[int], object] | None = None) -> None:
    """Forget what a rule allows, a few documents in each transaction, so that an end in between harms nothing.

    Args:
        store: The journal, open to write.
        name: What it is called in messages.
        rule: What may be forgotten.
        watch: Told how many documents were done so far.
    """
    rows = StoreRows(name, lambda sql, parameters: store.transact(lambda: store.query(sql, parameters)))
    protected = [to_name(pipeline) for pipeline in _unfinished(rows, rule)]
    where, asked = rule.where(protected)
    last: tuple[Any, ...] = ("", "")
    done = 0
    while last:

        def work(last: tuple[Any, ...] = last) -> list[tuple[Any, ...]]:
            group = store.query(
                f"select pipeline, document from documents d where {where} and (pipeline, document) > (?, ?) "  # noqa: S608 - our own text
                f"order by pipeline, document limit {_GROUP}{store.for_update()}",
                (*asked, *last),
            )
            for table in ("attempts", "calls", "runs", *(() if rule.keeps_results else ("step_outputs", "documents"))):
                store.execute_many(f"delete from {table} where pipeline = ? and document = ?", group)  # noqa: S608 - our own names
            if rule.keeps_results:
                store.execute_many("update documents set inputs = null where pipeline = ? and document = ?", group)
            return group

        group = store.transact(work)
        done += len(group)
        if watch is not None:
            watch(done)
        last = group[-1] if group else ()
    _forget_inputs(store, rows)

    def finish() -> None:
        if not rule.keeps_results:
            condition, of_batches = _batches(rule, protected, "1 = 1", ())
            found = f"select batch from batches b where {condition}"  # noqa: S608 - our own text
            store.execute(f"delete from batches where batch in ({found})", of_batches)  # noqa: S608 - our own text
            store.execute("delete from progress where batch not in (select batch from batches)")
            if rule.before is not None:
                store.execute("delete from cached_replies where cached_at < ?", (rule.before,))
        store.execute(
            "delete from workers where is_open = 0 and worker <> ? and worker not in "
            "(select worker from documents where worker is not null)",
            (store.worker,),
        )

    store.transact(finish)
    store.compact()


def _forget_inputs(store: Store, rows: Rows) -> None:
    """Remove inputs that no document has, and no prompt that is left names."""
    named = _named_inputs(rows)
    remove = f"delete from blobs where sha = ? and {_UNUSED}"  # noqa: S608 - our own text
    for page in pages(rows, ("sha",), "blobs", ("sha",), _UNUSED):
        unused = [row for row in page if row[0] not in named]
        store.transact(partial(store.execute_many, remove, unused))


def _named_inputs(rows: Rows) -> set[str]:
    """Return the inputs that prompts name of documents that have other ones by now: few."""
    named: set[str] = set()
    prompts = bodies(rows, "calls", ("pipeline", "document", "call_key"), "prompt")
    while group := list(islice(prompts, _GROUP)):
        of_group = {sha.decode() for _, prompt, _ in group for sha in _INPUTS.findall(prompt)}
        first, last = group[0][0][:2], group[-1][0][:2]
        current = rows.query(
            "select inputs from documents where (pipeline, document) >= (?, ?) and (pipeline, document) <= (?, ?)",
            (*first, *last),
        )
        named |= of_group - {sha for (sha,) in current}
    return named
