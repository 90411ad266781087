"""What went on at once: attempts in flight, and what waited for what, over the time of all documents."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from pipeline_engine.report.areas import draw_areas, peak, stretched
from pipeline_engine.report.legend import KIND_NAMES
from pipeline_engine.report.numbers import counted, nice_ticks, tick_text
from pipeline_engine.report.spans import SEGMENT_KINDS, WAIT_KINDS

if TYPE_CHECKING:
    from pipeline_engine.report.page.subject import Subject
    from pipeline_engine.report.spans import SegmentKind

__all__ = ["concurrency", "legend"]

_RUNNING: tuple[SegmentKind, ...] = ("attempt", "failed")
_WORKING: tuple[SegmentKind, ...] = (*_RUNNING, "validate")
_NEARLY = 0.01


def concurrency(subject: Subject) -> str:
    """Return the charts of what worked and what waited, on the waterfall's own axis."""
    timeline = subject.batch.timeline
    if not peak(timeline, SEGMENT_KINDS) or subject.seconds <= 0:
        return ""
    capacity = max((trace.capacity for trace in subject.batch.traces), default=0)
    # A part of the time that was not full all through is a little lower than the number it is about.
    running, waiting = (ceil(peak(timeline, kinds) - _NEARLY) for kinds in (_RUNNING, WAIT_KINDS))
    charts = [("working", f"up to {running:,} of {counted(capacity, 'slot')}", 64, _WORKING)]
    if waiting:
        charts.append(("waiting", f"up to {waiting:,}", 44, WAIT_KINDS))
    rows = "".join(
        f'<div class="chart"><span class="label"><b>{name}</b><small class="quiet">{note}</small></span>'
        f"{stretched(height, draw_areas(timeline, kinds, subject.start, subject.seconds))}</div>"
        for name, note, height, kinds in charts
    )
    return f'<div class="charts">{_ticks(subject)}{rows}</div>'


def _ticks(subject: Subject) -> str:
    ticks = "".join(
        f'<i style="left:{100 * tick / subject.seconds:.3f}%"><span>{tick_text(tick)}</span></i>'
        for tick in nice_ticks(subject.seconds, 8)
    )
    return f'<div class="ticks" aria-hidden="true">{ticks}</div>'


def legend(subject: Subject) -> str:
    """Return what each fill means, as far as there are such segments."""
    heights = subject.batch.timeline.heights
    size = 'width="22" height="12"'
    entries = "".join(
        f'<li><svg {size} aria-hidden="true"><rect class="s-{kind}" {size}/></svg>{KIND_NAMES[kind]}</li>'
        for kind in SEGMENT_KINDS
        if any(heights.get(kind, ()))
    )
    if any(step.first_token is not None for step in subject.batch.steps):
        early = f'<svg {size} aria-hidden="true"><rect class="s-attempt" {size}/><rect class="early" {size}/></svg>'
        entries += f"<li>{early}before the first token</li>"
    if subject.batch.hedges.calls:
        second = f'<svg {size} aria-hidden="true"><rect class="s-attempt" y="8" width="22" height="4"/></svg>'
        entries += f"<li>{second}second call</li>"
    return f'<ul class="legend">{entries}<li><span class="path">◆</span>critical path</li></ul>'
