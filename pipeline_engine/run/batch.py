"""Many documents through one pipeline, in bounded memory: what is not in flight is not there."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import trio

from pipeline_engine.errors import (
    DocumentBusyError,
    DuplicateDocumentError,
    EngineClosedError,
    InputError,
    JournalDataError,
    JournalError,
    PipelineEngineError,
)
from pipeline_engine.journal import held
from pipeline_engine.resilience.ledger import Amount
from pipeline_engine.run.api import call_from_anywhere, engine_for, refuse_own, run_on_trio
from pipeline_engine.run.atomic import AtomicLines
from pipeline_engine.run.channel import ThreadChannel
from pipeline_engine.run.document import Document
from pipeline_engine.run.durable import DurableBatch, JournalOptions
from pipeline_engine.run.engine import DEFAULT_CAPACITY, Engine, document_key
from pipeline_engine.run.inside import WithoutSlot
from pipeline_engine.run.results import RunResult
from pipeline_engine.run.rows import rows_of
from pipeline_engine.run.seen import SeenKeys
from pipeline_engine.run.trio_thread import TrioThread
from pipeline_engine.schedule import only_error, outside_work
from pipeline_engine.values import Cost, Status, Usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from pipeline_engine.declare import Budget, Pipeline
    from pipeline_engine.journal import JournalPlace
    from pipeline_engine.plan import Plan
    from pipeline_engine.report import BatchTrace, Present
    from pipeline_engine.run.binding import BoundPlan, Models
    from pipeline_engine.run.runner import Runner
    from pipeline_engine.run.telling import Telling
    from pipeline_engine.schedule import BoundBudget
    from pipeline_engine.values import BatchOpened, OnChange, Redo, Sink

__all__ = [
    "BatchResult",
    "Document",
    "Documents",
    "iter_batch",
    "iter_batch_async",
    "run_batch",
    "run_batch_async",
]

_REMEMBERED_KEYS = 100_000
"""How many documents back a key is recognised as seen before; more would cost unbounded memory."""
_PULL_AHEAD = 64
"""How many documents are taken from an iterator in one go: each go costs a hop to a thread."""
_PULL_SECONDS = 0.005
"""How long one go lasts at most, so that a slow iterator does not hold up the documents it gave."""
_SAMPLE = 100
_RUNNER_CLOSED = "the closing of its runner"


Documents = Iterable[Mapping[str, Any] | Document] | AsyncIterable[Mapping[str, Any] | Document]
"""What a batch is given: mappings of inputs, or documents with keys."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Sum up a batch: counts, spend, errors and the slowest documents, never all of the results.

    Example:
        >>> from pipeline_engine import Pipeline, run_batch
        >>> pipeline = Pipeline("halve", inputs={"number": int})
        >>> @pipeline.step
        ... def half(number: int) -> float:
        ...     return 1 / number
        >>> batch = run_batch(pipeline, [{"number": n} for n in (2, 4, 0)])
        >>> batch.counts
        {'completed': 2, 'failed': 1}
    """

    documents: int
    """How many documents were run or refused, duplicates not counted."""
    duplicates: int
    """How many came a second time with equal content; they were not run again."""
    counts: Mapping[Status, int]
    """How many documents ended how."""
    elapsed: float
    """Seconds from the first admission to the last result."""
    usage: Usage
    """The tokens spent, as far as providers told."""
    cost: Cost
    """What the calls cost, as far as prices are known."""
    trace: BatchTrace = field(repr=False)
    """Where the time went, per step over all documents, with the slowest documents and grouped errors."""
    failed: tuple[tuple[str, str], ...]
    """Key and reason of the first hundred documents that did not complete."""
    sample: tuple[RunResult, ...] = field(repr=False)
    """The first five results."""
    out: Path | None = None
    """The file with every result."""
    stopped_by: str | None = None
    """What ended the batch early: its timeout, or its budget. None if nothing did."""
    journal: JournalPlace | None = field(default=None, repr=False)
    """The journal that keeps its results."""
    batch: str | None = None
    """Its id in the journal."""

    def _repr_html_(self) -> str:
        from pipeline_engine.report.notebook import batch_html

        return batch_html(self.counts, self.elapsed, self.cost, self.usage, self.trace, self.failed, self.stopped_by)

    @property
    def is_complete(self) -> bool:
        """Whether every document was read, and is completed."""
        return self.stopped_by is None and set(self.counts) <= {"completed"}

    @property
    def results(self) -> Iterator[dict[str, Any]]:
        """Every result in JSON's types.

        Read back from `out`, in the order in which they finished; without it from the journal, in the order of
        their keys. A document that a later batch has asked for is that batch's.

        Raises:
            LookupError: If the batch was run with neither `out=` nor `journal=`.
        """
        if self.out is not None:
            return _read_lines(self.out)
        if self.journal is None or self.batch is None:
            raise LookupError(
                'a batch keeps no results. Give run_batch(…, out="results.jsonl") or journal=, or use iter_batch(…).'
            )
        return _read_journal(self.journal, self.batch)


def _read_journal(journal: JournalPlace, batch: str) -> Iterator[dict[str, Any]]:
    from pipeline_engine.journal import batch_results, read_journal

    with read_journal(journal) as reader:
        yield from batch_results(reader, batch)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


# The core, on trio


class BatchStream:
    """Run a batch and hand over its results as documents finish; open it with `async with`.

    A document is admitted when a slot is free and nothing ready waits for it, and while fewer than
    `max_documents` are in flight. A result that nobody has taken yet counts as in flight, so a slow
    consumer stops admission. Leaving the block early cancels what is in flight.
    """

    def __init__(
        self,
        engine: Engine,
        bound: BoundPlan,
        documents: Documents,
        *,
        max_documents: int | None = None,
        timeout: float | None = None,
        document_timeout: float | None = None,
        priority: int = 0,
        budget: Budget | None = None,
        document_budget: Budget | None = None,
        estimates: Mapping[str, float] | None = None,
        journal: str | Path | JournalPlace | None = None,
        on_change: OnChange = "reuse",
        redo: Redo | None = None,
        command: Mapping[str, Any] | None = None,
        progress: Callable[[Present], object] | None = None,
        is_watched: bool = False,
    ) -> None:
        journal = held(journal)
        is_one = isinstance(documents, str | bytes | Mapping | Document)
        if is_one or not isinstance(documents, Iterable | AsyncIterable):
            got = type(documents).__name__
            raise TypeError(f"documents= takes an iterable of documents, not a {got}. Put a single one into a list.")
        if max_documents is not None and max_documents < 1:
            raise ValueError(f"max_documents={max_documents}: at least one document must be in flight.")
        self._engine = engine
        self._bound = bound
        self._documents = documents
        self._max_documents = max_documents or 4 * engine.capacity
        self._timeout = timeout
        self._document_timeout = document_timeout
        self._priority = priority
        self._budget = bound.budget(budget, "batch")
        self._document_budget = document_budget
        bound.budget(document_budget, "document")  # what is wrong with it is told now, not for each document
        self._estimates = engine.estimates(bound, estimates)
        self._journal = journal
        self._journal_options = JournalOptions(on_change, redo, command)
        self._durable: DurableBatch | None = None
        self._deferred: list[Document] = []
        self._suspects: deque[Document] = deque()
        self._pulling: trio.CancelScope | None = None
        self._has_read_all = False
        self._counts: dict[str, int] = {}
        self._deadline = math.inf
        self._seen = SeenKeys(_REMEMBERED_KEYS)
        self._unnamed = 0
        self._in_flight = 0
        self._has_place = trio.Event()
        # Whoever looks on costs some microseconds a step: nobody does where nobody has asked.
        self._telling: Telling | None = None
        if is_watched or journal is not None or progress is not None:
            from pipeline_engine.run.telling import Telling

            self._telling = Telling(self.present, progress)
        self._kept = 0
        self._failure: Exception | None = None
        self.duplicates = 0
        """How many documents came a second time with equal content."""
        self.stopped_by: str | None = None
        """What ended the batch early."""

    @property
    def batch(self) -> str | None:
        """The batch's id in its journal; None without one, and before it is open."""
        return None if self._durable is None else self._durable.batch

    @property
    def opened(self) -> BatchOpened | None:
        """What its journal has told when it began: what it has spent before, and what its pipeline was."""
        return None if self._durable is None else self._durable.opened

    @property
    def journal(self) -> JournalPlace | None:
        """Where its results are kept; None without a journal, and before it is open."""
        return None if self._durable is None else self._durable.place

    def present(self) -> Present:
        """Return the present moment, for those who look on.

        Raises:
            RuntimeError: If nobody does: it was made without `is_watched`, `progress=` and a journal.
        """
        if self._telling is None:
            raise RuntimeError("nobody looks on: make it with is_watched=True.")
        budget = self._budget
        opened = None if budget is None else self.opened
        return replace(
            self._telling.observer.present(
                trio.current_time(),
                documents=self._counts,
                queued=self._engine.scheduler.causes(self),
                models=self._engine.models_now(self._bound),
            ),
            kept=self._kept,
            total=len(self._documents) - self.duplicates if isinstance(self._documents, Sized) else None,
            capacity=self._engine.capacity,
            usd_before=0.0 if opened is None else opened.spent_micro_usd / 1_000_000,
            tokens_before=0 if opened is None else opened.spent_tokens,
            budget_usd=None if budget is None else budget.ledger.budget.usd,
            budget_tokens=None if budget is None else budget.ledger.budget.tokens,
            stopped_by=self.stopped_by,
        )

    def drain(self, reason: str) -> None:
        """Admit nothing more, let the calls on the wire finish, and end; what is open then waits to be resumed."""
        if self.stopped_by is None:
            self.stopped_by = reason
        self._engine.drain(self, reason)
        if self._pulling is not None:
            self._pulling.cancel()
        self._has_place.set()

    def stop_admitting(self, reason: str) -> None:
        """Admit nothing more, and end when what is in flight has ended; does nothing if all was admitted."""
        if self.stopped_by is not None or (self._has_read_all and not self._deferred):
            return
        self.stopped_by = reason
        if self._pulling is not None:
            self._pulling.cancel()
        self._has_place.set()

    async def __aenter__(self) -> Self:
        if self._timeout is not None:
            self._deadline = trio.current_time() + self._timeout
        self._send, self._receive = trio.open_memory_channel[RunResult](0)
        # A batch inside a step: the step holds no slot until the whole batch is over.
        self._without_slot = WithoutSlot(self._engine.scheduler)
        await self._without_slot.__aenter__()
        try:
            await self._begin()
        except BaseException:
            await self._without_slot.__aexit__(*sys.exc_info())
            raise
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        if self._telling is not None:
            self._telling.begin(self._nursery, self._durable)
        self._nursery.start_soon(self._feed)
        return self

    async def _begin(self) -> None:
        if self._journal is None:
            return
        self._durable = await self._engine.begin_batch(self._bound, self._journal, self._journal_options)
        if self._budget is not None:
            opened = self._durable.opened
            self._budget.ledger.charge(Amount(opened.spent_micro_usd / 1_000_000, opened.spent_tokens))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._nursery.cancel_scope.cancel()
        self._receive.close()
        # The nursery is told of a cancellation, which may be its own, and of nothing else that the body
        # raised: that leaves this block as it is, in no group.
        told = (kind, error, traceback) if isinstance(error, trio.Cancelled) else (None, None, None)
        try:
            is_absorbed = await self._manager.__aexit__(*told)
            return told[1] is not None and bool(is_absorbed)
        except BaseExceptionGroup as group:
            found = only_error(_told_once(group))
            if told[1] is not None or error is None or not isinstance(found, Exception):
                raise found from None
            return False
        finally:
            self._engine.forget(self)
            await self._without_slot.__aexit__(sys.exc_info()[0] or kind)

    def __aiter__(self) -> AsyncIterator[RunResult]:
        return self

    async def __anext__(self) -> RunResult:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from None
            raise StopAsyncIteration from None

    async def _feed(self) -> None:
        # Closed without a checkpoint: there an interrupt on its way out would be replaced by a cancellation.
        with self._send:
            try:
                await self._run_all()
            finally:
                if self._telling is not None:
                    self._telling.end()
            if self._durable is not None:
                is_done = self.stopped_by is None and self._failure is None and not self._counts.get("stopped")
                await self._durable.finish(self._counts, is_done=is_done)

    async def _run_all(self) -> None:
        async with trio.open_nursery() as nursery:
            try:
                async with aclosing(_pulled(self._documents)) as documents:
                    while (document := await self._next(documents)) is not None:
                        self._start(nursery, document)
            except Exception as error:  # noqa: BLE001 - told after the documents that came before it
                error.add_note("Raised by the iterable of documents; the documents before it were run.")
                self._failure = error
            await self._run_deferred(nursery)
        if self.stopped_by is None and self._budget is not None and self._budget.ledger.is_exhausted:
            self.stopped_by = self._budget.ledger.exhaustion  # all were read, and some of them stopped

    def _start(self, nursery: trio.Nursery, document: Document, *, is_alone: bool = False) -> None:
        self._in_flight += 1
        self._engine.scheduler.arriving += 1
        # The place is drawn here: trio starts tasks in an order of its own.
        place = self._engine.scheduler.next_document()
        nursery.start_soon(functools.partial(self._run_one, document, place, is_alone=is_alone))
        self._engine.scheduler.dispatch()  # there may be room for another batch's document, too

    async def _run_deferred(self, nursery: trio.Nursery) -> None:
        """Run what could not be run before: documents of other processes, and those that are to be run alone."""
        while self._durable is not None and self.stopped_by is None:
            while self._in_flight and not self._deferred:
                self._has_place = trio.Event()
                await self._has_place.wait()
            if self._deferred:
                # They may have ended meanwhile, or their process may have.
                with trio.CancelScope(deadline=self._deadline) as self._pulling:
                    await trio.sleep(self._durable.pause)
                deferred, self._deferred = self._deferred, []
                for document in deferred:
                    await self._wait_for_place()
                    self._start(nursery, document)
            elif self._suspects:
                self._start(nursery, self._suspects.popleft(), is_alone=True)
            else:
                return

    async def _next(self, documents: AsyncGenerator[Mapping[str, Any] | Document, None]) -> Document | None:
        """Return the next document once it may be admitted; None at the end, or when time is up."""
        if self.stopped_by is not None:
            return None
        with trio.CancelScope(deadline=self._deadline) as self._pulling:
            async for document in documents:
                named = self._named(document)
                if named is not None:
                    await self._wait_for_place()
                    await self._engine.scheduler.wait_for_room(self._priority, self)
                    if self._budget is not None and self._budget.ledger.is_exhausted:
                        self.stopped_by = self._budget.ledger.exhaustion
                        return None
                    if trio.current_time() < self._deadline:
                        return named
                    break
            else:
                self._has_read_all = True
                return None
        if self.stopped_by is None:
            self.stopped_by = f"the batch's timeout of {self._timeout:g} s"
        return None

    async def _wait_for_place(self) -> None:
        while self._in_flight >= self._max_documents:
            self._has_place = trio.Event()
            await self._has_place.wait()

    def _named(self, document: Mapping[str, Any] | Document) -> Document | None:
        """Return the document with its key; None if it was seen before with equal content."""
        if not isinstance(document, Document | Mapping):
            self._unnamed += 1
            got = type(document).__name__
            reason = f"a document is a mapping of inputs or a Document(key, inputs), not a {got}."
            return Document(f"document-{self._unnamed}", {}, InputError(self._bound.plan.name, [reason]))
        if not isinstance(document, Document):
            content = document_key(document)
            if content is None:
                # Without a hash nothing can be said about equality.
                self._unnamed += 1
                return Document(f"document-{self._unnamed}", document)
            named = Document(content, document)
        else:
            named, content = document, document_key(document.inputs)
        met = self._seen.meet(named.key, content)
        if met == "new":
            return named
        if met == "same":
            self.duplicates += 1
            return None
        return Document(named.key, {}, DuplicateDocumentError(named.key))

    async def _run_one(self, document: Document, place: int, *, is_alone: bool = False) -> None:
        self._engine.scheduler.arriving -= 1
        try:
            try:
                result = await self._result_of(document, place, is_alone=is_alone)
            except DocumentBusyError as error:
                if error.worker is None:
                    self._suspects.append(document)
                else:
                    self._deferred.append(document)
                self._engine.scheduler.dispatch()  # it takes no slot, so the next document may come
                return
            self._engine.scheduler.dispatch()  # it may have taken no slot at all
            self._counts[result.status] = self._counts.get(result.status, 0) + 1
            self._kept += result.has_ended_before
            await self._send.send(result)
        finally:
            self._in_flight -= 1
            self._has_place.set()

    async def _result_of(self, document: Document, place: int, *, is_alone: bool) -> RunResult:
        if document.error is not None:
            return await self._refused(document, document.error)
        timeout, stopped_by = self._patience()
        try:
            return await self._engine.run_bound(
                self._bound,
                document.inputs,
                key=document.key,
                timeout=timeout,
                stopped_by=stopped_by,
                priority=self._priority,
                group=self,
                place=place,
                budgets=self._budgets(),
                estimates=self._estimates,
                durable=self._durable,
                redo=self._journal_options.redo,
                source=document.source,
                is_alone=is_alone,
                sinks=() if self._telling is None else (self._telling.observer,),
            )
        except JournalDataError as damage:
            return RunResult.refused(self._bound.plan, document.key, damage)
        except (JournalError, DocumentBusyError, EngineClosedError):
            raise
        except PipelineEngineError as error:  # inputs that do not fit: this document's error alone
            return await self._refused(document, error)

    async def _refused(self, document: Document, error: Exception) -> RunResult:
        # A key that came a second time names the first document there, which is not to be touched.
        if self._durable is not None and not isinstance(error, DuplicateDocumentError):
            await self._durable.refuse(document.key, error, "")
        return RunResult.refused(self._bound.plan, document.key, error)

    def _budgets(self) -> tuple[BoundBudget, ...]:
        own = self._bound.budget(self._document_budget, "document")
        return tuple(budget for budget in (own, self._budget) if budget is not None)

    def _patience(self) -> tuple[float | None, str | None]:
        """Return the seconds that a document has, and whose timeout that is."""
        own = self._document_timeout
        left = max(0.0, self._deadline - trio.current_time())
        if self._timeout is not None and (own is None or left < own):
            return left, f"the batch's timeout of {self._timeout:g} s"
        return own, None if own is None else f"the document's timeout of {own:g} s"


