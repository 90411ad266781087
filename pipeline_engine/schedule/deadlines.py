"""When an attempt ends: the tightest of its timeouts, on one cancel scope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline_engine.errors import StepTimeoutError
from pipeline_engine.schedule.step_run import BoundModel

if TYPE_CHECKING:
    from pipeline_engine.schedule.step_run import StepRun

__all__ = ["begin_deadline", "move_deadline", "timeout_error"]


def move_deadline(step_run: StepRun, deadline: float, bound_by: Literal["idle", "attempt", "step"]) -> None:
    """Bound a running attempt anew, as its stream goes on."""
    step_run.scope_deadline, step_run.bound_by = deadline, bound_by
    if step_run.scope is not None:
        step_run.scope.deadline = deadline


def begin_deadline(step_run: StepRun, now: float) -> float:
    """Return when an attempt that begins now must end; one cancel scope serves all of its timeouts."""
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
    gate, permit = step_run.gate, step_run.permit
    # A probe that hangs would keep everybody waiting: it has no longer than the breaker stays open.
    is_probe = gate is not None and permit is not None and gate.is_probe(permit)
    if gate is not None and is_probe and now + gate.probe_interval < deadline:
        deadline = now + gate.probe_interval
        step_run.bound_by = "attempt"
        step_run.probe_seconds = gate.probe_interval
    else:
        step_run.probe_seconds = None
    step_run.attempt_deadline = deadline
    if first_token is not None and now + first_token < deadline:
        deadline = now + first_token
        step_run.bound_by = "first_token"
    step_run.scope_deadline = deadline
    return deadline


def timeout_error(step_run: StepRun) -> StepTimeoutError:
    """Return the error that names which of its timeouts has ended an attempt."""
    step, which = step_run.step, step_run.bound_by
    candidate = step_run.candidate if step.kind != "function" else None
    timeout = candidate.timeout if isinstance(candidate, BoundModel) else None
    seconds = (timeout or step.timeout).seconds(which)
    if which == "attempt" and step_run.probe_seconds is not None:
        seconds = step_run.probe_seconds
    return StepTimeoutError(step.name, which, seconds or 0.0, is_abandoned=step_run.is_abandoned)
