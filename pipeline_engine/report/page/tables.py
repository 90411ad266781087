"""The tables of the page: each step's time and money, and what failed. They say what the drawings show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.legend import MARKS, SHORT_NAMES, failures, reason_text
from pipeline_engine.report.numbers import counted, usd_text
from pipeline_engine.report.page.markup import Cell, mark, number, safe, section, table
from pipeline_engine.report.spans import SEGMENT_KINDS, WAIT_KINDS
from pipeline_engine.text import one_line
from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline_engine.report.batch import StepTotals
    from pipeline_engine.report.page.subject import Subject
    from pipeline_engine.report.spans import Segment, Span
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.values.records import Fault
    from pipeline_engine.values.usage import Usage

__all__ = ["documents_table", "errors", "failed_attempts", "steps_table"]

_MAX_SHOWN = 20
_MAX_SLOWEST = 10
_MAX_FAULTS = 100
_MAX_MESSAGE = 300


def steps_table(subject: Subject) -> str:
    """Return what each step's time, tokens and money went to."""
    if subject.run is None:
        body = _totals(subject)
        note = "Seconds of waits and attempts are those of all documents together. Quantiles are from ready to outcome."
    else:
        body, note = _spans(subject, subject.run), ""
    return section("Time by step", body, name="steps", note=note)


def _totals(subject: Subject) -> str:
    steps = subject.batch.steps
    kinds = [kind for kind in WAIT_KINDS if any(step.waits.get(kind) for step in steps)]
    has_tokens = any(step.input_tokens or step.output_tokens for step in steps)
    has_first = any(step.first_token is not None for step in steps)
    has_cost = any(step.cost != Cost() for step in steps)
    counts: list[tuple[str, Callable[[StepTotals], int]]] = [
        ("Count", lambda step: step.count),
        ("Failed", lambda step: step.failed + step.dropped),
        ("Skipped", lambda step: step.skipped),
        ("Again", lambda step: step.retries),
    ]
    counts = [(name, count) for name, count in counts if any(count(step) for step in steps)]
    numbers = [*(name for name, _ in counts), "p50", "p95", "p99", "Longest"]
    numbers += ["First token"] if has_first else []
    numbers += ["Attempts", *(SHORT_NAMES[kind].capitalize() for kind in kinds)]
    numbers += ["Tokens in", "Tokens out"] if has_tokens else []
    numbers += ["Cost"] if has_cost else []
    heads = [("Step", ""), *((name, "number") for name in numbers)]

    def cells(step: StepTotals) -> Iterator[Cell]:
        yield Cell(safe(step.step))
        for _, count in counts:
            yield number(f"{count(step):,}" if count(step) else "", count(step))
        for seconds in (step.p50, step.p95, step.p99, step.max):
            yield _seconds(subject, seconds)
        if has_first:
            yield _seconds(subject, step.first_token or 0.0)
        yield _seconds(subject, step.busy)
        for kind in kinds:
            yield _seconds(subject, step.waits.get(kind, 0.0))
        if has_tokens:
            yield number(f"{step.input_tokens:,}", step.input_tokens)
            yield number(f"{step.output_tokens:,}", step.output_tokens)
        if has_cost:
            yield _cost(step.cost)

    return table("Time by step", heads, (list(cells(step)) for step in steps), style="sortable")


def _spans(subject: Subject, trace: Trace) -> str:
    seconds = {span.step: trace.seconds_by_kind(span.step) for span in trace.steps}
    kinds = [kind for kind in SEGMENT_KINDS if any(found[kind] for found in seconds.values())]
    first = {span.step: _first_token(trace, span) for span in trace.steps}
    has_tokens, has_cost = trace.usage is not None, trace.cost.usd > 0
    has_first = any(found is not None for found in first.values())
    numbers = ["Ready", "Took"]
    numbers += ["First token"] if has_first else []
    numbers += [*(SHORT_NAMES[kind].capitalize() for kind in kinds), "Tries"]
    numbers += ["Tokens in → out"] if has_tokens else []
    numbers += ["Cost"] if has_cost else []
    heads = [("Step", ""), ("Outcome", ""), *((name, "number") for name in numbers), ("Answered by", "")]

    def cells(span: Span) -> Iterator[Cell]:
        yield Cell(safe(f"{span.name} ×{span.width}" if span.is_mapped else span.name))
        outcome = span.outcome or "running"
        yield Cell(f"{mark(outcome, MARKS[span.outcome])} {outcome}")
        ready = None if span.ready_at is None else span.ready_at - trace.started_at
        yield number("" if ready is None else subject.part(ready), ready)
        yield number(subject.part(span.duration) if span.has_time else "", span.duration)
        if has_first:
            yield _seconds(subject, first[span.step] or 0.0)
        for kind in kinds:
            yield _seconds(subject, seconds[span.step][kind])
        yield number(f"{span.attempts:,}" if span.attempts else "", span.attempts)
        if has_tokens:
            yield _tokens(span.usage)
        if has_cost:
            yield _cost(span.cost)
        yield Cell(safe(span.via or span.model or ""))

    return table("Time by step", heads, (list(cells(span)) for span in trace.steps), style="sortable")


