"""The waterfall as one SVG element, without script: what a page shows without one, on paper, and a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING

from pipeline_engine.report.areas import WIDTH, draw_areas, peak
from pipeline_engine.report.legend import KIND_NAMES, MARKS, SHORT_NAMES, reason_text
from pipeline_engine.report.numbers import counted, nice_ticks, seconds_text, tick_text
from pipeline_engine.report.palette import color_rules, fill_rules, pattern_defs
from pipeline_engine.report.spans import SEGMENT_KINDS, WAIT_KINDS
from pipeline_engine.report.timeline import TimelineSums
from pipeline_engine.text import display_width, fit, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline_engine.report.spans import Segment, SegmentKind, Span
    from pipeline_engine.report.trace import Trace

__all__ = [
    "LABEL",
    "MAX_ROWS",
    "TOOK",
    "count_rows",
    "draw_runs_svg",
    "draw_waterfall_svg",
    "span_details",
]

MAX_ROWS = 500
"""With more rows only the items that matter have one: nobody reads more, and browsers slow down."""
_MAX_ITEMS = 20
LABEL, LANE, TOOK = 24, 62, 14
"""Of a row's width, the hundredths that its name, its bar and its duration have."""
_ROW = 24
_TOP = 26
_MAX_LABEL = 44
_LEGEND_COLUMNS = 4
_MAX_TITLE = 80
_PARTS = 120
_WORKING: tuple[SegmentKind, ...] = ("attempt", "failed", "validate")
_STATUS_MARKS = {"completed": "✓", "partial": "◐", "failed": "✗", "stopped": "■"}


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    note: str
    took: str
    outcome: str
    mark: str
    drawn: str
    title: str
    depth: int = 0
    is_critical: bool = False
    style: str = ""


def draw_waterfall_svg(trace: Trace) -> str:
    """Return a run's waterfall as one SVG element, which runs no script and loads nothing.

    It brings its own colours, dark ones where they are asked for, and is as wide as there is room. Of a run with more
    than 500 rows only the items that failed, that bounded the run or that were slowest have one.

    Example:
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> pipeline = Pipeline("shout", inputs={"text": str})
        >>> @pipeline.step
        ... def shouted(text: str) -> str:
        ...     return text.upper()
        >>> drawing = draw_waterfall_svg(run_pipeline(pipeline, {"text": "hello"}).trace)
        >>> drawing[:4], drawing.count("shouted</text>"), "<script" in drawing
        ('<svg', 1, False)
    """
    return draw_runs_svg([trace])


def draw_runs_svg(traces: Sequence[Trace], *, has_steps: bool = True) -> str:
    """Return the waterfalls of runs on one axis.

    Args:
        traces: The runs; each has a row of its own if there are several, whose bar is its critical path.
        has_steps: Whether their steps have rows.
    """
    start = min((trace.wall_time for trace in traces), default=0.0)
    seconds = max((trace.wall_time - start + trace.makespan for trace in traces), default=0.0)
    is_big = count_rows(traces) > MAX_ROWS
    rows: list[_Row] = []
    for trace in traces:
        axis = _Axis(trace, start, seconds)
        if len(traces) > 1:
            rows.append(_document_row(axis))
        if has_steps:
            rows += _rows(axis, depth=int(len(traces) > 1), is_big=is_big)
    kinds = {segment.kind for trace in traces for span in trace.spans for segment in span.segments}
    name = "".join(f"{trace.run_id}\n" for trace in traces)
    # Two drawings on one page must not use each other's patterns: one of them may be hidden.
    prefix = f"w{sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}-"
    legend = [kind for kind in SEGMENT_KINDS if kind in kinds]
    bottom = _TOP + _ROW * len(rows)
    height = bottom + 14 + 20 * (1 + len(legend) // _LEGEND_COLUMNS)
    label = _safe(_description(traces))
    size = f'width="100%" height="{height}"'
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="pe-waterfall" {size} role="img" aria-label="{label}">',
            f"<style>{_style(prefix)}</style>{pattern_defs(prefix)}",
            '<rect class="paper" width="100%" height="100%"/>',
            _ticks(seconds, bottom),
            *(_draw(row, _TOP + _ROW * place) for place, row in enumerate(rows)),
            _legend(legend, bottom + 14),
            "</svg>",
        ]
    )


