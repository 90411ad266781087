"""A second call beside one that takes unusually long: the reply that comes first counts.

After Dean and Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013. The two calls belong to
one attempt, and one cancel scope bounds both. Each has a slot, a permit and a reservation of its own, which
it gives back the moment it ends, whoever wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine.schedule.admission import cancel_call, cost_of, end_call, size_of, start_call, tokens_needed
from pipeline_engine.schedule.step_run import BoundModel, StepRun
from pipeline_engine.values import RUNNING_STEP, Completion, Cost, HedgeFinished, HedgeStarted, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.declare import Hedge
    from pipeline_engine.schedule.estimates import StepEstimate
    from pipeline_engine.schedule.execution import Execution
    from pipeline_engine.schedule.step_run import Candidate

__all__ = ["ask_twice"]

_CLEANUP = 5.0
"""Seconds that a cancelled call is waited for."""


def _second_candidate(candidates: Sequence[Candidate | None], first: int, now: float) -> int | None:
    """Return whom a second call asks: the next other model that is well, else the same one; None for nobody."""
    here = candidates[first] if first < len(candidates) else None
    if not isinstance(here, BoundModel) or not _is_calm(here, now):
        return None  # where the first model is in trouble, more calls are the last thing that is needed
    for index in range(first + 1, len(candidates)):
        other = candidates[index]
        if not isinstance(other, BoundModel) or other.stage != here.stage:
            break
        if other.governor is not here.governor and _is_calm(other, now):
            return index
    return first


def _is_calm(model: BoundModel, now: float) -> bool:
    return model.governor is None or (model.governor.is_calm(now) and model.governor.obstacle(now, 0.0, now) is None)


async def ask_twice(execution: Execution, step_run: StepRun, hedge: Hedge) -> Any:
    """Ask the model at hand, and once more if no reply has come when most of them have.

    The second call waits for its turn like any other, in the place of its step; it is not sent if the first
    one ends before. The loser is cancelled and awaited. An error counts only if both calls fail: it is the
    first one's then.

    Raises:
        Exception: Whatever the first call has raised.
    """
    estimate = execution.estimates.steps[step_run.step.index]
    estimate.first_calls += 1
    scheduler = execution.scheduler
    began = scheduler.now()
    after = hedge.after if not isinstance(hedge.after, str) else estimate.seconds_at(hedge.percentile or 1.0)
    if after is None or not _is_granted(estimate, hedge):
        answer = await execution.ask(step_run)
    else:
        # Most calls end before: for them this costs a timer and a cancel scope, and no task.
        calls = _Calls(execution, step_run, hedge)
        timer = scheduler.call_at(began + float(after), calls.offer_second)
        try:
            answer = await calls.make_first()
        finally:
            scheduler.cancel(timer)
            calls.drop_open()
    estimate.learn_seconds(scheduler.now() - began)
    return answer


def _is_granted(estimate: StepEstimate, hedge: Hedge) -> bool:
    """Whether one more second call leaves them the share that they may have."""
    return estimate.second_calls + 1 <= hedge.max_extra * estimate.first_calls


class _SecondCall(StepRun):
    """Stand in the queue for a second call, and begin it when its turn has come."""

    def __init__(self, calls: _Calls, first: StepRun, index: int) -> None:
        super().__init__(first.execution, first.step, first.item)
        self._calls = calls
        self.candidate_index, self.attempt = index, first.attempt
        self.arguments, self.keywords = first.arguments, first.keywords
        self.prompt, self.messages = first.prompt, first.messages
        self.deadline, self.scope_deadline = first.deadline, first.scope_deadline
        candidate = self.candidate
        if isinstance(candidate, BoundModel):
            self.gate = candidate.governor
            self.tokens = tokens_needed(self, candidate, self.execution.estimates.steps[self.step.index])

    def launch(self) -> bool:
        """Begin the call, unless the model or a budget has become unable to bear it meanwhile."""
        execution, now = self.execution, self.execution.scheduler.now()
        candidate = self.candidate
        if execution.is_ending or not isinstance(candidate, BoundModel) or not _is_calm(candidate, now):
            return False
        estimate = execution.estimates.steps[self.step.index]
        if not _is_granted(estimate, self._calls.hedge):
            return False  # many that began together were granted one each, and others have had theirs meanwhile
        needed = execution.spending.needed(self) if execution.budgets else None
        if needed is not None and execution.spending.lacking(needed) is not None:
            return False
        start_call(self, now, execution.budgets, needed)
        self.has_slot, self.slot_at = True, now
        execution.emit(HedgeStarted(now, self.step.name, self.item, self.attempt, candidate.name))
        estimate.second_calls += 1
        self._calls.begin_second(self)
        execution.start_task(self._calls.make_second, self)
        return True

    def reconsider(self) -> None:
        """Give up: with its model in trouble, one more call is the last thing that is needed."""
        self.execution.scheduler.withdraw(self)


class _Calls:
    """Follow the one or two calls of an attempt: the first in the attempt's own task, the second beside it."""

    def __init__(self, execution: Execution, first: StepRun, hedge: Hedge) -> None:
        self.first = first
        self.hedge = hedge
        self.second: StepRun | None = None
        """The second call, once it has begun."""
        self._execution = execution
        self._offered: StepRun | None = None
        self._first_scope = trio.CancelScope()
        self._second_scope: trio.CancelScope | None = None
        self._second_ended: trio.Event | None = None
        self._second_has_answer = False
        self._answer: Any = None
        self._first_error: Exception | None = None
        self._is_over = False

    def begin_second(self, second: StepRun) -> None:
        """Take note that the second call is on its way."""
        self.second = second
        self._begun()

    def offer_second(self) -> None:
        """Let a second call wait for its turn, preferably one to another model."""
        execution, first = self._execution, self.first
        candidates = execution.candidates[first.step.index]
        index = _second_candidate(candidates, first.candidate_index, execution.scheduler.now())
        if index is not None and first.substitute is None and not self._is_over:
            self._offered = _SecondCall(self, first, index)
            execution.scheduler.enqueue(self._offered)
            execution.scheduler.dispatch()

    async def make_first(self) -> Any:
        """Make the first call; if the second one replies before, return that reply.

        Raises:
            Exception: What the first call has raised, if the second one fails, too.
        """
        answer = None
        with self._first_scope:
            try:
                answer = await self._execution.ask(self.first)
            except Exception as error:  # noqa: BLE001 - the second call may still succeed
                self._first_error = error
        if self.second is None:
            if self._first_error is not None:
                raise self._first_error
            return answer
        scope, ended = self._begun()
        if self._first_error is not None and not ended.is_set():
            _end_one(self._execution, self.first, None, self._first_error)
            await ended.wait()
        if self._second_has_answer:
            return self._take_second(self.second, answer)
        self._is_over = True
        if self._first_error is not None:
            raise self._first_error
        scope.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEANUP):
            await ended.wait()
        return answer

    def _begun(self) -> tuple[trio.CancelScope, trio.Event]:
        """Return what ends the second call, and what tells that it has ended; most attempts have neither."""
        if self._second_scope is None or self._second_ended is None:
            self._second_scope, self._second_ended = trio.CancelScope(), trio.Event()
        return self._second_scope, self._second_ended

    async def make_second(self, second: StepRun) -> None:
        """Make the second call in a task of its own; its reply ends the first one."""
        RUNNING_STEP.set(second)
        scope, ended = self._begun()
        try:
            with scope:
                self._answer = await self._execution.ask(second)
                if not self._is_over:
                    self._second_has_answer = True
                    # The reply is there and paid for: no timeout may take it while the first call ends.
                    self._first_scope.shield = True
                    self._first_scope.cancel()
        except Exception as error:  # noqa: BLE001 - the first call may still succeed
            if not self._is_over:  # what a cancelled call raises on its way out says nothing
                _end_one(self._execution, second, None, error)
                _tell_lost(self._execution, second, None, is_second=True)
        finally:
            ended.set()

    def drop_open(self) -> None:
        """Give back what a second call holds that has not ended; nothing here waits."""
        self._is_over = True
        if self._offered is not None:
            self._execution.scheduler.withdraw(self._offered)
        if self._second_scope is not None:
            self._second_scope.cancel()
        second = self.second
        if second is not None and second.permit is not None:
            if self.first.reserved is None:
                # The first call has failed before: whoever waits for room is woken when their attempt ends.
                self.first.reserved, second.reserved = second.reserved, None
            _lose(self._execution, second, self._answer, is_second=True)

    def _take_second(self, second: StepRun, late: Any) -> Any:
        if self.first.permit is not None:
            _lose(self._execution, self.first, late, is_second=False)
        else:
            _tell_lost(self._execution, self.first, None, is_second=False)
        candidate = second.candidate
        self.first.answered_by = candidate if isinstance(candidate, BoundModel) else None
        _end_one(self._execution, second, self._answer, None)
        return self._answer


