"""Where a call goes when its model cannot be asked now. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipeline_engine.errors import CircuitOpenError
from pipeline_engine.plan import FallbackValue
from pipeline_engine.schedule.step_run import BoundModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.resilience.governor import Governor
    from pipeline_engine.schedule.step_run import Candidate, StepRun

__all__ = ["Detour", "detour"]


class Detour(NamedTuple):
    """Say that a call must not wait for the model at hand."""

    error: Exception
    """Why not."""
    to: int | None
    """The candidate to go on to, which may be past the last one; None if the step fails at once."""


def detour(
    step_run: StepRun, governor: Governor, candidates: Sequence[Candidate | None], now: float, deadline: float
) -> Detour | None:
    """Return where a call goes instead of waiting for its model; None if it waits.

    Args:
        step_run: The call.
        governor: The governor of the model at hand.
        candidates: What its step is tried with, in order.
        now: The instant.
        deadline: When the step or its run ends: no wait is begun that would end after it.
    """
    obstacle = governor.obstacle(now, step_run.tokens, deadline)
    if obstacle is not None:
        return Detour(obstacle, step_run.candidate_index + 1)
    step = step_run.step
    if governor.cool_until - now > step.retry.max_delay:
        # Longer than any delay of our own: who has another model need not sit it out.
        index = _way_around(step_run, candidates, now, deadline, takes_values=False)
        if index is not None:
            return Detour(governor.cooling_error(now, "and there is another model"), index)
    until = governor.kept_away_until(now)
    if until <= now or step.when_open == "wait":
        return None
    error = CircuitOpenError(governor.model, max(0.0, min(until - now, governor.probe_interval)))
    if step.when_open == "fail":
        return Detour(error, None)
    # A plain value is no answer: it needs spent attempts, or to be asked for.
    index = _way_around(step_run, candidates, now, deadline, takes_values=step.when_open == "fallback")
    return None if index is None else Detour(error, index)


def _way_around(
    step_run: StepRun, candidates: Sequence[Candidate | None], now: float, deadline: float, *, takes_values: bool
) -> int | None:
    """Return the next candidate that can be tried at once."""
    if step_run.substitute is not None:
        return None
    for index in range(step_run.candidate_index + 1, len(candidates)):
        candidate = candidates[index]
        if isinstance(candidate, FallbackValue):
            if takes_values:
                return index
        elif not isinstance(candidate, BoundModel) or _is_well(candidate, now, deadline):
            return index
    return None


def _is_well(model: BoundModel, now: float, deadline: float) -> bool:
    governor = model.governor
    if governor is None:
        return True
    return governor.kept_away_until(now) <= now and governor.obstacle(now, 0.0, deadline) is None