def _first_token(trace: Trace, span: Span) -> float | None:
    """Return the seconds to the first piece of the first streamed attempt."""
    for one in trace.items(span.step) or (span,):
        for segment in one.segments:
            if segment.first_token_at is not None:
                return segment.first_token_at - segment.start
    return None


def _seconds(subject: Subject, seconds: float) -> Cell:
    return number(subject.part(seconds) if seconds else "", seconds)


def _cost(cost: Cost) -> Cell:
    return number("" if cost == Cost() else usd_text(cost.usd), cost.usd)


def _tokens(usage: Usage | None) -> Cell:
    if usage is None:
        return number("", None)
    counts = (usage.input_tokens, usage.output_tokens)
    text = " → ".join("?" if count is None else f"{count:,}" for count in counts)
    return number(text, sum(count or 0 for count in counts))


def documents_table(subject: Subject) -> str:
    """Return the documents that took longest; nothing for one run."""
    batch = subject.batch
    if subject.run is not None or not batch.slowest:
        return ""
    statuses: Mapping[str, str] = {trace.document: trace.status or "running" for trace in batch.traces}
    rows = [
        [
            Cell(safe(slow.document)),
            Cell(safe(statuses.get(slow.document, ""))),
            number(subject.part(slow.makespan), slow.makespan),
        ]
        for slow in batch.slowest[:_MAX_SLOWEST]
    ]
    heads = [("Document", ""), ("Status", ""), ("Took", "number")]
    return section("Slowest documents", table("Slowest documents", heads, rows, style="sortable"))


def errors(subject: Subject) -> str:
    """Return what failed, grouped; nothing if nothing did."""
    own = _batch_errors(subject) if subject.run is None else _run_errors(subject.run)
    return section("What failed", own, name="errors") if own else ""


def _run_errors(trace: Trace) -> str:
    failed = failures(trace) + [(span, 1) for span in trace.steps if span.outcome == "stopped"]
    entries = []
    for span, count in failed[:_MAX_SHOWN]:
        name = span.name if count == 1 else span.step
        note = counted(span.attempts, "attempt") if count == 1 else counted(count, "item")
        entries.append(_entry(span.outcome or "failed", name, note, span.error or reason_text(span)))
    return _entries(entries, len(failed))


def _batch_errors(subject: Subject) -> str:
    groups = subject.batch.errors
    entries = [
        _entry(
            "failed",
            f"{group.step} · {group.kind}" if group.kind else group.step,
            f"{group.count:,} × · first in {group.document}",
            group.example,
        )
        for group in groups[:_MAX_SHOWN]
    ]
    return _entries(entries, len(groups))


def _entry(outcome: str, name: str, note: str, message: str) -> str:
    sign = {"stopped": "■", "dropped": "∅"}.get(outcome, "✗")
    return (
        f"<li>{mark(outcome, sign)}<div><strong>{safe(name)}</strong> "
        f'<span class="quiet">{safe(note)}</span><p class="error">{safe(message)}</p></div></li>'
    )


def _entries(entries: list[str], count: int) -> str:
    if not entries:
        return ""
    more = f'<li class="quiet">… and {count - len(entries)} more</li>' if count > len(entries) else ""
    return f'<ul class="failures">{"".join(entries)}{more}</ul>'


def failed_attempts(subject: Subject) -> str:
    """Return the table of failed attempts of the runs that are kept, those of one step that failed alike in one row."""
    groups: dict[tuple[str, Fault, str | None], list[tuple[Trace, Segment]]] = {}
    for trace in subject.batch.traces:
        for span in trace.spans:
            for segment in span.segments:
                if segment.fault is not None:
                    groups.setdefault((span.step, segment.fault, segment.model), []).append((trace, segment))
    if not groups:
        return ""
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    heads = [("Step", ""), *((name, "number") for name in ("Attempts", "First at", "Time lost", "Status"))]
    heads += [("Kind", ""), ("Model", ""), ("Message", "")]
    rows = []
    for (step, fault, model), found in ordered[:_MAX_FAULTS]:
        first = min(trace.wall_time - subject.start + segment.start - trace.started_at for trace, segment in found)
        lost = sum(segment.duration for _, segment in found)
        rows.append(
            [
                Cell(safe(step)),
                number(f"{len(found):,}", len(found)),
                number(subject.part(first), first),
                number(subject.part(lost), lost),
                number("" if fault.status is None else str(fault.status), fault.status),
                *(
                    Cell(safe(text), style="message")
                    for text in (fault.kind, model or "", one_line(fault.message, _MAX_MESSAGE))
                ),
            ]
        )
    more = len(groups) - len(rows)
    note = f"… and {more} more" if more > 0 else ""
    return section("Failed attempts", table("Failed attempts", heads, rows, style="sortable"), note=note)
