"""The legend: what each kind of segment and each outcome is called, and how it is drawn without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from pipeline_engine.report.spans import OutcomeName, SegmentKind, Span
    from pipeline_engine.report.trace import Trace

__all__ = ["CURES", "GLYPHS", "KIND_NAMES", "MARKS", "SHORT_NAMES", "WAITED_FOR", "failures", "reason_text"]

GLYPHS: dict[SegmentKind, str] = {
    "slot": "·",
    "requests": "r",
    "tokens": "t",
    "concurrency": "c",
    "cooldown": "z",
    "breaker": "!",
    "budget": "$",
    "attempt": "█",
    "failed": "▓",
    "backoff": "░",
    "fallback": "~",
    "shared": "=",
    "warm": "^",
    "validate": "▒",
    "commit": "w",
    "lease": "?",
}
"""How a terminal shows each kind: the glyphs differ, so that colour is never the only signal."""
KIND_NAMES: dict[SegmentKind, str] = {
    "slot": "waiting for a slot",
    "requests": "waiting for requests per minute",
    "tokens": "waiting for tokens per minute",
    "concurrency": "waiting for a model's concurrency",
    "cooldown": "model cooling down",
    "breaker": "breaker open",
    "budget": "waiting for budget",
    "attempt": "attempt",
    "failed": "failed attempt",
    "backoff": "back-off",
    "fallback": "waiting for a fallback",
    "shared": "waiting for an equal call",
    "warm": "waiting for a warm cache",
    "validate": "validation",
    "commit": "waiting for the journal",
    "lease": "waiting for the journal's lease",
}
"""What each kind is called."""
SHORT_NAMES: dict[SegmentKind, str] = {
    "slot": "slot wait",
    "requests": "requests/min",
    "tokens": "tokens/min",
    "concurrency": "concurrency",
    "cooldown": "cool-down",
    "breaker": "breaker",
    "budget": "budget",
    "attempt": "attempts",
    "failed": "failed",
    "backoff": "back-off",
    "fallback": "fallback",
    "shared": "equal call",
    "warm": "warm cache",
    "validate": "validation",
    "commit": "commit",
    "lease": "lease",
}
"""What each kind is called at the head of a column."""
WAITED_FOR: dict[SegmentKind, str] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "concurrency": "a model's concurrency",
    "cooldown": "a model to cool down",
    "breaker": "a breaker to close",
    "budget": "budget that calls in flight had reserved",
}
"""What a wait for a limit was for, in a sentence."""
CURES: dict[SegmentKind, str] = {
    "requests": "raise the model's requests per minute, Limits(rpm=…), or bind more models",
    "tokens": "raise the model's tokens per minute, Limits(tpm=…), or send shorter prompts",
    "concurrency": "raise the model's concurrency, Limits(max_concurrency=…), or bind more models",
    "cooldown": "its provider asked for fewer calls, so lower Limits(rpm=…) or bind more models",
    "breaker": "its model kept failing, so bind a second model or give the step a fallback=",
    "budget": "raise the budget, or reserve less of it by a lower max_tokens",
}
"""What shortens a wait that more slots do not shorten."""
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
