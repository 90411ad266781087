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
from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine.declare import as_messages
from pipeline_engine.errors import (
    OutputError,
    ProviderError,
    StepCodeError,
    StepTimeoutError,
)
from pipeline_engine.plan import FallbackValue, Plan, PlannedStep
from pipeline_engine.resilience.circuit import CircuitState
from pipeline_engine.resilience.retries import is_throttled, next_try
from pipeline_engine.schedule.admission import cancel_call, cost_of, end_call, size_of, start_call, tokens_needed
from pipeline_engine.schedule.deadlines import begin_deadline, move_deadline, timeout_error
from pipeline_engine.schedule.estimates import PlanEstimates
from pipeline_engine.schedule.hedging import ask_twice
from pipeline_engine.schedule.journaling import BoundJournal, Journaling
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
from pipeline_engine.schedule.linking import Linking
from pipeline_engine.schedule.routing import Detour, detour
from pipeline_engine.schedule.spending import Spending
from pipeline_engine.schedule.state import Decision, Evaluate, Open, RunState, Settle, Start
from pipeline_engine.schedule.step_run import BoundBudget, BoundModel, Candidate, Executors, StepRun
from pipeline_engine.values import (
    RUNNING_STEP,
    AttemptFinished,
    AttemptStarted,
    BreakerChanged,
    Call,
    Completed,
    Completion,
    CooldownStarted,
    Cost,
    CredentialParked,
    Delta,
    EmbeddingModel,
    Embeddings,
    Failed,
    Fault,
    Message,
    Outcome,
    OutputJudged,
    QueueLeft,
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

    from pipeline_engine.resilience.governor import Governor
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
        estimates: What the plan's steps have taken so far, shared by all its runs.
        budgets: What caps its spending: the document's own, its batch's.
        journal: Its document in a journal.
    """

    # What most runs leave as it is stands here: with 30 attributes of its own, an object loses the layout that CPython
    # lets it share with others of its class, and each look-up on it takes longer.
    deadline = math.inf
    """When its time is up."""
    is_kept = True
    """Whether the journal, if there is one, has taken all that it was told."""
    _ended_by: str | None = None
    """What has ended it before its end."""

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
        estimates: PlanEstimates | None = None,
        budgets: Sequence[BoundBudget] = (),
        journal: BoundJournal | None = None,
    ) -> None:
        self.plan = plan
        self.estimates = PlanEstimates(plan) if estimates is None else estimates
        self.estimates.refresh()
        self.budgets = budgets
        self.spending = Spending(self, budgets)
        self.linking = Linking(self)
        self.host = host
        self.state = RunState(plan, inputs)
        self.journaling = None if journal is None else Journaling(self, journal)
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
        self.sources = tuple(value for value in inputs if isinstance(value, str))
        self._nursery: trio.Nursery | None = None
        self._context: contextvars.Context = _NO_CONTEXT
        self.waiting: dict[StepRun, None] = {}
        self._callers: dict[tuple[int, int | None], list[StepRun]] = {}
        self._parked: trio.lowlevel.Task | None = None
        self._next: StepRun | None = None
        self._takes_next = False
        self.is_ending = False
        self.follower = follower
        self._batches: dict[int, list[list[str]]] = {}

    async def run(self, timeout: float | None = None, stopped_by: str | None = None) -> None:
        """Run until every step has its outcome, or `timeout` seconds have passed.

        A cancellation from outside propagates, after every step got its outcome and every slot,
        timer and place in the queue was given back.
        """
        reason = "cancelled"
        try:
            if timeout is None:
                await self._run()
            else:
                self.deadline = trio.current_time() + timeout
                with trio.CancelScope(deadline=self.deadline) as scope:
                    await self._run()
                if scope.cancelled_caught:
                    reason = stopped_by or f"the run's timeout of {timeout:g} s"
        finally:
            journaling = self.journaling
            if journaling is not None:
                await journaling.flush()  # shielded: what was paid for is kept, whatever ends the run
                journaling.close()
            self._stop(self._ended_by or reason)
            self._let_go()
            if journaling is not None and journaling.error is not None:
                self.is_kept = False
        if journaling is not None and journaling.error is not None:
            raise journaling.error

    def interrupt(self, reason: str) -> None:
        """End the run now, its calls on the wire too; its open steps are stopped for this reason."""
        if self._ended_by is None:
            self._ended_by = reason
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def drain(self, reason: str) -> None:
        """Start nothing more, let the calls on the wire finish, and end; the rest is stopped for this reason."""
        if self.is_ending:
            return
        self._ended_by = reason
        self._end()
        if self._parked is not None:
            parked, self._parked = self._parked, None
            trio.lowlevel.reschedule(parked)

    def in_context(self, function: Callable[[], object]) -> None:
        """Call a function so that what it calls sees this run's context variables."""
        self._context.copy().run(function)

    def _let_go(self) -> None:
        """Part with the helpers that hold this run: in a circle it would live on until a full collection."""
        del self.spending, self.linking, self.journaling

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
                    is_rehearsal = self.journaling is not None and self.journaling.leaves_out()
                    if not self.state.is_over and not self.is_ending and not is_rehearsal:
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
        self.is_ending = True
        for step_run in list(self.waiting):
            self.withdraw(step_run)

    def _unpark(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _stop(self, reason: str) -> None:
        """Give everything back and settle what is not settled; does nothing to a finished run."""
        state = self.state
        if state.is_over and not self.plan.on_demand:
            return
        now = trio.current_time()
        for step_run in list(self.waiting):
            self.withdraw(step_run)
            if step_run.item is not None:
                self.emit(StepFinished(now, step_run.step.name, step_run.item, Stopped(reason)))
        self.waiting.clear()
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
                    self.settle(decision.step, decision.item, decision.outcome, now, more)
                elif isinstance(decision, Evaluate):
                    self._evaluate(decision, now, more)
                elif isinstance(decision, Open):
                    name = self.plan.steps[decision.step].name
                    self.emit(StepReady(now, name, None, self._name(decision.unblocked_by)))
                    self.emit(StepMapped(now, name, decision.width))
                    if self.journaling is not None:
                        self.journaling.bound.recall.open(name, decision.width)
                else:
                    has_closed = True
                    self._close(decision.step, now, more)
            if has_closed:
                ready = self._without_closed(ready, now, more)
            if self.journaling is not None and ready and not more:
                ready = self.journaling.recalled(ready, now, more)
            decisions = more
        return self._admit(ready, now)

    def _without_closed(self, ready: list[StepRun], now: float, more: list[Decision]) -> list[StepRun]:
        """Drop what was about to start of a step that has failed meanwhile: it must not be paid for."""
        kept = []
        for step_run in ready:
            if step_run.item is not None and self.state.is_closing(step_run.step.index):
                skipped = Skipped(step_run.step.name, is_by_choice=False)
                self.settle(step_run.step.index, step_run.item, skipped, now, more)
            else:
                kept.append(step_run)
        return kept

    def _name(self, index: int | None) -> str | None:
        return None if index is None else self.plan.steps[index].name

    def _admit(self, ready: list[StepRun], now: float) -> StepRun | None:
        """Start ready work, or put it into the queue; return what the calling task goes on with."""
        scheduler = self.scheduler
        if self.is_ending:
            self.waiting.update(dict.fromkeys(ready))  # they get their outcome when the run is stopped
            return None
        if self.plan.has_linked_calls:
            ready = [step_run for step_run in ready if not self.linking.waits_for_another(step_run, now)]
        if ready and scheduler.arriving and self._order_counts(ready, now):
            # Documents that came at the same instant begin in an order of trio's: the last one dispatches for all.
            for step_run in ready:
                self._enqueue(step_run)
            return None
        if not scheduler.queue.live and len(ready) <= scheduler.free:
            if len(ready) > 1 and (self.budgets or any(step_run.gate is not None for step_run in ready)):
                ready.sort(key=lambda step_run: step_run.key)
            started = [step_run for step_run in ready if self._start_at_once(step_run, now)]
            for step_run in started[1:]:
                self.spawn(step_run)
            if len(started) < len(ready) or scheduler.room_waiters:
                scheduler.dispatch()  # gates are to be watched; and a batch may wait for room
            if started:
                return started[0]
            self._wake_if_over()
            return None
        for step_run in ready:
            self._enqueue(step_run)
        # While the queue is served, one step run of this document may be kept for this very task. What is done
        # after a dispatch may come here again, for work that another task goes on with.
        around = self._takes_next, self._next
        self._takes_next, self._next = True, None
        scheduler.dispatch()
        kept = self._next
        self._takes_next, self._next = around
        self._wake_if_over()
        return kept

    def _order_counts(self, ready: list[StepRun], now: float) -> bool:
        """Whether what is ready may have to wait for what is about to come, or that for it."""
        scheduler = self.scheduler
        coming = (scheduler.arriving + 1) * len(ready)
        if coming + scheduler.queue.live > scheduler.free:
            return True
        for step_run in ready:
            gate = step_run.gate
            if gate is not None:
                calls = coming + scheduler.queue.waiting(gate)
                if not gate.has_room_for(calls, now, step_run.tokens):
                    return True
        return False

    def _start_at_once(self, step_run: StepRun, now: float) -> bool:
        """Take a free slot and all that the call needs; else let it wait for its turn."""
        gate, scheduler = step_run.gate, self.scheduler
        # What another one of these has set off may have taken the slots meanwhile.
        if scheduler.free <= 0 or (gate is not None and gate.refusal(now, step_run.tokens) is not None):
            self._enqueue(step_run)
            return False
        scheduler.free -= 1  # before anything else can be set off
        if not self._take_needs(step_run, now):
            scheduler.free += 1
            return False
        return True

    def _enqueue(self, step_run: StepRun) -> None:
        if step_run.gate is not None:
            self._bound_wait(step_run, step_run.gate, self.scheduler.now())
        self.wait(step_run)
        step_run.waits_since = self.scheduler.enqueue(step_run)

    def launch(self, step_run: StepRun) -> bool:
        """Go on with a step run whose turn has come; return False if the budget has no room for it."""
        now = self.scheduler.now()
        self._tell_waits(step_run, now)
        self.resume(step_run)
        if not self._take_needs(step_run, now):
            return False
        if self._takes_next and self._next is None:
            self._next = step_run
        else:
            self.spawn(step_run)
        return True

    def _tell_waits(self, step_run: StepRun, now: float) -> None:
        """Record what it has waited for in the queue, where that was more than a slot."""
        since, step_run.waits_since = step_run.waits_since, None
        if since is not None and step_run.gate is not None:
            waits = self.scheduler.waits(step_run.gate, since)
            if waits:
                self.emit(QueueLeft(now, step_run.step.name, step_run.item, waits))

    def _take_needs(self, step_run: StepRun, now: float) -> bool:
        """Take all that an attempt needs, at the one instant at which it was found to be there."""
        gate = step_run.gate
        if self.journaling is not None and not self.journaling.may_call(step_run, now):
            return False
        if gate is not None:
            needed = self.spending.needed(step_run) if self.budgets else None
            if needed is not None:
                lacking = self.spending.exhausted() or self.spending.lacking(needed)
                if lacking is not None:
                    self.spending.wait_for_room(step_run, lacking, needed, now)
                    return False
            start_call(step_run, now, self.budgets, needed)
            if gate.news:
                self._tell_news(gate)
        step_run.has_slot = True
        step_run.slot_at = now
        return True

    def spawn(self, step_run: StepRun) -> None:
        """Let a task of its own make the attempt that a step run has a slot for."""
        self.start_task(self._work, step_run)

    def start_task(self, function: Callable[[StepRun], Awaitable[None]], step_run: StepRun) -> None:
        """Start a task of this run, whoever asks for it."""
        if self._nursery is None:
            raise AssertionError("a run that is not open cannot start anything")
        # Whoever frees the slot may be another run's task: a step sees the context variables of its own run.
        self._context.run(partial(self._nursery.start_soon, function, step_run, name=step_run.step.name))

    def _wake_if_over(self) -> None:
        if self._parked is not None and self.state.is_over:
            parked, self._parked = self._parked, None
            trio.lowlevel.reschedule(parked)

    def _prepare(self, start: Start, now: float, ready: list[StepRun], more: list[Decision]) -> None:
        step = self.plan.steps[start.step]
        item = start.item
        if item is not None and self.state.is_closing(step.index):
            self.settle(step.index, item, Skipped(step.name, is_by_choice=False), now, more)
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
        if step.kind == "function" or self.journaling is not None or self.may_wait(step_run, now, more):
            ready.append(step_run)  # with a journal, what was saved is looked for before anything else

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
        self._fail(step_run, bug_in(step_run.step.name, part, error), now, more)

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

    def settle(self, index: int, item: int | None, outcome: Outcome[Any], now: float, more: list[Decision]) -> None:
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
        for step_run in [waiting for waiting in self.waiting if waiting.step is step]:
            self.resume(step_run)
            self.withdraw(step_run)
            self._forget_caller(step_run)
            self.settle(index, step_run.item, Skipped(step.name, is_by_choice=False), now, more)

    # Waiting without a task

    def wait(self, step_run: StepRun) -> None:
        """Keep track of work that has no task: the step's deadline must find it."""
        self.waiting[step_run] = None
        if step_run.deadline < math.inf and step_run.timer is None:
            step_run.timer = self.scheduler.call_at(step_run.deadline, lambda: self._run_out(step_run))

    def resume(self, step_run: StepRun) -> None:
        """Let a step run wait no longer."""
        self.waiting.pop(step_run, None)
        if step_run.timer is not None:
            self.scheduler.cancel(step_run.timer)
            step_run.timer = None

    def withdraw(self, step_run: StepRun) -> None:
        """Take back a step run that waits, from wherever it does."""
        if step_run.ticket:
            self._tell_waits(step_run, trio.current_time())
            self.scheduler.withdraw(step_run)
        for budget in self.budgets:
            budget.ledger.waiting.pop(step_run, None)
        self.linking.part(step_run)
        if step_run.timer is not None:
            self.scheduler.cancel(step_run.timer)
            step_run.timer = None

    def backed_off(self, step_run: StepRun) -> None:
        """Let a step run go on whose delay is over."""
        step_run.timer = None
        self.resume(step_run)
        now = trio.current_time()
        self.emit(WaitEnded(now, step_run.step.name, step_run.item))
        self.come_back(step_run, now)
        self.scheduler.dispatch()

    def come_back(self, step_run: StepRun, now: float) -> None:
        """Let a step run whose wait is over go on, where nobody else carries out what follows."""
        more: list[Decision] = []
        self.requeue(step_run, now, more)
        if more:
            self.go_on(more, now)
        else:
            self._wake_if_over()

    def requeue(self, step_run: StepRun, now: float, more: list[Decision]) -> None:
        """Let a step run wait for its turn again, or go where it can be served."""
        if self.is_ending:
            self.waiting[step_run] = None
            return
        if step_run.step.kind != "function":
            journaling = self.journaling
            if journaling is not None and (
                journaling.holds_up(step_run, now)
                or journaling.replays(step_run, now, more)
                or journaling.looks_up(step_run, now, more)
                or journaling.leaves_out(step_run)
            ):
                return
            if not self.may_wait(step_run, now, more):
                return
        if self.plan.has_linked_calls and self.linking.waits_for_another(step_run, now):
            return
        self._enqueue(step_run)

    def _forget_caller(self, step_run: StepRun) -> None:
        """It waits for its fallback step no longer."""
        callers = self._callers.get(step_run.waits_for) if step_run.waits_for is not None else None
        if callers and step_run in callers:
            callers.remove(step_run)

    def _run_out(self, step_run: StepRun) -> None:
        """The step's deadline came while it waited."""
        step_run.timer = None
        self.resume(step_run)
        self.withdraw(step_run)
        self._forget_caller(step_run)
        now = trio.current_time()
        more: list[Decision] = []
        self._end_by_deadline(step_run, now, more)
        self.go_on(more, now)

    def go_on(self, decisions: list[Decision], now: float) -> None:
        """Carry out decisions where no step's task can go on with one of them."""
        kept = self._carry_out(decisions, now)
        if kept is not None:
            self.spawn(kept)

    # Models that cannot be asked now, and budgets that have no room

    def may_wait(self, step_run: StepRun, now: float, more: list[Decision]) -> bool:
        """Return whether the model at hand is worth waiting for; if not, go on to what is tried next."""
        candidate = step_run.candidate
        if not isinstance(candidate, BoundModel):
            return True
        step_run.gate = governor = candidate.governor
        if governor is None:
            return True
        exhausted = self.spending.exhausted()
        if exhausted is not None:
            self.linking.part(step_run)
            self.spending.stop(step_run, exhausted, now, more)
            return False
        if governor.counts_tokens:
            self.measure(step_run)
        found = self._detour(step_run, governor, now)
        if found is None:
            return True
        self.linking.part(step_run)
        index, error = found.to, found.error
        if index is None:
            self._fail(step_run, error, now, more)
        elif step_run.substitute is not None:
            self.next_candidate(step_run, error, now, more)
        else:
            self.try_candidate(step_run, index, error, now, more)
        return False

    def _detour(self, step_run: StepRun, governor: Governor, now: float) -> Detour | None:
        step = step_run.step
        deadline = step_run.deadline
        if deadline == math.inf and step.step_seconds is not None:
            deadline = now + step.step_seconds  # it has not begun: no wait is worth more than all it may take
        return detour(step_run, governor, self.candidates[step.index], now, min(deadline, self.deadline))

    def _bound_wait(self, step_run: StepRun, governor: Governor, now: float) -> None:
        """Let a wait for a model that is down count against the step's timeout, also before its first attempt."""
        seconds = step_run.step.step_seconds
        if seconds is None or step_run.attempt:
            return
        is_down = governor.kept_away_until(now) > now
        if is_down and step_run.deadline == math.inf:
            step_run.deadline = now + seconds
        elif not is_down and step_run.deadline < math.inf:
            # It is well again: from here on it is a queue like any other.
            step_run.deadline = math.inf
            if step_run.timer is not None:
                self.scheduler.cancel(step_run.timer)
                step_run.timer = None

    def reconsider(self, step_run: StepRun) -> None:
        """Let a call that waits for its model go elsewhere, if the model has become of no use to it."""
        now = self.scheduler.now()
        governor = step_run.gate
        if not step_run.ticket or self.is_ending or governor is None:
            return
        if self._detour(step_run, governor, now) is None:
            self._bound_wait(step_run, governor, now)
            self.wait(step_run)
            return
        self.resume(step_run)
        self.withdraw(step_run)
        self.come_back(step_run, now)

    def _tell_news(self, governor: Governor) -> None:
        """Record what has changed with a model, and let those who wait for it learn of it."""
        concerned = [governor]
        is_bad = False
        for record in governor.take_news():
            self.emit(record)
            if isinstance(record, BreakerChanged):
                _log.warning("model %r: breaker %s, was %s", governor.model, record.after, record.before)
                is_bad = True  # or good news, for those who wait
                on_change = governor.circuit.breaker.on_state_change if governor.circuit is not None else None
                if on_change is not None:
                    states = CircuitState(record.before), CircuitState(record.after)
                    self._call_guarded("on_state_change", partial(on_change, *states))
            elif isinstance(record, CredentialParked):
                _log.error("model %r: its key was refused; no call with it is sent any more", governor.model)
                concerned = governor.credential.governors
            is_bad = is_bad or isinstance(record, CredentialParked | CooldownStarted)
        if is_bad:
            self.scheduler.call_after_dispatch(partial(self._reconsider_all, tuple(concerned)))

    def _reconsider_all(self, governors: tuple[Governor, ...]) -> None:
        for governor in governors:
            for entry in list(self.scheduler.queue.entries(governor)):
                if isinstance(entry, StepRun):
                    entry.reconsider()
        self.scheduler.dispatch()

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
                            scope.deadline = deadline = begin_deadline(step_run, now)
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
                step_run = self._end_attempt(step_run, None, timeout_error(step_run), read_clock())

    def _begin_attempt(self, step_run: StepRun) -> float:
        step_run.attempt += 1
        step_run.is_running = True
        RUNNING_STEP.set(step_run)
        # From the moment it has its slot, not from when trio comes to run the task.
        now = step_run.slot_at
        step = step_run.step
        gate = step_run.gate
        if gate is not None and not (step_run.attempts_spent or step_run.throttled or step_run.is_repair):
            gate.count_first_try()
        model = None if step.kind == "function" else step_run.model_name
        self.emit(AttemptStarted(now, step.name, step_run.item, step_run.attempt, model, step_run.is_repair))
        if self.journaling is not None and model is not None:
            self.journaling.attempt_sent(step_run)
        if step_run.attempt > 1:
            step_run.answered_by = None
            step_run.first_token_at, step_run.blocked = None, 0.0
            if step_run.has_told and self.follower is not None:
                step_run.has_told = False
                self.follower.tell(Restarted(step.name, step_run.item))
        return now

    def _end_attempt(self, step_run: StepRun, value: Any, error: Exception | None, finished: float) -> StepRun | None:
        step_run.is_running = False
        if step_run.has_slot:
            step_run.has_slot = False
            self.scheduler.free += 1
        if step_run.permit is not None or step_run.reserved is not None:
            self.give_back(step_run, value, error, finished)
        if error is None:
            self.estimates.learn(step_run.step.index, finished - step_run.slot_at)
        if step_run.flight is not None or step_run.warming is not None:
            self.linking.hand_on(step_run, value, error, finished)
        return self.after_attempt(step_run, value, error, finished)

    def give_back(self, step_run: StepRun, value: Any, error: Exception | None, now: float) -> None:
        """Return what a call held to its model's governor and to the budgets, which learn from its end."""
        gate = step_run.gate
        counted_before = gate is None or gate.counts_tokens
        had_quota = gate is not None and gate.no_quota is None
        end_call(step_run, value, error, now, self.budgets)
        if gate is not None:
            if had_quota and gate.no_quota is not None:
                self.scheduler.call_after_dispatch(partial(self._reconsider_all, (gate,)))
            if isinstance(value, Completion | Embeddings) and (gate.counts_tokens or self.budgets):
                usage = value.usage
                estimate = self.estimates.steps[step_run.step.index]
                estimate.learn_tokens(size_of(step_run).characters, usage.input_tokens, usage.output_tokens)
            if gate.counts_tokens and not counted_before:
                for entry in self.scheduler.queue.entries(gate):
                    if isinstance(entry, StepRun):
                        entry.execution.measure(entry)
            if gate.news:
                self._tell_news(gate)
        self.spending.let_waiters_go(now)

    def measure(self, step_run: StepRun) -> None:
        """Estimate what a call may need, for those who count tokens."""
        candidate = step_run.candidate
        if isinstance(candidate, BoundModel):
            step_run.tokens = tokens_needed(step_run, candidate, self.estimates.steps[step_run.step.index])

    def _call(self, step_run: StepRun) -> Awaitable[Any]:
        step = step_run.step
        if step.executor == "trio":
            if step_run.keywords:
                return step.function(*step_run.arguments, **step_run.keywords)  # type: ignore[no-any-return]  # async def
            return step.function(*step_run.arguments)  # type: ignore[no-any-return]  # async def
        if step.executor is not None:
            return self.executors.run(step_run)
        if step.hedge is not None and step.kind == "llm" and not step.is_streamed and step_run.warming is None:
            return ask_twice(self, step_run, step.hedge)
        return self.ask(step_run)

    async def ask(self, step_run: StepRun) -> Any:
        """Ask the model at hand; one of the user's own may answer anything."""
        step, candidate = step_run.step, step_run.candidate
        if not isinstance(candidate, BoundModel):
            raise AssertionError(f"{candidate!r} is not called")
        model: Any = candidate.model
        connect = (candidate.timeout or step.timeout).seconds("connect")
        if step.kind == "embed":
            return await model.embed(step_run.arguments[0], connect_timeout=connect)
        request = Request(step_run.messages, step.output.schema, step.output.name, self.sources_of(step_run), connect)
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
                self.linking.has_warmed(step_run)
                self.scheduler.dispatch()
        step, follower = step_run.step, self.follower
        if piece and follower is not None and step.is_streamed:
            if follower.is_full:
                # Its time is not the provider's: only what bounds the whole step goes on.
                move_deadline(step_run, step_run.deadline, "step")
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
            move_deadline(step_run, now + idle, "idle")
        elif step_run.scope_deadline != step_run.attempt_deadline:
            is_step = step_run.attempt_deadline >= step_run.deadline
            move_deadline(step_run, step_run.attempt_deadline, "step" if is_step else "attempt")

    def sources_of(self, step_run: StepRun) -> tuple[str, ...]:
        """Return the texts that the step works on: its own document, item or list first."""
        given = [*step_run.arguments, *(step_run.keywords or {}).values()]
        if step_run.item is not None and given:
            given[0] = "\n\n".join(texts_in(given[0]))
        texts = [value for value in given if isinstance(value, str)]
        texts += ["\n\n".join(texts_in(value)) for value in given if isinstance(value, list)]
        others = ["\n\n".join(texts_in(value)) for value in given if not isinstance(value, str | list)]
        return (*(texts or self.sources), *others)

    def _leave(self, step_run: StepRun) -> None:
        """End what was cancelled from outside, in its attempt or just before, without waiting for anything."""
        # The run is over, though other steps of it may take their time to clean up: nobody waits for that.
        self._end()
        if step_run.has_slot:
            step_run.has_slot = False
            self.scheduler.release()
        if step_run.permit is not None or step_run.reserved is not None:
            cancel_call(step_run, self.budgets)
            self.spending.let_waiters_go(self.scheduler.now())
        if step_run.flight is not None or step_run.warming is not None:
            self.linking.part(step_run)
        now = self.scheduler.now()
        if step_run.is_running:
            step_run.is_running = False
            fault = Fault("cancelled", "cancelled from outside")
            if self.journaling is not None and step_run.step.kind != "function":
                self.journaling.attempt_ended(step_run, None, now)
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
        self.scheduler.dispatch()

    # After an attempt: what its result leads to

    def after_attempt(
        self, step_run: StepRun, value: Any, error: Exception | None, finished: float, *, is_shared: bool = False
    ) -> StepRun | None:
        """Record an attempt and decide what follows; return what this task goes on with."""
        more: list[Decision] = []
        now = self.conclude(step_run, value, error, finished, more, is_shared=is_shared)
        return self._carry_out(more, now)

    def conclude(
        self,
        step_run: StepRun,
        value: Any,
        error: Exception | None,
        finished: float,
        more: list[Decision],
        *,
        is_shared: bool = False,
        is_replayed: bool = False,
    ) -> float:
        """Record an attempt and judge what came of it; what follows is added to `more`.

        Args:
            step_run: Whose attempt it was.
            value: What it has returned, or its model has answered.
            error: Why it has not.
            finished: When it ended.
            more: Takes the decisions that follow.
            is_shared: Whether the reply was paid for by an equal call.
            is_replayed: Whether it is in the journal already.

        Returns:
            The instant at which the judgement was made.
        """
        step, item = step_run.step, step_run.item
        journaling = self.journaling
        if step.kind == "function":
            fault = None if error is None else fault_of(error)
            self.emit(AttemptFinished(finished, step.name, item, step_run.attempt, fault))
            if journaling is not None and error is not None:
                journaling.attempt_ended(step_run, error, finished)
        else:
            if error is None and isinstance(value, Completion):
                error = withheld(value, self._answered_by(step_run))
            self._record_call(step_run, value, error, finished, is_shared=is_shared)
            if journaling is not None and not is_replayed:
                if isinstance(value, Completion | Embeddings):
                    cost = Cost() if is_shared else cost_of(step_run, value)
                    journaling.call_finished(step_run, value, finished, cost, is_shared=is_shared)
                elif error is not None:
                    journaling.attempt_ended(step_run, error, finished)
        now = finished
        if error is None:
            error, value = judged(step, value, step_run.arguments)
            if error is None and step.check is not None:
                arguments, keywords = self.state.arguments(step.check.needs, item)
                error = checked(step, step.check, value, arguments, keywords)
            if step.output.validate is not None or step.check is not None:
                now = self.scheduler.now()
        if error is not None:
            self._after_failure(step_run, error, now, more)
        elif step.accept is None or not self._goes_on_in_cascade(step_run, value, now, more):
            self._complete(step_run, Completed(value, step_run.via), now, more)
        return now

    def _complete(self, step_run: StepRun, outcome: Completed[Any], now: float, more: list[Decision]) -> None:
        """End a step with an output: at once, or when its journal has it."""
        if self.journaling is not None:
            self.journaling.accept(step_run, outcome, now, more)
        elif step_run.item is None and not self._callers:
            # The way that nearly every step takes.
            self.emit(StepFinished(now, step_run.step.name, None, outcome))
            more.extend(self.state.settle(step_run.step.index, None, outcome))
        else:
            self.settle(step_run.step.index, step_run.item, outcome, now, more)

    def _fail(self, step_run: StepRun, error: Exception, now: float, more: list[Decision]) -> None:
        """End a step without an output."""
        if self.journaling is not None:
            self.journaling.failed(step_run)
        self.settle(step_run.step.index, step_run.item, Failed(error), now, more)

    def _goes_on_in_cascade(self, step_run: StepRun, value: Any, now: float, more: list[Decision]) -> bool:
        """Ask `accept=` about an output; if it is not good enough, go on to the cascade's next role."""
        step, candidate = step_run.step, step_run.candidate
        if step.accept is None or step_run.substitute is not None or not isinstance(candidate, BoundModel):
            return False
        if candidate.stage >= len(step.cascade):
            return False  # the last role's output is taken as it is, and so is that of a fallback
        try:
            is_accepted = step.accept(value)
            if not isinstance(is_accepted, bool):
                if inspect.iscoroutine(is_accepted):
                    is_accepted.close()
                raise TypeError(f"returned a {type(is_accepted).__name__}. It returns True or False, and is not async")
        except Exception as raised:  # noqa: BLE001 - the user's own code: whatever it raises is the outcome
            self._fail_in_code(step_run, "accept", raised, now, more)
            return True
        self.emit(OutputJudged(now, step.name, step_run.item, self._answered_by(step_run), is_accepted))
        if is_accepted:
            return False
        candidates = self.candidates[step.index]
        index = step_run.candidate_index + 1
        while index < len(candidates):
            following = candidates[index]
            if not isinstance(following, BoundModel) or following.stage > candidate.stage:
                break
            index += 1
        error = OutputError(step.name, [f"{candidate.name!r} gave an output that accept= did not take"])
        self.try_candidate(step_run, index, error, now, more)
        return True

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
            call = Call(self._answered_by(step_run), step_run.messages, completion, fault.message if fault else None)
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
                None if paid is None else cost_of(step_run, paid),
                step_run.first_token_at,
                step_run.blocked,
                told.replays if isinstance(told, Completion | Embeddings | ProviderError) else 0,
                None if step_run.answered_by is None else step_run.answered_by.name,
            )
        )

    @staticmethod
    def _answered_by(step_run: StepRun) -> str:
        return (step_run.model_name or "") if step_run.answered_by is None else step_run.answered_by.name

    # After a failure: repair, try again, fall back, give up

    def _after_failure(self, step_run: StepRun, error: Exception, now: float, more: list[Decision]) -> None:
        if isinstance(error, StepCodeError):
            self._fail(step_run, error, now, more)
        elif isinstance(error, StepTimeoutError) and error.which == "step":
            self._end_by_deadline(step_run, now, more)
        elif isinstance(error, OutputError):
            if not self._repair(step_run, error, now, more):
                self.next_candidate(step_run, error, now, more)
        else:
            self._retry_or_go_on(step_run, error, now, more)

    def _repair(self, step_run: StepRun, error: OutputError, now: float, more: list[Decision]) -> bool:
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
        self.requeue(step_run, now, more)
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
            self._fail(step_run, bug_in(step.name, "Retry(on=…)", bug), now, more)
            return
        if again is None or (step_run.gate is not None and not step_run.gate.may_retry()):
            self.next_candidate(step_run, error, now, more)
            return
        if step_run.gate is not None and again.delay > step.retry.max_delay:
            found = self._detour(step_run, step_run.gate, now)
            if found is not None and found.to is not None:
                self.try_candidate(step_run, found.to, error, now, more)
                return
        step_run.delay = again.delay
        if step.retry.on_retry is not None:
            told = partial(step.retry.on_retry, step_run.attempt, error)
            self._call_guarded(f"on_retry of step {step.name!r}", told)
        self.emit(WaitStarted(now, step.name, step_run.item, "backoff"))
        self.waiting[step_run] = None
        step_run.timer = self.scheduler.call_at(now + again.delay, lambda: self.backed_off(step_run))

    def _call_guarded(self, name: str, callback: Callable[[], Any]) -> None:
        """Call the user's callback: what it raises is logged and changes nothing."""
        try:
            answer = callback()
        except Exception:  # noqa: BLE001 - the user's callback is only told
            _log.exception("%s raised", name)
            return
        if inspect.isawaitable(answer) and self._nursery is not None:
            self._nursery.start_soon(self._await_guarded, name, answer)

    @staticmethod
    async def _await_guarded(name: str, answer: Awaitable[Any]) -> None:
        try:
            await answer
        except Exception:  # noqa: BLE001 - the user's callback is only told
            _log.exception("%s raised", name)

    def next_candidate(self, step_run: StepRun, error: Exception, now: float, more: list[Decision]) -> None:
        """Go on with what is tried next; with nothing left the step fails with its last error."""
        if step_run.substitute is not None:
            self._fail(step_run, error, now, more)
            return
        self.try_candidate(step_run, step_run.candidate_index + 1, error, now, more)

    def try_candidate(self, step_run: StepRun, index: int, error: Exception, now: float, more: list[Decision]) -> None:
        """Go on with one of the candidates; past the last one the step fails."""
        step, item = step_run.step, step_run.item
        step_run.candidate_index = index
        candidate = step_run.candidate
        if candidate is None:
            self._fail(step_run, error, now, more)
        elif isinstance(candidate, FallbackValue):
            self._complete(step_run, Completed(candidate.value, step_run.via), now, more)
        elif isinstance(candidate, BoundModel):
            self.aim_anew(step_run)
            self.requeue(step_run, now, more)
        else:
            step_run.gate = None
            step_run.error = error
            outcome, decisions = self.state.demand(candidate.index, item)
            more.extend(decisions)
            if outcome is None:
                self.emit(WaitStarted(now, step.name, item, "fallback"))
                step_run.waits_for = (candidate.index, item)
                self._callers.setdefault(step_run.waits_for, []).append(step_run)
                self.wait(step_run)
            else:
                self._use_fallback_step(step_run, outcome, now, more)

    @staticmethod
    def aim_anew(step_run: StepRun) -> None:
        """Forget what the last candidate has spent: each has attempts of its own."""
        step_run.attempts_spent = step_run.throttled = step_run.repairs = 0
        step_run.delay = 0.0
        step_run.is_repair = False
        step_run.messages = step_run.prompt

    def _use_fallback_step(self, step_run: StepRun, outcome: Outcome[Any], now: float, more: list[Decision]) -> None:
        was_waiting = step_run in self.waiting
        self.resume(step_run)
        if isinstance(outcome, Completed):
            self._complete(step_run, Completed(outcome.value, step_run.via), now, more)
            return
        if was_waiting:
            self.emit(WaitEnded(now, step_run.step.name, step_run.item))
        error = step_run.error
        if error is None:
            raise AssertionError("a step falls back only after an error")
        self.next_candidate(step_run, error, now, more)

    def _end_by_deadline(self, step_run: StepRun, now: float, more: list[Decision]) -> None:
        """Use the first plain value among the fallbacks that are left; nothing else has time to run."""
        step = step_run.step
        left = self.candidates[step.index][step_run.candidate_index :]
        value = next((candidate for candidate in left if isinstance(candidate, FallbackValue)), None)
        if value is not None:
            self._complete(step_run, Completed(value.value, "fallback:value"), now, more)
            return
        seconds = step.step_seconds or 0.0
        error = StepTimeoutError(step.name, "step", seconds, is_abandoned=step_run.is_abandoned)
        self._fail(step_run, error, now, more)
