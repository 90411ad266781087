"""The engine: one scheduler, its models and executors, shared by everything that runs on it."""

from __future__ import annotations

import difflib
import logging
import random
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import trio
from pydantic_core import PydanticSerializationError, ValidationError, to_json

from pipeline_engine.errors import DocumentBusyError, EngineClosedError, InputError, JournalError
from pipeline_engine.journal import JournalPlace, PostgresJournal, SqliteJournal, held, journal_place
from pipeline_engine.plan import Plan, compile_pipeline, reasons_of
from pipeline_engine.resilience.ledger import Amount
from pipeline_engine.run.binding import BoundPlan, ModelPool, Models
from pipeline_engine.run.durable import Admitted, DurableBatch, JournalOptions
from pipeline_engine.run.inside import WithoutSlot
from pipeline_engine.run.results import RunResult
from pipeline_engine.run.stream import RunStream
from pipeline_engine.schedule import (
    Execution,
    PlanEstimates,
    Scheduler,
    SchedulerStatistics,
    StepExecutors,
    only_error,
    outside_work,
)
from pipeline_engine.values import RUNNING_STEP, Busy, Record, RunFinished, RunStarted, Sink, Suspected

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pipeline_engine.declare import Budget, Pipeline
    from pipeline_engine.report import ModelNow
    from pipeline_engine.schedule import BoundBudget, Follower
    from pipeline_engine.values import Journal, OnChange, Redo

__all__ = ["DEFAULT_CAPACITY", "Engine", "document_key", "validate_inputs"]

DEFAULT_CAPACITY = 64
_log = logging.getLogger("pipeline_engine")
_REMEMBERED_PLANS = 64
_JOURNAL_CLOSE_SECONDS = 60.0
_SINGLE_RUNS = "single runs"
"""The group of all runs that belong to no batch: first come first served among them, in turns with batches."""