def _told_once(group: BaseExceptionGroup[BaseException]) -> BaseExceptionGroup[BaseException]:
    """Return what has ended a batch, without what else says the same: all its documents learn that a journal failed."""
    failures, others = group.split(JournalError)
    if failures is None:
        return group
    # The last one has counted what came after the first, too.
    last = max(_errors_in(failures), key=lambda error: getattr(error, "unsaved", 0))
    return BaseExceptionGroup("", [last, *([] if others is None else [others])])


def _errors_in(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _errors_in(error)
        else:
            yield error


async def _pulled(documents: Documents) -> AsyncGenerator[Mapping[str, Any] | Document]:
    """Yield the documents; an iterator is advanced in a thread, because it may read files or a database."""
    if isinstance(documents, AsyncIterable):
        try:
            async for document in documents:
                yield document
        finally:
            if isinstance(documents, AsyncGenerator):  # it may hold a file or a connection
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 5.0):
                    await documents.aclose()
    elif isinstance(documents, Sequence):
        for document in documents:
            yield document
    else:
        iterator = iter(documents)
        while True:
            with outside_work():
                items, error = await trio.to_thread.run_sync(_next_chunk, iterator)
            for document in items:
                yield document
            if error is not None:
                raise error
            if not items:
                return


def _next_chunk(
    iterator: Iterator[Mapping[str, Any] | Document],
) -> tuple[list[Mapping[str, Any] | Document], Exception | None]:
    items: list[Mapping[str, Any] | Document] = []
    enough_at = time.perf_counter() + _PULL_SECONDS
    try:
        for item in iterator:
            items.append(item)  # one by one: an error must not lose the items before it
            if len(items) == _PULL_AHEAD or time.perf_counter() > enough_at:
                break
    except Exception as error:  # noqa: BLE001 - told after the documents that came before it
        return items, error
    return items, None


