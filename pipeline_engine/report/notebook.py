"""What notebooks show of pipelines, runs and batches: pieces of HTML of bounded size, without script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_engine.errors import PlanError
from pipeline_engine.report.dag import draw_dag_svg
from pipeline_engine.report.differences import short_text
from pipeline_engine.report.fragment import cell, fragment, heading, listed, number, small_table
from pipeline_engine.report.legend import MARKS
from pipeline_engine.report.numbers import counted, seconds_text, tokens_text, usd_text
from pipeline_engine.report.page.markup import safe
from pipeline_engine.report.svg import draw_waterfall_svg
from pipeline_engine.values.outcomes import Completed
from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.declare import Pipeline
    from pipeline_engine.plan import Plan
    from pipeline_engine.report.batch import BatchTrace
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.values.outcomes import Outcome
    from pipeline_engine.values.records import Outline
    from pipeline_engine.values.usage import Usage

__all__ = ["batch_html", "batch_trace_html", "pipeline_html", "plan_html", "run_html", "trace_html"]

_MAX_DRAWN = 150
"""Steps of a drawing: with more nobody finds their way, and the notebook's file grows."""
_MAX_VALUE = 240
_MAX_ROWS = 30
_MAX_SLOWEST = 10
_STYLES = {"completed": "good", "failed": "bad", "partial": "warn", "stopped": "warn", "dropped": "bad"}


def pipeline_html(pipeline: Pipeline) -> str:
    """Return a pipeline as its drawing; one that cannot be compiled as the list of its problems."""
    from pipeline_engine.plan import compile_pipeline

    try:
        return plan_html(compile_pipeline(pipeline))
    except PlanError as error:
        problems = [str(problem) for problem in error.problems]
        return fragment(heading(pipeline.name, counted(len(problems), "problem")), listed(problems))


def plan_html(plan: Plan) -> str:
    """Return a plan as its drawing."""
    return fragment(heading(plan.name, counted(len(plan.steps), "step")), _drawing(plan.outline))


def _drawing(outline: Outline) -> str:
    if len(outline.steps) > _MAX_DRAWN:
        names = [step.name for step in outline.steps]
        return listed(names)
    return f'<div class="drawing">{draw_dag_svg(outline)}</div>'


def trace_html(trace: Trace) -> str:
    """Return a run as its waterfall."""
    return fragment(heading(trace.pipeline, trace.document), *_waterfall(trace))


def _waterfall(trace: Trace) -> tuple[str, str]:
    return f'<p class="verdict">{safe(trace.verdict)}</p>', f'<div class="drawing">{draw_waterfall_svg(trace)}</div>'


def run_html(
    pipeline: str,
    document: str,
    status: str,
    outcomes: Mapping[str, tuple[Outcome[Any] | None, Any]],
    errors: Sequence[str],
    trace: Trace | None,
    cost: Cost,
    usage: Usage,
) -> str:
    """Return a result: how each step ended, its output, and where the time went.

    Args:
        pipeline: The pipeline's name.
        document: The document's key.
        status: How it ended.
        outcomes: How each step ended, and its output in JSON's types.
        errors: What failed, a sentence each.
        trace: The run; None if there was none.
        cost: What its calls cost.
        usage: The tokens of its calls.
    """
    rows = []
    for name, (outcome, value) in outcomes.items():
        word = "open" if outcome is None else type(outcome).__name__.lower()
        sign = MARKS.get(word, "") if outcome is not None else ""  # type: ignore[call-overload]  # a class's name
        shown = short_text(value, _MAX_VALUE) if isinstance(outcome, Completed) else ""
        rows.append([cell(name), (f"{sign} {safe(word)}", _STYLES.get(word, "quiet")), cell(shown, "text")])
    facts = [status, *([] if trace is None else [seconds_text(trace.makespan)]), *_spend(cost, usage)]
    return fragment(
        heading(document, f"{pipeline} · {' · '.join(facts)}"),
        small_table("Outputs", [("step", "name"), ("outcome", "name"), ("output", "text")], rows, of="step"),
        f"<h3>What failed</h3>{listed(errors, _MAX_ROWS)}" if errors else "",
        *(() if trace is None else ("<h3>Where the time went</h3>", *_waterfall(trace))),
    )