def _end_one(execution: Execution, step_run: StepRun, value: Any, error: Exception | None) -> None:
    """Give back what one of an attempt's two calls held, as soon as it has ended."""
    now = execution.scheduler.now()
    _release_slot(execution, step_run)
    if step_run.permit is not None or step_run.reserved is not None:
        execution.give_back(step_run, value, error, now)
    execution.scheduler.dispatch()


def _lose(execution: Execution, step_run: StepRun, late: Any, *, is_second: bool) -> None:
    """Give back what a cancelled one of an attempt's two calls held, and record what it may have cost.

    Who waits for its slot or for its reservation is served when the attempt itself ends: at this very
    instant, and not by a run that is being cancelled.

    Args:
        execution: The run.
        step_run: The call.
        late: Its reply, if it came all the same.
        is_second: Whether it is the second one.
    """
    _release_slot(execution, step_run)
    candidate, cost = step_run.candidate, None
    if isinstance(late, Completion):
        cost = cost_of(step_run, late)
        end_call(step_run, late, None, execution.scheduler.now(), execution.budgets)
    elif isinstance(candidate, BoundModel):
        # Its request was read; how much of a reply was made, nobody says.
        asked = int(execution.estimates.steps[step_run.step.index].asked(size_of(step_run).characters))
        cost = Cost(unpriced_calls=1) if candidate.price is None else candidate.price(Usage(asked, 0), None)
        cancel_call(step_run, execution.budgets)
    _tell_lost(execution, step_run, cost, is_second=is_second)


def _tell_lost(execution: Execution, step_run: StepRun, cost: Cost | None, *, is_second: bool) -> None:
    now, step, item = execution.scheduler.now(), step_run.step.name, step_run.item
    execution.emit(HedgeFinished(now, step, item, step_run.attempt, step_run.model_name or "", is_second, cost))


def _release_slot(execution: Execution, step_run: StepRun) -> None:
    if step_run.has_slot:
        step_run.has_slot = False
        execution.scheduler.release()