class _Collector:
    """Sum up results one by one, in memory that does not grow with their number."""

    def __init__(self, out: Path | None, rows: Path | None) -> None:
        from pipeline_engine.report import Totals

        self._out = out
        self._file: TextIO | None = None
        self._rows = None if rows is None else AtomicLines(rows)
        self._totals = Totals()
        self._counts: dict[Status, int] = {}
        self._usage = Usage()
        self._cost = Cost()
        self._failed: list[tuple[str, str]] = []
        self._sample: list[RunResult] = []

    def __enter__(self) -> Self:
        if self._out is not None:
            # Lone surrogates, which UTF-8 cannot hold, become the escapes that JSON has for them.
            self._file = self._out.open("w", encoding="utf-8", errors="backslashreplace")
        if self._rows is not None:
            self._rows.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._rows is not None:
            self._rows.__exit__(kind, error, traceback)

    def add(self, result: RunResult) -> None:
        self._counts[result.status] = self._counts.get(result.status, 0) + 1
        if result.records:
            self._totals.add(result.trace)
            self._usage += result.usage
            self._cost += result.cost
        if result.status != "completed" and len(self._failed) < _SAMPLE:
            self._failed.append((result.document, result.reason))
        if len(self._sample) < 5:
            self._sample.append(result)
        if self._file is not None:
            # One write for each line, so that a crash leaves whole lines.
            self._file.write(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")
            self._file.flush()
        if self._rows is not None:
            for row in rows_of(result):
                self._rows.write(row)

    def result(self, stream: BatchStream, elapsed: float) -> BatchResult:
        return BatchResult(
            documents=sum(self._counts.values()),
            duplicates=stream.duplicates,
            counts=dict(sorted(self._counts.items())),
            elapsed=elapsed,
            usage=self._usage,
            cost=self._cost,
            trace=self._totals.result(),
            failed=tuple(self._failed),
            sample=tuple(self._sample),
            out=self._out,
            stopped_by=stream.stopped_by,
            journal=stream.journal,
            batch=stream.batch,
        )


async def _run_batch(
    engine: Engine,
    dag: Pipeline | Plan,
    documents: Documents,
    *,
    models: Models | None,
    out: Path | None,
    rows: Path | None,
    **options: Any,
) -> BatchResult:
    bound = engine.bind(dag, models)
    started_at = trio.current_time()
    with _Collector(out, rows) as collector:
        async with BatchStream(engine, bound, documents, **options) as stream:
            async for result in stream:
                collector.add(result)
        return collector.result(stream, trio.current_time() - started_at)


# For users


async def run_batch_async(
    dag: Pipeline | Plan,
    documents: Documents,
    *,
    models: Models | None = None,
    capacity: int | None = None,
    sinks: Sequence[Sink] = (),
    max_documents: int | None = None,
    out: str | Path | None = None,
    rows: str | Path | None = None,
    timeout: float | None = None,
    document_timeout: float | None = None,
    priority: int = 0,
    budget: Budget | None = None,
    document_budget: Budget | None = None,
    estimates: Mapping[str, float] | None = None,
    journal: str | Path | JournalPlace | None = None,
    on_change: OnChange = "reuse",
    redo: Redo | None = None,
    progress: Callable[[Present], object] | None = None,
    engine: Engine | None = None,
) -> BatchResult:
    """Run many documents and sum up how they ended; works under trio and under asyncio.

    See `run_batch` for the arguments.

    Raises:
        PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
        TypeError: If `engine` is given together with `capacity` or `sinks`, which are an engine's own.
        Exception: What the iterable of documents raises, after the documents before it were run.
    """
    journal = held(journal)
    return await run_on_trio(
        engine_for,
        engine,
        capacity,
        sinks,
        _run_batch,
        dag,
        documents,
        models=models,
        out=None if out is None else Path(out),
        rows=None if rows is None else Path(rows),
        max_documents=max_documents,
        timeout=timeout,
        document_timeout=document_timeout,
        priority=priority,
        budget=budget,
        document_budget=document_budget,
        estimates=estimates,
        journal=journal,
        on_change=on_change,
        redo=redo,
        progress=progress,
    )


def run_batch(
    dag: Pipeline | Plan,
    documents: Iterable[Mapping[str, Any] | Document],
    *,
    models: Models | None = None,
    capacity: int | None = None,
    sinks: Sequence[Sink] = (),
    max_documents: int | None = None,
    out: str | Path | None = None,
    rows: str | Path | None = None,
    timeout: float | None = None,
    document_timeout: float | None = None,
    priority: int = 0,
    budget: Budget | None = None,
    document_budget: Budget | None = None,
    estimates: Mapping[str, float] | None = None,
    journal: str | Path | JournalPlace | None = None,
    on_change: OnChange = "reuse",
    redo: Redo | None = None,
    progress: Callable[[Present], object] | None = None,
    engine: Runner | None = None,
) -> BatchResult:
    """Run many documents and sum up how they ended, in memory bounded by what is in flight.

    A document's failure never raises and never affects another one. A key seen twice with equal
    content is run once; with other content it is that document's error (keys are remembered for the
    last 100,000 documents).

    Args:
        dag: A pipeline, or its plan.
        documents: Mappings of inputs, or `Document(key, inputs)`; any iterable, also a generator of
            millions, which is advanced in a thread of its own.
        models: For each role of the pipeline a model, or several that are tried in order.
        capacity: How many attempts may be in flight at once; 64 if not given.
        sinks: Readers of the records of all runs, such as `OpenTelemetry()`.
        max_documents: How many documents may be in flight at once; four times the capacity if not given.
        out: A file that gets each result as a line of JSON as soon as it is there.
        rows: A file of flat rows, one for each document and step, as tables and data frames have them; it is
            written whole when the batch ends, however it does.
        timeout: Seconds for the whole batch; documents in flight are then `stopped`.
        document_timeout: Seconds for each document.
        priority: Higher goes first, where the engine is shared.
        budget: Caps what the whole batch may spend; with "stop", documents that had no room are not run.
        document_budget: Caps what each document may spend.
        estimates: Seconds that steps take, by their names; what the batch's first documents took is used
            if not given.
        journal: A path (SQLite), a postgresql:// address or a journal object. What is finished is kept there, so
            that the same batch, run again, does only what is missing.
        on_change: What becomes of saved outputs when the pipeline has changed: "reuse" keeps those of unchanged
            steps, "error" refuses, "keep" keeps all by their steps' names, "new" begins anew.
        redo: Runs documents again that have ended: those that "failed", or those with outputs of "fallbacks".
        progress: Called with the present moment ten times a second, such as `show_progress()`, which shows it; on the
            engine's thread, so it must be quick.
        engine: A runner to run on, instead of an engine for this batch alone.

    Raises:
        PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
        TypeError: If `engine` is given together with `capacity` or `sinks`, which are an engine's own.
        JournalError: If the journal cannot be opened or written: a batch does not go on without it.
        PlanChangedError: With `on_change="error"`, if the pipeline is not what it was.
        Exception: What the iterable of documents raises, after the documents before it were run.
    """
    journal = held(journal)
    options: dict[str, Any] = {
        "models": models,
        "out": None if out is None else Path(out),
        "rows": None if rows is None else Path(rows),
        "max_documents": max_documents,
        "timeout": timeout,
        "document_timeout": document_timeout,
        "priority": priority,
        "budget": budget,
        "document_budget": document_budget,
        "estimates": estimates,
        "journal": journal,
        "on_change": on_change,
        "redo": redo,
        "progress": progress,
    }
    if engine is not None:
        refuse_own(capacity, sinks)
        return engine.call(_run_batch, dag, documents, **options)
    return call_from_anywhere(
        functools.partial(engine_for, None, capacity, sinks, _run_batch, dag, documents, **options), "run_batch"
    )


class AsyncBatch:
    """Iterate over results as documents finish: `async with iter_batch_async(…) as results`."""

    def __init__(
        self, engine: Engine | None, capacity: int | None, sinks: Sequence[Sink], *arguments: Any, **options: Any
    ) -> None:
        self._given = engine
        self._own: Engine | None = None
        if engine is not None:
            refuse_own(capacity, sinks)
        else:
            self._own = Engine(capacity=DEFAULT_CAPACITY if capacity is None else capacity, sinks=sinks)
        self._arguments = arguments
        self._options = options

    def __aiter__(self) -> AsyncIterator[RunResult]:
        raise TypeError("iter_batch_async(…) is opened first: `async with iter_batch_async(…) as results:`.")

    async def __aenter__(self) -> AsyncIterator[RunResult]:
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "iter_batch_async(…) runs under trio. Under asyncio, iterate over iter_batch(…) in a thread."
            )
        engine = self._given if self._given is not None else self._own
        if engine is None:
            raise AssertionError("there is one engine or the other")
        if self._own is not None:
            await self._own.__aenter__()
        dag, documents, models = self._arguments
        try:
            self._stream = BatchStream(engine, engine.bind(dag, models), documents, **self._options)
            return await self._stream.__aenter__()
        except BaseException:
            if self._own is not None:
                await self._own.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            return await self._stream.__aexit__(kind, error, traceback)
        finally:
            if self._own is not None:
                await self._own.__aexit__(kind, error, traceback)


