"""A journal as people look at it: its batches, their documents, and all that has happened to one of them.

Nothing is changed, and nothing of the pipeline's code is needed. The journal may be written meanwhile.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal.keys import digest
from pipeline_engine.journal.processes import Process, has_died
from pipeline_engine.journal.rows import Readable, pages
from pipeline_engine.journal.saved import saved_calls, saved_outputs
from pipeline_engine.journal.text import from_name, to_name
from pipeline_engine.values import NO_ITEM, CachedReply, Cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline_engine.journal.rows import Rows
    from pipeline_engine.values import FindReply, SavedCall, SavedOutput

__all__ = [
    "CallMean",
    "JournalReader",
    "StoredAttempt",
    "StoredBatch",
    "StoredBody",
    "StoredDocument",
    "StoredHistory",
    "StoredOutput",
    "StoredProgress",
    "StoredRun",
    "StoredWorker",
    "read_journal",
]

_MICRO = 1_000_000
_SHOWN_CHOICES = 6
_MEAN_CALLS = 20_000
_MEAN_USAGES = 200


class StoredBatch(NamedTuple):
    """A batch as its journal tells it."""

    batch: str
    pipeline: str
    state: Literal["running", "interrupted", "done", "stopped"]
    """Whether it goes on, its process has died, all documents have ended, or it was stopped."""
    is_single: bool
    """Whether it is the batch of single runs."""
    created_at: float
    ended_at: float | None
    engine_version: str
    command: Mapping[str, Any]
    """How it was started."""
    parts: Mapping[str, Any]
    """What the steps of its pipeline were, for those who compare."""
    documents: Mapping[str, int]
    """How many documents that it was the last to work on have which status."""
    calls: int
    """How many replies it has paid for."""
    cost: Cost
    tokens: int

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "batch": self.batch,
            "pipeline": self.pipeline,
            "state": self.state,
            "is_single": self.is_single,
            "created_at": _time(self.created_at),
            "ended_at": _time(self.ended_at),
            "engine_version": self.engine_version,
            "command": dict(self.command),
            "documents": dict(self.documents),
            "calls": self.calls,
            "tokens": self.tokens,
            **_cost(self.cost),
        }


class StoredDocument(NamedTuple):
    """A document as its journal tells it."""

    pipeline: str
    document: str
    status: str
    reason: str
    """Why it is not completed."""
    batch: str
    """The last batch that has asked for it."""
    admitted_at: float
    ended_at: float | None
    elapsed: float
    """Seconds that its last run took."""
    source: str | None
    inputs: str | None
    """Where its inputs are kept."""
    crash_count: int
    """How many processes in a row have ended while they worked on it, and got no further."""
    worker: str | None
    plan: str
    """The fingerprint of the plan that it was run by."""
    content: str
    calls: int
    """How many replies were paid for, over all its runs."""
    cost: Cost
    tokens: int

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "document": self.document,
            "status": self.status,
            "reason": self.reason,
            "batch": self.batch,
            "admitted_at": _time(self.admitted_at),
            "ended_at": _time(self.ended_at),
            "elapsed": round(self.elapsed, 6),
            "source": self.source,
            "crash_count": self.crash_count,
            "calls": self.calls,
            "tokens": self.tokens,
            **_cost(self.cost),
        }


class StoredOutput(NamedTuple):
    """An output that was accepted, without its body."""

    step: str
    item: int | None
    key: str
    size: int
    """Bytes; 0 for one that JSON could not hold."""
    via: str | None
    """None for the step's own way, else what it came from, such as a fallback."""
    calls: tuple[str, ...]
    """The keys of the calls that led to it."""
    accepted_at: float

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "step": self.step,
            "item": self.item,
            "via": self.via,
            "bytes": self.size,
            "calls": list(self.calls),
            "accepted_at": _time(self.accepted_at),
        }


