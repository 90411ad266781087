"""One document's run in motion: carries out what the state machine decides, on trio.

There is a task for the document and one for each further attempt in flight, never one for work
that waits: a step without a slot is an entry of the queue, one that backs off is a timer. The task
that finishes a step goes on with a step that became ready by it, so a line of steps needs no task
of its own.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio
from pydantic_core import ValidationError

from pipeline_engine.declare import as_messages
from pipeline_engine.errors import (
    OutputError,
    PipelineEngineError,
    ProviderError,
    StepCodeError,
    StepTimeoutError,
)
from pipeline_engine.plan import Condition, FallbackStep, FallbackValue, Plan, PlannedStep, reasons_of
from pipeline_engine.resilience import is_throttled, next_try
from pipeline_engine.schedule.state import Decision, Evaluate, Open, RunState, Settle, Start
from pipeline_engine.values import (
    RUNNING_STEP,
    AttemptFinished,
    AttemptStarted,
    Call,
    Completed,
    Completion,
    CompletionModel,
    Failed,
    Fault,
    Message,
    Outcome,
    Record,
    RepairAsked,
    Request,
    Skipped,
    StepContext,
    StepFinished,
    StepMapped,
    StepReady,
    Stopped,
    Usage,
    WaitEnded,
    WaitStarted,
)

if TYPE_CHECKING:
    import random

    from pipeline_engine.schedule.queue import Key
    from pipeline_engine.schedule.scheduler import Scheduler, Timer

__all__ = ["BoundModel", "Candidate", "Execution", "Executors", "StepRun"]

_log = logging.getLogger("pipeline_engine")


class _NoScope:
    """Stand for the cancel scope of attempts that nothing bounds: opening a real one is dear."""

    deadline = math.inf
    cancelled_caught = False

    def __enter__(self) -> None:
        return

    def __exit__(self, *_error: object) -> None:
        return


_NO_SCOPE = _NoScope()
_NO_CONTEXT = contextvars.Context()
_LONGEST_TURN = 0.001
"""Seconds that a task may go on from step to step before it lets the other tasks run."""


@dataclass(frozen=True, slots=True)
class BoundModel:
    """Try a step with this model."""

    name: str
    """As `"provider:model"`."""
    model: CompletionModel


Candidate = BoundModel | FallbackValue | FallbackStep
"""What a step can be tried with, besides its own function."""


class Executors(Protocol):
    """Run functions elsewhere than on the engine's thread."""

    async def run(self, step_run: StepRun) -> Any:
        """Return what the step's function returns.

        Raises:
            Exception: Whatever the function raises.
        """
        ...


class StepRun:
    """Hold one execution of a step or item, over all its attempts."""

    # What most attempts never change stands here, not in each instance.
    is_queued = False
    has_slot = False
    slot_at = 0.0
    is_running = False
    runs_inside = 0
    """How many runs of its own the step waits for: it holds no slot meanwhile."""
    is_abandoned = False
    is_repair = False
    arguments: Sequence[Any] = ()
    keywords: dict[str, Any] | None = None
    prompt: tuple[Message, ...] = ()
    messages: tuple[Message, ...] = ()
    attempt = 0
    """Counted over everything that is tried."""
    attempts_spent = 0
    """Counted for the candidate at hand, without refusals for rate and repairs."""
    throttled = 0
    repairs = 0
    candidate = 0
    delay = 0.0
    reply = ""
    error: Exception | None = None
    waits_for: tuple[int, int | None] | None = None
    """The fallback step, or item of one, that it waits for."""
    deadline = math.inf
    """Of the step: counted from its first attempt."""
    scope_deadline = math.inf
    """Of the attempt: the tighter one of its own and the step's."""
    timer: Timer | None = None

    def __init__(self, execution: Execution, step: PlannedStep, item: int | None) -> None:
        self.execution = execution
        self.step = step
        self.item = item

    # The queue asks for these only where there is no free slot.

    @property
    def group(self) -> Hashable:
        """What it takes turns with."""
        return self.execution.group

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return self.execution.priority

    @property
    def key(self) -> Key:
        """Its place within its group: the document, then the longest remaining path."""
        step = self.step
        return (self.execution.place, -step.remaining, step.index, -1 if self.item is None else self.item)

    def launch(self) -> None:
        """Go on with a slot in hand: the queue calls this."""
        self.execution.launch(self)

    def context(self) -> StepContext:
        """Return what the running step may know about itself."""
        execution = self.execution
        deadline = min(self.scope_deadline, execution.deadline)
        return StepContext(
            execution.run_id,
            execution.plan.name,
            execution.document,
            self.step.name,
            self.item,
            self.attempt,
            deadline if deadline < math.inf else None,
        )


