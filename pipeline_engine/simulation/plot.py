"""The plot of a sweep: makespans over capacities, and the bound that no schedule beats, as one SVG element."""

from __future__ import annotations

from html import escape
from math import log2
from typing import TYPE_CHECKING

from pipeline_engine.report.numbers import counted, nice_ticks, seconds_text, tick_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.simulation.result import Simulation

__all__ = ["draw_sweep"]

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 24, 40, 56
_MOST_TICKS = 6
_INK, _FAINT, _LINE, _BOUND = "#222", "#ddd", "#1f5fa8", "#767676"

_Point = tuple[float, float]


def draw_sweep(simulations: Sequence[Simulation]) -> str:
    """Return the plot, with a logarithmic axis for the capacity.

    Args:
        simulations: One for each capacity, the smallest first.
    """
    low, high = (log2(simulations[place].capacity) for place in (0, -1))
    ticks = nice_ticks(1.05 * max(each.makespan for each in simulations), _MOST_TICKS)
    top = max(ticks[-1], *(each.makespan for each in simulations)) or 1.0

    def x(simulation: Simulation) -> float:
        share = (log2(simulation.capacity) - low) / (high - low) if high > low else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(seconds: float) -> float:
        return _HEIGHT - _BOTTOM - seconds / top * (_HEIGHT - _TOP - _BOTTOM)

    makespans = [(x(each), y(each.makespan)) for each in simulations]
    bounds = [(x(each), y(each.bounds.makespan * each.bounds.reached)) for each in simulations]
    parts = [
        _opening(simulations),
        *(_grid_line(y(tick), tick_text(tick)) for tick in ticks),
        _polyline(bounds, f'stroke="{_BOUND}" stroke-width="1.5" stroke-dasharray="5 4"'),
        _polyline(makespans, f'stroke="{_LINE}" stroke-width="2"'),
        *(_dot(point, _told(each)) for each, point in zip(simulations, makespans, strict=True)),
        *(_text((x(each), _HEIGHT - _BOTTOM + 18), "middle", str(each.capacity)) for each in simulations),
        _text((_LEFT, 22), "start", "makespan (line) and its lower bound (dashes)"),
        _text(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14), "middle", "capacity"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _opening(simulations: Sequence[Simulation]) -> str:
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    told = escape("; ".join(_told(each) for each in simulations))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>'
        f"<title>Makespan over capacity</title><desc>{told}</desc>"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    )


def _told(simulation: Simulation) -> str:
    return f"{counted(simulation.capacity, 'slot')}: {seconds_text(simulation.makespan)}"


def _grid_line(y: float, label: str) -> str:
    line = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>'
    return line + _text((_LEFT - 8, y + 4), "end", label)


def _polyline(points: Sequence[_Point], style: str) -> str:
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{listed}" fill="none" {style}/>'


def _dot(point: _Point, told: str) -> str:
    x, y = point
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_LINE}"><title>{escape(told)}</title></circle>'


def _text(point: _Point, anchor: str, text: str) -> str:
    x, y = point
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}">{escape(text)}</text>'
