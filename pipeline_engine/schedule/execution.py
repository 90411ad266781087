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
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import trio

from pipeline_engine.declare import as_messages
from pipeline_engine.errors import OutputError, ProviderError, StepCodeError, StepTimeoutError
from pipeline_engine.plan import FallbackValue, Plan, PlannedStep
from pipeline_engine.resilience import is_throttled, next_try
from pipeline_engine.schedule.judging import (
    bug_in,
    cancellation_in,
    checked,
    fault_of,
    judged,
    only_error,
    texts_in,
    texts_of,
    unwrapped,
    withheld,
)
from pipeline_engine.schedule.sharing import Warming, shared_prefix
from pipeline_engine.schedule.state import Decision, Evaluate, Open, RunState, Settle, Start
from pipeline_engine.schedule.step_run import BoundModel, Candidate, Executors, StepRun
from pipeline_engine.values import (
    RUNNING_STEP,
    AttemptFinished,
    AttemptStarted,
    Call,
    Completed,
    Completion,
    Cost,
    Delta,
    EmbeddingModel,
    Embeddings,
    Failed,
    Fault,
    Message,
    Outcome,
    Record,
    RepairAsked,
    Request,
    Restarted,
    Skipped,
    StepFinished,
    StepMapped,
    StepReady,
    Stopped,
    WaitEnded,
    WaitStarted,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    from pipeline_engine.schedule.following import Follower
    from pipeline_engine.schedule.scheduler import Scheduler

__all__ = ["Execution"]

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
        follower: Whoever follows its streamed replies.
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
        follower: Follower | None = None,
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
        self._follower = follower
        self._batches: dict[int, list[list[str]]] = {}
        self._warmings: dict[Hashable, Warming] = {}
        self._equal_calls: dict[Hashable, int] = {}

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
                    self._end()
        except BaseExceptionGroup as group:
            # Failed steps are values: what comes out here is an interrupt, an exit or a bug, and mostly alone.
            raise only_error(group) from None
        finally:
            # This task made attempts itself: its context must not keep the last one's.
            RUNNING_STEP.set(caller)

    def _end(self) -> None:
        """Take everything back that waits: from here on nothing may be launched any more."""
        self._is_ending = True
        for step_run in list(self._waiting):
            self._withdraw(step_run)

    def _unpark(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _stop(self, reason: str) -> None:
        """Give everything back and settle what is not settled; does nothing to a finished run."""
        state = self.state
        if state.is_over and not self.plan.on_demand:
            return
        now = trio.current_time()
        for step_run in list(self._waiting):
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
        if self.plan.has_linked_calls:
            ready = [step_run for step_run in ready if not self._waits_for_another(step_run, now)]
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
        if step.kind == "embed" and item is None:
            self._divide(step, start.unblocked_by, now, more)
            return
        step_run = StepRun(self, step, item)
        self.emit(
            StepReady(now, step.name, item, None if start.unblocked_by is None else self._name(start.unblocked_by))
        )
        if step.kind == "embed" and item is not None:
            step_run.arguments = (self._batches[step.index][item],)
        elif step.collect is not None:
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

    def _divide(self, step: PlannedStep, by: int | None, now: float, more: list[Decision]) -> None:
        """Ask an embed step for its texts, and divide them into batches that the model takes."""
        step_run = StepRun(self, step, None)
        arguments, keywords = self.state.arguments(step.needs, None)
        running = RUNNING_STEP.set(step_run)
        try:
            texts = texts_of(step.function(*arguments, **keywords))
        except Exception as error:  # noqa: BLE001 - the user's own code: whatever it raises is the outcome
            self.emit(StepReady(now, step.name, None, self._name(by)))
            self._fail_in_code(step_run, "function", error, now, more)
            return
        finally:
            RUNNING_STEP.reset(running)
        candidate = step_run.candidate
        if not isinstance(candidate, BoundModel) or not isinstance(candidate.model, EmbeddingModel):
            raise AssertionError(f"step {step.name!r} was bound to no embedding model")
        size = candidate.model.max_texts
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        self._batches[step.index] = batches
        more.extend(self.state.widen(step.index, len(batches), by))

    def _fail_in_code(self, step_run: StepRun, part: str, error: Exception, now: float, more: list[Decision]) -> None:
        """End a step by a bug in the pipeline's own code: no retry, no fallback."""
        failure = bug_in(step_run.step.name, part, error)
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
            failed = Failed(bug_in(step.name, "when", error))
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
        self._part(step_run)
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
        if self.plan.has_linked_calls and self._waits_for_another(step_run, self.scheduler.now()):
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

    # Calls that wait for other calls

    def _waits_for_another(self, step_run: StepRun, now: float) -> bool:
        """Let a call join its equals, or those that begin with the same document; return whether it waits."""
        step, candidate = step_run.step, step_run.candidate
        if step.kind != "llm" or not isinstance(candidate, BoundModel):
            return False
        if step.cache is not None and step_run.flight is None:
            sources = self._sources(step_run) if getattr(candidate.model, "reads_sources", False) else ()
            request = (step.cache.namespace, id(candidate.model), step_run.messages, step.output.schema_json, sources)
            if request not in step_run.ordinals:
                # Equal calls of one document stay apart: each joins its like of other documents.
                ordinal = self._equal_calls.get(request, 0)
                step_run.ordinals = {**step_run.ordinals, request: ordinal}
                self._equal_calls[request] = ordinal + 1
            leader = self.scheduler.flights.join((request, step_run.ordinals[request]), step_run)
            if leader is not None:
                self._hurry(leader, step_run.priority)
                self._wait_for_another(step_run, "shared", now)
                return True
        if step.warm is not None and step_run.warming is None:
            prefix = shared_prefix(step_run.messages)
            if prefix is not None:
                warming = self._warmings.setdefault((id(candidate.model), prefix), Warming())
                if not warming.is_warm:
                    step_run.warming = warming
                    if warming.leader is not None:
                        warming.waiting[step_run] = None
                        self._wait_for_another(step_run, "warm", now)
                        return True
                    warming.leader = step_run
        return False

    def _hurry(self, leader: StepRun, priority: int) -> None:
        """Let a call go as early as the most urgent one that waits for it would."""
        if priority <= leader.priority:
            return
        leader.urgency = priority
        if leader.is_queued:
            self.scheduler.queue.withdraw(leader)
            self.scheduler.queue.push(leader)
        if leader.warming is not None and leader.warming.leader is not None:
            self._hurry(leader.warming.leader, priority)  # what it waits for itself

    def _wait_for_another(self, step_run: StepRun, cause: Literal["shared", "warm"], now: float) -> None:
        self.emit(WaitStarted(now, step_run.step.name, step_run.item, cause))
        self._wait(step_run)

    def send(self, step_run: StepRun) -> bool:
        """Let a call that waited for another one go its own way; False if its run is ending."""
        if self._is_ending:
            return False
        self._resume(step_run)
        self.emit(WaitEnded(self.scheduler.now(), step_run.step.name, step_run.item))
        self._requeue(step_run)
        return True

    def take_shared(self, step_run: StepRun, completion: Completion, now: float) -> None:
        """Let a call that followed an equal one take its reply, as if it had been its own."""
        if self._is_ending:
            return
        step = step_run.step
        self._resume(step_run)
        self.emit(WaitEnded(now, step.name, step_run.item))
        step_run.attempt += 1
        if step.step_seconds is not None and step_run.deadline == math.inf:
            step_run.deadline = now + step.step_seconds
        started = AttemptStarted(
            now, step.name, step_run.item, step_run.attempt, step_run.model_name, step_run.is_repair, is_shared=True
        )
        self.emit(started)
        step_run.first_token_at, step_run.blocked = None, 0.0
        if self._follower is not None and step.is_streamed:
            if step_run.has_told:
                self._follower.tell(Restarted(step.name, step_run.item))
            if completion.text:
                self._follower.tell(Delta(step.name, step_run.item, completion.text))
            step_run.has_told = bool(completion.text)
        running = RUNNING_STEP.set(step_run)
        try:
            kept = self._after_attempt(step_run, completion, None, now, is_shared=True)
        finally:
            RUNNING_STEP.reset(running)
        if kept is not None:
            self._spawn(kept)

    def _hand_on(self, step_run: StepRun, value: Any, error: Exception | None, now: float) -> None:
        """Let the calls that waited for this one go on: with its reply, or without it."""
        if error is None and isinstance(value, Completion):
            if step_run.warming is not None:
                self._has_warmed(step_run)
            for follower in self.scheduler.flights.land(step_run):
                follower.execution.take_shared(follower, value, now)
        else:
            self._part(step_run)

    def _part(self, step_run: StepRun) -> None:
        """Let the calls that wait for this one go on without it: one of them goes ahead now."""
        successor = self.scheduler.flights.leave(step_run) if step_run.flight is not None else None
        while successor is not None:
            if successor.flight is not None:
                for follower in successor.flight.followers:
                    self._hurry(successor, follower.priority)
            if successor.execution.send(successor):
                break
            successor = self.scheduler.flights.leave(successor)
        warming, step_run.warming = step_run.warming, None
        if warming is None:
            return
        warming.waiting.pop(step_run, None)
        if warming.leader is step_run:
            warming.leader = next(iter(warming.waiting), None)
            if warming.leader is not None and not self._is_ending:
                del warming.waiting[warming.leader]
                for waiter in warming.waiting:
                    self._hurry(warming.leader, waiter.priority)
                self.send(warming.leader)

    def _has_warmed(self, step_run: StepRun) -> None:
        """The provider has read what these calls share: let all of them go."""
        warming, step_run.warming = step_run.warming, None
        if warming is None:
            return
        warming.is_warm = True
        waiting, warming.waiting = warming.waiting, {}
        for waiter in waiting:
            waiter.warming = None
            self.send(waiter)

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
            scope: Any = trio.CancelScope() if is_timed else _NO_SCOPE
            try:
                with scope:
                    while step_run is not None and step_run.step.is_timed is is_timed:
                        now = self._begin_attempt(step_run)
                        deadline = math.inf
                        if is_timed:
                            step_run.scope = scope
                            scope.deadline = deadline = self._deadline(step_run, now)
                        value: Any = None
                        error: Exception | None = None
                        try:
                            value = await self._call(step_run)
                        except Exception as raised:  # noqa: BLE001 - here a step's failure becomes a value
                            error = unwrapped(raised, step_run.step.name)
                        except BaseExceptionGroup as group:
                            raise cancellation_in(group, step_run.step.name) from None
                        finished = read_clock()
                        if is_timed:
                            deadline = step_run.scope_deadline  # a streamed reply has moved it
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
        step = step_run.step
        model = None if step.kind == "function" else step_run.model_name
        self.emit(AttemptStarted(now, step.name, step_run.item, step_run.attempt, model, step_run.is_repair))
        if step_run.attempt > 1:
            step_run.first_token_at, step_run.blocked = None, 0.0
            if step_run.has_told and self._follower is not None:
                step_run.has_told = False
                self._follower.tell(Restarted(step.name, step_run.item))
        return now

    def _end_attempt(self, step_run: StepRun, value: Any, error: Exception | None, finished: float) -> StepRun | None:
        step_run.is_running = False
        if step_run.has_slot:
            step_run.has_slot = False
            self.scheduler.free += 1
        if step_run.flight is not None or step_run.warming is not None:
            self._hand_on(step_run, value, error, finished)
        return self._after_attempt(step_run, value, error, finished)

    def _call(self, step_run: StepRun) -> Awaitable[Any]:
        step = step_run.step
        if step.executor == "trio":
            if step_run.keywords:
                return step.function(*step_run.arguments, **step_run.keywords)  # type: ignore[no-any-return]  # async def
            return step.function(*step_run.arguments)  # type: ignore[no-any-return]  # async def
        if step.executor is not None:
            return self.executors.run(step_run)
        return self._ask(step_run)

    async def _ask(self, step_run: StepRun) -> Any:
        """Ask the model at hand; one of the user's own may answer anything."""
        step, candidate = step_run.step, step_run.candidate
        if not isinstance(candidate, BoundModel):
            raise AssertionError(f"{candidate!r} is not called")
        model: Any = candidate.model
        connect = (candidate.timeout or step.timeout).seconds("connect")
        if step.kind == "embed":
            return await model.embed(step_run.arguments[0], connect_timeout=connect)
        request = Request(step_run.messages, step.output.schema, step.output.name, self._sources(step_run), connect)
        if candidate.can_stream and (step.is_streamed or step_run.warming is not None):
            return await model.stream(request, partial(self._take, step_run))
        completion = await model.complete(request)
        if step.is_streamed and isinstance(completion, Completion) and completion.text:
            await self._take(step_run, completion.text)  # the model cannot do better than one piece
        return completion

    async def _take(self, step_run: StepRun, piece: str) -> None:
        """Take a piece of a streamed reply: it is a sign of life, and somebody may follow."""
        now = self.scheduler.now()
        if step_run.first_token_at is None:
            step_run.first_token_at = now
            if step_run.warming is not None:
                self._has_warmed(step_run)
                self.scheduler.dispatch()
        step, follower = step_run.step, self._follower
        if piece and follower is not None and step.is_streamed:
            if follower.is_full:
                # Its time is not the provider's: only what bounds the whole step goes on.
                self._move_deadline(step_run, step_run.deadline, "step")
                try:
                    await follower.wait_for_room()
                finally:
                    waited = self.scheduler.now() - now
                    step_run.blocked += waited
                now += waited
                step_run.attempt_deadline = min(step_run.attempt_deadline + waited, step_run.deadline)
            follower.tell(Delta(step.name, step_run.item, piece))
            step_run.has_told = True
        candidate = step_run.candidate
        timeout = candidate.timeout if isinstance(candidate, BoundModel) else None
        idle = (timeout or step.timeout).seconds("idle") if step.is_streamed else None
        if idle is not None and now + idle < step_run.attempt_deadline:
            self._move_deadline(step_run, now + idle, "idle")
        elif step_run.scope_deadline != step_run.attempt_deadline:
            is_step = step_run.attempt_deadline >= step_run.deadline
            self._move_deadline(step_run, step_run.attempt_deadline, "step" if is_step else "attempt")

    @staticmethod
    def _move_deadline(step_run: StepRun, deadline: float, bound_by: Literal["idle", "attempt", "step"]) -> None:
        step_run.scope_deadline, step_run.bound_by = deadline, bound_by
        if step_run.scope is not None:
            step_run.scope.deadline = deadline

    def _sources(self, step_run: StepRun) -> tuple[str, ...]:
        """Return the texts that the step works on: its own document, item or list first."""
        given = [*step_run.arguments, *(step_run.keywords or {}).values()]
        if step_run.item is not None and given:
            given[0] = "\n\n".join(texts_in(given[0]))
        texts = [value for value in given if isinstance(value, str)]
        texts += ["\n\n".join(texts_in(value)) for value in given if isinstance(value, list)]
        others = ["\n\n".join(texts_in(value)) for value in given if not isinstance(value, str | list)]
        return (*(texts or self.sources), *others)

    @staticmethod
    def _deadline(step_run: StepRun, now: float) -> float:
        """Return when this attempt ends; one cancel scope serves all of its timeouts."""
        step = step_run.step
        if step.step_seconds is not None and step_run.attempt == 1:
            step_run.deadline = now + step.step_seconds
        deadline, seconds = step_run.deadline, step.attempt_seconds
        first_token = None
        step_run.bound_by = "step"
        if step.kind != "function":
            candidate = step_run.candidate
            timeout = step.timeout
            if isinstance(candidate, BoundModel):
                if candidate.timeout is not None:
                    timeout = candidate.timeout
                    seconds = timeout.seconds("attempt")
                if step.is_streamed and candidate.can_stream:
                    first_token = timeout.seconds("first_token")
        if seconds is not None and now + seconds < deadline:
            deadline = now + seconds
            step_run.bound_by = "attempt"
        step_run.attempt_deadline = deadline
        if first_token is not None and now + first_token < deadline:
            deadline = now + first_token
            step_run.bound_by = "first_token"
        step_run.scope_deadline = deadline
        return deadline

    @staticmethod
    def _timeout_error(step_run: StepRun) -> StepTimeoutError:
        step, which = step_run.step, step_run.bound_by
        candidate = step_run.candidate if step.kind != "function" else None
        timeout = candidate.timeout if isinstance(candidate, BoundModel) else None
        seconds = (timeout or step.timeout).seconds(which)
        return StepTimeoutError(step.name, which, seconds or 0.0, is_abandoned=step_run.is_abandoned)

    def _leave(self, step_run: StepRun) -> None:
        """End what was cancelled from outside, in its attempt or just before, without waiting for anything."""
        if step_run.has_slot:
            step_run.has_slot = False
            self.scheduler.release()
        if step_run.flight is not None or step_run.warming is not None:
            self._part(step_run)
        now = self.scheduler.now()
        if step_run.is_running:
            step_run.is_running = False
            fault = Fault("cancelled", "cancelled from outside")
            self.emit(
                AttemptFinished(
                    now,
                    step_run.step.name,
                    step_run.item,
                    step_run.attempt,
                    fault,
                    first_token_at=step_run.first_token_at,
                    blocked=step_run.blocked,
                )
            )
        if step_run.item is not None:
            self.emit(StepFinished(now, step_run.step.name, step_run.item, Stopped("cancelled")))
        # The run is over, though other steps of it may take their time to clean up: nobody waits for that.
        self._end()
        self.scheduler.dispatch()

    # After an attempt: what its result leads to

    def _after_attempt(
        self, step_run: StepRun, value: Any, error: Exception | None, finished: float, *, is_shared: bool = False
    ) -> StepRun | None:
        """Record an attempt and decide what follows; return what this task goes on with."""
        step, item = step_run.step, step_run.item
        more: list[Decision] = []
        if step.kind == "function":
            fault = None if error is None else fault_of(error)
            self.emit(AttemptFinished(finished, step.name, item, step_run.attempt, fault))
        else:
            if error is None and isinstance(value, Completion):
                error = withheld(value, step_run.model_name or "")
            self._record_call(step_run, value, error, finished, is_shared=is_shared)
        now = finished
        if error is None:
            error, value = judged(step, value, step_run.arguments)
            if error is None and step.check is not None:
                arguments, keywords = self.state.arguments(step.check.needs, item)
                error = checked(step, step.check, value, arguments, keywords)
            if step.output.validate is not None or step.check is not None:
                now = self.scheduler.now()
        if error is None:
            outcome = Completed(value, step_run.via if step_run.candidate_index else None)
            if item is None and not self._callers:
                # The way that nearly every step takes.
                self.emit(StepFinished(now, step.name, None, outcome))
                return self._carry_out(self.state.settle(step.index, None, outcome), now)
            self._settle(step.index, item, outcome, now, more)
            return self._carry_out(more, now)
        self._after_failure(step_run, error, now, more)
        return self._carry_out(more, now)

    def _record_call(
        self, step_run: StepRun, value: Any, error: Exception | None, finished: float, *, is_shared: bool
    ) -> None:
        answer = value if isinstance(value, Completion | Embeddings) else None
        fault = None if error is None else fault_of(error)
        call = None
        if step_run.step.kind == "llm":
            completion = answer if isinstance(answer, Completion) else None
            if completion is not None:
                step_run.reply = completion.text
            call = Call(step_run.model_name or "", step_run.messages, completion, fault.message if fault else None)
        paid = None if is_shared else answer
        told = None if is_shared else answer if answer is not None else error
        self.emit(
            AttemptFinished(
                finished,
                step_run.step.name,
                step_run.item,
                step_run.attempt,
                fault,
                None if paid is None else paid.usage,
                call,
                None if paid is None else self._cost(step_run, paid),
                step_run.first_token_at,
                step_run.blocked,
                told.replays if isinstance(told, Completion | Embeddings | ProviderError) else 0,
            )
        )

    @staticmethod
    def _cost(step_run: StepRun, answer: Completion | Embeddings) -> Cost:
        candidate = step_run.candidate
        price = candidate.price if isinstance(candidate, BoundModel) else None
        return Cost(unpriced_calls=1) if price is None else price(answer)

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
            self._settle(step.index, step_run.item, Failed(bug_in(step.name, "Retry(on=…)", bug)), now, more)
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
        step_run.candidate_index += 1
        candidate = step_run.candidate
        if candidate is None:
            self._settle(step.index, item, Failed(error), now, more)
        elif isinstance(candidate, FallbackValue):
            self._settle(step.index, item, Completed(candidate.value, step_run.via), now, more)
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
            completed = Completed(outcome.value, step_run.via)
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
        left = self.candidates[step.index][step_run.candidate_index :]
        value = next((candidate for candidate in left if isinstance(candidate, FallbackValue)), None)
        if value is not None:
            outcome: Outcome[Any] = Completed(value.value, "fallback:value")
        else:
            seconds = step.step_seconds or 0.0
            outcome = Failed(StepTimeoutError(step.name, "step", seconds, is_abandoned=step_run.is_abandoned))
        self._settle(step.index, step_run.item, outcome, now, more)