class Execution:
    """Run one document through a plan.

    Args:
        plan: The compiled pipeline.
        inputs: Validated values, in the plan's order.
        candidates: For each step, what it is tried with in order; None stands for a function step's
            own function.
        scheduler: Shared by all runs of the engine.
        executors: Where functions run that are not trio's.
        emit: Gets each record.
        dice: The source of jitter.
        place: The number of the document's arrival, if it was drawn before.
        host: Whoever runs it: what a run inside one of its steps runs on, too.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: Sequence[Any],
        candidates: Sequence[Sequence[Candidate | None]],
        *,
        scheduler: Scheduler,
        executors: Executors,
        emit: Callable[[Record], object],
        dice: random.Random,
        run_id: str,
        document: str,
        group: Hashable,
        priority: int = 0,
        place: int | None = None,
        host: object = None,
    ) -> None:
        self.plan = plan
        self.host = host
        self.state = RunState(plan, inputs)
        self.candidates = candidates
        self.scheduler = scheduler
        self.executors = executors
        self.emit = emit
        self.dice = dice
        self.run_id = run_id
        self.document = document
        self.group = group
        self.priority = priority
        self.place = scheduler.next_document() if place is None else place
        self.deadline = math.inf
        self.sources = tuple(value for value in inputs if isinstance(value, str))
        self._nursery: trio.Nursery | None = None
        self._context: contextvars.Context = _NO_CONTEXT
        self._waiting: dict[StepRun, None] = {}
        self._callers: dict[tuple[int, int | None], list[StepRun]] = {}
        self._parked: trio.lowlevel.Task | None = None
        self._next: StepRun | None = None
        self._takes_next = False
        self._is_ending = False

    async def run(self, timeout: float | None = None, stopped_by: str | None = None) -> None:
        """Run until every step has its outcome, or `timeout` seconds have passed.

        A cancellation from outside propagates, after every step got its outcome and every slot,
        timer and place in the queue was given back.
        """
        if timeout is None:
            try:
                await self._run()
            finally:
                self._stop("cancelled")
            return
        self.deadline = trio.current_time() + timeout
        reason = "cancelled"
        try:
            with trio.CancelScope(deadline=self.deadline) as scope:
                await self._run()
            if scope.cancelled_caught:
                reason = stopped_by or f"the run's timeout of {timeout:g} s"
        finally:
            self._stop(reason)

    async def _run(self) -> None:
        caller = RUNNING_STEP.get()
        self._context = contextvars.copy_context()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    first = self._carry_out(self.state.begin(), self.scheduler.now())
                    if first is not None:
                        await self._work(first)
                    if not self.state.is_over:
                        self._parked = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(self._unpark)
                finally:
                    # From here on the nursery takes no task: nothing may be launched any more.
                    self._is_ending = True
                    for step_run in self._waiting:
                        self._withdraw(step_run)
        except BaseExceptionGroup as group:
            # Failed steps are values: what comes out here is an interrupt, an exit or a bug, and mostly alone.
            raise only_error(group) from None
        finally:
            # This task made attempts itself: its context must not keep the last one's.
            RUNNING_STEP.set(caller)

    def _unpark(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _stop(self, reason: str) -> None:
        """Give everything back and settle what is not settled; does nothing to a finished run."""
        state = self.state
        if state.is_over and not self.plan.on_demand:
            return
        now = trio.current_time()
        for step_run in self._waiting:
            self._withdraw(step_run)
            if step_run.item is not None:
                self.emit(StepFinished(now, step_run.step.name, step_run.item, Stopped(reason)))
        self._waiting.clear()
        self._callers.clear()
        decisions = state.finish() if state.is_over else state.stop(reason)
        for decision in decisions:
            if isinstance(decision, Settle):
                self.emit(StepFinished(now, self.plan.steps[decision.step].name, None, decision.outcome))
        self.scheduler.dispatch()

    # Carrying out decisions: nothing here waits

    def _carry_out(self, decisions: list[Decision], now: float) -> StepRun | None:
        """Do what the state decided, and return the step run that this task goes on with, if any."""
        ready: list[StepRun] = []
        while decisions:
            more: list[Decision] = []
            has_closed = False
            for decision in decisions:
                if isinstance(decision, Start):
                    self._prepare(decision, now, ready, more)
                elif isinstance(decision, Settle):
                    self._settle(decision.step, decision.item, decision.outcome, now, more)
                elif isinstance(decision, Evaluate):
                    self._evaluate(decision, now, more)
                elif isinstance(decision, Open):
                    name = self.plan.steps[decision.step].name
                    self.emit(StepReady(now, name, None, self._name(decision.unblocked_by)))
                    self.emit(StepMapped(now, name, decision.width))
                else:
                    has_closed = True
                    self._close(decision.step, now, more)
            if has_closed:
                ready = self._without_closed(ready, now, more)
            decisions = more
        return self._admit(ready, now)

    def _without_closed(self, ready: list[StepRun], now: float, more: list[Decision]) -> list[StepRun]:
        """Drop what was about to start of a step that has failed meanwhile: it must not be paid for."""
        kept = []
        for step_run in ready:
            if step_run.item is not None and self.state.is_closing(step_run.step.index):
                skipped = Skipped(step_run.step.name, is_by_choice=False)
                self._settle(step_run.step.index, step_run.item, skipped, now, more)
            else:
                kept.append(step_run)
        return kept

    def _name(self, index: int | None) -> str | None:
        return None if index is None else self.plan.steps[index].name

    def _admit(self, ready: list[StepRun], now: float) -> StepRun | None:
        """Start ready work, or put it into the queue; return what the calling task goes on with."""
        scheduler = self.scheduler
        if self._is_ending:
            self._waiting.update(dict.fromkeys(ready))  # they get their outcome when the run is stopped
            return None
        if not scheduler.queue.live and len(ready) <= scheduler.free:
            scheduler.free -= len(ready)
            for step_run in ready:
                step_run.has_slot = True
                step_run.slot_at = now
            for step_run in ready[1:]:
                self._spawn(step_run)
            if scheduler.room_waiters:
                scheduler.dispatch()  # a batch may wait for room
            if ready:
                return ready[0]
            self._wake_if_over()
            return None
        for step_run in ready:
            self._wait(step_run)
            scheduler.queue.push(step_run)
        # While the queue is served, one step run of this document may be kept for this very task.
        self._takes_next, self._next = True, None
        scheduler.dispatch()
        self._takes_next = False
        self._wake_if_over()
        kept, self._next = self._next, None
        return kept

    def launch(self, step_run: StepRun) -> None:
        """Go on with a step run that got its slot from the queue."""
        self._resume(step_run)
        step_run.has_slot = True
        step_run.slot_at = self.scheduler.now()
        if self._takes_next and self._next is None:
            self._next = step_run
        else:
            self._spawn(step_run)

    def _spawn(self, step_run: StepRun) -> None:
        if self._nursery is None:
            raise AssertionError("a run that is not open cannot start anything")
        # Whoever frees the slot may be another run's task: a step sees the context variables of its own run.
        self._context.run(partial(self._nursery.start_soon, self._work, step_run, name=step_run.step.name))

    def _wake_if_over(self) -> None:
        if self._parked is not None and self.state.is_over:
            parked, self._parked = self._parked, None
            trio.lowlevel.reschedule(parked)

    def _prepare(self, start: Start, now: float, ready: list[StepRun], more: list[Decision]) -> None:
        step = self.plan.steps[start.step]
        item = start.item
        if item is not None and self.state.is_closing(step.index):
            self._settle(step.index, item, Skipped(step.name, is_by_choice=False), now, more)
            return
        step_run = StepRun(self, step, item)
        self.emit(
            StepReady(now, step.name, item, None if start.unblocked_by is None else self._name(start.unblocked_by))
        )
        if step.collect is not None:
            step_run.arguments = step.collect(self.state.values)
        elif item is not None and step.collect_item is not None:
            step_run.arguments = step.collect_item(self.state.values, item)
        else:
            step_run.arguments, step_run.keywords = self.state.arguments(step.needs, item)
        if step.kind == "llm":
            running = RUNNING_STEP.set(step_run)
            try:
                prompt = step.function(*step_run.arguments, **(step_run.keywords or {}))
                step_run.prompt = step_run.messages = as_messages(prompt, step.system)
            except Exception as error:  # noqa: BLE001 - the user's own code: whatever it raises is the outcome
                self._fail_in_code(step_run, "prompt", error, now, more)
                return
            finally:
                RUNNING_STEP.reset(running)
            if not self.candidates[step.index]:
                raise AssertionError(f"step {step.name!r} was bound to no model")
        ready.append(step_run)

    def _fail_in_code(self, step_run: StepRun, part: str, error: Exception, now: float, more: list[Decision]) -> None:
        """End a step by a bug in the pipeline's own code: no retry, no fallback."""
        failure = _bug(step_run.step.name, part, error)
        self._settle(step_run.step.index, step_run.item, Failed(failure), now, more)

    def _evaluate(self, asked: Evaluate, now: float, more: list[Decision]) -> None:
        step = self.plan.steps[asked.step]
        condition = step.when
        if condition is None:
            raise AssertionError(f"step {step.name!r} has no condition")
        running = RUNNING_STEP.set(StepRun(self, step, asked.item))
        try:
            arguments, keywords = self.state.arguments(condition.needs, asked.item)
            answer = condition.function(*arguments, **keywords)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError("is async. A condition is a plain function")
            is_wanted = bool(answer)
        except Exception as error:  # noqa: BLE001 - the user's own code
            failed = Failed(_bug(step.name, "when", error))
            if asked.item is None:
                self.state.outcomes[asked.step] = failed
            more.append(Settle(asked.step, asked.item, failed))
            return
        finally:
            RUNNING_STEP.reset(running)
        more.extend(self.state.answer(asked.step, asked.item, is_wanted=is_wanted))

    def _settle(self, index: int, item: int | None, outcome: Outcome[Any], now: float, more: list[Decision]) -> None:
        """Record an outcome, tell the state, and wake who waits for it as a fallback."""
        if item is not None and isinstance(outcome, Failed):
            outcome = self.state.tolerate(index, outcome.error)
        self.emit(StepFinished(now, self.plan.steps[index].name, item, outcome))
        more.extend(self.state.settle(index, item, outcome))
        if self._callers:
            for caller in self._callers.pop((index, item), ()):
                self._use_fallback_step(caller, outcome, now, more)
            if item is None and self.plan.steps[index].is_mapped:
                for key in [key for key in self._callers if key[0] == index]:
                    for caller in self._callers.pop(key):
                        self._use_fallback_step(caller, outcome, now, more)

    def _close(self, index: int, now: float, more: list[Decision]) -> None:
        """Withdraw the items of a step that wait for anything; those on the wire may finish."""
        step = self.plan.steps[index]
        for step_run in [waiting for waiting in self._waiting if waiting.step is step]:
            self._resume(step_run)
            self._withdraw(step_run)
            self._forget_caller(step_run)
            self._settle(index, step_run.item, Skipped(step.name, is_by_choice=False), now, more)

    # Waiting without a task

    def _wait(self, step_run: StepRun) -> None:
        """Keep track of work that has no task: the step's deadline must find it."""
        self._waiting[step_run] = None
        if step_run.deadline < math.inf and step_run.timer is None:
            step_run.timer = self.scheduler.call_at(step_run.deadline, lambda: self._run_out(step_run))

    def _resume(self, step_run: StepRun) -> None:
        self._waiting.pop(step_run, None)
        if step_run.timer is not None:
            self.scheduler.cancel(step_run.timer)
            step_run.timer = None

    def _withdraw(self, step_run: StepRun) -> None:
        self.scheduler.queue.withdraw(step_run)
        if step_run.timer is not None:
            self.scheduler.cancel(step_run.timer)
            step_run.timer = None

    def _backed_off(self, step_run: StepRun) -> None:
        step_run.timer = None
        self.emit(WaitEnded(trio.current_time(), step_run.step.name, step_run.item))
        self._requeue(step_run)
        self.scheduler.dispatch()

    def _requeue(self, step_run: StepRun) -> None:
        if self._is_ending:
            self._waiting[step_run] = None
            return
        self._wait(step_run)
        self.scheduler.queue.push(step_run)

    def _forget_caller(self, step_run: StepRun) -> None:
        """It waits for its fallback step no longer."""
        callers = self._callers.get(step_run.waits_for) if step_run.waits_for is not None else None
        if callers and step_run in callers:
            callers.remove(step_run)

    def _run_out(self, step_run: StepRun) -> None:
        """The step's deadline came while it waited."""
        step_run.timer = None
        self._resume(step_run)
        self._withdraw(step_run)
        self._forget_caller(step_run)
        now = trio.current_time()
        more: list[Decision] = []
        self._end_by_deadline(step_run, now, more)
        self._go_on(more, now)

    def _go_on(self, decisions: list[Decision], now: float) -> None:
        """Carry out decisions where no step's task can go on with one of them."""
        kept = self._carry_out(decisions, now)
        if kept is not None:
            self._spawn(kept)

    # An attempt

    async def _work(self, step_run: StepRun | None) -> None:
        """Make attempts, each with a slot in hand, until none is left for this task.

        One cancel scope serves all timed attempts of the task, its deadline moved from one to the
        next: opening a scope costs three times as much. One that has fired is spent.
        """
        read_clock = self.scheduler.now
        turn_began = read_clock()
        while step_run is not None:
            is_timed = step_run.step.is_timed
            scope = trio.CancelScope() if is_timed else _NO_SCOPE
            try:
                with scope:
                    while step_run is not None and step_run.step.is_timed is is_timed:
                        now = self._begin_attempt(step_run)
                        deadline = math.inf
                        if is_timed:
                            scope.deadline = deadline = self._deadline(step_run, now)
                        value: Any = None
                        error: Exception | None = None
                        try:
                            value = await self._call(step_run)
                        except Exception as raised:  # noqa: BLE001 - here a step's failure becomes a value
                            error = _unwrapped(raised, step_run.step.name)
                        except BaseExceptionGroup as group:
                            raise _cancellation_in(group, step_run.step.name) from None
                        finished = read_clock()
                        step_run = self._end_attempt(step_run, value, error, finished)
                        if finished >= deadline:
                            break  # the scope may have fired, though the attempt did not notice
                        if step_run is not None and finished - turn_began > _LONGEST_TURN:
                            # Steps that never wait must not starve the calls on the wire.
                            if is_timed:
                                scope.deadline = math.inf
                            await trio.lowlevel.checkpoint()
                            turn_began = read_clock()
            except BaseException:
                # Cancelled from outside, or a crash of trio itself: nothing here may wait.
                if step_run is not None:
                    self._leave(step_run)
                raise
            if scope.cancelled_caught and step_run is not None:
                step_run = self._end_attempt(step_run, None, self._timeout_error(step_run), read_clock())

    def _begin_attempt(self, step_run: StepRun) -> float:
        step_run.attempt += 1
        step_run.is_running = True
        RUNNING_STEP.set(step_run)
        # From the moment it has its slot, not from when trio comes to run the task.
        now = step_run.slot_at
        model = None if step_run.step.kind == "function" else self._model_name(step_run)
        self.emit(AttemptStarted(now, step_run.step.name, step_run.item, step_run.attempt, model, step_run.is_repair))
        return now

    def _end_attempt(self, step_run: StepRun, value: Any, error: Exception | None, finished: float) -> StepRun | None:
        step_run.is_running = False
        if step_run.has_slot:
            step_run.has_slot = False
            self.scheduler.free += 1
        return self._after_attempt(step_run, value, error, finished)

    def _call(self, step_run: StepRun) -> Awaitable[Any]:
        step = step_run.step
        if step.executor == "trio":
            if step_run.keywords:
                return step.function(*step_run.arguments, **step_run.keywords)  # type: ignore[no-any-return]  # async def
            return step.function(*step_run.arguments)  # type: ignore[no-any-return]  # async def
        if step.executor is not None:
            return self.executors.run(step_run)
        return self._complete(step_run)

    async def _complete(self, step_run: StepRun) -> Completion:
        candidate = self._candidate(step_run)
        if not isinstance(candidate, BoundModel):
            raise AssertionError(f"{candidate!r} is not called")
        step = step_run.step
        request = Request(
            step_run.messages,
            step.output.schema,
            step.output.name,
            self._sources(step_run),
            step.timeout.seconds("connect"),
        )
        return await candidate.model.complete(request)

    def _sources(self, step_run: StepRun) -> tuple[str, ...]:
        """Return the texts that the step works on: its own document, item or list first."""
        given = [*step_run.arguments, *(step_run.keywords or {}).values()]
        if step_run.item is not None and given:
            given[0] = "\n\n".join(texts_in(given[0]))
        texts = [value for value in given if isinstance(value, str)]
        texts += ["\n\n".join(texts_in(value)) for value in given if isinstance(value, list)]
        others = ["\n\n".join(texts_in(value)) for value in given if not isinstance(value, str | list)]
        return (*(texts or self.sources), *others)

    def _candidate(self, step_run: StepRun) -> Candidate | None:
        candidates = self.candidates[step_run.step.index]
        return candidates[step_run.candidate] if step_run.candidate < len(candidates) else None

    def _model_name(self, step_run: StepRun) -> str | None:
        if step_run.step.kind != "llm":
            return None
        candidate = self._candidate(step_run)
        return candidate.name if isinstance(candidate, BoundModel) else None

    @staticmethod
    def _deadline(step_run: StepRun, now: float) -> float:
        """Return when this attempt ends; one cancel scope serves the attempt's timeout and the step's."""
        step = step_run.step
        if step.step_seconds is not None and step_run.attempt == 1:
            step_run.deadline = now + step.step_seconds
        deadline = step_run.deadline
        if step.attempt_seconds is not None and now + step.attempt_seconds < deadline:
            deadline = now + step.attempt_seconds
        step_run.scope_deadline = deadline
        return deadline

    @staticmethod
    def _timeout_error(step_run: StepRun) -> StepTimeoutError:
        step = step_run.step
        is_step = step_run.deadline <= step_run.scope_deadline
        seconds = step.step_seconds if is_step else step.attempt_seconds
        which = "step" if is_step else "attempt"
        return StepTimeoutError(step.name, which, seconds or 0.0, is_abandoned=step_run.is_abandoned)

    def _leave(self, step_run: StepRun) -> None:
        """End what was cancelled from outside, in its attempt or just before, without waiting for anything."""
        if step_run.has_slot:
            step_run.has_slot = False
            self.scheduler.release()
        now = self.scheduler.now()
        if step_run.is_running:
            step_run.is_running = False
            fault = Fault("cancelled", "cancelled from outside")
            self.emit(AttemptFinished(now, step_run.step.name, step_run.item, step_run.attempt, fault))
        if step_run.item is not None:
            self.emit(StepFinished(now, step_run.step.name, step_run.item, Stopped("cancelled")))

    # After an attempt: what its result leads to

    def _after_attempt(self, step_run: StepRun, value: Any, error: Exception | None, finished: float) -> StepRun | None:
        """Record an attempt and decide what follows; return what this task goes on with."""
        step, item = step_run.step, step_run.item
        more: list[Decision] = []
        if step.kind == "llm":
            self._record_call(step_run, value, error, finished)
        else:
            fault = None if error is None else _fault(error)
            self.emit(AttemptFinished(finished, step.name, item, step_run.attempt, fault))
        now = finished
        if error is None:
            error, value = self._validated(step_run, value)
            if step.output.validate is not None or step.check is not None:
                now = self.scheduler.now()
        if error is None:
            via = self._via(step_run) if step_run.candidate else None
            outcome = Completed(value, via)
            if item is None and not self._callers:
                # The way that nearly every step takes.
                self.emit(StepFinished(now, step.name, None, outcome))
                return self._carry_out(self.state.settle(step.index, None, outcome), now)
            self._settle(step.index, item, outcome, now, more)
            return self._carry_out(more, now)
        self._after_failure(step_run, error, now, more)
        return self._carry_out(more, now)

    def _record_call(self, step_run: StepRun, value: Any, error: Exception | None, finished: float) -> None:
        completion = value if isinstance(value, Completion) else None
        if completion is not None:
            step_run.reply = completion.text
        fault = None if error is None else _fault(error)
        call = Call(self._model_name(step_run) or "", step_run.messages, completion, fault.message if fault else None)
        usage: Usage | None = completion.usage if completion else None
        self.emit(AttemptFinished(finished, step_run.step.name, step_run.item, step_run.attempt, fault, usage, call))

    def _validated(self, step_run: StepRun, value: Any) -> tuple[Exception | None, Any]:
        """Return why a result is no output, or the output."""
        step = step_run.step
        try:
            if inspect.iscoroutine(value):
                value.close()
                return self._invalid(step, value, ("it is a coroutine, not its result",)), None
            if step.kind == "llm":
                value = self._parsed(step, value)
            elif step.output.validate is not None:
                value = step.output.validate(value)
        except ValidationError as error:
            return self._invalid(step, value, reasons_of(error)), None
        except OutputError as error:
            return error, None
        except Exception as error:  # noqa: BLE001 - a validator is the user's own code
            return _bug(step.name, "output", error), None
        if step.check is None:
            return None, value
        return self._checked(step, step.check, step_run.item, value), value

    @staticmethod
    def _invalid(step: PlannedStep, value: Any, reasons: tuple[str, ...]) -> OutputError:
        if step.kind == "llm":
            return OutputError(step.name, reasons, advice="Allow another Retry(repair=…), or use a stronger model.")
        got = f"a {type(value).__name__}"
        if value is None:
            got = "None (is a `return` missing?)"
        elif inspect.iscoroutine(value):
            got = "a coroutine (is an `await` missing, or `async def`?)"
        advice = f"It returned {got}. Return {step.output.name}, or change the annotation."
        return OutputError(step.name, reasons, advice=advice)

    @staticmethod
    def _parsed(step: PlannedStep, completion: Any) -> Any:
        if not isinstance(completion, Completion):
            raise OutputError(
                step.name,
                [f"the model's complete() returned a {type(completion).__name__}"],
                advice="Return a Completion.",
            )
        if completion.finish == "length" and step.truncated == "fail":
            raise OutputError(
                step.name,
                ["the reply was cut at its token cap"],
                advice='Raise Model(max_tokens=…), ask for less, or accept it with truncated="keep".',
                is_truncated=True,
            )
        return step.output.parse(completion.text) if step.output.parse else completion.text

    def _checked(self, step: PlannedStep, check: Condition, item: int | None, value: Any) -> Exception | None:
        try:
            arguments, keywords = self.state.arguments(check.needs, item)
            answer = check.function(value, *arguments, **keywords)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError("is async. A check is a plain function")
            is_good = not isinstance(answer, str) and bool(answer)
        except Exception as error:  # noqa: BLE001 - the user's own code
            return _bug(step.name, "check", error)
        if is_good:
            return None
        reason = answer if isinstance(answer, str) else "the check refused it"
        return OutputError(step.name, [reason], advice="Change the step, or what its check= accepts.")

    # After a failure: repair, try again, fall back, give up

    def _after_failure(self, step_run: StepRun, error: Exception, now: float, more: list[Decision]) -> None:
        step = step_run.step
        if isinstance(error, StepCodeError):
            self._settle(step.index, step_run.item, Failed(error), now, more)
        elif isinstance(error, StepTimeoutError) and error.which == "step":
            self._end_by_deadline(step_run, now, more)
        elif isinstance(error, OutputError):
            if not self._repair(step_run, error, now):
                self._next_candidate(step_run, error, now, more)
        else:
            self._retry_or_go_on(step_run, error, now, more)

    def _repair(self, step_run: StepRun, error: OutputError, now: float) -> bool:
        """Tell a model what is wrong with its reply and ask again, if it has repairs left."""
        step = step_run.step
        if step.kind != "llm" or error.is_truncated or step_run.repairs >= step.retry.repair:
            return False
        step_run.repairs += 1
        step_run.is_repair = True
        reasons = "\n".join(f"- {reason}" for reason in error.reasons)
        step_run.messages = (
            *step_run.messages,
            Message("assistant", step_run.reply),
            Message("user", f"This answer cannot be used:\n{reasons}\nAnswer again, complete and corrected."),
        )
        self.emit(RepairAsked(now, step.name, step_run.item, error.reasons))
        self._requeue(step_run)
        return True

    def _retry_or_go_on(self, step_run: StepRun, error: Exception, now: float, more: list[Decision]) -> None:
        step = step_run.step
        if is_throttled(error):
            step_run.throttled += 1
        else:
            step_run.attempts_spent += 1
        try:
            again = next_try(
                step.retry,
                error,
                attempts=step_run.attempts_spent,
                throttled=step_run.throttled,
                previous=step_run.delay,
                seconds_left=min(step_run.deadline, self.deadline) - now,
                dice=self.dice,
            )
        except Exception as bug:  # noqa: BLE001 - Retry(on=…) is the user's own code
            self._settle(step.index, step_run.item, Failed(_bug(step.name, "Retry(on=…)", bug)), now, more)
            return
        if again is None:
            self._next_candidate(step_run, error, now, more)
            return
        step_run.delay = again.delay
        if step.retry.on_retry is not None:
            self._tell(step.retry.on_retry, step_run, error)
        self.emit(WaitStarted(now, step.name, step_run.item, "backoff"))
        self._waiting[step_run] = None
        step_run.timer = self.scheduler.call_at(now + again.delay, lambda: self._backed_off(step_run))

    def _tell(self, on_retry: Callable[[int, Exception], Any], step_run: StepRun, error: Exception) -> None:
        """Call the user's callback, guarded: what it raises is logged and changes nothing."""
        try:
            answer = on_retry(step_run.attempt, error)
        except Exception:  # noqa: BLE001 - the user's callback is only told
            _log.exception("on_retry of step %r raised", step_run.step.name)
            return
        if inspect.isawaitable(answer) and self._nursery is not None:
            self._nursery.start_soon(self._await_guarded, answer, step_run.step.name)

    @staticmethod
    async def _await_guarded(answer: Awaitable[Any], step: str) -> None:
        try:
            await answer
        except Exception:  # noqa: BLE001 - the user's callback is only told
            _log.exception("on_retry of step %r raised", step)

    def _next_candidate(self, step_run: StepRun, error: Exception, now: float, more: list[Decision]) -> None:
        """Go on with what is tried next; with nothing left the step fails with its last error."""
        step, item = step_run.step, step_run.item
        step_run.candidate += 1
        candidate = self._candidate(step_run)
        if candidate is None:
            self._settle(step.index, item, Failed(error), now, more)
        elif isinstance(candidate, FallbackValue):
            self._settle(step.index, item, Completed(candidate.value, self._via(step_run)), now, more)
        elif isinstance(candidate, BoundModel):
            step_run.attempts_spent = step_run.throttled = step_run.repairs = 0
            step_run.delay = 0.0
            step_run.is_repair = False
            step_run.messages = step_run.prompt
            self._requeue(step_run)
        else:
            step_run.error = error
            outcome, decisions = self.state.demand(candidate.index, item)
            more.extend(decisions)
            if outcome is None:
                self.emit(WaitStarted(now, step.name, item, "fallback"))
                step_run.waits_for = (candidate.index, item)
                self._callers.setdefault(step_run.waits_for, []).append(step_run)
                self._wait(step_run)
            else:
                self._use_fallback_step(step_run, outcome, now, more)

    def _use_fallback_step(self, step_run: StepRun, outcome: Outcome[Any], now: float, more: list[Decision]) -> None:
        was_waiting = step_run in self._waiting
        self._resume(step_run)
        if isinstance(outcome, Completed):
            completed = Completed(outcome.value, self._via(step_run))
            self._settle(step_run.step.index, step_run.item, completed, now, more)
            return
        if was_waiting:
            self.emit(WaitEnded(now, step_run.step.name, step_run.item))
        error = step_run.error
        if error is None:
            raise AssertionError("a step falls back only after an error")
        self._next_candidate(step_run, error, now, more)

    def _end_by_deadline(self, step_run: StepRun, now: float, more: list[Decision]) -> None:
        """Use the first plain value among the fallbacks that are left; nothing else has time to run."""
        step = step_run.step
        left = self.candidates[step.index][step_run.candidate :]
        value = next((candidate for candidate in left if isinstance(candidate, FallbackValue)), None)
        if value is not None:
            outcome: Outcome[Any] = Completed(value.value, "fallback:value")
        else:
            seconds = step.step_seconds or 0.0
            outcome = Failed(StepTimeoutError(step.name, "step", seconds, is_abandoned=step_run.is_abandoned))
        self._settle(step.index, step_run.item, outcome, now, more)

    def _via(self, step_run: StepRun) -> str:
        candidate = self._candidate(step_run)
        name = "value" if isinstance(candidate, FallbackValue) or candidate is None else candidate.name
        return f"fallback:{name}"