def iter_batch_async(
    dag: Pipeline | Plan,
    documents: Documents,
    *,
    models: Models | None = None,
    capacity: int | None = None,
    sinks: Sequence[Sink] = (),
    max_documents: int | None = None,
    timeout: float | None = None,
    document_timeout: float | None = None,
    priority: int = 0,
    budget: Budget | None = None,
    document_budget: Budget | None = None,
    estimates: Mapping[str, float] | None = None,
    journal: str | Path | JournalPlace | None = None,
    on_change: OnChange = "reuse",
    redo: Redo | None = None,
    engine: Engine | None = None,
) -> AsyncBatch:
    """Run many documents under trio and hand over each result as its document finishes.

    See `run_batch` for the arguments. Leaving the block early cancels what is in flight, and a slow
    consumer stops admission.

    Example:
        >>> import trio
        >>> from pipeline_engine import Pipeline
        >>> pipeline = Pipeline("double", inputs={"number": int})
        >>> @pipeline.step
        ... async def doubled(number: int) -> int:
        ...     return number * 2
        >>> async def main():
        ...     async with iter_batch_async(pipeline, [{"number": n} for n in range(3)]) as results:
        ...         return sorted([result[doubled] async for result in results])
        >>> trio.run(main)
        [0, 2, 4]
    """
    journal = held(journal)
    return AsyncBatch(
        engine,
        capacity,
        sinks,
        dag,
        documents,
        models,
        max_documents=max_documents,
        timeout=timeout,
        document_timeout=document_timeout,
        priority=priority,
        budget=budget,
        document_budget=document_budget,
        estimates=estimates,
        journal=journal,
        on_change=on_change,
        redo=redo,
    )


