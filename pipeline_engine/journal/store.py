"""What a journal does to its tables, in SQL that SQLite and PostgreSQL share. All of it runs on one thread."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_engine.errors import JournalDataError, JournalError
from pipeline_engine.journal.keys import digest
from pipeline_engine.journal.processes import Process, has_died
from pipeline_engine.journal.saved import saved_calls, saved_outputs
from pipeline_engine.journal.text import from_name, to_name, to_prose
from pipeline_engine.values import (
    Answer,
    AttemptEnded,
    AttemptSent,
    BatchBegun,
    BatchEnded,
    BatchOpened,
    Busy,
    CachedReply,
    CallFinished,
    CallsVoided,
    Claim,
    Claimed,
    DocumentEnded,
    Ended,
    Entry,
    FindReply,
    OutputAccepted,
    ProgressTold,
    ReplyCached,
    RunRecorded,
    Suspected,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["MAX_CRASHES", "Store"]

MAX_CRASHES = 3
"""After so many processes that ended while they worked on a document, and got no further, it is parked."""
_MOST = 10**15
"""What a call may have cost or taken at most: a thousand million dollars. Larger numbers are cut, since some server
will tell them, and sums over a batch have to fit into 64 bits."""
_WENT_BACK = (
    "it does not know any more what it has acknowledged, as after a failover to a copy that lags behind; "
    "what was written since then has to be looked for there"
)
_POISON = "it has ended {count} processes in a row at the same place, so it is not tried again by itself"

T = TypeVar("T")

# Entries are applied kind by kind, so that the rows of a kind are written in one go. This order keeps what one entry
# may need of another; `_in_order` parts those that it would not keep.
_ORDER: tuple[type[Any], ...] = (
    BatchBegun,
    Claim,
    FindReply,
    AttemptSent,
    CallFinished,
    AttemptEnded,
    CallsVoided,
    OutputAccepted,
    ReplyCached,
    RunRecorded,
    DocumentEnded,
    ProgressTold,
    BatchEnded,
)
_PLACE = {kind: place for place, kind in enumerate(_ORDER)}

_INSERT_ATTEMPT = """
insert into attempts(pipeline, document, run, step, item, attempt, model, started_at)
values(?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing"""
_END_ATTEMPT = """
insert into attempts(pipeline, document, run, step, item, attempt, model, started_at, ended_at, kind, message, status,
  billed)
values(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict(pipeline, document, run, step, item, attempt) do update set ended_at = excluded.ended_at,
  kind = excluded.kind, message = excluded.message, status = excluded.status, billed = excluded.billed"""
_INSERT_CALL = """
insert into calls(pipeline, document, call_key, request, ordinal, batch, run, step, item, attempt, model, prompt,
  reply, reply_sha, usage, tokens, cost_micro_usd, finished_at, is_void)
values(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0) on conflict do nothing"""
_VOID_CALL = "update calls set is_void = 1 where pipeline = ? and document = ? and call_key = ?"
_INSERT_OUTPUT = """
insert into step_outputs(pipeline, document, step, item, step_key, output, output_sha, call_keys, via, fence, run,
  accepted_at)
select pipeline, document, {text}, {big}, {text}, {blob}, {text}, {blob}, {text}, fence, {text}, {real}
from documents where pipeline = ? and document = ? and fence = ?{for_share}
on conflict(pipeline, document, step, item, step_key) do update set output = excluded.output,
  output_sha = excluded.output_sha, call_keys = excluded.call_keys, via = excluded.via, fence = excluded.fence,
  run = excluded.run, accepted_at = excluded.accepted_at"""
_END_DOCUMENT = """
update documents set status = ?, outcomes = ?, reason = ?, elapsed = ?, usage = ?, cost_micro_usd = ?,
  unpriced_calls = ?, run = ?, ended_at = ?, worker = null
where pipeline = ? and document = ? and fence = ?"""
_SELECT_DOCUMENT = """
select content, status, plan, batch, worker, fence, marks, crash_count from documents
where pipeline = ? and document = ?"""
_SELECT_WORKER = "select beat, is_open, place, pid, birth from workers where worker = ?"
_INSERT_REPLY = """
insert into cached_replies(namespace, request, ordinal, model, reply, reply_sha, cached_at)
values(?, ?, ?, ?, ?, ?, ?)
on conflict(namespace, request, ordinal) do update set model = excluded.model, reply = excluded.reply,
  reply_sha = excluded.reply_sha, cached_at = excluded.cached_at"""

_INSERT_RUN = """
insert into runs(pipeline, document, run, batch, records, ended_at)
values(?, ?, ?, ?, ?, ?) on conflict do nothing"""
_TELL_PROGRESS = """
insert into progress(batch, worker, progress, told_at)
values(?, ?, ?, ?)
on conflict(batch, worker) do update set progress = excluded.progress, told_at = excluded.told_at"""


class Store(ABC):
    """Apply entries to the tables of one database.

    Args:
        worker: The name under which documents are claimed.
        is_exclusive: Whether no other process may write to the database: then every other worker is dead.
    """

    types: dict[str, str]
    """The database's names for bytes, floats, integers and text."""

    def __init__(self, worker: str, *, is_exclusive: bool) -> None:
        self.worker = worker
        self._is_exclusive = is_exclusive
        self._beats = 0
        self._held: dict[tuple[str, str], int] = {}
        self._claiming: set[tuple[str, str]] = set()
        typed = {name: self.typed_parameter(kind) for name, kind in self.types.items()}
        self._select_document = _SELECT_DOCUMENT + self.for_update()
        self._insert_output = _INSERT_OUTPUT.format(**typed, for_share=self.for_share())

    # What a database must do

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction that may write."""

    @abstractmethod
    def commit(self) -> None:
        """Make the transaction durable."""

    @abstractmethod
    def rollback(self) -> None:
        """Take the transaction back."""

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it has changed."""

    @abstractmethod
    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement for each row and return how many rows have changed in all."""

    @abstractmethod
    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement finds."""

    @abstractmethod
    def close(self) -> None:
        """Part with the database. Nothing may be called afterwards."""

    def typed_parameter(self, kind: str) -> str:
        """Return a parameter in a place where the database cannot guess its type."""
        del kind
        return "?"

    def for_update(self) -> str:
        """Return what makes a `select` keep others from changing the row, where that is needed."""
        return ""

    def for_share(self) -> str:
        """Return what makes a `select` keep the row as it is until the transaction ends, where that is needed."""
        return ""

    def lock(self, table: str) -> None:
        """Keep others from writing a table until the transaction ends, where that is needed."""
        del table

    def transact(self, work: Callable[[], T]) -> T:
        """Do some work in one transaction, and return what it returns once that is durable.

        The work may be done more than once: a database may ask for it again, or fall silent in the midst of a commit,
        so that nobody knows whether it was done. All work here therefore leads to the same rows the second time.
        """
        self.begin()
        try:
            result = work()
        except BaseException:
            self.rollback()
            raise
        self.commit()
        return result

    def compact(self) -> None:  # noqa: B027 - most do it by themselves
        """Give back what deleted rows have taken."""

    def maintain(self) -> None:  # noqa: B027 - most need no care
        """Look after the database between two groups of entries. Raises if it can be written no more."""

    # Workers

    def open_worker(self, process: Process, at: float) -> None:
        """Make this process known, so that it can claim documents."""

        def work() -> None:
            self.execute(
                "insert into workers(worker, place, pid, birth, opened_at, beat, is_open) values(?, ?, ?, ?, ?, 0, 1) "
                "on conflict do nothing",
                (self.worker, *process, at),
            )
            if self._is_exclusive:
                self.execute("update workers set is_open = 0 where worker <> ?", (self.worker,))

        self.transact(work)

    def beat(self) -> None:
        """Give a sign of life.

        Raises:
            JournalError: If the database has forgotten an earlier one.
        """
        self._beats = self.transact(self._next_beat)

    def _next_beat(self) -> int:
        """Count one more sign of life.

        Raises:
            JournalError: If the database has not kept the last one that it has acknowledged.
        """
        found = self.query("update workers set beat = beat + 1 where worker = ? returning beat", (self.worker,))
        if not found or found[0][0] <= self._beats:
            raise JournalError(_WENT_BACK)
        beat: int = found[0][0]
        return beat

    def close_worker(self) -> None:
        """Take leave: what this process still holds may be claimed at once."""

        def work() -> None:
            # Documents first, as in a claim: who locks in one order never waits in a ring.
            self.execute(
                "update documents set status = 'queued', worker = null where worker = ? and status = 'processing'",
                (self.worker,),
            )
            self.execute("update workers set is_open = 0 where worker = ?", (self.worker,))

        self.transact(work)

    def lost_claims(self) -> set[tuple[str, str]]:
        """Return the documents that this process held, and another one has taken over."""

        def work() -> list[tuple[Any, ...]]:
            return self.query(
                "select pipeline, document, fence from documents where worker = ? and status = 'processing'",
                (self.worker,),
            )

        held = {(pipeline, document): fence for pipeline, document, fence in self.transact(work)}
        return {
            (pipeline, document)
            for (pipeline, document), fence in self._held.items()
            if held.get((to_name(pipeline), to_name(document))) != fence
        }

    # Entries

    def apply(self, entries: Sequence[Entry]) -> list[Answer]:
        """Apply entries in one transaction, and return their answers once it is durable."""
        answers = self.transact(lambda: self._apply(entries))
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, Claimed) and isinstance(entry, Claim):
                self._held[entry.pipeline, entry.document] = answer.fence
            elif isinstance(entry, DocumentEnded) and self._held.get((entry.pipeline, entry.document)) == entry.fence:
                del self._held[entry.pipeline, entry.document]
        return answers

    def _apply(self, entries: Sequence[Entry]) -> list[Answer]:
        answers: list[Answer] = [None] * len(entries)
        self._claiming.clear()
        for places in _in_order(entries):
            places.sort(key=lambda place: _PLACE[type(entries[place])])
            for kind, group in groupby(places, key=lambda place: type(entries[place])):
                self._apply_kind(kind, entries, list(group), answers)
        return answers

    def _apply_kind(self, kind: type[Any], entries: Sequence[Any], places: list[int], answers: list[Answer]) -> None:
        of_kind = [entries[place] for place in places]
        if kind is AttemptSent:
            self.execute_many(_INSERT_ATTEMPT, [_attempt_row(entry) for entry in of_kind])
        elif kind is CallFinished:
            self.execute_many(_INSERT_CALL, [_call_row(entry) for entry in of_kind])
        elif kind is AttemptEnded:
            self.execute_many(_END_ATTEMPT, [_attempt_end_row(entry) for entry in of_kind])
        elif kind is CallsVoided:
            keys = [(*_place(entry), to_name(key)) for entry in of_kind for key in entry.keys]
            self.execute_many(_VOID_CALL, keys)
        elif kind is OutputAccepted:
            self._fenced(self._insert_output, [_output_row(entry) for entry in of_kind], of_kind, places, answers)
        elif kind is DocumentEnded:
            self._fenced(_END_DOCUMENT, [_document_row(entry) for entry in of_kind], of_kind, places, answers)
        elif kind is ReplyCached:
            # Sorted: who locks in one order never waits in a ring.
            of_kind.sort(key=_reply_key)
            self.execute_many(_INSERT_REPLY, [_reply_row(entry) for entry in of_kind])
        elif kind is RunRecorded:
            self.execute_many(_INSERT_RUN, [_run_row(entry) for entry in of_kind])
        elif kind is ProgressTold:
            rows = [(to_name(entry.batch), self.worker, entry.progress, entry.at) for entry in of_kind]
            self.execute_many(_TELL_PROGRESS, rows)
        elif kind is BatchEnded:
            for entry in of_kind:
                self._end_batch(entry)
        else:
            ways: dict[type[Any], Callable[[Any], Answer]]
            ways = {Claim: self._claim, FindReply: self._find_reply, BatchBegun: self._begin_batch}
            if kind is Claim:
                places = sorted(places, key=lambda place: _place(entries[place]))  # as above
            for place in places:
                answers[place] = ways[kind](entries[place])

    def _fenced(
        self, sql: str, rows: list[tuple[Any, ...]], entries: list[Any], places: list[int], answers: list[Answer]
    ) -> None:
        """Write rows that count only as long as the document is the writer's; say of which it still was."""
        is_all = self.execute_many(sql, rows) == len(rows)
        for place, entry in zip(places, entries, strict=True):
            answers[place] = is_all or self._is_mine(entry)

    def _is_mine(self, entry: OutputAccepted | DocumentEnded) -> bool:
        found = self.query("select fence from documents where pipeline = ? and document = ?", _place(entry))
        fence = found[0][0] if found else 0
        if fence < entry.fence and self._held.get((entry.pipeline, entry.document)) == entry.fence:
            raise JournalError(_WENT_BACK)
        return bool(fence == entry.fence)

    # Batches

    def _begin_batch(self, entry: BatchBegun) -> BatchOpened:
        self.lock("batches")  # two processes that begin the same batch at once share it
        found = self.query(
            "select batch, state, plan, parts from batches where pipeline = ? and is_single = ? and batch <> ? "
            "order by created_at desc limit 1",
            (to_name(entry.pipeline), int(entry.is_single), to_name(entry.batch)),
        )
        last, state, plan, parts = found[0] if found else ("", "done", to_name(entry.plan), b"")
        if entry.refuses_change and plan != to_name(entry.plan):
            return BatchOpened("", bytes(parts), 0, 0)
        if entry.is_single or state == "done":
            self.execute(
                "insert into batches(batch, pipeline, plan, parts, command, engine_version, is_single, created_at, "
                "state, counts) values(?, ?, ?, ?, ?, ?, ?, ?, 'open', ?) on conflict do nothing",
                (
                    to_name(entry.batch),
                    to_name(entry.pipeline),
                    to_name(entry.plan),
                    entry.parts,
                    entry.command,
                    to_prose(entry.version),
                    int(entry.is_single),
                    entry.at,
                    b"{}",
                ),
            )
            return BatchOpened(entry.batch, bytes(parts), 0, 0)
        # A batch that has not ended goes on: it is the same batch, and what it has spent counts.
        self.execute(
            "update batches set state = 'open', plan = ?, parts = ?, command = ? where batch = ?",
            (to_name(entry.plan), entry.parts, entry.command, last),
        )
        usd, tokens = self.query(
            "select coalesce(sum(cost_micro_usd), 0), coalesce(sum(tokens), 0) from calls where batch = ?", (last,)
        )[0]
        return BatchOpened(from_name(last), bytes(parts), int(usd), int(tokens))

    def _end_batch(self, entry: BatchEnded) -> None:
        self.execute(
            "update batches set state = ?, ended_at = ?, counts = ? where batch = ?",
            ("done" if entry.is_done else "stopped", entry.at, entry.counts, to_name(entry.batch)),
        )

    # Documents

    def _claim(self, claim: Claim) -> Claimed | Busy | Suspected | Ended | JournalDataError:
        try:
            return self._claim_intact(claim)
        except JournalDataError as damage:
            return damage  # the concern of whoever wants this document, and of nobody else

    def _claim_intact(self, claim: Claim) -> Claimed | Busy | Suspected | Ended:
        place = (to_name(claim.pipeline), to_name(claim.document))
        inputs = self._store_inputs(claim)
        source = None if claim.source is None else to_name(claim.source)
        wanted, claimed_plan, claimed_batch = to_name(claim.content), to_name(claim.plan), to_name(claim.batch)
        is_new = self.execute(
            "insert into documents(pipeline, document, content, inputs, source, status, outcomes, reason, plan, batch, "
            "run, worker, fence, marks, crash_count, admitted_at, elapsed, usage, cost_micro_usd, unpriced_calls) "
            "values(?, ?, ?, ?, ?, 'processing', ?, '', ?, ?, '', ?, 1, 0, 0, ?, 0, ?, 0, 0) on conflict do nothing",
            (*place, wanted, inputs, source, b"{}", claimed_plan, claimed_batch, self.worker, claim.at, b"{}"),
        )
        if is_new:
            self._claiming.add(place)
            return Claimed(1)
        # First without a lock: who holds some of a group's documents must not wait for those of others.
        [(_, status, _, _, worker, *_)] = self.query(_SELECT_DOCUMENT, place)
        if status == "processing":
            busy = self._busy(worker, claim, place)
            if busy is not None:
                return busy
        found = self.query(self._select_document, place)
        content, status, plan, batch, worker, fence, marks, crashes = found[0]
        is_same = bool(content == wanted and content)
        # A claim that this process has made, and was never told of: it is made once more, and counts as one.
        is_own = status == "processing" and worker == self.worker
        given = fence if is_own else fence + 1
        if status == "processing":
            busy = self._busy(worker, claim, place)
            if busy is not None:
                return busy
            if not is_own:
                crashes = crashes + 1 if self._marks(place) == marks else 1
            if crashes >= MAX_CRASHES and is_same and claim.redo != "failed":
                return self._park(place, crashes)
            if crashes == MAX_CRASHES - 1 and is_same and not claim.is_alone:
                # All that were in flight are suspects, and most of them are innocent: each is tried by itself.
                suspect = "update documents set status = 'queued', worker = null, fence = fence + 1, crash_count = ? "
                self.execute(f"{suspect}where pipeline = ? and document = ?", (crashes, *place))
                return Suspected(crashes)
        elif status == "queued" and crashes == MAX_CRASHES - 1 and is_same and not claim.is_alone:
            return Suspected(crashes)
        elif is_same and not self._is_wanted(claim, status, plan, batch, crashes, place):
            if batch != claimed_batch:
                # It belongs to the last batch that asked for it: so one that found all done has its results, too.
                relabel = "update documents set batch = ? where pipeline = ? and document = ?"
                self.execute(relabel, (claimed_batch, *place))
            outcomes = self.query("select outcomes from documents where pipeline = ? and document = ?", place)[0][0]
            return Ended(status, bytes(outcomes), saved_calls(self.query, place), saved_outputs(self.query, place))
        if not is_same or status not in ("processing", "queued"):
            crashes = 0
        if claim.on_change == "new" and batch != claimed_batch:
            self.execute("delete from step_outputs where pipeline = ? and document = ?", place)
            self.execute("update calls set is_void = 1 where pipeline = ? and document = ?", place)
        # Read before the document is taken: if something in it is damaged, it stays as it is.
        calls, outputs = saved_calls(self.query, place), saved_outputs(self.query, place)
        self.execute(
            "update documents set content = ?, inputs = ?, source = ?, status = 'processing', plan = ?, batch = ?, "
            "worker = ?, fence = ?, marks = ?, crash_count = ?, admitted_at = ?, ended_at = null "
            "where pipeline = ? and document = ?",
            (
                wanted,
                inputs,
                source,
                claimed_plan,
                claimed_batch,
                self.worker,
                given,
                self._marks(place),
                crashes,
                claim.at,
                *place,
            ),
        )
        self._claiming.add(place)
        is_new = is_own and given == 1
        return Claimed(given, calls, outputs, is_new=is_new)

    def _store_inputs(self, claim: Claim) -> str | None:
        if claim.inputs is None:
            return None
        sha = digest(claim.inputs)
        self.execute(
            "insert into blobs(sha, codec, size, body) values(?, 'json', ?, ?) on conflict do nothing",
            (sha, len(claim.inputs), claim.inputs),
        )
        return sha

    def _busy(self, worker: str | None, claim: Claim, place: tuple[str, str]) -> Busy | None:
        """Return who works on a document, unless that worker is dead."""
        if worker is None:
            return None
        if worker == self.worker:  # another run of this very process has it, or has asked for it just before
            is_held = (claim.pipeline, claim.document) in self._held or place in self._claiming
            return Busy(worker, 0) if is_held else None
        if self._is_exclusive:
            return None
        is_seen_dead = claim.dead is not None and claim.dead[0] == worker
        # Its beat stands still until this claim is made or refused: a worker that wakes up learns of it by its next
        # beat, or is given the document back by this very look.
        found = self.query(_SELECT_WORKER + (self.for_update() if is_seen_dead else ""), (worker,))
        if not found:
            return None
        beat, is_open, *process = found[0]
        if not is_open or (worker, beat) == claim.dead or has_died(Process(*process)):
            return None
        return Busy(worker, beat)

    def _is_wanted(
        self, claim: Claim, status: str, plan: str, batch: str, crashes: int, place: tuple[str, str]
    ) -> bool:
        """Whether a document that has ended is to be run again."""
        if status == "queued" or claim.again:
            return True
        if claim.on_change == "new" and batch != to_name(claim.batch):
            return True
        if status == "parked":
            # It waits for somebody to set something right: who runs it again says that this has been done. What ends
            # processes needs a clearer word.
            return crashes < MAX_CRASHES or claim.redo == "failed"
        if plan != to_name(claim.plan) and claim.on_change != "keep":
            return True
        if claim.redo == "failed":
            return status in ("partial", "failed")
        if claim.redo == "fallbacks":
            found = self.query(
                "select 1 from step_outputs where pipeline = ? and document = ? "
                "and (via like 'fallback:%' or via like 'budget:%') limit 1",
                place,
            )
            return bool(found)
        return False

    def _park(self, place: tuple[str, str], crashes: int) -> Ended:
        reason = _POISON.format(count=crashes)
        outcomes = json.dumps({"parked": reason}).encode()
        self.execute(
            "update documents set status = 'parked', reason = ?, outcomes = ?, crash_count = ?, worker = null, "
            "fence = fence + 1 where pipeline = ? and document = ?",
            (reason, outcomes, crashes, *place),
        )
        return Ended("parked", outcomes, saved_calls(self.query, place), saved_outputs(self.query, place))

    def _marks(self, place: tuple[str, str]) -> int:
        """Return how far a document has come, as a number that grows with every step of it."""
        return sum(
            int(self.query(f"select count(*) from {table} where pipeline = ? and document = ?", place)[0][0])  # noqa: S608 - our own names
            for table in ("calls", "step_outputs")
        )

    # Replies for everybody

    def _find_reply(self, entry: FindReply) -> CachedReply | None:
        found = self.query(
            "select reply, reply_sha, cached_at from cached_replies "
            "where namespace = ? and request = ? and ordinal = ?",
            _reply_key(entry),
        )
        if not found:
            return None
        reply, sha, at = found[0]
        # One that has been tampered with is as good as none: the model is asked.
        return CachedReply(bytes(reply), at) if digest(bytes(reply)) == sha else None


def _bounded(number: int | None) -> int | None:
    return None if number is None else max(-_MOST, min(number, _MOST))


def _in_order(entries: Sequence[Entry]) -> Iterator[list[int]]:
    """Yield the places of entries that may be applied kind by kind.

    Kinds are not in the order of submission, so what is begun again after its end begins a part of its own.
    """
    part: list[int] = []
    ended: set[tuple[str, ...]] = set()
    for place, entry in enumerate(entries):
        if isinstance(entry, DocumentEnded):
            ended.add((entry.pipeline, entry.document))
        elif isinstance(entry, BatchEnded):
            ended.add(())
        elif (isinstance(entry, Claim) and (entry.pipeline, entry.document) in ended) or (
            isinstance(entry, BatchBegun) and () in ended
        ):
            yield part
            part, ended = [], set()
        part.append(place)
    yield part


def _place(entry: Any) -> tuple[str, str]:
    return to_name(entry.pipeline), to_name(entry.document)


def _attempt_row(entry: AttemptSent) -> tuple[Any, ...]:
    model = None if entry.model is None else to_prose(entry.model)
    return (*_place(entry), to_name(entry.run), to_name(entry.step), entry.item, entry.attempt, model, entry.at)


def _attempt_end_row(entry: AttemptEnded) -> tuple[Any, ...]:
    sent = _attempt_row(AttemptSent(*entry[:6], entry.model, entry.started_at))
    told = (to_prose(entry.kind), to_prose(entry.message), _bounded(entry.status), to_prose(entry.billed))
    return (*sent, entry.at, *told)


def _call_row(entry: CallFinished) -> tuple[Any, ...]:
    return (
        *_place(entry),
        to_name(entry.key),
        to_name(entry.request),
        entry.ordinal,
        to_name(entry.batch),
        to_name(entry.run),
        to_name(entry.step),
        entry.item,
        entry.attempt,
        to_prose(entry.model),
        entry.prompt,
        entry.reply,
        digest(entry.reply),
        entry.usage,
        _bounded(entry.tokens),
        _bounded(entry.cost_micro_usd),
        entry.at,
    )


def _output_row(entry: OutputAccepted) -> tuple[Any, ...]:
    return (
        to_name(entry.step),
        entry.item,
        to_name(entry.key),
        entry.output,
        digest(entry.output),
        json.dumps(entry.calls).encode(),
        None if entry.via is None else to_prose(entry.via),
        to_name(entry.run),
        entry.at,
        *_place(entry),
        entry.fence,
    )


def _document_row(entry: DocumentEnded) -> tuple[Any, ...]:
    return (
        entry.status,
        entry.outcomes,
        to_prose(entry.reason),
        entry.elapsed,
        entry.usage,
        _bounded(entry.cost_micro_usd),
        entry.unpriced_calls,
        to_name(entry.run),
        entry.at,
        *_place(entry),
        entry.fence,
    )


def _run_row(entry: RunRecorded) -> tuple[Any, ...]:
    return (*_place(entry), to_name(entry.run), to_name(entry.batch), entry.records, entry.at)


def _reply_key(entry: FindReply | ReplyCached) -> tuple[str, str, int]:
    return to_name(entry.namespace), to_name(entry.request), entry.ordinal


def _reply_row(entry: ReplyCached) -> tuple[Any, ...]:
    return (*_reply_key(entry), to_prose(entry.model), entry.reply, digest(entry.reply), entry.at)
