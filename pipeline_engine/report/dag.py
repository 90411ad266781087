"""The drawing of a pipeline: its steps in layers, its needs as curves, as one SVG element.

Layers come with the outline. Within a layer the order is by barycentre, six sweeps down and up; a need
that skips layers is led through a gap in each of them, so that no curve runs behind another step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline_engine.text import display_width, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pipeline_engine.report.spans import OutcomeName
    from pipeline_engine.values.records import Outline, OutlineStep

__all__ = ["StepFigures", "draw_dag_svg"]

_SWEEPS = 6
_COLUMN_GAP = 56.0
_ROW_GAP = 18.0
_MARGIN = 8.0
_CELL = 8.6
"""Pixels of a character of a wide bold font: which font a reader has cannot be known here."""
_MAX_NAME = 24
_STEP_HEIGHT = 52.0
_INPUT_HEIGHT = 30.0
_GAP_HEIGHT = 6.0


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What a run adds to the drawing of one step."""

    figures: str = ""
    """The line below its name."""
    heat: float = 0.0
    """Its share of the busiest step's time, from 0 to 1."""
    outcome: OutcomeName | None = None
    """How it ended."""
    mark: str = ""
    """The outcome's mark."""
    details: str = ""
    """What a reader sees who points at it."""


@dataclass(slots=True)
class _Place:
    """A step, an input, or a gap through which a longer curve goes; and where it stands."""

    name: str
    kind: str
    column: int
    width: float = 0.0
    height: float = _GAP_HEIGHT
    x: float = 0.0
    y: float = 0.0
    befores: list[_Place] = field(default_factory=list)
    afters: list[_Place] = field(default_factory=list)

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def draw_dag_svg(
    outline: Outline,
    figures: Mapping[str, StepFigures] | None = None,
    *,
    critical: Collection[tuple[str, str]] = (),
    critical_steps: Collection[str] = (),
    fallbacks: Iterable[tuple[str, str]] = (),
) -> str:
    """Return a pipeline drawn as one SVG element, from its inputs on the left to its leaves on the right.

    It holds no style of its own: its classes (`dag-step`, `dag-need`, …) are coloured by the page. `data-step` is a
    step's place in the outline, and `data-edge` those of a need and of who needs it, so that a script can redraw them.

    Args:
        outline: The pipeline.
        figures: What a run adds, by step.
        critical: The needs on the critical path, as (need, step).
        critical_steps: The steps on the critical path.
        fallbacks: Steps that were fallen back to, as (fallback, step that needed it).
    """
    known = figures or {}
    helpers = list(fallbacks)
    columns, places, routes = _arrange(outline, known, helpers)
    width = max((place.x + place.width for place in places.values()), default=0.0) + _MARGIN
    height = max((place.y + place.height for column in columns for place in column), default=0.0) + _MARGIN
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    label = _safe(_description(outline))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" class="dag" {size} role="img" aria-label="{label}">']
    kinds = {place.name: place.kind for place in places.values()}
    strong, helping = set(critical), set(helpers)
    numbers = {step.name: number for number, step in enumerate(outline.steps)}
    # The critical path is drawn last, above the others.
    for need, consumer, route in sorted(routes, key=lambda found: (found[0], found[1]) in strong):
        style = "input" if kinds[need] == "input" else "plain"
        if (need, consumer) in strong:
            style = "critical"
        elif (need, consumer) in helping:
            style = "fallback"
        edge = f"{numbers.get(need, '')}-{numbers[consumer]}"
        parts.append(f'<path class="dag-need {style}" data-edge="{edge}" d="{_curve(route)}"/>')
    parts += [_draw_input(places[name]) for name in outline.inputs]
    for number, step in enumerate(outline.steps):
        figure, is_critical = known.get(step.name, StepFigures()), step.name in critical_steps
        parts.append(_draw_step(places[step.name], step, number, figure, is_critical=is_critical))
    return "".join([*parts, "</svg>"])


