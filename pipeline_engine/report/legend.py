"""The legend: what each kind of segment and each outcome is called, and how it is drawn without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from pipeline_engine.report.spans import OutcomeName, SegmentKind, Span
    from pipeline_engine.report.trace import Trace

__all__ = ["GLYPHS", "KIND_NAMES", "MARKS", "SHORT_NAMES", "failures", "reason_text"]

GLYPHS: dict[SegmentKind, str] = {
    "slot": "·",
    "attempt": "█",
    "failed": "▓",
    "backoff": "░",
    "fallback": "~",
    "shared": "=",
    "warm": "^",
    "validate": "▒",
}
"""How a terminal shows each kind: the glyphs differ, so that colour is never the only signal."""
KIND_NAMES: dict[SegmentKind, str] = {
    "slot": "waiting for a slot",
    "attempt": "attempt",
    "failed": "failed attempt",
    "backoff": "back-off",
    "fallback": "waiting for a fallback",
    "shared": "waiting for an equal call",
    "warm": "waiting for a warm cache",
    "validate": "validation",
}
"""What each kind is called."""
SHORT_NAMES: dict[SegmentKind, str] = {
    "slot": "slot wait",
    "attempt": "attempts",
    "failed": "failed",
    "backoff": "back-off",
    "fallback": "fallback",
    "shared": "equal call",
    "warm": "warm cache",
    "validate": "validation",
}
"""What each kind is called at the head of a column."""
MARKS: dict[OutcomeName | None, str] = {
    "completed": "✓",
    "failed": "✗",
    "skipped": "–",
    "stopped": "■",
    "dropped": "∅",
    None: "…",
}
"""How each outcome is marked; None is a step that still goes on."""


def reason_text(span: Span) -> str:
    """Return the outcome of a step that did not run, with its reason."""
    if span.because is None:
        return span.outcome or "still going on"
    if span.outcome == "skipped":
        # "when" is the word of the outcome for a step's own condition; no step may have this name.
        return "skipped by its own condition" if span.because == "when" else f"skipped because of {span.because}"
    return one_line(f"{span.outcome}: {span.because}")


def failures(trace: Trace) -> list[tuple[Span, int]]:
    """Return what failed or was dropped, with how many items of its step ended with the same error.

    A mapped step that failed for an item's error is left out: its item says so already.
    """
    groups: dict[tuple[str, bool, str | None], list[Span]] = {}
    for span in trace.spans:
        if span.error is not None:
            groups.setdefault((span.step, span.item is None, span.error), []).append(span)
    return [
        (spans[0], len(spans))
        for (step, is_step, error), spans in groups.items()
        if not is_step or (step, False, error) not in groups
    ]
