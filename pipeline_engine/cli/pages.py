"""Writes the page of a run or a batch, with a table of what would have changed it where that is soon reckoned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.html import write_html
from pipeline_engine.report.trace import Trace

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline_engine.report import BatchTrace, Scenario
    from pipeline_engine.report.comparing import Comparison

__all__ = ["write_page"]

_MAX_SPANS = 2_000
"""Of more steps and items the replays take too long for who has not asked for them."""


def write_page(
    trace: Trace | BatchTrace, out: Path, *, what_if: bool | None = None, comparison: Comparison | None = None
) -> None:
    """Write the page.

    Args:
        trace: The run, or the totals of many.
        out: Where to.
        what_if: Whether to reckon what other settings would have brought; None does it for 2,000 steps and items or
            fewer.
        comparison: How the batch differs from another one.
    """
    traces = (trace,) if isinstance(trace, Trace) else trace.traces
    if what_if is None:
        what_if = sum(len(one.spans) for one in traces) <= _MAX_SPANS
    write_html(trace, out, scenarios=_scenarios(trace) if what_if else (), comparison=comparison)


def _scenarios(trace: Trace | BatchTrace) -> tuple[Scenario, ...]:
    from pipeline_engine.simulation import scenarios

    # What took no time cannot take less.
    return scenarios(trace) if trace.makespan > 0 else ()