def _arrange(
    outline: Outline, figures: Mapping[str, StepFigures], fallbacks: Iterable[tuple[str, str]]
) -> tuple[list[list[_Place]], dict[str, _Place], list[tuple[str, str, list[_Place]]]]:
    """Return the columns, the places by name, and for each need the places its curve goes through."""
    layers = sorted({step.layer for step in outline.steps})
    column_of = {layer: index for index, layer in enumerate(layers, start=1 if outline.inputs else 0)}
    columns: list[list[_Place]] = [[] for _ in range(len(layers) + (1 if outline.inputs else 0))]
    places: dict[str, _Place] = {}
    for name in outline.inputs:
        width = 28 + _CELL * min(_MAX_NAME, display_width(one_line(name)))
        places[name] = _Place(name, "input", 0, width, _INPUT_HEIGHT)
    for step in outline.steps:
        figure = figures.get(step.name, StepFigures())
        cells = max(min(_MAX_NAME, display_width(one_line(step.name))) + 3, display_width(figure.figures) * 0.9)
        places[step.name] = _Place(
            step.name, "step", column_of[step.layer], max(112.0, 26 + _CELL * cells), _STEP_HEIGHT
        )
    for place in places.values():
        columns[place.column].append(place)
    routes = [
        (need, step.name, _route(places[need], places[step.name], columns))
        for step in outline.steps
        for need in dict.fromkeys(step.needs)
        if need in places
    ]
    for helper, consumer in fallbacks:
        # A fallback step is no need: it may stand beside or behind its consumer, and then has no curve.
        if helper in places and consumer in places and places[helper].column < places[consumer].column:
            routes.append((helper, consumer, _route(places[helper], places[consumer], columns)))
    for sweep in range(_SWEEPS):
        _sort_by_neighbours(columns, is_forward=sweep % 2 == 0)
    _set_positions(columns)
    return columns, places, routes


def _route(start: _Place, end: _Place, columns: list[list[_Place]]) -> list[_Place]:
    route = [start]
    for column in range(start.column + 1, end.column):
        gap = _Place("", "gap", column)
        columns[column].append(gap)
        route.append(gap)
    route.append(end)
    for before, after in pairwise(route):
        before.afters.append(after)
        after.befores.append(before)
    return route


def _sort_by_neighbours(columns: list[list[_Place]], *, is_forward: bool) -> None:
    """Order each column by the mean position of what it is connected to on one side."""
    ordered = columns[1:] if is_forward else columns[-2::-1]
    for column in ordered:
        neighbours = columns[column[0].column + (-1 if is_forward else 1)] if column else []
        rank = {id(place): index for index, place in enumerate(neighbours)}
        own = {id(place): index for index, place in enumerate(column)}

        def barycentre(place: _Place, rank: dict[int, int] = rank, own: dict[int, int] = own) -> float:
            connected = place.befores if is_forward else place.afters
            ranks = [rank[id(other)] for other in connected if id(other) in rank]
            return sum(ranks) / len(ranks) if ranks else float(own[id(place)])

        column.sort(key=barycentre)


def _set_positions(columns: list[list[_Place]]) -> None:
    x = _MARGIN
    for column in columns:
        widest = max((place.width for place in column), default=0.0)
        y = 0.0
        for place in column:
            # Steps of a column are equally wide: ragged boxes look like they mean something.
            place.width = widest if place.kind != "input" else place.width
            place.x, place.y = x + (widest - place.width if place.kind == "input" else 0.0), y
            y += place.height + _ROW_GAP
        for place in column:
            place.y -= y / 2
        x += widest + _COLUMN_GAP
    for sweep in range(_SWEEPS * 2):
        ordered = columns if sweep % 2 == 0 else columns[::-1]
        for column in ordered:
            _align(column, is_forward=sweep % 2 == 0)
    top = min((place.y for column in columns for place in column), default=0.0)
    for column in columns:
        for place in column:
            place.y += _MARGIN - top


