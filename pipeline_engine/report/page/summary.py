"""The top of the page: what it is about, the figures as tiles, what another way would have brought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.legend import WAITED_FOR
from pipeline_engine.report.numbers import count_text, counted, seconds_text, usd_text
from pipeline_engine.report.page.markup import Cell, number, safe, section, table
from pipeline_engine.report.page.subject import moment_text
from pipeline_engine.report.spans import LIMIT_KINDS
from pipeline_engine.text import one_line
from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline_engine.report.page.subject import Subject
    from pipeline_engine.report.spans import Origin
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.report.whatif import Scenario

__all__ = ["facts", "status_of", "tiles", "title_of", "what_if"]

_FROM_JOURNAL: tuple[Origin, ...] = ("restored", "replayed")


def title_of(subject: Subject) -> tuple[str, str]:
    """Return the pipeline's name, and what ran through it."""
    name = subject.outline.pipeline if subject.outline is not None else "No run"
    return name, counted(subject.batch.count, "document") if subject.run is None else subject.run.document


def status_of(subject: Subject) -> str:
    """Return how it ended: that of the run; of a batch "completed" if every document did."""
    if subject.run is not None:
        return subject.run.status or "running"
    documents = {status for status, count in subject.batch.documents.items() if count}
    return next(iter(documents)) if len(documents) == 1 else "partial"


def facts(subject: Subject) -> str:
    """Return what the page is about as short facts."""
    run, batch = subject.run, subject.batch
    found = [f"run {one_line(run.run_id)}"] if run is not None else []
    found += [moment_text(subject.start)]
    capacity = max((trace.capacity for trace in batch.traces), default=0)
    found += [counted(capacity, "slot")] if capacity else []
    if not batch.has_all:
        found.append(f"{len(batch.traces):,} of {batch.count:,} runs are kept in full")
    return "".join(f"<li>{safe(fact)}</li>" for fact in found if fact)


def tiles(subject: Subject) -> str:
    """Return the figures that are looked for first."""
    own = _batch_tiles(subject) if subject.run is None else _run_tiles(subject, subject.run)
    return "".join(
        f'<div class="tile {style}"><dt>{label}</dt><dd>{value}<small>{safe(note)}</small></dd></div>'
        for label, value, note, style in [*own, *_spend_tiles(subject)]
    )


def _run_tiles(subject: Subject, trace: Trace) -> Iterator[tuple[str, str, str, str]]:
    steps, leaves = trace.steps, [span for span in trace.spans if not span.is_mapped]
    completed = sum(span.outcome == "completed" for span in steps)
    failed = sum(span.outcome in {"failed", "dropped"} for span in leaves)
    skipped = sum(span.outcome == "skipped" for span in steps)
    has_items = any(span.item is not None for span in leaves)
    yield ("Duration", seconds_text(trace.makespan), f"lower bound {subject.part(trace.bounds.lower_bound)}", "")
    yield ("Steps", f"{completed} / {len(steps)}", f"completed, {skipped} skipped", "")
    yield ("Failures", _linked(failed), "steps and items" if has_items else "steps", "bad" if failed else "")


def _batch_tiles(subject: Subject) -> Iterator[tuple[str, str, str, str]]:
    batch = subject.batch
    completed = batch.documents.get("completed", 0)
    others = [f"{count:,} {status}" for status, count in batch.documents.items() if count and status != "completed"]
    yield ("Documents", f"{completed:,}", ", ".join([f"of {batch.count:,} completed", *others]), "")
    bound = batch.bounds.binding
    note = f"lower bound {subject.part(bound.seconds)}" if bound is not None else "with a document in flight"
    yield ("Duration", seconds_text(batch.makespan), note, "")
    failed = sum(step.failed + step.dropped for step in batch.steps)
    yield ("Failures", _linked(failed), "steps and items", "bad" if failed else "")


def _linked(failed: int) -> str:
    return f'<a href="#errors">{count_text(failed)}</a>' if failed else "0"


def _spend_tiles(subject: Subject) -> Iterator[tuple[str, str, str, str]]:
    batch = subject.batch
    attempts, retries = sum(step.attempts for step in batch.steps), sum(step.retries for step in batch.steps)
    yield ("Attempts", count_text(attempts), f"{count_text(retries)} of them again", "")
    yield ("Slot waits", seconds_text(batch.waits.get("slot", 0.0)), "all steps together", "")
    limited = {kind: batch.waits[kind] for kind in LIMIT_KINDS if batch.waits.get(kind)}
    if limited:
        longest = max(limited, key=lambda kind: limited[kind])
        yield ("Limit waits", seconds_text(sum(limited.values())), f"mostly {WAITED_FOR[longest]}", "")
    tokens = batch.input_tokens + batch.output_tokens
    if tokens or (subject.run is not None and subject.run.usage is not None):
        ways = f"{count_text(batch.input_tokens)} sent, {count_text(batch.output_tokens)} received"
        yield ("Tokens", count_text(tokens), ways, "")
    cost = batch.cost
    if cost != Cost():
        unknown = "" if cost.is_known else f"and {counted(cost.unpriced_calls, 'call')} of unknown price"
        yield ("Spent", usd_text(cost.usd), unknown or "all calls together", "")
    reused = sum(step.origins.get(origin, 0) for step in batch.steps for origin in _FROM_JOURNAL)
    shared = sum(step.origins.get("shared", 0) for step in batch.steps)
    if reused or shared or cost.saved_usd:
        value = usd_text(cost.saved_usd) if cost.saved_usd else count_text(reused + shared)
        sources = [f"{reused:,} from the journal"] if reused else []
        sources += [f"{shared:,} from equal calls"] if shared else []
        yield ("Saved", value, ", ".join(sources) or "by prompt caches", "good")


def what_if(subject: Subject, scenarios: Sequence[Scenario]) -> str:
    """Return what the same work would have taken otherwise; nothing if nobody has reckoned it."""
    if not scenarios:
        return ""
    now = max(subject.seconds, *(scenario.makespan for scenario in scenarios))
    rows = [
        [
            Cell(safe(scenario.name)),
            number(subject.part(scenario.makespan), scenario.makespan),
            Cell(_meter(scenario.makespan / now if now > 0 else 0.0), style="meter"),
            number(_gain(scenario.gain), scenario.gain),
        ]
        for scenario in scenarios
    ]
    heads = [("Change", ""), ("Would take", "number"), ("", "meter"), ("Saves", "number")]
    note = "Replayed with the calls as they were recorded: what a change does to the calls themselves it cannot know."
    return section("What if", table("What if", heads, rows), note=note)


def _meter(share: float) -> str:
    bar = f'<rect width="{100 * share:.1f}%" height="10" rx="2"/>'
    return f'<svg class="meter" width="100%" height="10" aria-hidden="true">{bar}</svg>'


def _gain(gain: float) -> str:
    if abs(gain) < 0.005:
        return "nothing"
    return f"{100 * gain:.0f} %" if gain > 0 else f"costs {-100 * gain:.0f} %"
