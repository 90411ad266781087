"""The waterfall: a run drawn as text, a row per step, for a terminal or a log."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline_engine.report.facts import fact_lines
from pipeline_engine.report.legend import GLYPHS, KIND_NAMES, MARKS, failures, reason_text
from pipeline_engine.report.numbers import counted, nice_ticks, seconds_text, tick_text
from pipeline_engine.report.spans import QUEUE_KINDS, SEGMENT_KINDS
from pipeline_engine.text import display_width, fit, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline_engine.report.spans import Segment, SegmentKind, Span
    from pipeline_engine.report.trace import Trace

__all__ = ["draw_waterfall"]

_INSTANT = "instant"
_DRAWN: dict[str, str] = {**dict[str, str](GLYPHS.items()), _INSTANT: "|"}
_NAMES: dict[str, str] = {**dict[str, str](KIND_NAMES.items()), _INSTANT: "took no time"}
_Bar = list[str | None]
"""What each cell of a bar shows: a kind of segment, an instant, or nothing."""
_CRITICAL = "◆"
_COLORS: dict[str, str] = {
    "slot": "90",
    "requests": "93",
    "tokens": "93",
    "concurrency": "93",
    "cooldown": "95",
    "breaker": "91",
    "budget": "92",
    "attempt": "34",
    "failed": "31",
    "backoff": "35",
    "fallback": "33",
    "shared": "33",
    "warm": "33",
    "validate": "36",
    "commit": "36",
    "lease": "33",
    "completed": "32",
    "dropped": "31",
    "stopped": "33",
    "critical": "33",
    "quiet": "90",
    "strong": "1",
}
_MIN_WIDTH = 40
_MIN_BAR = 12
_MAX_ITEMS = 8
_MAX_ERRORS = 10


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the drawing, before it is laid out."""

    span: Span
    name: str
    bars: tuple[tuple[Segment, ...], ...]
    """The segments drawn in its bar: its own, or those of all its items."""
    is_critical: bool
    retries: int


def draw_waterfall(
    trace: Trace, width: int | None = None, *, color: bool | None = None, max_items: int = _MAX_ITEMS
) -> str:
    """Return a run drawn as text, no line wider than `width`.

    The items of a mapped step have rows of their own if there are few; its own row always shows, for each
    instant, what most of those did that had a slot.

    Args:
        trace: The run.
        width: The cells of a line, at least 40; None asks the terminal.
        color: Whether to colour it; None does if standard output is a terminal that wants colour.
        max_items: Up to how many items each have a row.
    """
    cells = max(_MIN_WIDTH, shutil.get_terminal_size().columns if width is None else width)
    paint = _Paint(is_on=_wants_color() if color is None else color)
    rows = list(_rows(trace, max_items))
    lines = [paint("strong", line) for line in _headlines(trace, cells)]
    if rows:
        layout = _Layout.of(rows, trace, cells)
        bars = [layout.fill_bar(row, trace) for row in rows]
        lines += ["", *layout.draw_axis(trace, paint)]
        lines += [layout.draw_row(row, bar, trace, paint) for row, bar in zip(rows, bars, strict=True)]
        lines += ["", *_legend(rows, bars, cells)]
    lines += _errors(trace, cells, paint)
    lines += [line for fact in fact_lines(trace) for line in _wrapped(fact, cells)]
    lines += [paint("strong", line) for line in _wrapped(trace.verdict, cells)]
    return "\n".join(lines)


def _wants_color() -> bool:
    # https://no-color.org: any value that is not empty asks for none.
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True, slots=True)
class _Paint:
    """Put text between our own colour codes, or leave it as it is."""

    is_on: bool

    def __call__(self, role: str, text: str) -> str:
        code = _COLORS.get(role)
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_on and code is not None and text else text


def _headlines(trace: Trace, cells: int) -> list[str]:
    attempts = sum(span.attempts for span in trace.steps)
    facts = f"{trace.status or 'running'} · {counted(len(trace.steps), 'step')} · {counted(attempts, 'attempt')}"
    named = f"{one_line(trace.pipeline, 40)} · {one_line(trace.document)}"
    if display_width(named) + 3 + display_width(facts) <= cells:
        return [f"{named} · {facts}"]
    return [one_line(named, cells), one_line(facts, cells)]