def count_rows(traces: Sequence[Trace]) -> int:
    """Return how many rows runs have when all of them are open."""
    return sum(len(trace.spans) for trace in traces) + (len(traces) if len(traces) > 1 else 0)


def span_details(trace: Trace, span: Span) -> str:
    """Return what a reader sees who points at a step or item."""
    is_long = trace.makespan >= 1
    facts = [span.name]
    if span.ready_at is None:
        facts.append(reason_text(span))
    else:
        facts.append(f"ready at {seconds_text(span.ready_at - trace.started_at, is_part=is_long)}")
        facts.append(f"{span.outcome or 'still going on'} after {seconds_text(span.duration, is_part=is_long)}")
        facts.append(counted(span.attempts, "attempt"))
    facts += [f"unblocked by {span.unblocked_by}"] if span.unblocked_by else []
    facts += [fact for fact in (span.via and f"via {span.via}", span.model, span.error) if fact]
    return " · ".join(facts)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Place the instants of one run on the time of all of them."""

    trace: Trace
    start: float
    seconds: float

    def percent(self, at: float) -> float:
        passed = self.trace.wall_time - self.start + at - self.trace.started_at
        return 100 * passed / self.seconds if self.seconds > 0 else 0.0

    def part(self, seconds: float) -> str:
        return seconds_text(seconds, is_part=self.seconds >= 1)


def _document_row(axis: _Axis) -> _Row:
    trace = axis.trace
    status = trace.status or "running"
    # Along the critical path each second is one that the document itself has waited for.
    drawn = "".join(_bar(axis, segment, span.name) for span in trace.critical_path for segment in span.segments)
    took = axis.part(trace.makespan)
    title = f"{trace.document} · {status} after {took} · its bar is its critical path"
    return _Row(trace.document, "", took, status, _STATUS_MARKS.get(status, "…"), drawn, title, style="strong")


def _rows(axis: _Axis, *, depth: int, is_big: bool) -> Iterator[_Row]:
    trace = axis.trace
    critical = {(span.step, span.item) for span in trace.critical_path}
    steps_on_path = {step for step, _ in critical}
    for span in trace.steps:
        items = trace.items(span.step)
        yield _row(axis, span, items, depth=depth, is_critical=span.step in steps_on_path)
        shown = _telling(items, critical) if is_big and len(items) > _MAX_ITEMS else items
        for item in shown:
            yield _row(axis, item, (), depth=depth + 1, is_critical=(item.step, item.item) in critical)
        if len(shown) < len(items):
            text = f"{len(shown)} of {len(items):,} items: failed, slowest"
            yield _Row(text, "", "", "skipped", "", "", text, depth + 1, style="quiet")


def _telling(items: Sequence[Span], critical: set[tuple[str, int | None]]) -> list[Span]:
    """Return the items worth a row where there are too many: on the critical path, failed, or slowest."""
    by_worth = sorted(
        items,
        key=lambda item: ((item.step, item.item) in critical, item.outcome in {"failed", "dropped"}, item.duration),
        reverse=True,
    )
    return sorted(by_worth[:_MAX_ITEMS], key=lambda item: item.item or 0)


def _row(axis: _Axis, span: Span, items: Sequence[Span], *, depth: int, is_critical: bool) -> _Row:
    trace = axis.trace
    retries = sum(item.retries for item in items) if span.is_mapped else span.retries
    facts = [f"×{span.width:,}"] if span.width is not None else []
    facts += [f"↻{retries}"] if retries else []
    if span.via is not None:
        facts.append(span.via)
    elif span.item is None and span.model is not None:
        facts.append(span.model.partition(":")[2] or span.model)
    if not span.has_time:
        drawn = f'<text class="reason" x="6" y="16">{_safe(reason_text(span))}</text>'
    elif items:
        drawn = _density(axis, [segment for item in items for segment in item.segments])
    else:
        drawn = "".join(_bar(axis, segment, span.name) for segment in span.segments) + _second_calls(axis, span)
        if not drawn and span.ready_at is not None:
            x = min(99.8, axis.percent(span.ready_at))
            drawn = f'<rect class="instant" x="{x:.3f}%" y="5" width="0.200%" height="14"/>'
    return _Row(
        span.name if span.item is None else f"[{span.item}]",
        " · ".join(facts),
        axis.part(span.duration) if span.has_time else "",
        span.outcome or "running",
        MARKS[span.outcome],
        drawn,
        span_details(trace, span),
        depth,
        is_critical,
        "" if span.item is None else "quiet",
    )


def _bar(axis: _Axis, segment: Segment, name: str) -> str:
    """Return a segment with its kind, attempt and length as its tooltip; lighter before its first token."""
    x = axis.percent(segment.start)
    width = max(0.2, axis.percent(segment.end) - x)
    title = f"<title>{_safe(_tooltip(axis, segment, name))}</title>"
    bar = f'<rect class="s-{segment.kind}" x="{x:.3f}%" y="5" width="{width:.3f}%" height="14">{title}</rect>'
    if segment.first_token_at is None:
        return bar
    waited = axis.percent(segment.first_token_at) - x
    return f'{bar}<rect class="early" x="{x:.3f}%" y="5" width="{waited:.3f}%" height="14">{title}</rect>'


def _second_calls(axis: _Axis, span: Span) -> str:
    return "".join(
        f'<rect class="second" x="{axis.percent(call.start):.3f}%" y="20" '
        f'width="{max(0.2, axis.percent(call.end) - axis.percent(call.start)):.3f}%" height="3">'
        f"<title>{_safe(_second_tooltip(axis, call.start, call.end, call.model, has_won=call.has_won))}</title></rect>"
        for call in span.second_calls
    )


def _second_tooltip(axis: _Axis, start: float, end: float, model: str, *, has_won: bool) -> str:
    what = "won" if has_won else "lost"
    return f"second call · {axis.part(end - start)} · {one_line(model)} · {what}"


def _tooltip(axis: _Axis, segment: Segment, name: str) -> str:
    what = KIND_NAMES[segment.kind]
    if segment.attempt is not None:
        is_tried = segment.kind in {"attempt", "failed"}
        what += f" {segment.attempt}" if is_tried else f" of attempt {segment.attempt}"
    since, until = segment.start - axis.trace.started_at, segment.end - axis.trace.started_at
    facts = [name, what, axis.part(segment.duration), f"{axis.part(since)} to {axis.part(until)}"]
    if segment.first_token_at is not None:
        facts.append(f"first token after {axis.part(segment.first_token_at - segment.start)}")
    if segment.model is not None:
        facts.append(segment.model)
    if segment.fault is not None:
        facts.append(f"{segment.fault.kind}: {one_line(segment.fault.message, 160)}")
    return " · ".join(facts)


def _density(axis: _Axis, segments: Sequence[Segment]) -> str:
    """Return a mapped step's bar: how many of its items worked, and below how many waited, over the time."""
    sums = TimelineSums(_PARTS)
    to_wall_time = axis.trace.wall_time - axis.trace.started_at
    for segment in segments:
        sums.add(segment.kind, segment.start + to_wall_time, segment.end + to_wall_time)
    timeline = sums.result()
    waiting = tuple(WAIT_KINDS)
    # Thousands that wait would flatten the few that work: each has a scale of its own.
    has_waits = peak(timeline, waiting) > 0
    drawn = draw_areas(timeline, _WORKING, axis.start, axis.seconds, bottom=66 if has_waits else 100)
    drawn += draw_areas(timeline, waiting, axis.start, axis.seconds, top=74) if has_waits else ""
    return (
        f'<svg class="stretched" y="2" width="100%" height="20" viewBox="0 0 {WIDTH} 100" '
        f'preserveAspectRatio="none">{drawn}</svg>'
    )