def batch_html(
    counts: Mapping[Any, int],
    elapsed: float,
    cost: Cost,
    usage: Usage,
    trace: BatchTrace,
    failed: Sequence[tuple[str, str]],
    stopped_by: str | None,
) -> str:
    """Return a batch's result: counts, spend, and what its trace tells.

    Args:
        counts: How many documents ended how.
        elapsed: Its seconds.
        cost: What its calls cost.
        usage: The tokens of its calls.
        trace: Where the time went.
        failed: Key and reason of documents that did not complete.
        stopped_by: What ended it early, if something did.
    """
    facts = [f"{count:,} {status}" for status, count in counts.items() if count]
    facts += [seconds_text(elapsed), *_spend(cost, usage)]
    rows = ([cell(document, max_width=80), cell(reason, "text", _MAX_VALUE)] for document, reason in failed)
    return fragment(
        heading(counted(sum(counts.values()), "document"), " · ".join(facts)),
        f'<p class="warn">Stopped by {safe(stopped_by)}.</p>' if stopped_by is not None else "",
        *_totals(trace),
        small_table(
            "Documents that did not complete",
            [("document", "name"), ("reason", "text")],
            rows,
            max_rows=_MAX_ROWS,
            of="document",
        ),
    )


def batch_trace_html(trace: BatchTrace) -> str:
    """Return what the trace of a batch tells."""
    facts = [f"{count:,} {status}" for status, count in trace.documents.items() if count]
    facts += [seconds_text(trace.makespan), *_spend(trace.cost, trace.usage)]
    return fragment(heading(counted(trace.count, "document"), " · ".join(facts)), *_totals(trace))


def _spend(cost: Cost, usage: Usage) -> list[str]:
    facts = [tokens_text(usage)] if tokens_text(usage) else []
    return facts if cost == Cost() else [*facts, str(cost)]


def _cost_text(cost: Cost) -> str:
    if cost.is_known:
        return usd_text(cost.usd)
    return f"{usd_text(cost.usd)} + ?" if cost.usd else "unknown"


def _totals(trace: BatchTrace) -> list[str]:
    if not trace.count:
        return []
    has_cost = trace.cost != Cost()
    figures = ["count", "failed", "again", "p50", "p95", "longest", "tokens in", "tokens out"]
    figures += ["cost"] if has_cost else []
    rows = []
    for step in trace.steps:
        counts = (step.count, step.failed + step.dropped, step.retries)
        numbers = [f"{count:,}" if count else "" for count in counts]
        numbers += [seconds_text(seconds) for seconds in (step.p50, step.p95, step.max)]
        numbers += [f"{tokens:,}" if tokens else "" for tokens in (step.input_tokens, step.output_tokens)]
        numbers += [_cost_text(step.cost)] if has_cost else []
        rows.append([cell(step.step), *map(number, numbers)])
    errors = (
        [cell(group.step), cell(group.kind), number(f"{group.count:,}"), cell(group.example, "text", _MAX_VALUE)]
        for group in trace.errors
    )
    slowest = (
        [cell(slow.document, max_width=80), number(seconds_text(slow.makespan))]
        for slow in trace.slowest[:_MAX_SLOWEST]
    )
    heads = [("step", "name"), ("error", "name"), ("count", "number"), ("the first of them", "text")]
    return [
        f'<p class="verdict">{safe(trace.verdict)}</p>',
        small_table(
            "Steps", [("step", "name"), *((name, "number") for name in figures)], rows, max_rows=100, of="step"
        ),
        small_table("What failed", heads, errors, max_rows=_MAX_ROWS, of="kind"),
        small_table("Slowest documents", [("document", "name"), ("took", "number")], slowest),
    ]