class Batch:
    """Iterate over results as documents finish, from sync code; also a context manager."""

    def __init__(
        self, runner: Runner | None, capacity: int | None, sinks: Sequence[Sink], *arguments: Any, **options: Any
    ) -> None:
        self._runner = runner
        self._own: TrioThread | None = None
        self._results: ThreadChannel[RunResult] = ThreadChannel(1)

        async def perform(engine: Engine) -> None:
            await self._perform(engine, *arguments, **options)

        if runner is not None:
            refuse_own(capacity, sinks)
            self._future = runner.start(perform)
        else:
            self._own = TrioThread("pipeline_engine batch", is_daemon=True)
            self._own.start()
            self._future = self._own.submit(engine_for, None, capacity, sinks, perform)
        self._future.add_done_callback(lambda _future: self._results.close())
        self._is_over = False

    async def _perform(
        self, engine: Engine, dag: Pipeline | Plan, documents: Documents, models: Models | None, **options: Any
    ) -> None:
        async with BatchStream(engine, engine.bind(dag, models), documents, **options) as stream:

            def wind_up() -> None:
                """Wait for a reader no longer: what is in flight comes to its end, and is kept for it."""
                stream.stop_admitting(_RUNNER_CLOSED)
                self._results.unbound()

            with contextlib.nullcontext() if self._runner is None else self._runner.when_closing(wind_up):
                async for result in stream:
                    await self._results.send(result)
        if stream.stopped_by == _RUNNER_CLOSED:
            raise EngineClosedError(
                "runner",
                "was closed before the batch had ended. What was in flight came to its end; run the others again.",
            )

    def __iter__(self) -> Iterator[RunResult]:
        return self

    def __next__(self) -> RunResult:
        if self._is_over:
            raise StopIteration
        result = self._results.receive()
        if result is not None:
            return result
        self._is_over = True
        self._leave()
        self._future.result()
        raise StopIteration

    def close(self) -> None:
        """Cancel what is in flight and wait until it has left. Does nothing the second time."""
        if not self._is_over:
            self._is_over = True
            self._future.cancel()
            self._leave()

    def _leave(self) -> None:
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Left without `with`: at least nothing more is started and paid for.
        future = getattr(self, "_future", None)
        if future is not None and not self._is_over:
            future.cancel()


