"""Assertions on when things happened: a failing one tells all that is known, and shows the waterfall."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline_engine.report import Trace
from pipeline_engine.report.spans import SEGMENT_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline_engine.declare import Step
    from pipeline_engine.report.spans import SegmentKind, Span
    from pipeline_engine.run.results import RunResult

__all__ = [
    "assert_attempts",
    "assert_ended_at",
    "assert_no_overlap",
    "assert_order",
    "assert_overlap",
    "assert_started_at",
    "assert_waited",
]

_ROUNDING = 1e-6
"""Seconds by which instants may differ unless a test says otherwise: sums of floats are not exact."""


def assert_started_at(
    result: RunResult | Trace,
    step: str | Step[..., object],
    seconds: float,
    *,
    item: int | None = None,
    within: float = _ROUNDING,
) -> None:
    """Assert when the first attempt at a step started, in seconds from the start of its run.

    Args:
        result: A run's result, or its trace.
        step: The step or its name.
        seconds: When it should have started.
        item: The item's index, where one of a mapped step is meant.
        within: Seconds by which it may differ.

    Raises:
        AssertionError: If it started at another time, or not at all.
        KeyError: If there is no such step.
    """
    __tracebackhide__ = True
    trace = _trace(result)
    span = _span(trace, step, item)
    started = None if span.started_at is None else span.started_at - trace.started_at
    if started is None or not abs(started - seconds) <= within:  # true for NaN, too
        found = "did not start" if started is None else f"started at {_shown(started)}"
        raise _failure(trace, f"step {span.name!r} {found}, not at {_shown(seconds)}", span)


def assert_ended_at(
    result: RunResult | Trace,
    step: str | Step[..., object],
    seconds: float,
    *,
    item: int | None = None,
    within: float = _ROUNDING,
) -> None:
    """Assert when a step had its outcome, in seconds from the start of its run.

    Args:
        result: A run's result, or its trace.
        step: The step or its name.
        seconds: When it should have ended.
        item: The item's index, where one of a mapped step is meant.
        within: Seconds by which it may differ.

    Raises:
        AssertionError: If it ended at another time, or not yet.
        KeyError: If there is no such step.
    """
    __tracebackhide__ = True
    trace = _trace(result)
    span = _span(trace, step, item)
    ended = span.ended_at - trace.started_at
    if span.outcome is None or not abs(ended - seconds) <= within:
        found = "has not ended" if span.outcome is None else f"ended at {_shown(ended)}"
        raise _failure(trace, f"step {span.name!r} {found}, not at {_shown(seconds)}", span)


def assert_waited(
    result: RunResult | Trace,
    step: str | Step[..., object],
    kind: SegmentKind,
    seconds: float,
    *,
    item: int | None = None,
    within: float = _ROUNDING,
) -> None:
    """Assert how long a step spent on one kind of wait, all times together.

    Args:
        result: A run's result, or its trace.
        step: The step or its name; of a mapped step its items together.
        kind: As in a trace's segments: "slot", "backoff", "cooldown", "requests" …
        seconds: How long it should have been; 0 if it should not have waited for that.
        item: The item's index, where one of a mapped step is meant.
        within: Seconds by which it may differ.

    Raises:
        AssertionError: If it was longer or shorter.
        KeyError: If there is no such step.
        ValueError: If there is no such kind.
    """
    __tracebackhide__ = True
    if kind not in SEGMENT_KINDS:
        raise ValueError(f"{kind!r} is nothing that time goes to. The kinds are {', '.join(SEGMENT_KINDS)}.")
    trace = _trace(result)
    span = _span(trace, step, item)
    waited = sum(segment.duration for part in _parts(trace, span) for segment in part.segments if segment.kind == kind)
    if not abs(waited - seconds) <= within:
        reason = f"step {span.name!r} spent {_shown(waited)} on {kind!r}, not {_shown(seconds)}"
        raise _failure(trace, reason, span)


def assert_attempts(
    result: RunResult | Trace, step: str | Step[..., object], count: int, *, item: int | None = None
) -> None:
    """Assert how many attempts were started at a step; of a mapped step, at its items together.

    Raises:
        AssertionError: If there were more or fewer.
        KeyError: If there is no such step.
    """
    __tracebackhide__ = True
    trace = _trace(result)
    span = _span(trace, step, item)
    if span.attempts != count:
        raise _failure(trace, f"step {span.name!r} had {_numbered(span.attempts)}, not {count}", span)


def assert_overlap(result: RunResult | Trace, first: str | Step[..., object], second: str | Step[..., object]) -> None:
    """Assert that attempts at two steps ran at the same time, for a while at least.

    Raises:
        AssertionError: If they did not.
        KeyError: If there is no such step.
    """
    __tracebackhide__ = True
    trace = _trace(result)
    spans = _span(trace, first, None), _span(trace, second, None)
    if _shared_seconds(trace, *spans) <= _ROUNDING:
        raise _failure(trace, f"steps {spans[0].name!r} and {spans[1].name!r} never ran at the same time", *spans)


def assert_no_overlap(
    result: RunResult | Trace, first: str | Step[..., object], second: str | Step[..., object]
) -> None:
    """Assert that attempts at two steps never ran at the same time.

    Raises:
        AssertionError: If they did.
        KeyError: If there is no such step.
    """
    __tracebackhide__ = True
    trace = _trace(result)
    spans = _span(trace, first, None), _span(trace, second, None)
    shared = _shared_seconds(trace, *spans)
    if shared > _ROUNDING:
        reason = f"steps {spans[0].name!r} and {spans[1].name!r} ran at the same time for {_shown(shared)}"
        raise _failure(trace, reason, *spans)


def assert_order(result: RunResult | Trace, *steps: str | Step[..., object]) -> None:
    """Assert that each of these steps had its outcome before the first attempt at the next one started.

    Raises:
        AssertionError: If one started before the one before it had ended, or did not start at all.
        KeyError: If there is no such step.
        ValueError: If there are fewer than two of them.
    """
    __tracebackhide__ = True
    if len(steps) < 2:
        raise ValueError("assert_order(result, first, second, …): an order takes two steps or more.")
    trace = _trace(result)
    for before, after in pairwise(_span(trace, step, None) for step in steps):
        if after.started_at is None:
            raise _failure(trace, f"step {after.name!r} did not start", before, after)
        if before.outcome is None or after.started_at < before.ended_at - _ROUNDING:
            raise _failure(trace, f"step {after.name!r} started before step {before.name!r} had ended", before, after)


def _trace(result: RunResult | Trace) -> Trace:
    return result if isinstance(result, Trace) else result.trace


def _span(trace: Trace, step: str | Step[..., object], item: int | None) -> Span:
    __tracebackhide__ = True
    name = step if isinstance(step, str) else step.name
    if name not in trace and any(known.name == name for known in trace.outline.steps):
        raise _failure(trace, f"step {name!r} was not reached")
    span = trace[name]
    if item is None:
        return span
    found = next((one for one in trace.items(name) if one.item == item), None)
    if found is None:
        raise _failure(trace, f"step {name!r} has no item {item}", span)
    return found


def _parts(trace: Trace, span: Span) -> tuple[Span, ...]:
    """Return the spans that tile a step's time: its own, or its items'."""
    return trace.items(span.step) if span.is_mapped else (span,)


def _shared_seconds(trace: Trace, first: Span, second: Span) -> float:
    """Return for how long attempts at both ran; a second with several of them counts as often."""
    return sum(
        max(0.0, min(end, other_end) - max(start, other_start))
        for start, end in _attempts(trace, first)
        for other_start, other_end in _attempts(trace, second)
    )


def _attempts(trace: Trace, span: Span) -> Iterator[tuple[float, float]]:
    for part in _parts(trace, span):
        for segment in part.segments:
            if segment.kind in ("attempt", "failed"):
                yield segment.start, segment.end


def _failure(trace: Trace, reason: str, *spans: Span) -> AssertionError:
    facts = "".join(f"\n  {_facts(trace, span)}" for span in spans)
    return AssertionError(f"{reason}{facts}\n\n{trace.waterfall(100, color=False)}")


def _facts(trace: Trace, span: Span) -> str:
    """Return all that is known of a step's time on one line."""
    start = trace.started_at
    facts = [f"ready at {_shown(span.ready_at - start)}" if span.ready_at is not None else "never ready"]
    facts.append(f"started at {_shown(span.started_at - start)}" if span.started_at is not None else "never started")
    facts.append(f"{span.outcome or 'still going on'} at {_shown(span.ended_at - start)}")
    facts.append(_numbered(span.attempts))
    kinds: dict[str, float] = {}
    for part in _parts(trace, span):
        for segment in part.segments:
            kinds[segment.kind] = kinds.get(segment.kind, 0.0) + segment.duration
    facts += [f"{kind} {_shown(seconds)}" for kind, seconds in kinds.items()]
    facts += [text for text in (span.error, span.because) if text]
    return f"{span.name}: {', '.join(facts)}"


def _numbered(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _shown(seconds: float) -> str:
    return f"{round(seconds, 9):g} s" if round(seconds, 3) == round(seconds, 9) else f"{seconds:.9g} s"