class Engine:
    """Run pipelines under one capacity, on trio; open it with `async with`.

    Everything that runs on one engine shares its slots, its models' connections and its worker
    processes. Steps of different documents are served in the order of the documents' arrival, and
    batches take turns with each other and with the single runs.

    Args:
        models: The models that roles are bound to, unless a run says otherwise.
        capacity: How many attempts may be in flight at once, over all runs.
        sinks: Readers of the record streams of all runs.
        seed: Makes the jitter of retries repeatable.
        transport: An `httpx2.AsyncBaseTransport` that carries all calls, such as one that goes through a
            proxy; you close it. The engine has connections of its own if none is given.

    Raises:
        ValueError: If `capacity` is smaller than 1.
        TypeError: If `sinks` is no list of sinks.

    Example:
        >>> import trio
        >>> from pipeline_engine import Pipeline
        >>> pipeline = Pipeline("double", inputs={"number": int})
        >>> @pipeline.step
        ... async def doubled(number: int) -> int:
        ...     return number * 2
        >>> async def main():
        ...     async with Engine(capacity=8) as engine:
        ...         return (await engine.run(pipeline, {"number": 21}))[doubled]
        >>> trio.run(main)
        42
    """

    def __init__(
        self,
        *,
        models: Models | None = None,
        capacity: int = DEFAULT_CAPACITY,
        sinks: Sequence[Sink] = (),
        seed: int | None = None,
        transport: Any = None,
    ) -> None:
        self.capacity = capacity
        self._models = models
        self._sinks = _checked(sinks)
        self._dice = random.Random(seed)
        self._pool = ModelPool(capacity, transport, self._dice)
        self._scheduler = Scheduler(capacity)
        self._executors = StepExecutors(self._scheduler)
        self._bound: dict[Plan, tuple[Models | None, BoundPlan]] = {}
        self._journals: dict[Hashable, tuple[JournalPlace, Journal]] = {}
        self._single_batches: dict[Hashable, DurableBatch] = {}
        self._opening = trio.Lock()
        self._executions: dict[Hashable, dict[Execution, None]] = {}
        self._draining: dict[Hashable, str] = {}
        self._run_prefix = token_hex(6)
        self._wall_time_at_zero = 0.0
        self._is_open = False
        self._token: trio.lowlevel.TrioToken | None = None

    async def __aenter__(self) -> Self:
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError("an Engine runs on trio. Under asyncio use `await run_pipeline_async(…)`, or a Runner.")
        # The only look at the wall clock: all later times are this plus trio's clock.
        self._wall_time_at_zero = datetime.now(UTC).timestamp() - trio.current_time()
        self._token = trio.lowlevel.current_trio_token()
        # Asking the clock itself takes half as long as trio.current_time(), which looks it up each time.
        self._scheduler.now = trio.lowlevel.current_clock().current_time
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        if not self._scheduler.statistics().timers:
            self._scheduler.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10.0):
            await self._executors.aclose()
            await self._pool.aclose()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _JOURNAL_CLOSE_SECONDS):
            await self._close_journals()

    def __repr__(self) -> str:
        state = "open" if self._is_open else "not open"
        return f"<Engine {state}, {self._scheduler.statistics()}>"

    def statistics(self) -> SchedulerStatistics:
        """Return how many attempts are in flight, ready and waiting at this instant, and how each model is doing.

        Example:
            >>> Engine(capacity=8).statistics()
            SchedulerStatistics(capacity=8, in_flight=0, ready=0, timers=0, models={})
        """
        return self._scheduler.statistics(self._pool.governors)

    def models_now(self, bound: BoundPlan) -> dict[str, ModelNow]:
        """Return how the models of a plan are doing at this instant, for those who look on."""
        from pipeline_engine.report import ModelNow

        names = {model.name for model in bound.outline.models}
        return {
            name: ModelNow(
                model.in_flight,
                model.max_in_flight,
                model.waiting,
                None if model.breaker is None else model.breaker.value,
                model.cooldown,
                model.is_parked,
            )
            for name, model in self.statistics().models.items()
            if name in names
        }

    def reset(self, model: str | None = None) -> None:
        """Forget what was learnt against models: open breakers, cool-downs, refused keys.

        Calls that wait for them may start at once.

        Args:
            model: As in `statistics().models`; all of them if not given.

        Raises:
            KeyError: If no such model was bound.
        """
        governors = self._pool.governors
        if model is not None and model not in governors:
            raise KeyError(f"{model!r} was bound to nothing here; there are {sorted(governors)}.")
        for governor in governors.values() if model is None else [governors[model]]:
            governor.reset(self._scheduler.now())
        self._scheduler.dispatch()

    @staticmethod
    def estimates(
        bound: BoundPlan, seconds: Mapping[str, float] | None, *, slots: int | None = None
    ) -> PlanEstimates | None:
        """Return the estimates for runs of a plan whose steps' seconds are known; None if none are.

        Raises:
            ValueError: If `seconds` names no step, or is no number.
        """
        if seconds is None:
            return None
        return PlanEstimates(bound.plan, seconds, slots=slots, steps=bound.estimates.steps)

    @property
    def is_here(self) -> bool:
        """Whether the engine is open and belongs to the trio loop that is running here."""
        return self._is_open and self._token is trio.lowlevel.current_trio_token()

    @property
    def scheduler(self) -> Scheduler:
        """The slots and the queue that all runs share."""
        return self._scheduler

    # Journals

    async def open_journal(self, journal: str | Path | JournalPlace) -> tuple[JournalPlace, Journal]:
        """Open a journal, once for all runs of this engine; it is closed with the engine.

        Raises:
            JournalError: If it cannot be opened.
            TypeError: If it is no path, address or journal object.
        """
        journal = held(journal)
        place, key = journal_place(journal), _journal_key(journal)
        async with self._opening:
            known = self._journals.get(key)
            if known is None:
                # It may have to wait for a disk, or for a database far away.
                is_slow = isinstance(place, SqliteJournal | PostgresJournal)
                with outside_work():
                    opened = await trio.to_thread.run_sync(place.open) if is_slow else place.open()
                known = self._journals[key] = place, opened
        return known

    async def begin_batch(
        self, bound: BoundPlan, journal: str | Path | JournalPlace, options: JournalOptions, *, is_single: bool = False
    ) -> DurableBatch:
        """Begin a batch in a journal, or go on with the pipeline's last one, if that has not ended.

        Raises:
            PlanChangedError: With `on_change="error"`, if the pipeline is not what it was.
            JournalError: If the journal cannot be opened or written.
        """
        place, opened = await self.open_journal(journal)
        now = datetime.fromtimestamp(self._wall_time_at_zero + self._scheduler.now(), UTC)
        return await DurableBatch.begin(
            place,
            opened,
            bound,
            options,
            batch=f"{now:%Y%m%d-%H%M%S}-{token_hex(3)}",
            is_single=is_single,
            wall_time_at_zero=self._wall_time_at_zero,
        )

    async def _single_batch(
        self, bound: BoundPlan, journal: str | Path | JournalPlace, options: JournalOptions
    ) -> DurableBatch:
        """Return the batch that all single runs of a plan belong to."""
        key = (_journal_key(journal), id(bound), options.on_change)
        known = self._single_batches.get(key)
        if known is None:
            known = self._single_batches[key] = await self.begin_batch(bound, journal, options, is_single=True)
        return known

    async def _close_journals(self) -> None:
        for batch in self._single_batches.values():
            try:
                await batch.finish({}, is_done=True)
            except JournalError:
                pass  # whoever wrote to it was told
        self._single_batches.clear()
        while self._journals:
            place, journal = self._journals.pop(next(iter(self._journals)))
            if isinstance(place, SqliteJournal | PostgresJournal):
                with outside_work():
                    await trio.to_thread.run_sync(place.close, journal)
            else:
                place.close(journal)

    def drain(self, group: Hashable, reason: str) -> None:
        """Let the calls on the wire of a group's runs finish, and start nothing more of it."""
        self._draining[group] = reason
        for execution in list(self._executions.get(group, ())):
            execution.drain(reason)

    def forget(self, group: Hashable) -> None:
        """Forget a group that is over."""
        self._draining.pop(group, None)

    def bind(self, dag: Pipeline | Plan, models: Models | None = None) -> BoundPlan:
        """Compile a pipeline and bind its roles, once for all runs that use the same `models`.

        Raises:
            PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
        """
        plan = compile_pipeline(dag)
        models = self._models if models is None else models
        known = self._bound.get(plan)
        if known is not None and known[0] == models:
            return known[1]
        given = models
        if models is not None and models is self._models:
            # What an engine has is for many pipelines: which of its roles one of them uses is not its concern.
            given = {role: chain for role, chain in models.items() if role in plan.roles}
        bound = BoundPlan.bind(plan, given, self._pool)
        while len(self._bound) >= _REMEMBERED_PLANS:  # some programs declare a pipeline for each request
            del self._bound[next(iter(self._bound))]
        # A copy, so that a mapping or chain which the caller changes later is bound anew.
        copied = {role: list(chain) if isinstance(chain, list) else chain for role, chain in (models or {}).items()}
        self._bound[plan] = (None if models is None else copied, bound)
        return bound

    async def run(
        self,
        dag: Pipeline | Plan,
        inputs: Mapping[str, Any],
        *,
        models: Models | None = None,
        key: str | None = None,
        timeout: float | None = None,
        priority: int = 0,
        budget: Budget | None = None,
        estimates: Mapping[str, float] | None = None,
        journal: str | Path | JournalPlace | None = None,
        on_change: OnChange = "reuse",
    ) -> RunResult:
        """Run one document and return how every step ended.

        A step's failure never raises here: it is in the result. A cancellation propagates after
        every slot was given back. Called inside a step, the step gives its slot back meanwhile.

        With a journal, what was finished before is taken from there: a run that was interrupted goes on
        where it stopped, and only failed steps of one that ended are tried again.

        Args:
            dag: A pipeline, or its plan.
            inputs: A value for each declared input.
            models: The models that roles are bound to; the engine's own if not given.
            key: The document's key; a hash of the inputs if not given.
            timeout: Seconds for the whole run; what has no outcome by then is `Stopped`.
            priority: Higher goes first, over all runs and batches of the engine.
            budget: Caps what the run may spend.
            estimates: Seconds that steps take, by their names: they decide which of several ready steps
                goes first. What earlier runs of the pipeline took is used if not given.
            journal: A path, a postgresql:// address or a journal object.
            on_change: What becomes of saved outputs when the pipeline has changed.

        Raises:
            PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
            InputError: If the inputs do not fit; nothing has run.
            EngineClosedError: If the engine is not open.
            ValueError: If `timeout` is not positive, or `estimates` names no step.
            JournalError: If the journal cannot be opened or written: the run does not go on without it.
            PlanChangedError: With `on_change="error"`, if the pipeline is not what it was.
        """
        journal = held(journal)
        _check_timeout(timeout)
        bound = self.bind(dag, models)
        if not self._is_open:
            raise EngineClosedError("engine")
        durable = None
        if journal is not None:
            durable = await self._single_batch(bound, journal, JournalOptions(on_change))
        return await self.run_bound(
            bound,
            inputs,
            key=key,
            timeout=timeout,
            priority=priority,
            budgets=_given(bound.budget(budget, "run")),
            estimates=self.estimates(bound, estimates, slots=self.capacity),
            durable=durable,
            redo="failed",  # somebody who runs this one document again wants it tried again
        )

    @asynccontextmanager
    async def stream(
        self,
        dag: Pipeline | Plan,
        inputs: Mapping[str, Any],
        *,
        models: Models | None = None,
        key: str | None = None,
        timeout: float | None = None,
        priority: int = 0,
        budget: Budget | None = None,
        estimates: Mapping[str, float] | None = None,
    ) -> AsyncIterator[RunStream]:
        """Run one document and follow it: pieces of replies as they arrive, and outcomes.

        Steps with `stream=True` give a `Delta` for each piece; a retry that follows one gives `Restarted`
        first. Every step gives a `StepFinished`. A reader that is slow slows the provider; leaving the
        block early cancels the run, closes its connections and stops the bill.

        Args:
            dag: A pipeline, or its plan.
            inputs: A value for each declared input.
            models: The models that roles are bound to; the engine's own if not given.
            key: The document's key; a hash of the inputs if not given.
            timeout: Seconds for the whole run; what has no outcome by then is `Stopped`.
            priority: Higher goes first, over all runs and batches of the engine.
            budget: Caps what the run may spend.
            estimates: Seconds that steps take, by their names: they decide which of several ready steps
                goes first. What earlier runs of the pipeline took is used if not given.

        Raises:
            PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
            InputError: If the inputs do not fit; nothing has run.
            EngineClosedError: If the engine is not open.
            ValueError: If `timeout` is not positive, or `estimates` names no step.

        Example:
            >>> import trio
            >>> from pipeline_engine import Delta, Engine, Pipeline
            >>> from pipeline_engine.testing import ScriptedModel
            >>> pipeline = Pipeline("greeting", inputs={"name": str})
            >>> @pipeline.llm("fast", str, stream=True)
            ... def greeting(name: str) -> str:
            ...     return f"Greet {name}."
            >>> async def main():
            ...     async with Engine(models={"fast": ScriptedModel({"greeting": "Hello, Ada!"})}) as engine:
            ...         async with engine.stream(pipeline, {"name": "Ada"}) as events:
            ...             pieces = [event.text async for event in events if isinstance(event, Delta)]
            ...         return "".join(pieces), events.result[greeting]
            >>> trio.run(main)
            ('Hello, Ada!', 'Hello, Ada!')
        """
        _check_timeout(timeout)
        bound = self.bind(dag, models)
        if not self._is_open:
            raise EngineClosedError("engine")
        validate_inputs(bound.plan, inputs)
        stream = RunStream()
        run = partial(
            self.run_bound,
            bound,
            inputs,
            key=key,
            timeout=timeout,
            priority=priority,
            follower=stream.follower,
            budgets=_given(bound.budget(budget, "run")),
            estimates=self.estimates(bound, estimates, slots=self.capacity),
        )
        raised: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.fill, run)
                try:
                    yield stream
                except Exception as error:  # noqa: BLE001 - the block's own error, raised again below
                    raised = error
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if raised is None or group.split(trio.Cancelled)[1] is not None:
                raise only_error(group) from raised
        if raised is not None:
            raise raised  # as it was, in no group, and even if the run was cancelled from outside meanwhile

    async def run_bound(
        self,
        bound: BoundPlan,
        inputs: Mapping[str, Any],
        *,
        key: str | None = None,
        timeout: float | None = None,
        stopped_by: str | None = None,
        priority: int = 0,
        group: Hashable = None,
        keeps_records: bool = True,
        place: int | None = None,
        follower: Follower | None = None,
        budgets: Sequence[BoundBudget] = (),
        estimates: PlanEstimates | None = None,
        durable: DurableBatch | None = None,
        redo: Redo | None = None,
        source: str | None = None,
        is_alone: bool = False,
        sinks: Sequence[Sink] = (),
    ) -> RunResult:
        """Run one document of a bound plan: what `run` and batches are made of.

        Args:
            bound: What `bind` returned.
            inputs: A value for each declared input.
            key: The document's key; a hash of the inputs if not given.
            timeout: Seconds for the whole run.
            stopped_by: Whose timeout that is, for those who read why a step was stopped.
            priority: Higher goes first.
            group: What takes turns with other groups: a batch; all single runs together are one such group.
            place: The number of the document's arrival, if it was drawn before.
            keeps_records: Whether the result has a trace and calls; without, only sinks get records.
            follower: Whoever follows its streamed replies and outcomes.
            budgets: What caps its spending.
            estimates: What its steps take; what the bound plan has learnt if not given.
            durable: Its batch in a journal.
            redo: Whether it is run again though it has ended.
            source: Where the document can be read again.
            is_alone: Whether no other document of the process is run meanwhile.
            sinks: Readers of this run's records beside the engine's own.

        Raises:
            InputError: If the inputs do not fit; nothing has run.
            EngineClosedError: If the engine is not open.
            JournalError: If the journal can be written no more.
            DocumentBusyError: In a batch, if another process works on the document; anywhere, if one has taken it over.
        """
        if not self._is_open:
            raise EngineClosedError("engine")
        plan = bound.plan
        values = validate_inputs(plan, inputs)
        if place is None:
            place = self._scheduler.next_document()
        # Runs are numbered in the order in which their documents came, not in that in which trio starts their tasks.
        run_id = f"{self._run_prefix}-{place}"
        if key is None:
            key = document_key(inputs) or run_id
        admitted: Admitted | None = None
        if durable is not None:
            claim = durable.claim if group is not None else durable.wait_for
            found = await claim(key, values, run_id, source=source, redo=redo, is_alone=is_alone)
            if isinstance(found, Admitted) and found.bound.is_probe:
                known = await self._probe(bound, values, found)
                found = known if known is not None else await durable.claim_again(found, run_id)
            if isinstance(found, RunResult):
                return found
            if isinstance(found, Busy):
                raise DocumentBusyError(key, found.worker)
            if isinstance(found, Suspected):
                raise DocumentBusyError(key, None, found.crashes)
            admitted = found
            for budget in budgets:
                if budget.ledger.of != "batch":  # what the batch has spent was counted when it began
                    budget.ledger.charge(Amount(admitted.spent_usd, admitted.spent_tokens))
        records: list[Record] = []
        now = self._scheduler.now()
        started = RunStarted(now, run_id, key, bound.outline, self._wall_time_at_zero + now, self.capacity)
        readers = [_guarded(sink, started) for sink in (*self._sinks, *sinks)]
        if follower is not None:
            readers.append(follower.read)
        emit: Callable[[Record], object]
        if keeps_records:
            records.append(started)
            emit = records.append if not readers else _fan_out([records.append, *readers])
        else:
            emit = _fan_out(readers)
        execution = Execution(
            plan,
            values,
            bound.candidates,
            scheduler=self._scheduler,
            executors=self._executors,
            emit=emit,
            dice=self._dice,
            run_id=run_id,
            document=key,
            group=_SINGLE_RUNS if group is None else group,
            priority=priority,
            place=place,
            host=self,
            follower=follower,
            estimates=bound.estimates if estimates is None else estimates,
            budgets=budgets,
            journal=None if admitted is None else admitted.bound,
        )
        running = self._executions.setdefault(group, {})
        running[execution] = None
        if group in self._draining:
            execution.drain(self._draining[group])
        is_ours = True
        try:
            if RUNNING_STEP.get() is None:
                await execution.run(timeout, stopped_by)
            else:
                async with WithoutSlot(self._scheduler):
                    await execution.run(timeout, stopped_by)
        finally:
            del running[execution]
            if not running:
                self._executions.pop(group, None)
            result = RunResult(execution.state, records, document=key, run_id=run_id)
            emit(RunFinished(self._scheduler.now(), result.status))
            if admitted is not None and durable is not None and execution.is_kept:
                is_ours = await durable.end(admitted, result, self._scheduler.now() - now)  # shielded, and bounded
        if not is_ours:
            raise DocumentBusyError(key, "another process, which has taken it over")
        return result

    async def _probe(self, bound: BoundPlan, values: Sequence[Any], admitted: Admitted) -> RunResult | None:
        """Return the result of a document that was completed before; None if there is anything to be done."""
        journal = admitted.bound
        execution = Execution(
            bound.plan,
            values,
            bound.candidates,
            scheduler=self._scheduler,
            executors=self._executors,
            emit=_forget,
            dice=self._dice,
            run_id=journal.run,
            document=journal.document,
            group=_SINGLE_RUNS,
            host=self,
            journal=journal,
        )
        journaling = execution.journaling
        await execution.run()
        if journaling is None or journaling.has_missed:
            return None
        return RunResult(execution.state, (), document=journal.document, run_id=journal.run, is_restored=True)


