"""The page: a run as one self-contained HTML file, without script and without anything loaded.

Every text that comes from a document, a model or a pipeline goes through `_safe`, and the template is
filled in one pass: a text that looks like a placeholder or a tag stays a text.
"""

from __future__ import annotations

import os
import re
import tempfile
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from itertools import accumulate, pairwise
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from pipeline_engine.report.dag import StepFigures, draw_dag_svg
from pipeline_engine.report.facts import acceptance_text, breaker_text, cooldown_text, hedges_text, limit_text
from pipeline_engine.report.legend import KIND_NAMES, MARKS, SHORT_NAMES, WAITED_FOR, failures, reason_text
from pipeline_engine.report.models import breaker_intervals, joined, thinned
from pipeline_engine.report.numbers import count_text, counted, nice_ticks, seconds_text, tick_text, usd_text
from pipeline_engine.report.spans import BUSY_KINDS, LIMIT_KINDS, SEGMENT_KINDS
from pipeline_engine.text import one_line
from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline_engine.report.models import LimitPoint
    from pipeline_engine.report.spans import Segment, SegmentKind, Span
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.values.records import Fault
    from pipeline_engine.values.usage import Usage

__all__ = ["render_html", "write_html"]

_MAX_ROWS = 500
"""Above this many rows only the items that matter have one: nobody reads more, and browsers slow down."""
_MAX_ITEMS_SHOWN = 20
_MAX_OPEN_ITEMS = 12
_MAX_FAULTS = 100
_BINS = 240
_UNIT = re.compile(r"(\d) (m?s|min|h|%)\b")
_WORKING: tuple[SegmentKind, ...] = ("attempt", "failed", "validate")
_WAITING: tuple[SegmentKind, ...] = (
    "backoff",
    "fallback",
    "shared",
    "warm",
    "commit",
    "lease",
    *LIMIT_KINDS,
    "slot",
)
_RUNNING: tuple[SegmentKind, ...] = ("attempt", "failed")


