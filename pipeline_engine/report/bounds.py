"""What a run could not have been faster than: its critical path, its slots, its limits; and the sentence for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipeline_engine.report.legend import CURES, WAITED_FOR
from pipeline_engine.report.numbers import counted, seconds_text
from pipeline_engine.report.spans import BUSY_KINDS, LIMIT_KINDS
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.report.spans import SegmentKind, Span
    from pipeline_engine.report.trace import Trace

__all__ = ["Bounds", "draw_path", "draw_verdict", "find_bounds", "find_critical_path"]

_RETRYING = frozenset({"failed", "backoff"})
_RUNNING = frozenset({"attempt", "failed"})
_MAX_NAMES = 6
_WORTH_SAYING = 0.05
"""The part of the makespan from which on a wait for a limit is named in the verdict."""

_Key = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Hold the lower bounds of a run's makespan, in seconds.

    They are *lower* bounds: they ignore what they do not model, such as steps that come at once and then
    leave slots idle. A run at its bound cannot be improved by what the bound does not name. What a model's
    limits allow is not in them, because limits can be raised: what was waited for them stands in `limits`.
    """

    critical_path: float
    """The work along the longest chain of needs: attempts, validation and back-off, no waits for slots or limits."""
    slots: float
    """All attempts together, spread evenly over the engine's slots."""
    path: tuple[str, ...] = ()
    """The names on that longest chain, first to last."""
    retrying: float = 0.0
    """The part of `critical_path` that went to failed attempts and back-off."""
    limits: Mapping[SegmentKind, float] = field(default_factory=dict)
    """Seconds that the chain which led to the end has waited for limits of models or a budget, the longest first."""

    @property
    def binding(self) -> Literal["critical path", "slots"] | SegmentKind:
        """What bound the run most: work, slots, or the limit that its end has waited for longest."""
        limit = next(iter(self.limits), None)
        if limit is not None and self.limits[limit] > self.lower_bound:
            return limit
        return "critical path" if self.critical_path >= self.slots else "slots"

    @property
    def lower_bound(self) -> float:
        """The higher of the bounds: no schedule of the same attempts is shorter."""
        return max(self.critical_path, self.slots)


def find_critical_path(trace: Trace) -> tuple[Span, ...]:
    """Return the spans that led to the end of the run, first to last."""
    order = {step.name: index for index, step in enumerate(trace.outline.steps)}
    executed = [span for span in trace.steps if span.ready_at is not None]
    if not executed:
        return ()
    span: Span | None = max(executed, key=lambda span: (span.ended_at, order.get(span.step, -1)))
    path: list[Span] = []
    seen: set[_Key] = set()
    while span is not None and (span.step, span.item) not in seen:
        seen.add((span.step, span.item))
        late = _last_item(trace, span) if span.is_mapped else None
        if late is not None:
            span = late
            seen.add((span.step, span.item))
        if span.ready_at is not None:
            path.append(span)
        span = _before(trace, span)
    return tuple(reversed(path))


def _last_item(trace: Trace, span: Span) -> Span | None:
    executed = [item for item in trace.items(span.step) if item.ready_at is not None]
    return max(executed, key=lambda item: item.ended_at, default=None)


def _before(trace: Trace, span: Span) -> Span | None:
    """Return the span that unblocked this one."""
    if span.ready_at is None:
        return _trigger(trace, span)
    source = span.unblocked_by
    mapped = trace.get(span.step)
    if source is None and span.item is not None and mapped is not None:
        source = mapped.unblocked_by
    if source is None:
        return None
    if span.item is not None:
        same = [item for item in trace.items(source) if item.item == span.item]
        if same:
            return same[0]
    return trace.get(source)


def _trigger(trace: Trace, span: Span) -> Span | None:
    """Return the need that settled a step which was never ready: the last one that had ended by then."""
    needs = next((step.needs for step in trace.outline.steps if step.name == span.step), ())
    found = [trace.get(need) for need in needs]
    ended = [need for need in found if need is not None and need.ended_at <= span.ended_at]
    return max(ended, key=lambda need: need.ended_at, default=None)


@dataclass(frozen=True, slots=True)
class _Chain:
    """The longest work up to the end of one step or item, and the link to what came before."""

    seconds: float = 0.0
    span: Span | None = None
    before: _Chain | None = None


def find_bounds(trace: Trace) -> Bounds:
    """Return the lower bounds of a run, computed over its outline in time linear in spans and needs."""
    chains: dict[_Key, _Chain] = {}
    for step in trace.outline.steps:
        span = trace.get(step.name)
        if span is None:
            continue
        if span.ready_at is None:
            trigger = _trigger(trace, span)
            if trigger is not None and (trigger.step, None) in chains:
                chains[step.name, None] = chains[trigger.step, None]
            continue
        base = _longest([chains.get((need, None)) for need in step.needs])
        own_chains = [_Chain(base.seconds, None, base)]
        others = _longest([chains.get((need, None)) for need in step.needs if need != step.each])
        for item in trace.items(step.name):
            same = chains.get((step.each, item.item)) if step.each is not None else None
            # Item i waits for item i of a mapped source, not for the whole of it.
            ready = base if same is None else _longest([same, others])
            chain = _Chain(ready.seconds + _work(trace, item), item, ready)
            chains[step.name, item.item] = chain
            own_chains.append(chain)
        if not span.is_mapped:
            own_chains = [_Chain(base.seconds + _work(trace, span), span, base)]
        elif len(own_chains) > 1:
            own_chains = own_chains[1:]
        chains[step.name, None] = max(own_chains, key=lambda chain: chain.seconds)
    longest = _longest(list(chains.values()))
    spans = _spans_of(longest)
    attempts = sum(segment.duration for span in trace.spans for segment in span.segments if segment.kind in _RUNNING)
    return Bounds(
        critical_path=longest.seconds,
        slots=attempts / trace.capacity if trace.capacity > 0 else 0.0,
        path=tuple(span.name for span in spans),
        retrying=sum(s.duration for span in spans for s in span.segments if s.kind in _RETRYING),
        limits=_waits_for_limits(trace),
    )