def _forget(record: Record) -> None:
    """Tell nobody: nothing happens."""


def _given(budget: BoundBudget | None) -> tuple[BoundBudget, ...]:
    return () if budget is None else (budget,)


def _journal_key(journal: str | Path | JournalPlace) -> Hashable:
    """Return what tells a journal from others: what `held` made of one address is equal, though it is not one."""
    if isinstance(journal, str | Path):
        return str(journal)
    return journal if isinstance(journal, PostgresJournal) else id(journal)


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout={timeout}: a timeout is positive; None means that nothing bounds the run.")


def _checked(sinks: Sequence[Sink]) -> tuple[Sink, ...]:
    """Return the sinks, if they are some: else each run would only log that it cannot tell them anything."""
    if hasattr(sinks, "open_run"):
        raise TypeError("sinks= takes a list of sinks. Put the one that you have into brackets: sinks=[…].")
    for sink in (given := tuple(sinks)):
        if isinstance(sink, type) or not hasattr(sink, "open_run"):
            raise TypeError(f"{sink!r} is no sink. Give objects with open_run(started), such as OpenTelemetry().")
    return given


def _guarded(sink: Sink, started: RunStarted) -> Callable[[Record], None]:
    """Return a reader whose first error is logged: who looks on must not end what is looked at."""
    try:
        reader = sink.open_run(started)
    except Exception:  # noqa: BLE001 - somebody else's code, which only looks on
        _log.exception("sink %s could not be opened", type(sink).__name__)
        return lambda _record: None

    has_raised = False

    def read(record: Record) -> None:
        nonlocal has_raised
        try:
            reader(record)
        except Exception:  # noqa: BLE001 - somebody else's code, which only looks on
            level = logging.DEBUG if has_raised else logging.ERROR  # dozens of records a run, and mostly one cause
            has_raised = True
            _log.log(level, "sink %s raised on %s", type(sink).__name__, type(record).__name__, exc_info=True)

    return read