class StoredAttempt(NamedTuple):
    """An attempt: how it began, and what came of it."""

    run: str
    step: str
    item: int | None
    attempt: int
    model: str | None
    state: Literal["replied", "failed", "unknown", "open"]
    """A reply was paid for; it failed; nobody has told its end, so it may have been billed; it is in flight."""
    started_at: float | None
    ended_at: float | None
    kind: str | None
    """What kind of failure it was."""
    message: str | None
    status: int | None
    """The HTTP status."""
    billed: str | None
    """Whether a failed one was billed: "yes", "no" or "unknown"."""
    call: str | None
    """The key of its reply."""
    tokens: int | None
    cost: Cost | None
    is_void: bool
    """Whether its reply led to a failure, so that it is not used again."""

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        told = self._asdict()
        told["started_at"], told["ended_at"] = _time(self.started_at), _time(self.ended_at)
        told.pop("cost")
        return told | (_cost(self.cost) if self.cost is not None else {})


class StoredHistory(NamedTuple):
    """All that a journal tells of one document, without the bodies of prompts, replies and outputs."""

    document: StoredDocument
    outcomes: Mapping[str, Any]
    """How its steps and items ended: "steps", "widths" and "items", or why it was not run: "error" or "parked"."""
    outputs: tuple[StoredOutput, ...]
    """The latest of each step and item, in the order in which they were accepted."""
    attempts: tuple[StoredAttempt, ...]
    """In the order in which they began."""


class StoredBody(NamedTuple):
    """A prompt and the reply to it, as they were sent and received."""

    key: str
    step: str
    item: int | None
    model: str
    prompt: bytes
    reply: bytes
    is_intact: bool
    """Whether the reply is what was written."""


class StoredRun(NamedTuple):
    """A run of a document, as its journal tells it."""

    document: str
    run: str
    ended_at: float
    records: bytes
    """What `unpack_records` makes the run's records of."""


class StoredProgress(NamedTuple):
    """How far a process says that it has come with a batch."""

    worker: str
    progress: Mapping[str, Any]
    told_at: float


class StoredWorker(NamedTuple):
    """A process that may be writing a journal."""

    worker: str
    beat: int
    """How many signs of life it has given."""
    opened_at: float


class CallMean(NamedTuple):
    """What a call of a step has taken, on average."""

    calls: int
    """Over how many."""
    cost_usd: float | None
    """None if no price was known."""
    input_tokens: float | None
    output_tokens: float | None


@contextmanager
def read_journal(place: object) -> Iterator[JournalReader]:
    """Open a journal to look at it.

    Args:
        place: What `journal_place` returns.

    Raises:
        JournalError: If it cannot be opened, or is a journal of somebody's own that cannot be looked at.
    """
    if not isinstance(place, Readable):
        name = str(getattr(place, "name", type(place).__name__))
        raise JournalFileError(name, "has no open_to_read(), so that nobody can look at it")
    rows = place.open_to_read()
    try:
        yield JournalReader(rows)
    finally:
        rows.close()