def _waits_for_limits(trace: Trace) -> dict[SegmentKind, float]:
    """Return what the chain that led to the end has waited for limits, the longest first."""
    seconds = dict.fromkeys(LIMIT_KINDS, 0.0)
    for span in trace.critical_path:
        for segment in span.segments:
            if segment.kind in seconds:
                seconds[segment.kind] += segment.duration
    return {kind: seconds[kind] for kind in sorted(seconds, key=lambda kind: -seconds[kind]) if seconds[kind] > 0}


def _longest(chains: Sequence[_Chain | None]) -> _Chain:
    found = [chain for chain in chains if chain is not None]
    return max(found, key=lambda chain: chain.seconds, default=_Chain())


def _spans_of(chain: _Chain | None) -> list[Span]:
    spans: list[Span] = []
    while chain is not None:
        if chain.span is not None:
            spans.append(chain.span)
        chain = chain.before
    return spans[::-1]


def _work(trace: Trace, span: Span) -> float:
    """Return the seconds of a span that more slots cannot shorten, those of its fallback step included."""
    waits = [segment for segment in span.segments if segment.kind == "fallback"]
    helper = None if span.via is None else trace.get(span.via.removeprefix("fallback:"))
    if not waits or helper is None:
        return span.busy
    # The fallback step may have started earlier, for another step: only its work within the wait counts.
    shared = sum(
        max(0.0, min(wait.end, work.end) - max(wait.start, work.start))
        for wait in waits
        for work in helper.segments
        if work.kind in BUSY_KINDS
    )
    return span.busy + shared


def draw_path(names: Sequence[str]) -> str:
    """Return names as a path, cut in its middle if it is long.

    Example:
        >>> draw_path(["title", "summary"])
        'title → summary'
        >>> draw_path([f"step_{index}" for index in range(9)])
        'step_0 → step_1 → step_2 → … → step_7 → step_8'
    """
    shown = [one_line(name, 40) for name in names]
    if len(shown) > _MAX_NAMES:
        shown = [*shown[:3], "…", *shown[-2:]]
    return " → ".join(shown)


def draw_verdict(trace: Trace) -> str:
    """Return one sentence: what bounded the run, and what would shorten it."""
    makespan = trace.makespan
    head = f"makespan {seconds_text(makespan)}"
    if trace.status is None:
        head = f"still running after {seconds_text(makespan)}"
    bounds = trace.bounds
    if not bounds.path or makespan <= 0:
        return f"{head}; no step took any time"
    is_part = makespan >= 1

    def part(seconds: float) -> str:
        return seconds_text(seconds, is_part=is_part)

    lost = ""
    if bounds.retrying >= 0.1 * bounds.critical_path:
        lost = f" ({part(bounds.retrying)} in failed attempts and back-off)"
    saving = _most_saved(trace, bounds)
    can_help = f"more slots can save at most {part(saving)}"
    path = f"the critical path {draw_path(bounds.path)}"
    limits = _draw_limits(bounds, makespan, is_part=is_part)
    is_saving = saving >= 0.005 * makespan
    if bounds.slots > bounds.critical_path and (is_saving or not limits):
        share = round(100 * bounds.slots / makespan)
        slots = f"{counted(trace.capacity, 'slot')} cannot do it in less than {part(bounds.slots)}"
        needs = f"{path} needs {part(bounds.critical_path)}{lost}"
        return f"{head}; {slots} ({share} % of it){limits}; {can_help}, as {needs}"
    if bounds.critical_path >= 0.995 * makespan:
        return f"{head}; {path} needs all of it{lost}; more slots cannot help"
    needs = f"{path} needs {part(bounds.critical_path)} of it{lost}{limits}"
    if not is_saving:
        cannot = "more slots cannot help" if limits else "no time was lost to slots, so more of them cannot help"
        return f"{head}; {needs}; {cannot}"
    return f"{head}; {needs}; {can_help}"


def _draw_limits(bounds: Bounds, makespan: float, *, is_part: bool) -> str:
    """Return what was waited for limits on the way to the end, and what would shorten the longest of these waits."""
    told = [(kind, seconds) for kind, seconds in bounds.limits.items() if seconds >= _WORTH_SAYING * makespan]
    if not told:
        return ""
    waits = [f"{seconds_text(seconds, is_part=is_part)} for {WAITED_FOR[kind]}" for kind, seconds in told]
    listed = waits[0] if len(waits) == 1 else f"{', '.join(waits[:-1])} and {waits[-1]}"
    return f"; the run waited {listed}: {CURES[told[0][0]]}"


def _most_saved(trace: Trace, bounds: Bounds) -> float:
    """Return the seconds that more slots could save at the very best.

    Neither below the work on the longest chain, nor more than the chain that led to the end has waited:
    with all the slots in the world it would still do everything else that it did.
    """
    waited = sum(
        segment.duration
        for span in trace.critical_path
        for segment in span.segments
        if segment.kind in {"slot", "fallback"}
    )
    return max(0.0, min(trace.makespan - bounds.critical_path, waited))
