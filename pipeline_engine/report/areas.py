"""Stacked areas: how many segments of each kind there were at once, drawn as paths of SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.report.spans import SegmentKind
    from pipeline_engine.report.timeline import Timeline

__all__ = ["draw_areas", "peak", "stretched"]

WIDTH = 1000
"""The units of a stretched drawing: its box is `0 0 1000 100`, however large it is shown."""
_VISIBLE = 0.0001


def peak(timeline: Timeline, kinds: Sequence[SegmentKind]) -> float:
    """Return the greatest height of these kinds together."""
    found = [timeline.heights[kind] for kind in kinds if kind in timeline.heights]
    return max((sum(column) for column in zip(*found, strict=True)), default=0.0)


def draw_areas(
    timeline: Timeline,
    kinds: Sequence[SegmentKind],
    start: float,
    seconds: float,
    *,
    top: float = 0.0,
    bottom: float = 100.0,
) -> str:
    """Return stacked areas, each between those below and those above it.

    Args:
        timeline: The heights.
        kinds: What is stacked, from below.
        start: The instant at the left edge, in seconds since the epoch.
        seconds: From the left edge to the right one.
        top: Where the greatest height ends.
        bottom: Where the areas stand.
    """
    present, highest = [kind for kind in kinds if kind in timeline.heights], peak(timeline, kinds)
    if not highest or seconds <= 0:
        return ""
    below, paths = _edge(timeline, [0.0] * timeline.parts, start, seconds), []
    heights = [0.0] * timeline.parts
    for kind in present:
        heights = [under + own for under, own in zip(heights, timeline.heights[kind], strict=True)]
        above = _edge(timeline, [height / highest for height in heights], start, seconds)
        there = "".join(f"H{x:.1f}V{bottom - (bottom - top) * part:.1f}" for x, part in above)
        # Back along the lower edge, at each corner first across and then up or down.
        parts = [0.0, *(part for _, part in below)]
        back = "".join(
            f"H{x:.1f}V{bottom - (bottom - top) * part:.1f}"
            for (x, _), part in zip(reversed(below), reversed(parts[:-1]), strict=True)
        )
        y = bottom - (bottom - top) * parts[-1]
        paths.append(f'<path class="s-{kind}" d="M0 {bottom:.1f}{there}H{WIDTH}V{y:.1f}{back}Z"/>')
        below = above
    return "".join(paths)


def _edge(timeline: Timeline, heights: Sequence[float], start: float, seconds: float) -> list[tuple[float, float]]:
    """Return where a line of steps changes its height, and to what part of the greatest one."""
    found: list[tuple[float, float]] = []
    last = 0.0
    for part, height in enumerate([*heights, 0.0]):
        # Less than a hundredth of a pixel is no step.
        if abs(height - last) > _VISIBLE:
            x = WIDTH * (timeline.start + part * timeline.width - start) / seconds
            found.append((min(float(WIDTH), max(0.0, x)), height))
            last = height
    return found


def stretched(height: int, drawn: str) -> str:
    """Return a drawing as one SVG element that is as wide as there is room."""
    size = f'width="100%" height="{height}" viewBox="0 0 {WIDTH} 100" preserveAspectRatio="none"'
    return f'<svg class="lane stretched" {size} aria-hidden="true">{drawn}</svg>'