def write_html(trace: Trace, path: str | os.PathLike[str]) -> Path:
    """Write a run's page to `path` and return it; a reader never sees half a page."""
    target = Path(path)
    page = render_html(trace).encode()
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(page)
        Path(beside).replace(target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return target


def render_html(trace: Trace) -> str:
    """Return a run's page."""
    template = files("pipeline_engine.report").joinpath("report.html").read_text(encoding="utf-8")
    status = trace.status or "running"
    return Template(template).substitute(
        page_title=_safe(f"{trace.pipeline} · {trace.document}"),
        pipeline=_safe(trace.pipeline),
        document=_safe(trace.document),
        status=status,
        facts=_facts(trace),
        verdict=_UNIT.sub(r"\1&nbsp;\2", _safe(_sentence(trace.verdict))),
        tiles=_tiles(trace),
        failures=_failures(trace),
        dag=_dag(trace),
        waterfall=_waterfall(trace),
        table=_table(trace),
        models=_models(trace),
        faults=_faults(trace),
    )


def _safe(text: str) -> str:
    return escape(one_line(text), quote=True)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _facts(trace: Trace) -> str:
    facts = [f"run {one_line(trace.run_id)}", counted(trace.capacity, "slot")]
    # Virtual clocks start where they like: an impossible date is left out, not shown as 1970.
    if 0 < trace.wall_time < 253_402_300_000:
        facts.insert(1, datetime.fromtimestamp(trace.wall_time, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
    return "".join(f"<li>{_safe(fact)}</li>" for fact in facts)


def _tiles(trace: Trace) -> str:
    steps = trace.steps
    leaves = [span for span in trace.spans if not span.is_mapped]
    completed = sum(span.outcome == "completed" for span in steps)
    failed = sum(span.outcome in {"failed", "dropped"} for span in leaves)
    skipped = sum(span.outcome == "skipped" for span in steps)
    retries = sum(span.retries for span in leaves)
    items = len(leaves) - sum(not span.is_mapped for span in steps)
    usage = trace.usage
    slot = trace.waits["slot"]
    tiles = [
        (
            "Duration",
            seconds_text(trace.makespan),
            f"lower bound {_part(trace, trace.bounds.lower_bound)}",
            "",
        ),
        ("Steps", f"{completed} / {len(steps)}", f"completed, {skipped} skipped", ""),
        ("Failures", count_text(failed), "steps and items" if items else "steps", "bad" if failed else ""),
        (
            "Attempts",
            count_text(sum(span.attempts for span in leaves)),
            f"{count_text(retries)} of them again",
            "",
        ),
        ("Slot waits", seconds_text(slot), "all steps together", ""),
    ]
    limited = sum(trace.waits[kind] for kind in LIMIT_KINDS)
    if limited:
        kind = max(LIMIT_KINDS, key=lambda kind: trace.waits[kind])
        tiles.append(("Limit waits", seconds_text(limited), f"mostly {WAITED_FOR[kind]}", ""))
    if usage is not None:
        known = [count for count in (usage.input_tokens, usage.output_tokens) if count is not None]
        parts = [
            f"{'?' if count is None else count_text(count)} {way}"
            for count, way in ((usage.input_tokens, "sent"), (usage.output_tokens, "received"))
        ]
        tiles.append(("Tokens", count_text(sum(known)) if known else "?", ", ".join(parts), ""))
    cost = trace.cost
    if cost != Cost():
        unknown = "" if cost.is_known else f"and {counted(cost.unpriced_calls, 'call')} of unknown price"
        tiles.append(("Spent", usd_text(cost.usd), unknown or "all calls together", ""))
    return "".join(
        f'<div class="tile {style}"><dt>{label}</dt><dd>{_safe(value)}<small>{_safe(note)}</small></dd></div>'
        for label, value, note, style in tiles
    )


def _part(trace: Trace, seconds: float) -> str:
    return seconds_text(seconds, is_part=trace.makespan >= 1)


def _offset(trace: Trace, at: float) -> str:
    return _part(trace, at - trace.started_at)


def _failures(trace: Trace) -> str:
    failed = failures(trace) + [(span, 1) for span in trace.steps if span.outcome == "stopped"]
    if not failed:
        return ""
    entries = []
    for span, count in failed[:_MAX_ITEMS_SHOWN]:
        name = span.name if count == 1 else span.step
        facts = counted(span.attempts, "attempt") if count == 1 else counted(count, "item")
        entries.append(
            f'<li><span class="mark is-{span.outcome}">{MARKS[span.outcome]}</span>'
            f'<div><strong>{_safe(name)}</strong> <span class="quiet">{facts}</span>'
            f'<p class="error">{_safe(span.error or reason_text(span))}</p></div></li>'
        )
    if len(failed) > len(entries):
        entries.append(f'<li class="quiet">… and {len(failed) - len(entries)} more</li>')
    return f'<section><h2>What failed</h2><ul class="failures">{"".join(entries)}</ul></section>'


def _dag(trace: Trace) -> str:
    busy = {
        span.step: sum(seconds for kind, seconds in trace.seconds_by_kind(span.step).items() if kind in BUSY_KINDS)
        for span in trace.steps
    }
    most = max(busy.values(), default=0.0)
    figures = {}
    for span in trace.steps:
        text = _part(trace, span.duration) if span.has_time else span.outcome or ""
        if span.is_mapped and span.ready_at is not None:
            text += f" · ×{span.width}"
        retries = _retries(trace, span)
        if retries:
            text += f" · ↻{retries}"
        figures[span.step] = StepFigures(
            figures=text,
            heat=busy[span.step] / most if most > 0 else 0.0,
            outcome=span.outcome,
            mark=MARKS[span.outcome],
            details=_details(trace, span),
        )
    path = [span.step for span in trace.critical_path]
    fallbacks = [(span.via.removeprefix("fallback:"), span.step) for span in trace.steps if span.via is not None]
    return draw_dag_svg(
        trace.outline,
        figures,
        critical=set(pairwise(path)),
        critical_steps=frozenset(path),
        fallbacks=fallbacks,
    )


def _details(trace: Trace, span: Span) -> str:
    facts = [span.name]
    if span.ready_at is None:
        facts.append(reason_text(span))
    else:
        facts.append(f"ready at {_offset(trace, span.ready_at)}")
        facts.append(f"{span.outcome or 'still going on'} after {_part(trace, span.duration)}")
        facts.append(counted(span.attempts, "attempt"))
    facts += [fact for fact in (span.via and f"via {span.via}", span.model, span.error) if fact]
    return " · ".join(facts)


def _retries(trace: Trace, span: Span) -> int:
    return sum(item.retries for item in trace.items(span.step)) if span.is_mapped else span.retries


def _waterfall(trace: Trace) -> str:
    critical = {(span.step, span.item) for span in trace.critical_path}
    steps_on_path = {step for step, _ in critical}
    is_big = len(trace.spans) > _MAX_ROWS
    rows = []
    for span in trace.steps:
        row = _row(trace, span, is_critical=span.step in steps_on_path)
        items = trace.items(span.step)
        if not items:
            rows.append(f'<div class="row">{row}</div>')
            continue
        shown = _telling(items, critical) if is_big else items
        is_open = "" if len(shown) > _MAX_OPEN_ITEMS else " open"
        item_rows = "".join(
            f'<div class="row item">{_row(trace, item, is_critical=(item.step, item.item) in critical)}</div>'
            for item in shown
        )
        if len(shown) < len(items):
            item_rows += f'<p class="quiet">{len(shown)} of {len(items)} items: those that failed, and the slowest</p>'
        rows.append(f'<details{is_open}><summary class="row">{row}</summary>{item_rows}</details>')
    chart = f'{_ticks(trace)}{_concurrency(trace)}<div class="rows">{"".join(rows)}</div>'
    return f'{_legend(trace)}<div class="waterfall">{chart}</div>'


def _telling(items: Sequence[Span], critical: set[tuple[str, int | None]]) -> list[Span]:
    """Return the items worth a row where there are too many: on the critical path, failed, or slowest."""
    by_worth = sorted(
        items,
        key=lambda item: (
            (item.step, item.item) in critical,
            item.outcome in {"failed", "dropped"},
            item.duration,
        ),
        reverse=True,
    )
    return sorted(by_worth[:_MAX_ITEMS_SHOWN], key=lambda item: item.item or 0)


def _row(trace: Trace, span: Span, *, is_critical: bool) -> str:
    path = '<span class="path" title="on the critical path">◆</span>' if is_critical else ""
    facts = [f"×{span.width}"] if span.is_mapped else []
    retries = _retries(trace, span)
    facts += [f"↻{retries}"] if retries else []
    if span.via is not None:
        facts.append(span.via)
    elif span.item is None and span.model is not None:
        facts.append(span.model.partition(":")[2] or span.model)
    note = f'<small class="quiet">{_safe(" · ".join(facts))}</small>' if facts else ""
    outcome = span.outcome or "running"
    took = _part(trace, span.duration) if span.has_time else ""
    label = span.name if span.item is None else f"[{span.item}]"
    if not span.has_time:
        lane = f'<span class="lane reason">{_safe(reason_text(span))}</span>'
    elif span.is_mapped and trace.items(span.step):
        lane = _density(trace, [segment for item in trace.items(span.step) for segment in item.segments])
    else:
        lane = _lane(trace, span)
    details = _safe(_details(trace, span))
    return (
        f'<span class="label" title="{details}">{path}<b>{_safe(label)}</b>{note}</span>{lane}'
        f'<span class="took">{took} <span class="mark is-{outcome}" role="img" aria-label="{outcome}">'
        f"{MARKS[span.outcome]}</span></span>"
    )


def _lane(trace: Trace, span: Span) -> str:
    """Return a row's bar: each segment with its kind, attempt and length as its tooltip."""
    bars = []
    for segment in span.segments:
        x = _percent(trace, segment.start)
        width = max(0.2, _percent(trace, segment.end) - x)
        bars.append(
            f'<rect class="s-{segment.kind}" x="{x:.3f}%" y="3" width="{width:.3f}%" height="14">'
            f"<title>{_safe(_tooltip(trace, span, segment))}</title></rect>"
        )
    if not bars and span.ready_at is not None:
        x = min(99.8, _percent(trace, span.ready_at))
        bars.append(f'<rect class="s-instant" x="{x:.3f}%" y="3" width="0.200%" height="14"/>')
    return f'<svg class="lane" width="100%" height="20" aria-hidden="true">{"".join(bars)}</svg>'


def _tooltip(trace: Trace, span: Span, segment: Segment) -> str:
    what = KIND_NAMES[segment.kind]
    if segment.attempt is not None:
        what += f" {segment.attempt}" if segment.kind in _RUNNING else f" of attempt {segment.attempt}"
    facts = [span.name, what, _part(trace, segment.duration)]
    facts.append(f"{_offset(trace, segment.start)} to {_offset(trace, segment.end)}")
    if segment.model is not None:
        facts.append(segment.model)
    if segment.fault is not None:
        facts.append(f"{segment.fault.kind}: {one_line(segment.fault.message, 160)}")
    return " · ".join(facts)


def _percent(trace: Trace, at: float) -> float:
    return 100 * (at - trace.started_at) / trace.makespan if trace.makespan > 0 else 0.0


def _ticks(trace: Trace) -> str:
    ticks = "".join(
        f'<i style="left:{_percent(trace, trace.started_at + tick):.3f}%"><span>{tick_text(tick)}</span></i>'
        for tick in nice_ticks(trace.makespan, 9)
    )
    return f'<div class="ticks" aria-hidden="true">{ticks}</div>'


def _legend(trace: Trace) -> str:
    kinds = {segment.kind for span in trace.spans for segment in span.segments}
    size = 'width="22" height="12"'
    entries = "".join(
        f'<li><svg {size} aria-hidden="true"><rect class="s-{kind}" {size}/></svg>{KIND_NAMES[kind]}</li>'
        for kind in SEGMENT_KINDS
        if kind in kinds
    )
    return f'<ul class="legend">{entries}<li><span class="path">◆</span>critical path</li></ul>'


@dataclass(frozen=True, slots=True)
class _Profile:
    """How many segments of each kind there were at once, interval by interval."""

    edges: list[float]
    """Where the intervals begin and end, from 0 to 1; one more than there are heights."""
    heights: dict[SegmentKind, list[float]]

    @classmethod
    def of(cls, trace: Trace, segments: Sequence[Segment]) -> _Profile:
        """Be exact for a few segments; for many, take the mean of each of `_BINS` parts of the run."""
        if trace.makespan <= 0 or not segments:
            return cls([0.0, 1.0], {})
        if len(segments) <= _MAX_ROWS:
            instants = sorted({at for segment in segments for at in (segment.start, segment.end)})
        else:
            instants = [trace.started_at + trace.makespan * index / _BINS for index in range(_BINS + 1)]
        heights: dict[SegmentKind, list[float]] = {}
        for segment in segments:
            found = heights.setdefault(segment.kind, [0.0] * (len(instants) - 1))
            for index in range(max(0, bisect_right(instants, segment.start) - 1), len(found)):
                start, end = instants[index], instants[index + 1]
                if start >= segment.end:
                    break
                found[index] += (min(end, segment.end) - max(start, segment.start)) / (end - start)
        return cls([_percent(trace, at) / 100 for at in instants], heights)

    def peak(self, kinds: Sequence[SegmentKind]) -> float:
        """Return the greatest height of these kinds together."""
        found = [self.heights[kind] for kind in kinds if kind in self.heights]
        return max((sum(column) for column in zip(*found, strict=True)), default=0.0)

    def draw(self, kinds: Sequence[SegmentKind], top: float = 0.0, bottom: float = 100.0) -> str:
        """Return stacked areas, the highest first, so that each hides the lower part of the one before."""
        present, peak = [kind for kind in kinds if kind in self.heights], self.peak(kinds)
        paths = []
        for count in range(len(present), 0, -1):
            path, last = [f"M0 {bottom:.1f}"], 0.0
            for index, edge in enumerate(self.edges[:-1]):
                height = sum(self.heights[kind][index] for kind in present[:count])
                if height != last:
                    path.append(f"H{1000 * edge:.1f}V{bottom - (bottom - top) * height / peak:.1f}")
                    last = height
            path.append(f"H{1000 * self.edges[-1]:.1f}V{bottom:.1f}Z")
            paths.append(f'<path class="s-{present[count - 1]}" d="{"".join(path)}"/>')
        return "".join(paths)


def _chart(height: int, areas: str) -> str:
    size = f'width="100%" height="{height}" viewBox="0 0 1000 100" preserveAspectRatio="none"'
    return f'<svg class="lane stretched" {size} aria-hidden="true">{areas}</svg>'


def _density(trace: Trace, segments: Sequence[Segment]) -> str:
    """Return a mapped step's bar: how many of its items worked, and below how many waited, over the time."""
    profile = _Profile.of(trace, segments)
    if not profile.peak(_WAITING):
        return _chart(26, profile.draw(_WORKING))
    # Thousands that wait would flatten the few that work: each has a scale of its own.
    return _chart(26, profile.draw(_WORKING, 0, 68) + profile.draw(_WAITING, 74, 100))


def _concurrency(trace: Trace) -> str:
    """Return the charts of attempts in flight and of what waits, on the waterfall's own axis."""
    segments = [segment for span in trace.spans for segment in span.segments]
    profile = _Profile.of(trace, segments)
    if not profile.heights:
        return ""
    in_flight = _most_at_once(segment for segment in segments if segment.kind in _RUNNING)
    waiting = _most_at_once(segment for segment in segments if segment.kind in _WAITING)
    charts = [("working", f"up to {in_flight:,} of {counted(trace.capacity, 'slot')}", 52, _WORKING)]
    if waiting:
        charts.append(("waiting", f"up to {waiting:,}", 26, _WAITING))
    rows = "".join(
        f'<div class="row chart"><span class="label"><b>{name}</b><small class="quiet">{note}</small></span>'
        f"{_chart(height, profile.draw(kinds))}</div>"
        for name, note, height, kinds in charts
    )
    return f'<div class="charts">{rows}</div>'


def _most_at_once(segments: Iterable[Segment]) -> int:
    # At one instant a slot is given back before it is taken: -1 sorts before +1.
    changes = sorted(change for one in segments for change in ((one.start, 1), (one.end, -1)))
    return max(accumulate(change for _, change in changes), default=0)


def _table(trace: Trace) -> str:
    seconds = {span.step: trace.seconds_by_kind(span.step) for span in trace.steps}
    kinds = [kind for kind in SEGMENT_KINDS if any(found[kind] for found in seconds.values())]
    heads = ["Ready", "Took", *(SHORT_NAMES[kind].capitalize() for kind in kinds)]
    heads += ["Tries"]
    has_tokens = trace.usage is not None
    heads += ["Tokens in → out"] if has_tokens else []
    has_cost = trace.cost.usd > 0
    heads += ["Cost"] if has_cost else []
    head = "".join(f'<th scope="col" class="number">{text}</th>' for text in heads)
    rows = []
    for span in trace.steps:
        ready = "" if span.ready_at is None else _offset(trace, span.ready_at)
        took = _part(trace, span.duration) if span.has_time else ""
        cells = [ready, took, *(_kind_text(trace, seconds[span.step][kind]) for kind in kinds)]
        cells.append(f"{span.attempts:,}" if span.attempts else "")
        if has_tokens:
            cells.append(_tokens_text(span.usage))
        if has_cost:
            cells.append(usd_text(span.cost.usd) if span.cost != Cost() else "")
        numbers = "".join(f'<td class="number">{text}</td>' for text in cells)
        name = f"{span.name} ×{span.width}" if span.is_mapped else span.name
        outcome = span.outcome or "running"
        mark = f'<span class="mark is-{outcome}">{MARKS[span.outcome]}</span>'
        model = _safe(span.via or span.model or "")
        rows.append(f'<tr><th scope="row">{_safe(name)}</th><td>{mark} {outcome}</td>{numbers}<td>{model}</td></tr>')
    return (
        '<table><thead><tr><th scope="col">Step</th><th scope="col">Outcome</th>'
        f'{head}<th scope="col">Answered by</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _tokens_text(usage: Usage | None) -> str:
    if usage is None:
        return ""
    counts = (usage.input_tokens, usage.output_tokens)
    return " → ".join("?" if count is None else f"{count:,}" for count in counts)


def _kind_text(trace: Trace, seconds: float) -> str:
    return _part(trace, seconds) if seconds else ""


def _models(trace: Trace) -> str:
    """Return what happened to the models, how cascades judged them, and what second calls brought."""
    entries = [_model(trace, model) for model in trace.models.models[:_MAX_ITEMS_SHOWN]]
    more = len(trace.models.models) - len(entries)
    entries += [f'<li class="quiet">… and {more} more</li>'] if more > 0 else []
    entries += [
        f"<li><b>{_safe(step)}</b><p>{_safe(acceptance_text(by_model))}</p></li>"
        for step, by_model in trace.acceptance.items()
    ]
    if trace.hedges.calls:
        entries.append(f"<li><b>Second calls</b><p>{_safe(hedges_text(trace.hedges))}</p></li>")
    if not entries:
        return ""
    return f'<section><h2>Models</h2><ul class="card models">{"".join(entries)}</ul></section>'


def _model(trace: Trace, model: str) -> str:
    """Return a model's facts as text, and below them as charts over the time of the run."""
    history = trace.models
    limits, changes = history.limits.get(model, ()), history.breakers.get(model, ())
    cooldowns = history.cooldowns.get(model, ())
    facts = [
        limit_text(limits),
        breaker_text(changes, trace.started_at, trace.last_at),
        cooldown_text(cooldowns),
        f"its key was refused at {_offset(trace, history.parked[model])}" if model in history.parked else "",
    ]
    charts = [_chart(40, _limit_line(trace, limits))] if limits else []
    bars = [("cooldown", one.at, one.until) for one in joined(cooldowns)]
    bars += [
        ("breaker", since, until) for _, since, until in breaker_intervals(changes, trace.started_at, trace.last_at)
    ]
    if bars:
        charts.append(_model_lane(trace, bars))
    return f"<li><b>{_safe(model)}</b><p>{_safe(' · '.join(filter(None, facts)))}</p>{''.join(charts)}</li>"


def _limit_line(trace: Trace, points: Sequence[LimitPoint]) -> str:
    """Return an adaptive limit as a step line: it holds until it changes."""
    points = thinned(points)
    highest = max(1, *(limit for _at, limit in points))
    path: list[str] = []
    for at, limit in points:
        x, y = 10 * _within(trace, at), 96 - 90 * limit / highest
        path.append(f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {y:.1f}")
    return f'<path class="s-limit" d="{"".join(path)}H1000"/>'


def _model_lane(trace: Trace, bars: Sequence[tuple[str, float, float]]) -> str:
    """Return when a model was left alone, each interval with its reason and length as its tooltip."""
    names = {"cooldown": "cool-down", "breaker": "breaker not closed"}
    drawn = []
    for kind, since, until in bars:
        x = _within(trace, since)
        width = max(0.2, _within(trace, until) - x)
        title = f"{names[kind]} · {_offset(trace, since)} to {_offset(trace, until)}"
        drawn.append(
            f'<rect class="s-{kind}" x="{x:.3f}%" y="3" width="{width:.3f}%" height="14"><title>{title}</title></rect>'
        )
    return f'<svg class="lane" width="100%" height="20" aria-hidden="true">{"".join(drawn)}</svg>'


def _within(trace: Trace, at: float) -> float:
    return min(100.0, max(0.0, _percent(trace, at)))


def _faults(trace: Trace) -> str:
    """Return the table of failed attempts, those of one step that failed alike in one row."""
    groups: dict[tuple[str, Fault, str | None], list[Segment]] = {}
    for span in trace.spans:
        for segment in span.segments:
            if segment.fault is not None:
                groups.setdefault((span.step, segment.fault, segment.model), []).append(segment)
    if not groups:
        return ""
    rows = []
    for (step, fault, model), segments in list(groups.items())[:_MAX_FAULTS]:
        numbers = [
            f"{len(segments):,}",
            _offset(trace, min(segment.start for segment in segments)),
            _part(trace, sum(segment.duration for segment in segments)),
            "" if fault.status is None else str(fault.status),
        ]
        texts = [fault.kind, model or "", one_line(fault.message, 300)]
        cells = "".join(f'<td class="number">{text}</td>' for text in numbers)
        cells += "".join(f'<td class="message">{_safe(text)}</td>' for text in texts)
        rows.append(f'<tr><th scope="row">{_safe(step)}</th>{cells}</tr>')
    more = len(groups) - len(rows)
    note = f'<p class="quiet">… and {more} more</p>' if more > 0 else ""
    return (
        '<section><h2>Failed attempts</h2><div class="scroll" tabindex="0" role="region" '
        'aria-label="Failed attempts"><table><thead><tr><th scope="col">Step</th>'
        '<th scope="col" class="number">Attempts</th><th scope="col" class="number">First at</th>'
        '<th scope="col" class="number">Time lost</th><th scope="col" class="number">Status</th>'
        '<th scope="col">Kind</th><th scope="col">Model</th><th scope="col">Message</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}</section>"
    )
