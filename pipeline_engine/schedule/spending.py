"""What a run's budgets let through, carried out: who waits for room, and what becomes of who gets none."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline_engine.errors import BudgetError
from pipeline_engine.schedule.admission import amount_needed
from pipeline_engine.schedule.step_run import BoundModel
from pipeline_engine.values import Stopped, WaitEnded, WaitStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.resilience.ledger import Amount, Ledger
    from pipeline_engine.schedule.execution import Execution
    from pipeline_engine.schedule.state import Decision
    from pipeline_engine.schedule.step_run import BoundBudget, StepRun

__all__ = ["Spending"]


class Spending:
    """Hold one run to its budgets: its own, and those that it shares with others."""

    def __init__(self, execution: Execution, budgets: Sequence[BoundBudget]) -> None:
        self.execution = execution
        self.budgets = budgets

    def exhausted(self) -> BoundBudget | None:
        """Return the budget because of which nothing more may be sent, if there is one."""
        return next((budget for budget in self.budgets if budget.ledger.is_exhausted), None)

    def lacking(self, needed: Amount) -> BoundBudget | None:
        """Return the first budget that has no room for an amount, if there is one."""
        return next((budget for budget in self.budgets if not budget.ledger.fits(needed)), None)

    def needed(self, step_run: StepRun) -> Amount | None:
        """Return the most that a call may cost; None if it is no call to a model."""
        candidate = step_run.candidate
        if not isinstance(candidate, BoundModel):
            return None
        return amount_needed(step_run, candidate, self.execution.estimates.steps[step_run.step.index])

    def wait_for_room(self, step_run: StepRun, budget: BoundBudget, needed: Amount, now: float) -> None:
        """Wait until calls in flight have settled: they may cost less than was reserved for them."""
        self.execution.emit(WaitStarted(now, step_run.step.name, step_run.item, "budget"))
        self.execution.wait(step_run)
        budget.ledger.waiting[step_run] = needed
        if not budget.ledger.has_calls_in_flight:
            self.execution.scheduler.call_after_dispatch(partial(self.let_waiters_go, now))

    def let_waiters_go(self, now: float) -> None:
        """Let calls go on that fit into what is left now, or never will."""
        for budget in self.budgets:
            is_final = not budget.ledger.has_calls_in_flight
            for waiter in budget.ledger.take_fitting():
                waiter.execution.spending.leave(waiter, now, None if not is_final else budget.ledger)

    def leave(self, step_run: StepRun, now: float, exhausted: Ledger | None) -> None:
        """Go on after a wait for a budget: with a call that fits by now, or without one.

        Args:
            step_run: What has waited.
            now: The instant.
            exhausted: The budget in which nothing will become free any more; None if there may be room.
        """
        if self.execution.is_ending or step_run not in self.execution.waiting:
            return
        self.execution.resume(step_run)
        self.execution.emit(WaitEnded(now, step_run.step.name, step_run.item))
        more: list[Decision] = []
        budget = next((budget for budget in self.budgets if budget.ledger is exhausted), None)
        needed = self.needed(step_run)
        if budget is None or needed is None or budget.ledger.fits(needed) or budget.ledger.has_calls_in_flight:
            self.execution.requeue(step_run, now, more)  # if one before it has taken what was left, it waits again
        else:
            self._do_without(step_run, budget, now, more)
        self.execution.go_on(more, now)

    def _do_without(self, step_run: StepRun, budget: BoundBudget, now: float, more: list[Decision]) -> None:
        """Carry out what the budget says about a call that does not fit any more."""
        self.execution.linking.part(step_run)
        ledger = budget.ledger
        if budget.instead is not None and step_run.substitute is None:
            step_run.substitute = budget.instead
            self.execution.aim_anew(step_run)
            self.execution.requeue(step_run, now, more)
        elif ledger.budget.on_exhausted == "fail":
            error = BudgetError(str(ledger), ledger.spent.usd, ledger.spent.tokens)
            self.execution.next_candidate(step_run, error, now, more)
        else:
            ledger.is_exhausted = True
            self.stop(step_run, budget, now, more)

    def stop(self, step_run: StepRun, budget: BoundBudget, now: float, more: list[Decision]) -> None:
        """End a step run for which the budget has nothing left."""
        self.execution.settle(step_run.step.index, step_run.item, Stopped(budget.ledger.exhaustion), now, more)
