"""The page: a run or a batch as one self-contained HTML file, which loads nothing and works without script.

Every text that comes from a document, a model or a pipeline is escaped on its way into the markup, and the template is
filled in one pass: a text that looks like a placeholder or a tag stays a text. The script gets its texts as deflated
base64, and shows them as text.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from pipeline_engine.report.comparison_page import comparison_html
from pipeline_engine.report.page.columns import pack_columns
from pipeline_engine.report.page.concurrency import concurrency, legend
from pipeline_engine.report.page.markup import safe
from pipeline_engine.report.page.models import models
from pipeline_engine.report.page.pipeline import drawing
from pipeline_engine.report.page.subject import subject_of
from pipeline_engine.report.page.summary import facts, status_of, tiles, title_of, what_if
from pipeline_engine.report.page.tables import documents_table, errors, failed_attempts, steps_table
from pipeline_engine.report.page.writing import write_page
from pipeline_engine.report.palette import color_rules, fill_rules, pattern_defs
from pipeline_engine.report.svg import LABEL, MAX_ROWS, TOOK, count_rows, draw_runs_svg

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline_engine.report.batch import BatchTrace
    from pipeline_engine.report.comparing import Comparison
    from pipeline_engine.report.page.subject import Subject
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.report.whatif import Scenario

__all__ = ["render_html", "write_html"]

_SHARES = f":root{{--label:{LABEL}%;--took:{TOOK}%}}"
_MAX_DOCUMENTS = 25
_PARTS = ("columns", "numbers", "rows", "canvas", "first", "words", "looking", "one", "sorting", "start")
"""The parts of the script, in their order. They draw, and answer to whoever looks; they ask for nothing, send nothing,
and show texts by `textContent` and `fillText` only."""
_UNIT = re.compile(r"(\d) (m?s|min|h|%)\b")


def write_html(
    trace: Trace | BatchTrace,
    path: str | os.PathLike[str],
    *,
    scenarios: Sequence[Scenario] = (),
    comparison: Comparison | None = None,
) -> Path:
    """Write a page to `path` and return it; a reader never sees half a page."""
    return write_page(render_html(trace, scenarios=scenarios, comparison=comparison), path)


def render_html(
    trace: Trace | BatchTrace, *, scenarios: Sequence[Scenario] = (), comparison: Comparison | None = None
) -> str:
    """Return the page of a run, or of a batch of them.

    Args:
        trace: The run, or the totals of many.
        scenarios: What another way would have brought, as a table below that of the steps.
        comparison: How the batch differs from another one, as tables at the end.
    """
    subject = subject_of(trace)
    pipeline, what = title_of(subject)
    traces = subject.batch.traces
    alive = _resource("script/live.js") if any(trace.spans for trace in traces) else ""
    script, columns = _script(), pack_columns(subject)
    allowed = " ".join(f"'sha256-{_hash(one)}'" for one in (alive, script) if one)
    return Template(_resource("page.html")).substitute(
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:",
        alive=f"<script>{alive}</script>\n" if alive else "",
        style=f"{_SHARES}\n{color_rules(':root')}\n{fill_rules('', 'p-')}\n{_resource('page.css')}",
        script=script,
        patterns=pattern_defs("p-"),
        page_title=safe(f"{pipeline} · {what}"),
        kicker="Run report" if subject.run is not None else "Batch report",
        pipeline=safe(pipeline),
        what=safe(what),
        status=status_of(subject),
        facts=facts(subject),
        verdict=_verdict(subject),
        what_if=what_if(subject, scenarios),
        tiles=tiles(subject),
        dag=drawing(subject),
        legend=legend(subject),
        concurrency=concurrency(subject),
        waterfall=_waterfall(subject),
        shown=_shown(subject),
        steps=steps_table(subject),
        documents=documents_table(subject),
        errors=errors(subject),
        failed_attempts=failed_attempts(subject),
        models=models(subject),
        comparison="" if comparison is None else f'<section id="comparison">{comparison_html(comparison)}</section>',
        no_batch="" if subject.run is None else " hidden",
        no_folds="" if subject.run is None or any(span.is_mapped for span in subject.run.spans) else " hidden",
        first=columns.first,
        all=columns.rest,
    )


def _script() -> str:
    """Return the script: its parts share one scope, and nothing of it is seen outside."""
    parts = "\n".join(_resource(f"script/{part}.js") for part in _PARTS)
    return f"'use strict';\n(async () => {{\n{parts}}})();\n"


def _resource(name: str) -> str:
    return files("pipeline_engine.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()


def _verdict(subject: Subject) -> str:
    text = subject.batch.verdict if subject.run is None else subject.run.verdict
    # A number is not parted from its unit by the end of a line.
    return _UNIT.sub(r"\1&nbsp;\2", safe(f"{text[:1].upper()}{text[1:]}."))


def _waterfall(subject: Subject) -> str:
    """Return the drawing for those who run no script, and for paper: all rows, or the slowest documents."""
    traces = subject.batch.traces
    if subject.run is not None or count_rows(traces) <= MAX_ROWS:
        return f'<div class="static">{draw_runs_svg(traces)}</div>'
    slowest = sorted(traces, key=lambda trace: -trace.makespan)[:_MAX_DOCUMENTS]
    drawn = draw_runs_svg(sorted(slowest, key=lambda trace: trace.wall_time), has_steps=False)
    note = f"The {len(slowest)} slowest documents, each as its critical path."
    return f'<div class="static"><p class="quiet">{note}</p>{drawn}</div>'


def _shown(subject: Subject) -> str:
    batch = subject.batch
    if batch.has_all:
        return ""
    return (
        f'<p class="quiet note">The waterfall shows {len(batch.traces):,} of {batch.count:,} runs: the slowest, the '
        "first that failed, and others taken at random. Everything else on this page counts all of them.</p>"
    )