def _rows(trace: Trace, max_items: int) -> Iterator[_Row]:
    critical = {(span.step, span.item) for span in trace.critical_path}
    critical_steps = {step for step, _ in critical}
    for span in trace.steps:
        name = one_line(span.name)
        items = trace.items(span.step)
        if not span.is_mapped:
            yield _Row(span, name, (span.segments,), span.step in critical_steps, span.retries)
            continue
        bars = tuple(item.segments for item in items)
        retries = sum(item.retries for item in items)
        yield _Row(span, f"{name} ×{span.width}", bars, span.step in critical_steps, retries)
        if len(items) <= max_items:
            for item in items:
                is_critical = (item.step, item.item) in critical
                yield _Row(item, f"  {one_line(item.name)}", (item.segments,), is_critical, item.retries)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The widths of the columns: name, bar, start, duration, outcome, retries, model."""

    name: int
    bar: int
    start: int
    took: int
    retries: int
    model: int

    @classmethod
    def of(cls, rows: Sequence[_Row], trace: Trace, cells: int) -> _Layout:
        """Give every column what it needs while the bar keeps enough; the least telling go first."""
        name = min(max(display_width(row.name) for row in rows), max(8, cells // 4))
        took = max(4, *(display_width(_took_text(row.span, trace)) for row in rows))
        start = max(5, *(display_width(_start_text(row.span, trace)) for row in rows))
        retries = max(len(_retries_text(row.retries)) for row in rows)
        model = min(max(display_width(_model_text(row.span)) for row in rows), max(12, cells // 4))

        def bar_with(*columns: int) -> int:
            # The marks before the name and after the duration take two cells each; columns are two apart.
            return cells - 4 - name - 2 - sum(column + 2 for column in (took, *columns) if column)

        if bar_with(start, retries, model) < 2 * _MIN_BAR:
            model = 0
        if bar_with(start, retries, model) < _MIN_BAR:
            start = 0
        bar = bar_with(start, retries, model)
        if bar < _MIN_BAR:
            name = max(4, name - (_MIN_BAR - bar))
            bar = bar_with(start, retries, model)
        return cls(name, bar, start, took, retries, model)

    def draw_axis(self, trace: Trace, paint: _Paint) -> list[str]:
        """Return the ticks' labels with the columns' headings, and the ruler."""
        labels, ruler = [" "] * self.bar, ["─"] * self.bar
        next_free = 0
        for tick in nice_ticks(trace.makespan, max(3, self.bar // 9)):
            cell = min(self.bar - 1, round(tick / trace.makespan * self.bar)) if trace.makespan > 0 else 0
            ruler[cell] = "┬"
            label = tick_text(tick)
            if cell >= next_free and cell + len(label) <= self.bar:
                labels[cell : cell + len(label)] = label
                next_free = cell + len(label) + 1
        heading = f"{'':{self.name + 2}}  {''.join(labels)}"
        if self.start:
            heading += f"  {'start':>{self.start}}"
        heading += f"  {'took':>{self.took}}"
        return [paint("quiet", heading.rstrip()), paint("quiet", f"{'':{self.name + 2}}  {''.join(ruler)}")]

    def draw_row(self, row: _Row, bar: _Bar, trace: Trace, paint: _Paint) -> str:
        """Return one row: its bar with the figures beside it."""
        mark = paint("critical", _CRITICAL) if row.is_critical else " "
        reason = paint("quiet", fit(reason_text(row.span), self.bar))
        drawn = _draw_bar(bar, paint) if row.span.has_time else reason
        parts = [f"{mark} {fit(row.name, self.name)}  {drawn}"]
        if self.start:
            parts.append(f"{_start_text(row.span, trace):>{self.start}}")
        outcome = paint(row.span.outcome or "quiet", MARKS[row.span.outcome])
        parts.append(f"{_took_text(row.span, trace):>{self.took}} {outcome}")
        if self.retries:
            parts.append(f"{_retries_text(row.retries):<{self.retries}}")
        if self.model:
            parts.append(one_line(_model_text(row.span), self.model))
        return "  ".join(parts).rstrip()

    def fill_bar(self, row: _Row, trace: Trace) -> _Bar:
        """Return what each cell of the row's bar shows."""
        span = row.span
        bar: _Bar = [None] * self.bar
        if span.ready_at is None or not span.has_time:
            return bar
        scale = self.bar / trace.makespan if trace.makespan > 0 else 0.0
        first = min(self.bar - 1, round((span.ready_at - trace.started_at) * scale))
        if not any(row.bars):
            bar[first] = _INSTANT
            return bar
        last = min(self.bar, max(first + 1, round((span.ended_at - trace.started_at) * scale)))
        bar[first:last] = _kinds_by_cell(row, trace, scale, first, last)
        return bar


