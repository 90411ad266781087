"""Whoever looks on: reads the records of all runs, and keeps only what is true at this instant. Pure."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from math import exp, expm1
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline_engine.report.present import MAX_KINDS, ErrorCount, InFlight, Present
from pipeline_engine.report.trace import error_kind
from pipeline_engine.text import one_line
from pipeline_engine.values.outcomes import Dropped, Failed
from pipeline_engine.values.records import (
    AttemptFinished,
    AttemptStarted,
    HedgeFinished,
    OutputJudged,
    RepairAsked,
    RunFinished,
    StepFinished,
    StepMapped,
    StepReady,
    WaitEnded,
    WaitStarted,
)
from pipeline_engine.values.usage import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline_engine.report.present import ModelNow
    from pipeline_engine.values.records import QueueCause, Record, RunStarted

    _OfStep = (
        StepReady
        | WaitStarted
        | WaitEnded
        | AttemptStarted
        | AttemptFinished
        | RepairAsked
        | OutputJudged
        | StepFinished
    )

__all__ = ["Observer"]

_MEMORY_SECONDS = 600.0
"""How long an ended document counts for the rate, on average."""
_MAX_MESSAGE = 200
_SHOWN_DOCUMENTS = 3
_QUEUED = "slot"
"""What a step that is ready waits for, unless somebody knows better."""
_TRYING = ""
_OTHER_KINDS = "others"


class Observer:
    """Follow the records of all runs, and tell the present moment at any instant: a sink.

    Its memory grows with what is in flight, never with what has ended.

    Args:
        has_news: Called after each record that changes anything.

    Example:
        >>> Observer().present(12.0).in_flight
        0
    """

    def __init__(self, has_news: Callable[[], object] | None = None) -> None:
        self._has_news = has_news
        self._runs: dict[str, _Run] = {}  # in the order in which they started
        self._documents: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._errors: dict[str, ErrorCount] = {}
        self._faults: dict[str, ErrorCount] = {}
        self._rate = _Rate()
        self._usage = Usage()
        self._cost = Cost()
        self._capacity = self._ended_attempts = self._retries = 0
        self.started_at: float | None = None
        """The instant from which the seconds count: that of the first record, if nobody sets another one."""

    def open_run(self, started: RunStarted) -> Callable[[Record], None]:
        """Count a document in, and return the reader of its further records."""
        if self.started_at is None:
            self.started_at = started.at
        self._capacity = started.capacity
        run = _Run(started.run_id, started.at, started.document)
        self._runs[started.run_id] = run
        has_news = self._has_news

        def read(record: Record) -> None:
            follow = self.followed.get(type(record))
            if follow is not None:
                follow(self, run, record)
                if has_news is not None:
                    has_news()

        if has_news is not None:
            has_news()
        return read

    def present(
        self,
        now: float,
        *,
        documents: Mapping[str, int] | None = None,
        queued: Mapping[QueueCause, int] | None = None,
        models: Mapping[str, ModelNow] | None = None,
    ) -> Present:
        """Return the present moment.

        Args:
            now: The instant, on the clock of the records.
            documents: How many documents have ended how, where more is known than records tell.
            queued: What those wait for whose turn has not come, as the scheduler knows it; a slot if not given.
            models: How the models are doing.
        """
        waits = +self._waits
        if queued is not None:
            waits.pop(_QUEUED, None)
            waits.update(queued)
        began = now if self.started_at is None else self.started_at
        return Present(
            elapsed=now - began,
            documents=dict(self._documents if documents is None else documents),
            in_flight=len(self._runs),
            capacity=self._capacity,
            attempts=dict((+self._attempts).most_common(MAX_KINDS)),
            models=dict(islice((models or {}).items(), MAX_KINDS)),
            waits=dict(waits),
            ended_attempts=self._ended_attempts,
            retries=self._retries,
            usage=self._usage,
            cost=self._cost,
            errors=_commonest(self._errors),
            faults=_commonest(self._faults),
            longest=tuple(run.in_flight(now) for run in islice(self._runs.values(), _SHOWN_DOCUMENTS)),
            rate=self._rate.at(now, began),
        )

    # What a step does

    def _enter(self, run: _Run, record: _OfStep, doing: str) -> None:
        """Note what a step or item does from now on: it waits for something, or it is being tried."""
        self._leave(run, record)
        run.doing[record.step, record.item] = doing
        if doing == _TRYING:
            self._attempts[record.step] += 1
        else:
            self._waits[doing] += 1

    def _leave(self, run: _Run, record: _OfStep | StepFinished) -> None:
        """Note that it does neither for now."""
        doing = run.doing.pop((record.step, record.item), None)
        if doing is not None:
            self._count_out(record.step, doing)

    def _count_out(self, step: str, doing: str) -> None:
        if doing == _TRYING:
            self._attempts[step] -= 1
        else:
            self._waits[doing] -= 1

    def _queued(self, run: _Run, record: StepReady | WaitEnded | RepairAsked) -> None:
        self._enter(run, record, _QUEUED)

    def _waiting(self, run: _Run, record: WaitStarted) -> None:
        self._enter(run, record, record.cause)

    def _trying(self, run: _Run, record: AttemptStarted) -> None:
        if record.is_shared or record.is_replayed:
            self._leave(run, record)  # there is no request
            return
        self._retries += record.attempt > 1
        self._enter(run, record, _TRYING)

    def _tried(self, run: _Run, record: AttemptFinished) -> None:
        if run.doing.get((record.step, record.item)) == _TRYING:
            self._ended_attempts += 1
        self._leave(run, record)
        if record.usage is not None:
            self._usage += record.usage
        if record.cost is not None:
            self._cost += record.cost
        if record.fault is not None:
            _count(self._faults, one_line(record.fault.kind), record.fault.message)

    def _hedged(self, run: _Run, record: HedgeFinished) -> None:
        del run
        self._cost += record.cost or Cost()

    def _judged(self, run: _Run, record: OutputJudged) -> None:
        if not record.is_accepted:
            self._enter(run, record, _QUEUED)

    def _mapped(self, run: _Run, record: StepMapped) -> None:
        run.mapped.add(record.step)  # from now on its items speak for it
        doing = run.doing.pop((record.step, None), None)
        if doing is not None:
            self._count_out(record.step, doing)

    def _settled(self, run: _Run, record: StepFinished) -> None:
        self._leave(run, record)
        outcome = record.outcome
        # A mapped step that fails says what its item has said.
        if isinstance(outcome, Failed | Dropped) and (record.item is not None or record.step not in run.mapped):
            _count(self._errors, error_kind(outcome.error), str(outcome.error))

    def _ended(self, run: _Run, record: RunFinished) -> None:
        for (step, _item), doing in run.doing.items():  # what was cancelled has ended without saying so
            self._count_out(step, doing)
        del self._runs[run.run_id]
        self._documents[record.status] += 1
        self._rate.add(record.at)

    followed: ClassVar[Mapping[type, Callable[[Observer, _Run, Any], None]]] = {
        StepReady: _queued,
        WaitEnded: _queued,
        RepairAsked: _queued,
        WaitStarted: _waiting,
        AttemptStarted: _trying,
        AttemptFinished: _tried,
        HedgeFinished: _hedged,
        OutputJudged: _judged,
        StepMapped: _mapped,
        StepFinished: _settled,
        RunFinished: _ended,
    }
    """Who reads which records; all others change nothing here."""


class _Run:
    """What the steps and items of one document do at this instant."""

    __slots__ = ("document", "doing", "mapped", "run_id", "started_at")

    def __init__(self, run_id: str, started_at: float, document: str) -> None:
        self.run_id = run_id
        self.started_at = started_at
        self.document = document
        self.doing: dict[tuple[str, int | None], str] = {}
        self.mapped: set[str] = set()

    def in_flight(self, now: float) -> InFlight:
        """Return it as it is shown: with a step that is being tried, or else with one that waits."""
        trying = (step for (step, _item), doing in self.doing.items() if doing == _TRYING)
        step = next(trying, None)
        cause = None
        if step is None and self.doing:
            (step, _item), cause = next(iter(self.doing.items()))
        return InFlight(self.document, now - self.started_at, step, cause)


class _Rate:
    """How many end per second: a mean in which what is long ago counts for less, in two numbers."""

    __slots__ = ("_at", "_weight")

    def __init__(self) -> None:
        self._weight = self._at = 0.0

    def add(self, now: float) -> None:
        self._weight = self._weight * exp((self._at - now) / _MEMORY_SECONDS) + 1
        self._at = now

    def at(self, now: float, began: float) -> float:
        if now <= began or not self._weight:
            return 0.0
        window = -_MEMORY_SECONDS * expm1((began - now) / _MEMORY_SECONDS)
        return self._weight * exp((self._at - now) / _MEMORY_SECONDS) / window


def _count(counts: dict[str, ErrorCount], kind: str, message: str) -> None:
    """Count an error; kinds beyond a few are counted together, so that a hostile one takes no memory."""
    if kind not in counts and len(counts) >= MAX_KINDS - 1:
        kind = _OTHER_KINDS
    known = counts.get(kind)
    counts[kind] = ErrorCount(kind, 1 if known is None else known.times + 1, one_line(message[:1000], _MAX_MESSAGE))


def _commonest(counts: Mapping[str, ErrorCount]) -> tuple[ErrorCount, ...]:
    return tuple(sorted(counts.values(), key=lambda error: -error.times))
