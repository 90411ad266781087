"""The pipeline on the page: its drawing with what runs have made of each step, one of them or all together."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline_engine.report.dag import StepFigures, draw_dag_svg
from pipeline_engine.report.legend import MARKS
from pipeline_engine.report.numbers import count_text, usd_text
from pipeline_engine.report.spans import BUSY_KINDS
from pipeline_engine.report.svg import span_details

if TYPE_CHECKING:
    from pipeline_engine.report.batch import StepTotals
    from pipeline_engine.report.page.subject import Subject
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.values.records import Outline

__all__ = ["drawing"]


def drawing(subject: Subject) -> str:
    """Return the drawing of the pipeline."""
    if subject.outline is None:
        return ""
    return _of_batch(subject, subject.outline) if subject.run is None else _of_run(subject, subject.run)


def _of_run(subject: Subject, trace: Trace) -> str:
    busy = {
        span.step: sum(seconds for kind, seconds in trace.seconds_by_kind(span.step).items() if kind in BUSY_KINDS)
        for span in trace.steps
    }
    most = max(busy.values(), default=0.0)
    figures = {}
    for span in trace.steps:
        text = subject.part(span.duration) if span.has_time else span.outcome or ""
        if span.is_mapped and span.ready_at is not None:
            text += f" · ×{span.width}"
        retries = sum(item.retries for item in trace.items(span.step)) if span.is_mapped else span.retries
        text += f" · ↻{retries}" if retries else ""
        figures[span.step] = StepFigures(
            figures=text,
            heat=busy[span.step] / most if most > 0 else 0.0,
            outcome=span.outcome,
            mark=MARKS[span.outcome],
            details=span_details(trace, span),
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


def _of_batch(subject: Subject, outline: Outline) -> str:
    """Return the drawing of all runs: how often, how long and how dear, and the commonest critical path."""
    batch = subject.batch
    most = max((step.busy for step in batch.steps), default=0.0)
    figures = {
        step.step: StepFigures(
            figures=_figures(subject, step),
            heat=step.busy / most if most > 0 else 0.0,
            outcome="failed" if step.failed else "completed" if step.completed else "skipped",
            mark=f"✗ {count_text(step.failed + step.dropped)}" if step.failed + step.dropped else "",
            details=_details(subject, step),
        )
        for step in batch.steps
    }
    paths = Counter(tuple(span.step for span in trace.critical_path) for trace in batch.traces)
    path = paths.most_common(1)[0][0] if paths else ()
    return draw_dag_svg(outline, figures, critical=set(pairwise(path)), critical_steps=frozenset(path))


def _figures(subject: Subject, step: StepTotals) -> str:
    facts = [f"×{count_text(step.count)}"]
    facts += [f"p50 {subject.part(step.p50)}"] if step.max else []
    facts += [usd_text(step.cost.usd)] if step.cost.usd else []
    return " · ".join(facts)


def _details(subject: Subject, step: StepTotals) -> str:
    facts = [step.step, f"{step.completed:,} of {step.count:,} completed"]
    facts += [f"{step.failed + step.dropped:,} failed"] if step.failed + step.dropped else []
    facts += [f"half within {subject.part(step.p50)}, 95 % within {subject.part(step.p95)}"] if step.max else []
    facts += [f"{step.retries:,} retries"] if step.retries else []
    return " · ".join(facts)