def _draw_bar(bar: _Bar, paint: _Paint) -> str:
    parts = []
    for kind, cells in groupby(bar):
        length = sum(1 for _ in cells)
        parts.append(" " * length if kind is None else paint(kind, _DRAWN[kind] * length))
    return "".join(parts)


def _kinds_by_cell(row: _Row, trace: Trace, scale: float, first: int, last: int) -> _Bar:
    """Return for each cell from `first` to `last` the kind that filled most of it."""
    filled: list[dict[SegmentKind, float]] = [{} for _ in range(last - first)]
    for segment in (segment for bar in row.bars for segment in bar):
        start, end = ((at - trace.started_at) * scale - first for at in (segment.start, segment.end))
        # Rounding moved the bar's ends by up to half a cell: what stands outside counts for the nearest cell.
        start, end = max(0.0, min(start, len(filled) - 0.01)), min(float(len(filled)), max(end, 0.01))
        for cell in range(int(start), min(len(filled), int(end) + 1)):
            part = min(end, cell + 1) - max(start, cell)
            if part > 0:
                filled[cell][segment.kind] = filled[cell].get(segment.kind, 0.0) + part
    return [_most(cell, is_mapped=row.span.is_mapped) for cell in filled]


def _most(cell: dict[SegmentKind, float], *, is_mapped: bool) -> SegmentKind | None:
    if not cell:
        return None
    # Of a thousand items most wait for their turn at any time: what the others do is the news.
    has_news = is_mapped and not cell.keys() <= QUEUE_KINDS
    kinds = [kind for kind in SEGMENT_KINDS if not has_news or kind not in QUEUE_KINDS]
    most: SegmentKind = max(kinds, key=lambda kind: cell.get(kind, 0.0))
    return most


def _start_text(span: Span, trace: Trace) -> str:
    at = span.started_at if span.started_at is not None else span.ready_at
    if at is None or not span.has_time:
        return ""
    return "+" + seconds_text(at - trace.started_at, is_part=trace.makespan >= 1)


def _took_text(span: Span, trace: Trace) -> str:
    if not span.has_time:
        return ""
    return seconds_text(span.duration, is_part=trace.makespan >= 1)


def _retries_text(retries: int) -> str:
    return f"↻{retries}" if retries else ""


def _model_text(span: Span) -> str:
    return span.via or span.model or ""


def _legend(rows: Sequence[_Row], bars: Sequence[_Bar], cells: int) -> list[str]:
    shown = {kind for bar in bars for kind in bar}
    entries = [f"{glyph} {_NAMES[kind]}" for kind, glyph in _DRAWN.items() if kind in shown]
    if any(row.is_critical for row in rows):
        entries.append(f"{_CRITICAL} critical path")
    if any(row.retries for row in rows):
        entries.append("↻ retries")
    lines: list[str] = []
    for entry in entries:
        if lines and display_width(lines[-1]) + 3 + display_width(entry) <= cells:
            lines[-1] += f"   {entry}"
        else:
            lines.append(fit(entry, cells).rstrip())
    return lines


def _errors(trace: Trace, cells: int, paint: _Paint) -> list[str]:
    failed = failures(trace)
    lines = []
    for span, count in failed[:_MAX_ERRORS]:
        named = one_line(span.name) if count == 1 else f"{one_line(span.step)} (×{count})"
        lines.append(paint("failed", one_line(f"{MARKS[span.outcome]} {named}: {span.error}", cells)))
    if len(failed) > _MAX_ERRORS:
        lines.append(f"  … and {len(failed) - _MAX_ERRORS} more")
    return lines


def _wrapped(text: str, cells: int) -> list[str]:
    """Return `text` broken at blanks; a word that is too long by itself is cut."""
    lines: list[str] = []
    for word in re.split(r" (?!(?:m?s|min|h|%)(?:\W|$))", text):  # a number stays with its unit
        if lines and display_width(lines[-1]) + 1 + display_width(word) <= cells:
            lines[-1] += f" {word}"
        else:
            lines.append(one_line(word, cells))
    return lines