def _cancellation_in(group: BaseExceptionGroup[BaseException], step: str) -> BaseException:
    """Return what goes on when a cancelled step also raised: the cancellation; its clean-up's errors are logged."""
    cancelled, rest = group.split(trio.Cancelled)
    if cancelled is None or not isinstance(rest, ExceptionGroup):
        return group
    _log.warning("the clean-up of step %r raised while it was cancelled", step, exc_info=rest)
    return only_error(cancelled)


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what a group of exceptions holds, if it is one thing; else the group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def texts_in(value: Any) -> list[str]:
    """Return the texts that an output holds, in order.

    Example:
        >>> texts_in({"title": "A", "lines": ["B", "C"], "score": 1})
        ['A', 'B', 'C']
    """
    if isinstance(value, str):
        return [value]
    if hasattr(type(value), "model_fields"):  # a pydantic model
        value = dict(value)
    elif is_dataclass(value):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts_in(part)]
    return []


def _unwrapped(error: Exception, step: str) -> Exception:
    """Return what a step raised: a group of one is unwrapped, a foreign event loop is named."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    is_foreign = isinstance(error, TypeError) and "unrecognized yield message" in str(error)
    if is_foreign or (
        isinstance(error, RuntimeError)
        and ("no running event loop" in str(error) or "no current event loop" in str(error))
    ):
        reason = 'calls an asyncio library, but async steps run on trio. Declare it with executor="asyncio".'
        failure = StepCodeError(step, "function", reason)
        failure.__cause__ = error
        return failure
    return error


def _bug(step: str, part: str, error: Exception) -> StepCodeError:
    """Return the error for user code that must not raise, its cause chained."""
    if isinstance(error, TypeError) and _text_of(error).startswith(("returned ", "is async")):
        failure = StepCodeError(step, part, str(error))
    else:
        failure = StepCodeError(
            step, part, f"raised {type(error).__name__}: {_text_of(error)}. Correct the pipeline's code."
        )
    failure.__cause__ = error
    return failure


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may do anything
        return f"<{type(error).__name__} without a readable message>"


def _fault(error: Exception) -> Fault:
    kind = error.kind if isinstance(error, ProviderError) else type(error).__name__
    status = error.status if isinstance(error, ProviderError) else None
    return Fault(kind, _text_of(error) or kind, isinstance(error, PipelineEngineError) and error.is_transient, status)