class JournalReader:
    """Look at a journal.

    Args:
        rows: Its rows.

    Example:
        >>> from pipeline_engine import MemoryJournal, Pipeline, run_batch
        >>> pipeline = Pipeline("shout", inputs={"text": str})
        >>> @pipeline.step
        ... def shouted(text: str) -> str:
        ...     return text.upper()
        >>> journal = MemoryJournal()
        >>> _ = run_batch(pipeline, [{"text": "hello"}, {"text": "world"}], journal=journal)
        >>> with read_journal(journal) as reader:
        ...     batch = reader.batch("last")
        ...     batch.state, dict(batch.documents), len(list(reader.documents(batch.pipeline, batch.batch)))
        ('done', {'completed': 2}, 2)
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    # Batches

    def batches(self, *, with_single: bool = True) -> Iterator[StoredBatch]:
        """Yield the batches, latest first."""
        is_running = None
        where = "" if with_single else "where is_single = 0"
        names = self.rows.query(f"select batch from batches {where} order by created_at desc, batch desc")  # noqa: S608 - our own text
        for (name,) in names:
            is_running = self.has_living_worker() if is_running is None else is_running
            yield self._batch(name, is_running=is_running)

    def count_single(self) -> int:
        """Return how many batches are those of single runs."""
        return int(self.rows.query("select count(*) from batches where is_single = 1")[0][0])

    def batch(self, name: str) -> StoredBatch:
        """Return a batch by its id, by the beginning of it, or the latest one by "last".

        Raises:
            LookupError: If there is none, or more than one that begins so.
        """
        if name == "last":
            found = self.rows.query("select batch from batches order by is_single, created_at desc, batch desc limit 1")
            if not found:
                raise LookupError("there is no batch in this journal yet.")
            return self._batch(found[0][0], is_running=self.has_living_worker())
        asked = to_name(name)
        found = self.rows.query(
            "select batch from batches where substr(batch, 1, ?) = ? order by batch = ? desc, created_at desc limit ?",
            (len(asked), asked, asked, _SHOWN_CHOICES),
        )
        if not found:
            raise LookupError(f'there is no batch {name!r}. "last" is the latest one; `batches` lists them all.')
        if len(found) > 1 and found[0][0] != asked:
            raise LookupError(f"several batches begin with {name!r}: {_choices(found)}. Give more of the id.")
        return self._batch(found[0][0], is_running=self.has_living_worker())

    def _batch(self, name: str, *, is_running: bool) -> StoredBatch:
        rows = self.rows
        [(pipeline, state, is_single, created_at, ended_at, version, command, parts)] = rows.query(
            "select pipeline, state, is_single, created_at, ended_at, engine_version, command, parts from batches "
            "where batch = ?",
            (name,),
        )
        counts = dict(rows.query("select status, count(*) from documents where batch = ? group by status", (name,)))
        calls, cost, tokens = _spend(
            rows.query(
                "select count(*), count(cost_micro_usd), coalesce(sum(cost_micro_usd), 0), coalesce(sum(tokens), 0) "
                "from calls where batch = ?",
                (name,),
            )[0]
        )
        if state == "open":
            state = "running" if is_running else "interrupted"
        return StoredBatch(
            from_name(name),
            from_name(pipeline),
            state,
            bool(is_single),
            created_at,
            ended_at,
            version,
            _json(command, {}),
            _json(parts, {}),
            counts,
            calls,
            cost,
            tokens,
        )

    def runs(self, batch: str) -> Iterator[StoredRun]:
        """Yield the runs of a batch, a page at a time, however many there are; in no order that means anything."""
        columns = ("run", "document", "ended_at", "records")
        for page in pages(self.rows, columns, "runs", ("run", "document"), "batch = ?", [to_name(batch)]):
            for run, document, ended_at, records in page:
                yield StoredRun(from_name(document), from_name(run), ended_at, bytes(records))

    def runs_of(self, pipeline: str, document: str) -> Iterator[StoredRun]:
        """Yield the runs of a document, whatever batch they were for, in the order in which they ended."""
        found = self.rows.query(
            "select run, ended_at, records from runs where pipeline = ? and document = ? order by ended_at, run",
            (to_name(pipeline), to_name(document)),
        )
        for run, ended_at, records in found:
            yield StoredRun(document, from_name(run), ended_at, bytes(records))

    def progress(self, batch: str) -> list[StoredProgress]:
        """Return how far the processes say that they have come with a batch, the latest word first."""
        found = self.rows.query(
            "select worker, progress, told_at from progress where batch = ? order by told_at desc, worker",
            (to_name(batch),),
        )
        return [StoredProgress(worker, _json(progress, {}), told_at) for worker, progress, told_at in found]

    def has_living_worker(self) -> bool:
        """Return whether a process may be writing the journal: False only if all are known to have ended."""
        return bool(self.workers())

    # Documents

    def workers(self) -> list[StoredWorker]:
        """Return the processes that may be writing the journal: those that are not known to have ended."""
        found = self.rows.query("select worker, beat, opened_at, place, pid, birth from workers where is_open = 1")
        return [StoredWorker(*told) for *told, place, pid, birth in found if not has_died(Process(place, pid, birth))]

    def documents(
        self,
        pipeline: str,
        batch: str | None = None,
        statuses: Sequence[str] = (),
        *,
        after: str | None = None,
        part: str = "",
    ) -> Iterator[StoredDocument]:
        """Yield documents in the order of their keys, a page at a time, however many there are.

        Args:
            pipeline: Their pipeline.
            batch: The last batch that has asked for them; all documents of the pipeline if not given.
            statuses: What their status must be; any if not given.
            after: The key after which to begin.
            part: What their keys must hold.
        """
        where, asked = "pipeline = ?", [to_name(pipeline)]
        if batch is not None:
            where, asked = f"{where} and batch = ?", [*asked, to_name(batch)]
        if statuses:
            where, asked = f"{where} and status in ({', '.join('?' * len(statuses))})", [*asked, *statuses]
        if after is not None:
            where, asked = f"{where} and document > ?", [*asked, to_name(after)]
        if part:
            where, asked = f"{where} and document like ? escape '!'", [*asked, f"%{_literal(part)}%"]
        for page in pages(self.rows, _DOCUMENT, "documents", ("document",), where, asked):
            yield from self._with_spend(pipeline, page)

    def with_fallbacks(self, pipeline: str) -> set[str]:
        """Return the keys of a pipeline's documents that have an output which came from a fallback."""
        found = self.rows.query(
            "select distinct document from step_outputs where pipeline = ? "
            "and (via like 'fallback:%' or via like 'budget:%')",
            (to_name(pipeline),),
        )
        return {from_name(document) for (document,) in found}

    def _with_spend(self, pipeline: str, page: Sequence[tuple[Any, ...]]) -> Iterator[StoredDocument]:
        spent = {
            document: _spend(figures)
            for document, *figures in self.rows.query(
                "select document, count(*), count(cost_micro_usd), coalesce(sum(cost_micro_usd), 0), "
                "coalesce(sum(tokens), 0) from calls where pipeline = ? and document >= ? and document <= ? "
                "group by document",
                (to_name(pipeline), page[0][0], page[-1][0]),
            )
        }
        for row in page:
            told = dict(zip(_DOCUMENT, row, strict=True))
            calls, cost, tokens = spent.get(told["document"], (0, Cost(), 0))
            told |= {name: from_name(told[name]) for name in ("document", "batch", "source") if told[name] is not None}
            yield StoredDocument(pipeline=pipeline, calls=calls, cost=cost, tokens=tokens, **told)

    def document(self, pipeline: str, name: str) -> StoredDocument:
        """Return a document by its key, or by the beginning, the end or else any part of it.

        Raises:
            LookupError: If there is none, or more than one.
        """
        asked, select = to_name(name), f"select {', '.join(_DOCUMENT)} from documents where pipeline = ?"  # noqa: S608 - our own names
        found = self.rows.query(f"{select} and document = ?", (to_name(pipeline), asked))
        literal = _literal(name)
        for pattern in (f"{literal}%", f"%{literal}", f"%{literal}%") if asked else ():
            if not found:
                similar = f"{select} and document like ? escape '!' order by document limit {_SHOWN_CHOICES}"
                found = self.rows.query(similar, (to_name(pipeline), pattern))
        if not found:
            raise LookupError(f"pipeline {pipeline!r} has no document {name!r} in this journal.")
        if len(found) > 1:
            raise LookupError(f"several documents are called like {name!r}: {_choices(found)}. Give more of the key.")
        return next(self._with_spend(pipeline, found))

    def count_documents(self, pipeline: str) -> int:
        """Return how many documents of a pipeline there are."""
        return int(self.rows.query("select count(*) from documents where pipeline = ?", (to_name(pipeline),))[0][0])

    def sample(self, pipeline: str, count: int) -> Iterator[StoredDocument]:
        """Yield so many documents of a pipeline, evenly spread over their keys; all if there are no more."""
        total = self.count_documents(pipeline)
        if total <= count:
            yield from self.documents(pipeline)
            return
        wanted = {place * total // count for place in range(count)}
        keys = pages(self.rows, ("document",), "documents", ("document",), "pipeline = ?", (to_name(pipeline),))
        for place, (key,) in enumerate(row for page in keys for row in page):
            if place in wanted:
                yield self.document(pipeline, from_name(key))

    def history(self, document: StoredDocument) -> StoredHistory:
        """Return all that has happened to a document."""
        place = (to_name(document.pipeline), to_name(document.document))
        outcomes = self.rows.query("select outcomes from documents where pipeline = ? and document = ?", place)
        return StoredHistory(
            document,
            _json(outcomes[0][0], {}) if outcomes else {},
            self._outputs(place),
            self._attempts(place, document),
        )

    def _outputs(self, place: tuple[str, str]) -> tuple[StoredOutput, ...]:
        found = self.rows.query(
            "select step, item, step_key, length(output), via, call_keys, accepted_at from step_outputs "
            "where pipeline = ? and document = ? order by accepted_at, step, item",
            place,
        )
        latest: dict[tuple[str, int], StoredOutput] = {}
        for step, item, key, size, via, calls, at in found:
            name, number = from_name(step), None if item == NO_ITEM else item
            latest.pop((step, item), None)
            latest[step, item] = StoredOutput(name, number, key, size, via, tuple(_json(calls, [])), at)
        return tuple(latest.values())

    def _attempts(self, place: tuple[str, str], document: StoredDocument) -> tuple[StoredAttempt, ...]:
        replies = {
            (run, step, item, attempt): rest
            for run, step, item, attempt, *rest in self.rows.query(
                "select run, step, item, attempt, model, call_key, tokens, cost_micro_usd, finished_at, is_void "
                "from calls where pipeline = ? and document = ?",
                place,
            )
        }
        is_open = document.status == "processing" and self._is_alive(document.worker)
        attempts = []
        for run, step, item, attempt, *told in self.rows.query(
            "select run, step, item, attempt, model, started_at, ended_at, kind, message, status, billed "
            "from attempts where pipeline = ? and document = ?",
            place,
        ):
            reply = replies.pop((run, step, item, attempt), None)
            # One that is in flight, and one that ended with its process, look the same in the table.
            attempts.append(_attempt((run, step, item, attempt), told, reply, is_open=is_open))
        # A reply that an equal call of another document has paid for had no attempt of its own.
        attempts += [_attempt(key, None, reply, is_open=False) for key, reply in replies.items()]
        return tuple(sorted(attempts, key=lambda a: (a.started_at or a.ended_at or 0.0, a.attempt)))

    def _is_alive(self, worker: str | None) -> bool:
        found = self.rows.query("select is_open, place, pid, birth from workers where worker = ?", (worker or "",))
        return bool(found) and bool(found[0][0]) and not has_died(Process(*found[0][1:]))

    # Bodies

    def replies(self, document: StoredDocument, step: str, item: int | None = None) -> tuple[StoredBody, ...]:
        """Return what was sent for a step and what came back, oldest first; of all its items if none is given."""
        found = self.rows.query(
            "select call_key, item, model, prompt, reply, reply_sha from calls where pipeline = ? and document = ? "
            "and step = ? and (item = ? or ? = -2) order by item, finished_at, attempt",
            (
                to_name(document.pipeline),
                to_name(document.document),
                to_name(step),
                NO_ITEM if item is None else item,
                -2 if item is None else 0,
            ),
        )
        return tuple(
            StoredBody(
                from_name(key),
                step,
                None if number == NO_ITEM else number,
                model,
                bytes(prompt),
                bytes(reply),
                digest(bytes(reply)) == sha,
            )
            for key, number, model, prompt, reply, sha in found
        )

    def output(self, document: StoredDocument, output: StoredOutput) -> bytes:
        """Return the body of an output, as JSON; empty for one that JSON could not hold."""
        found = self.rows.query(
            "select output from step_outputs where pipeline = ? and document = ? and step = ? and item = ? "
            "and step_key = ?",
            (
                to_name(document.pipeline),
                to_name(document.document),
                to_name(output.step),
                NO_ITEM if output.item is None else output.item,
                output.key,
            ),
        )
        return bytes(found[0][0]) if found else b""

    def inputs(self, place: str) -> Mapping[str, Any] | None:
        """Return a document's inputs; None if they were not kept, or are not any more what was written."""
        found = self.rows.query("select body from blobs where sha = ?", (place,))
        if not found or digest(bytes(found[0][0])) != place:
            return None
        told = _json(found[0][0], None)
        return told if isinstance(told, dict) else None

    def cached(self, asked: FindReply) -> CachedReply | None:
        """Return a reply that serves equal calls of all documents."""
        found = self.rows.query(
            "select reply, reply_sha, cached_at from cached_replies "
            "where namespace = ? and request = ? and ordinal = ?",
            (to_name(asked.namespace), to_name(asked.request), asked.ordinal),
        )
        if not found or digest(bytes(found[0][0])) != found[0][1]:
            return None
        return CachedReply(bytes(found[0][0]), found[0][2])

    def call_means(self, pipeline: str) -> dict[tuple[str, str], CallMean]:
        """Return what a call of each step and model has taken, on average over the first ones in the journal."""
        place = to_name(pipeline)
        found = self.rows.query(
            "select step, model, count(*), count(cost_micro_usd), coalesce(sum(cost_micro_usd), 0) from "
            "(select step, model, cost_micro_usd from calls where pipeline = ? limit ?) as first_calls "
            "group by step, model",
            (place, _MEAN_CALLS),
        )
        means = {}
        for step, model, calls, priced, micro in found:
            usages = [
                _json(body, {})
                for (body,) in self.rows.query(
                    "select usage from calls where pipeline = ? and step = ? and model = ? limit ?",
                    (place, step, model, _MEAN_USAGES),
                )
            ]
            means[from_name(step), model] = CallMean(
                int(calls),
                int(micro) / int(priced) / _MICRO if priced else None,
                _mean([usage["input_tokens"] for usage in usages if "input_tokens" in usage]),
                _mean([usage["output_tokens"] for usage in usages if "output_tokens" in usage]),
            )
        return means

    def saved(self, document: StoredDocument) -> tuple[tuple[SavedCall, ...], tuple[SavedOutput, ...]]:
        """Return what a run of a document would be given: its replies and outputs.

        Raises:
            JournalDataError: If one of them is not what was written.
        """
        place = (to_name(document.pipeline), to_name(document.document))

        def query(sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
            return self.rows.query(sql, parameters)

        return saved_calls(query, place), saved_outputs(query, place)


_DOCUMENT = (
    "document",
    "status",
    "reason",
    "batch",
    "admitted_at",
    "ended_at",
    "elapsed",
    "source",
    "inputs",
    "crash_count",
    "worker",
    "plan",
    "content",
)


def _attempt(
    key: tuple[str, str, int, int], told: Sequence[Any] | None, reply: Sequence[Any] | None, *, is_open: bool
) -> StoredAttempt:
    run, step, item, attempt = key
    model, started, ended, kind, message, status, billed = told or (None,) * 7
    call = tokens = cost = None
    is_void = False
    state: Literal["replied", "failed", "unknown", "open"] = "open" if is_open else "unknown"
    if kind is not None:
        state = "failed"
    if reply is not None:
        state = "replied"
        answered, call, tokens, micro, ended, void = reply
        model, is_void = answered or model, bool(void)
        cost = Cost(unpriced_calls=1) if micro is None else Cost(micro / _MICRO)
    number = None if item == NO_ITEM else item
    return StoredAttempt(
        from_name(run),
        from_name(step),
        number,
        attempt,
        model,
        state,
        started,
        ended,
        kind,
        message,
        status,
        billed,
        call,
        tokens,
        cost,
        is_void,
    )


def _literal(text: str) -> str:
    """Return a text as a part of a pattern of `like`, with `!` before what would mean something there."""
    return "".join(f"!{sign}" if sign in "!%_" else sign for sign in to_name(text))


def _spend(figures: Sequence[Any]) -> tuple[int, Cost, int]:
    calls, priced, micro, tokens = figures
    return int(calls), Cost(int(micro) / _MICRO, unpriced_calls=int(calls) - int(priced)), int(tokens)


def _choices(found: Sequence[tuple[Any, ...]]) -> str:
    shown = [repr(from_name(row[0])) for row in found[: _SHOWN_CHOICES - 1]]
    return ", ".join(shown) + (" and more" if len(found) == _SHOWN_CHOICES else "")


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _json(body: Any, instead: Any) -> Any:
    """Return what a body tells; something else if it is damaged: whoever looks at a journal sees the rest of it."""
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        return instead


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _cost(cost: Cost) -> dict[str, Any]:
    return {"cost_usd": round(cost.usd, 6), "unpriced_calls": cost.unpriced_calls}
