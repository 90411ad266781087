"""How all benchmarks measure: in turns, warmed up, in medians, and said out loud when the machine was unsteady.

Candidates and baselines take turns within one process, so that a slow minute hits all of them. Overhead
is CPU time; where something runs in fresh processes it is wall time, too. The first baseline is measured
once more at the end: if it moved by more than a fifth, the figures say so.
"""

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

__all__ = [
    "Timing",
    "cpu_seconds",
    "describe_disk",
    "in_turns",
    "judged",
    "load_averages",
    "print_setting",
    "print_table",
    "pure_python_milliseconds",
]

ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """What one contender took, round by round, in microseconds for each step."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)

    def __truediv__(self, other: "Timing") -> float:
        """Return the ratio of two contenders: the median over the rounds, which they ran side by side."""
        return median(own / its for own, its in zip(self.rounds, other.rounds, strict=True))


def in_turns(contenders: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, Timing]:
    """Measure all contenders, taking turns; the first one is the baseline that is measured again at the end.

    Args:
        contenders: For each name, what runs one round and returns its cost.
        rounds: How many rounds count; one more before them warms up.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            gc.collect()
            cost = run()
            if number > 0:
                taken[name].append(cost)
    first, again = next(iter(contenders)), []
    for _ in range(3):
        gc.collect()
        again.append(contenders[first]())
    drift = median(again) / median(taken[first]) - 1
    if abs(drift) > 0.2:
        print(f"  NOISY: {first!r} moved by {drift:+.0%} between the rounds and the end. Run this again.")
    return {name: Timing(tuple(costs)) for name, costs in taken.items()}


def cpu_seconds() -> float:
    """Return the CPU time that this process has used."""
    return time.process_time()


def pure_python_milliseconds() -> float:
    """Time a fixed loop: it tells a slow hour from a slow change."""
    best = float("inf")
    for _ in range(5):
        started = cpu_seconds()
        total = 0
        for number in range(1_000_000):
            total += number % 7
        best = min(best, cpu_seconds() - started)
    return best * 1000


def judged(figure: float, at_most: float) -> str:
    """Return the target and whether the figure meets it."""
    return f"<= {at_most:g} {'met' if figure <= at_most else 'MISSED'}"


def describe_disk(folder: Path) -> str:
    """Return what a folder lies on, and how long that takes to make a page durable."""
    from pipeline_engine.journal.sqlite import file_system_of  # only here: most of what measures does not need it

    mounts = Path("/proc/self/mounts")
    kind = file_system_of(str(folder.resolve()), mounts.read_text("utf-8")) if mounts.exists() else ""
    taken = []
    with (folder / "probe").open("wb") as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    (folder / "probe").unlink()
    name = f"{kind}: MEMORY, NO DISK, set TMPDIR" if kind in ("tmpfs", "ramfs") else kind or "some file system"
    return f"{name}; an fsync takes {median(taken):.2f} ms, at most {max(taken):.2f}"


def load_averages() -> str:
    """Return how busy the machine was over the last 1, 5 and 15 minutes."""
    return ", ".join(f"{load:.2f}" for load in os.getloadavg())


def print_setting() -> None:
    """Say what the figures depend on."""
    packages = ("pipeline-engine", "trio", "pydantic", "networkx", "apache-hamilton")
    print(f"{platform.python_implementation()} {platform.python_version()} on {os.cpu_count()} processors")
    print(", ".join(f"{package} {_version(package)}" for package in packages))
    print(f"collector {'on' if gc.isenabled() else 'OFF'}, thresholds {gc.get_threshold()}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a small table; the first column is text, the others are aligned to the right."""
    cells = [[_cell(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        first, *others = row
        aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  " + "  ".join([first.ljust(widths[0]), *aligned]).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