def _align(column: list[_Place], *, is_forward: bool) -> None:
    """Move each place towards its neighbours' middle, then apart again where places would overlap."""
    wanted = []
    for place in column:
        connected = (place.befores if is_forward else place.afters) or [*place.befores, *place.afters]
        middles = sorted(other.middle for other in connected)
        middle = (middles[(len(middles) - 1) // 2] + middles[len(middles) // 2]) / 2 if middles else place.middle
        wanted.append(middle - place.height / 2)
    down, lowest = [], float("-inf")
    for place, y in zip(column, wanted, strict=True):
        down.append(max(y, lowest))
        lowest = down[-1] + place.height + _ROW_GAP
    up, highest = [], float("inf")
    for place, y in zip(reversed(column), reversed(wanted), strict=True):
        up.append(min(y, highest - place.height))
        highest = up[-1] - _ROW_GAP
    # Pushed down only and pushed up only: both keep the distances, and so does their mean.
    for place, low, high in zip(column, down, reversed(up), strict=True):
        place.y = (low + high) / 2


def _curve(route: list[_Place]) -> str:
    first = route[0]
    x, y = first.x + first.width, first.middle
    path = [f"M{x:.1f} {y:.1f}"]
    for place in route[1:]:
        bend = max(18.0, (place.x - x) / 2)
        end = f"{place.x:.1f} {place.middle:.1f}"
        path.append(f"C{x + bend:.1f} {y:.1f} {place.x - bend:.1f} {place.middle:.1f} {end}")
        x, y = place.x, place.middle
        if place.kind == "gap":
            x += place.width
            path.append(f"H{x:.1f}")
    return "".join(path)


def _draw_input(place: _Place) -> str:
    x, y, width, height = place.x, place.y, place.width, place.height
    middle = f'x="{x + width / 2:.1f}" y="{place.middle + 4.5:.1f}" text-anchor="middle"'
    return (
        f'<g class="dag-input"><title>input {_safe(place.name)}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{height / 2:.1f}"/>'
        f"<text {middle}>{_safe(one_line(place.name, _MAX_NAME))}</text></g>"
    )


def _draw_step(place: _Place, step: OutlineStep, number: int, figure: StepFigures, *, is_critical: bool) -> str:
    x, y, width, height = place.x, place.y, place.width, place.height
    name = _safe(one_line(place.name, _MAX_NAME))
    classes = ["dag-step", f"is-{figure.outcome}" if figure.outcome else "is-open"]
    classes += ["is-critical"] if is_critical else []
    classes += ["is-on-demand"] if step.is_on_demand else []
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="9"'
    title = f"<title>{_safe(figure.details or one_line(place.name))}</title>"
    parts = [f'<g class="{" ".join(classes)}" data-step="{number}">{title}']
    if step.each is not None:
        parts.append(f'<rect class="dag-card" {box} transform="translate(5 5)"/>')
    parts.append(f'<rect class="dag-card" {box}/>')
    heat = min(1.0, max(0.0, figure.heat))
    parts.append(f'<rect class="dag-heat" {box} fill-opacity="{0.02 + 0.19 * heat:.3f}"/>')
    text_y = y + (22 if figure.figures else height / 2 + 4.5)
    parts.append(f'<text class="dag-name" x="{x + 12:.1f}" y="{text_y:.1f}">{name}</text>')
    if figure.outcome is not None or figure.mark:
        parts.append(
            f'<text class="dag-mark" x="{x + width - 12:.1f}" y="{y + 22:.1f}" text-anchor="end">'
            f"{_safe(figure.mark)}</text>"
        )
    if figure.figures:
        parts.append(f'<text class="dag-figures" x="{x + 12:.1f}" y="{y + 40:.1f}">{_safe(figure.figures)}</text>')
    return "".join([*parts, "</g>"])


def _description(outline: Outline) -> str:
    steps = ", ".join(
        f"{one_line(step.name)} after {' and '.join(one_line(need) for need in step.needs) or 'nothing'}"
        for step in outline.steps[:50]
    )
    more = f", and {len(outline.steps) - 50} more" if len(outline.steps) > 50 else ""
    return f"Pipeline {one_line(outline.pipeline)}: {steps}{more}"


def _safe(text: str) -> str:
    return escape(one_line(text), quote=True)