def _fan_out(readers: Sequence[Callable[[Record], object]]) -> Callable[[Record], object]:
    if len(readers) == 1:
        return readers[0]

    def emit(record: Record) -> None:
        for reader in readers:
            reader(record)

    return emit


def document_key(inputs: Mapping[str, Any]) -> str | None:
    """Return the key of a document that has no name: a hash of its inputs; None if they have no JSON form.

    Example:
        >>> document_key({"a": 1, "b": 2}) == document_key({"b": 2, "a": 1})
        True
    """
    try:
        canonical = to_json({name: inputs[name] for name in sorted(inputs)})
    except (PydanticSerializationError, UnicodeEncodeError, TypeError):
        return None
    return sha256(canonical).hexdigest()[:32]


def _unknown_input(name: object, known: set[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"{name!r} is no input. Did you mean {near[0]!r}?" if near else f"{name!r} is no input."


def validate_inputs(plan: Plan, inputs: Mapping[str, Any]) -> list[Any]:
    """Return the inputs' values in the plan's order, validated.

    Raises:
        InputError: If any is missing, unknown, or of another type: all of them at once.
    """
    if not isinstance(inputs, Mapping):
        example = ", ".join(f"{declared.name!r}: …" for declared in plan.inputs)
        raise InputError(plan.name, [f"they are a {type(inputs).__name__}, not a mapping. Give {{{example}}}."])
    values: list[Any] = []
    problems: list[str] = []
    for declared in plan.inputs:
        if declared.name not in inputs:
            problems.append(f"{declared.name!r} is missing; give a {declared.output.name}.")
            continue
        value = inputs[declared.name]
        if declared.output.validate is not None:
            try:
                value = declared.output.validate(value)
            except ValidationError as error:
                got = type(value).__name__
                problems.append(f"{declared.name!r} is a {got}, not {declared.output.name}: {reasons_of(error)[0]}.")
            except Exception as error:  # noqa: BLE001 - a validator is the user's own code
                problems.append(f"{declared.name!r}: its validator raised {type(error).__name__}: {error}.")
        values.append(value)
    if len(inputs) > len(plan.inputs) or problems:
        known = {declared.name for declared in plan.inputs}
        problems += [_unknown_input(name, known) for name in inputs if name not in known]
        if problems:
            raise InputError(plan.name, [*problems, f"It takes {', '.join(sorted(known)) or 'none'}."])
    return values