def iter_batch(
    dag: Pipeline | Plan,
    documents: Iterable[Mapping[str, Any] | Document],
    *,
    models: Models | None = None,
    capacity: int | None = None,
    sinks: Sequence[Sink] = (),
    max_documents: int | None = None,
    timeout: float | None = None,
    document_timeout: float | None = None,
    priority: int = 0,
    budget: Budget | None = None,
    document_budget: Budget | None = None,
    estimates: Mapping[str, float] | None = None,
    journal: str | Path | JournalPlace | None = None,
    on_change: OnChange = "reuse",
    redo: Redo | None = None,
    engine: Runner | None = None,
) -> Batch:
    """Run many documents and yield each result as its document finishes.

    It begins at once, on a thread of its own. See `run_batch` for the arguments. Use it in a `with`
    block where you may leave early: that cancels what is in flight. A slow consumer stops admission.

    Raises:
        TypeError: If `engine` is given together with `capacity` or `sinks`, which are an engine's own.
        PlanError: At the first result, if the pipeline cannot be compiled or bound.

    Example:
        >>> from pipeline_engine import Pipeline
        >>> pipeline = Pipeline("double", inputs={"number": int})
        >>> @pipeline.step
        ... def doubled(number: int) -> int:
        ...     return number * 2
        >>> with iter_batch(pipeline, ({"number": n} for n in range(3))) as results:
        ...     sorted(result[doubled] for result in results)
        [0, 2, 4]
    """
    journal = held(journal)
    return Batch(
        engine,
        capacity,
        sinks,
        dag,
        documents,
        models,
        max_documents=max_documents,
        timeout=timeout,
        document_timeout=document_timeout,
        priority=priority,
        budget=budget,
        document_budget=document_budget,
        estimates=estimates,
        journal=journal,
        on_change=on_change,
        redo=redo,
    )
