"""The models on the page: their limits, breakers and cool-downs over time, cascades, second calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.areas import stretched
from pipeline_engine.report.facts import acceptance_text, breaker_text, cooldown_text, hedges_text, limit_text
from pipeline_engine.report.models import breaker_intervals, joined, thinned
from pipeline_engine.report.page.markup import safe, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.report.models import LimitPoint
    from pipeline_engine.report.page.subject import Subject

__all__ = ["models"]

_MAX_MODELS = 20
_NAMES = {"cooldown": "cool-down", "breaker": "breaker not closed"}


def models(subject: Subject) -> str:
    """Return what happened to the models, how cascades judged them, and what second calls brought."""
    batch = subject.batch
    entries = [_model(subject, model) for model in batch.models.models[:_MAX_MODELS]]
    more = len(batch.models.models) - len(entries)
    entries += [f'<li class="quiet">… and {more} more</li>'] if more > 0 else []
    entries += [
        f"<li><b>{safe(step)}</b><p>{safe(acceptance_text(by_model))}</p></li>"
        for step, by_model in batch.acceptance.items()
    ]
    if batch.hedges.calls:
        entries.append(f"<li><b>Second calls</b><p>{safe(hedges_text(batch.hedges))}</p></li>")
    return section("Models", f'<ul class="card models">{"".join(entries)}</ul>') if entries else ""


def _model(subject: Subject, model: str) -> str:
    """Return a model's facts as text, and below them as charts over the time."""
    history = subject.batch.models
    start, end = subject.start, subject.start + subject.seconds
    limits, changes = history.limits.get(model, ()), history.breakers.get(model, ())
    cooldowns = history.cooldowns.get(model, ())
    facts = [
        limit_text(limits),
        breaker_text(changes, start, end),
        cooldown_text(cooldowns),
        f"its key was refused at {subject.part(history.parked[model] - start)}" if model in history.parked else "",
    ]
    charts = [stretched(40, _limit_line(subject, limits))] if limits else []
    bars = [("cooldown", one.at, one.until) for one in joined(cooldowns)]
    bars += [("breaker", since, until) for _, since, until in breaker_intervals(changes, start, end)]
    if bars:
        charts.append(_lane(subject, bars))
    return f"<li><b>{safe(model)}</b><p>{safe(' · '.join(filter(None, facts)))}</p>{''.join(charts)}</li>"


def _limit_line(subject: Subject, points: Sequence[LimitPoint]) -> str:
    """Return an adaptive limit as a step line: it holds until it changes."""
    points = thinned(points)
    highest = max(1, *(limit for _at, limit in points))
    path: list[str] = []
    for at, limit in points:
        x, y = 10 * subject.percent(at), 96 - 90 * limit / highest
        path.append(f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {y:.1f}")
    return f'<path class="s-limit" d="{"".join(path)}H1000"/>'


def _lane(subject: Subject, bars: Sequence[tuple[str, float, float]]) -> str:
    """Return when a model was left alone, each interval with its reason and length as its tooltip."""
    drawn = []
    for kind, since, until in bars:
        x = subject.percent(since)
        width = max(0.2, subject.percent(until) - x)
        title = f"{_NAMES[kind]} · {subject.part(since - subject.start)} to {subject.part(until - subject.start)}"
        drawn.append(
            f'<rect class="s-{kind}" x="{x:.3f}%" y="3" width="{width:.3f}%" height="14"><title>{title}</title></rect>'
        )
    return f'<svg class="lane" width="100%" height="20" aria-hidden="true">{"".join(drawn)}</svg>'