def _draw(row: _Row, y: int) -> str:
    x = 16 + 14 * row.depth
    critical = f'<text class="path" x="{x - 15}" y="16">◆</text>' if row.is_critical else ""
    name = fit(one_line(row.label), min(_MAX_LABEL, max(1, display_width(one_line(row.label)))))
    note = f'<tspan class="note" dx="7">{_safe(row.note)}</tspan>' if row.note else ""
    style = f' class="{row.style}"' if row.style else ""
    title = f"<title>{_safe(row.title)}</title>"
    mark = f'<tspan class="is-{row.outcome}" dx="5">{row.mark}</tspan>' if row.mark else ""
    return (
        f'<svg class="label" y="{y}" width="{LABEL}%" height="{_ROW}">{title}{critical}'
        f'<text x="{x}" y="16"{style}>{_safe(name)}{note}</text></svg>'
        f'<svg class="lane" x="{LABEL}%" y="{y}" width="{LANE}%" height="{_ROW}">{row.drawn}</svg>'
        f'<text class="took" x="100%" y="{y + 16}" text-anchor="end">{row.took}{mark}</text>'
    )


def _ticks(seconds: float, bottom: int) -> str:
    drawn = []
    for tick in nice_ticks(seconds, 8):
        x = 100 * tick / seconds if seconds > 0 else 0.0
        anchor = "start" if tick == 0 else "middle"
        drawn.append(f'<rect x="{x:.3f}%" y="20" width="1" height="{bottom - 20}"/>')
        drawn.append(f'<text x="{x:.3f}%" y="13" text-anchor="{anchor}">{tick_text(tick)}</text>')
    return f'<svg class="lane ticks" x="{LABEL}%" width="{LANE}%" height="{bottom}">{"".join(drawn)}</svg>'


