"""The same batch at several capacities, as a table with bars."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_engine.report.numbers import count_text, counted, seconds_text
from pipeline_engine.simulation.plot import draw_sweep
from pipeline_engine.simulation.result import Simulation, columns

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Sweep"]

_BAR = 30
"""Cells of the longest bar."""
_ENOUGH = 0.05
"""Capacities whose makespan is within this part of the best one are as good as that."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Hold simulations of one batch that differ in their capacity alone: the same calls take as long in all of them.

    Example:
        >>> from pipeline_engine import Limits, Pipeline, simulate
        >>> pipeline = Pipeline("article", inputs={"document": str})
        >>> @pipeline.llm("fast", str)
        ... def title(document: str) -> str:
        ...     return f"Give this document a title: {document}"
        >>> sweep = simulate(pipeline, documents=240, latency=2, capacity=[4, 8, 16], limits=Limits(rpm=240))
        >>> [round(simulation.makespan) for simulation in sweep.simulations]
        [120, 61, 61]
        >>> sweep.enough.capacity
        8
    """

    simulations: tuple[Simulation, ...] = field(repr=False)
    """One for each capacity, the smallest first."""

    @property
    def enough(self) -> Simulation:
        """The one with the smallest capacity of those that are within 5 % of the shortest makespan."""
        best = min(simulation.makespan for simulation in self.simulations)
        return next(each for each in self.simulations if each.makespan <= best * (1 + _ENOUGH))

    def table(self) -> list[dict[str, Any]]:
        """Return a row per capacity, under plain names."""
        return [
            {
                "capacity": each.capacity,
                "makespan": each.makespan,
                "throughput": each.throughput,
                "p50": each.latency.p50,
                "p95": each.latency.p95,
                "p99": each.latency.p99,
                "cost_usd": each.cost.usd if each.cost.is_known else None,
                "binding": None if each.bounds.binding is None else each.bounds.binding.kind,
                "reached": each.bounds.reached,
            }
            for each in self.simulations
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON's types."""
        return {
            "enough": self.enough.capacity,
            "simulations": [simulation.to_dict() for simulation in self.simulations],
        }

    def __str__(self) -> str:
        longest = max(simulation.makespan for simulation in self.simulations)
        rows = [["capacity", "makespan", "p95", "bound by", "reached"]]
        for each in self.simulations:
            binding = each.bounds.binding
            rows.append(
                [
                    count_text(each.capacity),
                    seconds_text(each.makespan),
                    seconds_text(each.latency.p95),
                    "" if binding is None else binding.kind,
                    f"{each.bounds.reached:.0%}",
                ]
            )
        bars = ["", *(_bar(each.makespan, longest) for each in self.simulations)]
        lines = [f"{line}  {bar}".rstrip() for line, bar in zip(columns(rows), bars, strict=True)]
        return "\n".join([*lines, "", self._advice()])

    def _advice(self) -> str:
        enough, last = self.enough, self.simulations[-1]
        if enough is last:
            return f"{counted(last.capacity, 'slot')} are not too many: fewer of these take more than 5 % longer"
        return f"{counted(enough.capacity, 'slot')} are enough: more gain less than 5 %"

    def to_svg(self, path: str | PathLike[str]) -> Path:
        """Write the plot of the makespan over the capacity as an SVG file, and return its path."""
        written = Path(path)
        written.write_text(draw_sweep(self.simulations), encoding="utf-8")
        return written


def _bar(seconds: float, longest: float) -> str:
    eighths = round(8 * _BAR * seconds / longest) if longest > 0 else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
