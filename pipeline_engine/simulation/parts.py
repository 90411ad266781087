"""A recorded run taken apart: what each step did, phase by phase, and what it had waited for. Pure.

Queueing is left out, because who gets a slot when is decided anew, and so is who waits for a model that cools
down. All else is kept as it was: how long attempts took and whether they failed, back-off, the journal's commits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline_engine.report import Cooldown, Segment, SegmentKind, Span, Trace
    from pipeline_engine.values import OutlineStep

__all__ = ["Call", "Delay", "Part", "PartName", "Phase", "Work", "altered", "take_apart"]

PartName: TypeAlias = tuple[str, int | None]
"""A step, or an item of it."""

_DECIDED_ANEW: frozenset[SegmentKind] = frozenset({"slot", "requests", "tokens", "concurrency", "cooldown"})
_THROTTLED = (429, 529)
_UNCERTAIN = ("StepTimeoutError", "cancelled")
_ROUNDING = 1e-6
"""Seconds by which two readings of one instant may differ."""


class Work(NamedTuple):
    """An attempt: it needs a slot, and what its model asks for."""

    seconds: float
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    has_failed: bool = False
    is_throttled: bool = False
    """Whether it was refused for rate."""
    is_uncertain: bool = False
    """Whether nobody knows if its tokens were used: it ran into a timeout, or was cancelled."""
    cooldown: float = 0.0
    """Seconds for which its model was left alone afterwards, by all its callers."""


class Delay(NamedTuple):
    """A wait that needs nothing but time."""

    seconds: float
    kind: SegmentKind


class Call(NamedTuple):
    """A wait for a step that stands in."""

    part: PartName


Phase: TypeAlias = Work | Delay | Call


@dataclass(frozen=True, slots=True)
class Part:
    """What one step or item did, once all that it needs was there; nothing if it is a mapped step or did not run."""

    name: PartName
    """The step, and its item."""
    place: int
    """The place of its step in the outline."""
    needs: tuple[PartName, ...]
    """What had to be settled before."""
    phases: tuple[Phase, ...] = ()
    """What it did, in order."""
    is_called: bool = False
    """Whether it runs only when another part calls for it."""


def take_apart(trace: Trace) -> tuple[Part, ...]:
    """Return the parts of a run; each stands after its needs."""
    spans: dict[PartName, Span] = {(span.step, span.item): span for span in trace.spans}
    on_demand = [step.name for step in trace.outline.steps if step.is_on_demand]
    phases = {
        name: tuple(_phases(span, spans, on_demand, trace.cooldowns))
        for name, span in spans.items()
        if not span.is_mapped
    }
    called = {phase.part for done in phases.values() for phase in done if isinstance(phase, Call)}
    parts = []
    for place, step in enumerate(trace.outline.steps):
        items = trace.items(step.name)
        for span in (*items, *([whole] if (whole := trace.get(step.name)) is not None else [])):
            name = span.step, span.item
            needs = _needs(span, step, spans)
            if span.item is None and items:
                needs = tuple((item.step, item.item) for item in items)
            is_called = step.is_on_demand and name in called
            parts.append(Part(name, place, needs, phases.get(name, ()), is_called))
    return tuple(parts)


def _needs(span: Span, step: OutlineStep, spans: dict[PartName, Span]) -> tuple[PartName, ...]:
    ready_at = span.ended_at if span.ready_at is None else span.ready_at
    found = []
    for need in step.needs:
        whole = spans.get((need, None))
        own = spans.get((need, span.item)) if span.item is not None else None
        # Item i waits for item i of what it is mapped over, and of what is mapped with it; else for the whole of it.
        if own is not None and (need == step.each or whole is None or _is_after(whole, ready_at)):
            found.append((need, span.item))
        elif whole is not None and not _is_after(whole, ready_at):
            found.append((need, None))  # a step that was skipped may have been so before the last of its needs
    return tuple(found)


def _is_after(span: Span, at: float) -> bool:
    return span.ended_at > at + _ROUNDING


def _phases(
    span: Span, spans: dict[PartName, Span], on_demand: Sequence[str], cooldowns: Mapping[str, Sequence[Cooldown]]
) -> Iterator[Phase]:
    is_queueing = False
    works = 0
    for segment in span.segments:
        if segment.kind in _DECIDED_ANEW:
            is_queueing = True
            continue
        is_work = segment.kind in ("attempt", "failed")
        if is_queueing and not is_work and span.attempts:
            yield Work(0.0, span.model)  # an attempt that took no time leaves no segment
            works += 1
        is_queueing = False
        works += is_work
        if is_work:
            yield _work(segment, cooldowns.get(segment.model or "", ()))
        elif segment.kind == "fallback":
            yield _call(segment, span, spans, on_demand)
        else:
            yield Delay(segment.duration, segment.kind)
    if span.attempts and (is_queueing or not works):
        yield Work(0.0, span.model)


def _work(segment: Segment, cooldowns: Sequence[Cooldown]) -> Work:
    usage, fault = segment.usage, segment.fault
    is_throttled = fault is not None and fault.status in _THROTTLED
    begun = (one.until - one.at for one in cooldowns if abs(one.at - segment.end) <= _ROUNDING)
    return Work(
        segment.duration,
        segment.model,
        None if usage is None else usage.input_tokens,
        None if usage is None else usage.output_tokens,
        has_failed=segment.kind == "failed",
        is_throttled=is_throttled,
        is_uncertain=fault is not None and fault.kind in _UNCERTAIN,
        cooldown=max(begun, default=0.0) if fault is not None else 0.0,
    )


def _call(segment: Segment, span: Span, spans: dict[PartName, Span], on_demand: Sequence[str]) -> Call | Delay:
    via = (span.via or "").removeprefix("fallback:")
    for step in (via, *on_demand):
        for name in ((step, span.item), (step, None)):
            helper = spans.get(name)
            if helper is not None and abs(helper.ended_at - segment.end) <= _ROUNDING:
                return Call(name)
    return Delay(segment.duration, segment.kind)


def altered(
    phases: Sequence[Phase], *, speed: float = 1.0, has_retries: bool = True, has_throttling: bool = True
) -> tuple[Phase, ...]:
    """Return what a part would do otherwise.

    Args:
        phases: What it did.
        speed: How many times as fast its attempts are.
        has_retries: Whether failed attempts happen; without, the first one is as the last one was.
        has_throttling: Whether refusals for rate happen, after which models cool down.

    Example:
        >>> recorded = (Work(2.0, has_failed=True), Delay(1.0, "backoff"), Work(4.0))
        >>> altered(recorded, speed=2)
        (Work(seconds=1.0, ...), Delay(seconds=1.0, kind='backoff'), Work(seconds=2.0, ...))
        >>> [phase.seconds for phase in altered(recorded, has_retries=False)]
        [4.0]
    """
    works = [phase for phase in phases if isinstance(phase, Work)]
    last = works[-1] if works else None
    kept: list[Phase] = []
    is_left_out = False
    for phase in phases:
        if isinstance(phase, Work):
            is_left_out = (not has_retries and phase is not last) or (not has_throttling and phase.is_throttled)
            if not is_left_out:
                kept.append(phase._replace(seconds=phase.seconds / speed))
        elif isinstance(phase, Delay) and phase.kind == "backoff":
            if not is_left_out:
                kept.append(phase)
        else:
            kept.append(phase)
    return tuple(kept)