def _legend(kinds: Sequence[SegmentKind], y: int) -> str:
    drawn = []
    for place, kind in enumerate(kinds):
        column, line = place % _LEGEND_COLUMNS, y + 20 * (place // _LEGEND_COLUMNS)
        drawn.append(
            f'<svg x="{100 * column / _LEGEND_COLUMNS:g}%" y="{line}" width="25%" height="18">'
            f'<rect class="s-{kind}" y="3" width="20" height="12"/>'
            f'<text class="quiet" x="27" y="13">{SHORT_NAMES[kind]}</text></svg>'
        )
    return "".join(drawn)


def _style(prefix: str) -> str:
    own = ".pe-waterfall"
    return (
        f"{color_rules(own)}{fill_rules(own, prefix)}"
        f"{own}{{font:13px ui-sans-serif,system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;display:block}}"
        f"{own} text{{fill:var(--ink);font-variant-numeric:tabular-nums}}{own} .paper{{fill:var(--card)}}"
        f"{own} .ticks text,{own} .quiet,{own} .note,{own} .reason{{fill:var(--quiet)}}"
        f"{own} .note,{own} .ticks text{{font-size:12px}}{own} .reason{{font-style:italic}}"
        f"{own} .strong{{font-weight:600}}"
        f"{own} .path{{fill:var(--accent);font-size:10px}}{own} .instant{{fill:var(--ink)}}"
        f"{own} .lane rect{{stroke:var(--card);stroke-width:.75}}{own} .early{{fill:var(--card);fill-opacity:.5}}"
        f"{own} .ticks rect{{fill:var(--line);stroke:none}}"
        f"{own} .second{{fill:var(--attempt);fill-opacity:.7}}"
        f"{own} .is-completed{{fill:var(--good)}}{own} .is-failed,{own} .is-dropped{{fill:var(--bad)}}"
        f"{own} .is-stopped,{own} .is-partial{{fill:var(--warn)}}"
        f"{own} .is-skipped,{own} .is-running{{fill:var(--quiet)}}"
    )


def _description(traces: Sequence[Trace]) -> str:
    if not traces:
        return "Waterfall of no run"
    of = one_line(traces[0].document, _MAX_TITLE) if len(traces) == 1 else counted(len(traces), "run")
    return f"Waterfall of {of}: {one_line(traces[0].verdict) if len(traces) == 1 else 'a row for each step'}"


def _safe(text: str) -> str:
    return escape(one_line(text), quote=True)
