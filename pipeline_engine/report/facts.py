"""What was told about models and money, in words: one short line for each fact, and none where there is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.models import breaker_intervals, joined
from pipeline_engine.report.numbers import seconds_text, tokens_text
from pipeline_engine.text import one_line
from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.report.models import Acceptance, BreakerChange, Cooldown, Hedges, LimitPoint, ModelHistory
    from pipeline_engine.report.trace import Trace

__all__ = ["acceptance_text", "breaker_text", "cooldown_text", "fact_lines", "hedges_text", "limit_text"]

_MAX_LINES = 8


def fact_lines(trace: Trace) -> list[str]:
    """Return what a run has told about its models, cascades, second calls and spend, each on one safe line."""
    lines = _first([_model_line(trace.models, model, trace) for model in trace.models.models], "model")
    lines += _first(
        [f"{one_line(step)}: {acceptance_text(by_model)}" for step, by_model in trace.acceptance.items()], "cascade"
    )
    if trace.hedges.calls:
        lines.append(f"second calls: {hedges_text(trace.hedges)}")
    cost = trace.cost
    if cost != Cost():
        tokens = "" if trace.usage is None else tokens_text(trace.usage)
        lines.append(" · ".join(filter(None, [f"spent: {cost}", tokens])))
    return lines


def _first(lines: list[str], noun: str) -> list[str]:
    more = len(lines) - _MAX_LINES
    return lines if more <= 0 else [*lines[:_MAX_LINES], f"… and {more} more {noun}{'s' if more > 1 else ''}"]


def _model_line(history: ModelHistory, model: str, trace: Trace) -> str:
    facts = [
        limit_text(history.limits.get(model, ())),
        breaker_text(history.breakers.get(model, ()), trace.started_at, trace.last_at),
        cooldown_text(history.cooldowns.get(model, ())),
        "its key was refused" if model in history.parked else "",
    ]
    return f"{one_line(model)}: {' · '.join(filter(None, facts))}"


def limit_text(points: Sequence[LimitPoint]) -> str:
    """Return how an adaptive limit has moved.

    Example:
        >>> from pipeline_engine.report.models import LimitPoint
        >>> limit_text([LimitPoint(0, 4), LimitPoint(1, 9), LimitPoint(2, 6)])
        'limit 4 → 6 (4 to 9)'
    """
    if not points:
        return ""
    limits = [limit for _at, limit in points]
    first, last, lowest, highest = limits[0], limits[-1], min(limits), max(limits)
    moved = f"limit {first} → {last}" if len(limits) > 1 else f"limit {last}"
    return moved if {lowest, highest} <= {first, last} else f"{moved} ({lowest} to {highest})"


def breaker_text(changes: Sequence[BreakerChange], start: float, end: float) -> str:
    """Return how often a breaker has opened, how long it was open, and how it was left.

    Example:
        >>> from pipeline_engine.report.models import BreakerChange
        >>> breaker_text([BreakerChange(2, "closed", "open"), BreakerChange(8, "open", "half_open")], 0, 9)
        'breaker opened once, open for 6.0 s, half open at the end'
    """
    if not changes:
        return ""
    opened = sum(change.after == "open" for change in changes)
    seconds = sum(until - since for state, since, until in breaker_intervals(changes, start, end) if state == "open")
    facts = [f"opened {'once' if opened == 1 else f'{opened} times'}"] if opened else []
    facts += [f"open for {seconds_text(seconds)}"] if seconds > 0 else []
    last = one_line(changes[-1].after).replace("_", " ")
    facts.append(f"{last} at the end")
    return f"breaker {', '.join(facts)}"


def cooldown_text(cooldowns: Sequence[Cooldown]) -> str:
    """Return how often a model was told to cool down, and for how long.

    Example:
        >>> from pipeline_engine.report.models import Cooldown
        >>> cooldown_text([Cooldown(0, 5), Cooldown(3, 8)])
        'cooled down twice, for 8.0 s'
    """
    if not cooldowns:
        return ""
    count = len(cooldowns)
    times = {1: "once", 2: "twice"}.get(count, f"{count} times")
    return f"cooled down {times}, for {seconds_text(sum(one.until - one.at for one in joined(cooldowns)))}"


def acceptance_text(by_model: Mapping[str, Acceptance]) -> str:
    """Return how many outputs of each model a cascade has accepted.

    Example:
        >>> from pipeline_engine.report.models import Acceptance
        >>> acceptance_text({"openai:gpt-4o-mini": Acceptance(3, 4)})
        'accepted 3 of 4 outputs (75 %) of openai:gpt-4o-mini'
    """
    return "accepted " + ", ".join(
        f"{count.accepted} of {count.judged} output{'' if count.judged == 1 else 's'} "
        f"({round(100 * count.share)} %) of {one_line(model)}"
        for model, count in by_model.items()
    )


def hedges_text(hedges: Hedges) -> str:
    """Return how many second calls there were, how many won, and what the lost calls cost.

    Example:
        >>> from pipeline_engine.report.models import Hedges
        >>> hedges_text(Hedges(3, 1, Cost(usd=0.002)))
        '3, of which 1 won; the lost calls cost $0.0020'
    """
    lost = "" if hedges.lost_cost == Cost() else f"; the lost calls cost {hedges.lost_cost}"
    return f"{hedges.calls:,}, of which {hedges.won:,} won{lost}"
