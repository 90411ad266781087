"""Graphs that nobody here drew, with the run times they had: how near to the bound the engine ends, in virtual time.

No schedule is shorter than the critical path, nor than all work divided by the slots. The engine runs each
graph twice, with the true run times as estimates and with none. Beside it stand plain rules, and two list
schedulers that know the true times, simulated by code that shares nothing with the engine. The graphs
come from the folder that PIPELINE_ENGINE_DATA names.
"""

import inspect
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import trio
import trio.testing

from pipeline_engine import Engine, Pipeline, Plan, compile_pipeline
from tests.benchmarks.measuring import judged, print_table

SLOTS = (2, 4, 8, 16)

Followers = Sequence[Sequence[int]]
"""For each step, the steps that need it; every step stands after its needs."""


@dataclass(frozen=True)
class Workflow:
    """A graph and its run times."""

    name: str
    plan: Plan
    seconds: list[float]

    @property
    def followers(self) -> Followers:
        return self.plan.followers

    def bound(self, slots: int) -> float:
        """Return what no schedule beats."""
        return max(*path_seconds(self.followers, self.seconds), sum(self.seconds) / slots)


def read_workflows(folder: Path) -> list[Workflow]:
    return [read_workflow(file) for file in sorted(folder.glob("*.json"))]


def read_workflow(file: Path) -> Workflow:
    """Declare a step for each of a file's, in the file's order; all that a step does is to take its time."""
    tasks = json.loads(file.read_text("utf-8"))["tasks"]
    names = {task["id"]: f"step_{number}" for number, task in enumerate(tasks)}
    seconds = {names[task["id"]]: float(task["runtime_s"] or 0.0) for task in tasks}
    pipeline = Pipeline(file.stem, inputs={"start": int})
    for task in tasks:
        name = names[task["id"]]
        needs = [names[parent] for parent in task["parents"]] or ["start"]
        pipeline.step(name=name)(_sleeping(seconds[name], needs))
    plan = compile_pipeline(pipeline)
    return Workflow(file.stem, plan, [seconds[step.name] for step in plan.steps])


def _sleeping(seconds: float, needs: list[str]) -> Callable[..., Any]:
    async def function(*_values: int) -> int:
        await trio.sleep(seconds)
        return 0

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature([inspect.Parameter(need, kind) for need in needs])
    function.__annotations__ = {"return": int}
    return function


# This engine


def by_engine(workflow: Workflow, slots: int, *, is_estimated: bool) -> float:
    """Run a graph on a new engine, which has learnt nothing yet, and return its makespan."""
    names = [step.name for step in workflow.plan.steps]
    estimates = dict(zip(names, workflow.seconds, strict=True)) if is_estimated else None

    async def main() -> float:
        async with Engine(capacity=slots) as engine:
            started = trio.current_time()
            result = await engine.run(workflow.plan, {"start": 0}, estimates=estimates)
            result.raise_for_failure()
            return trio.current_time() - started

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# Others


def path_seconds(followers: Followers, seconds: Sequence[float]) -> list[float]:
    """Return for each step the seconds of the longest path from its start to the end."""
    longest = list(seconds)
    for step in reversed(range(len(longest))):
        longest[step] += max((longest[follower] for follower in followers[step]), default=0.0)
    return longest


def needs_of(followers: Followers) -> list[list[int]]:
    needs: list[list[int]] = [[] for _ in followers]
    for step, after in enumerate(followers):
        for follower in after:
            needs[follower].append(step)
    return needs


def by_rank(
    followers: Followers, seconds: Sequence[float], slots: int, rank: Callable[[int, float], tuple[float, ...]]
) -> float:
    """Return the makespan if a free slot takes the smallest `rank(step, ready_at)` of what is ready."""
    missing = [len(before) for before in needs_of(followers)]
    ready = [(rank(step, 0.0), step) for step, needed in enumerate(missing) if not needed]
    ready.sort()
    running: list[tuple[float, int, int]] = []
    numbers = count()
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            step = heappop(ready)[1]
            heappush(running, (now + seconds[step], next(numbers), step))
        now, _, step = heappop(running)
        for follower in followers[step]:
            missing[follower] -= 1
            if not missing[follower]:
                heappush(ready, (rank(follower, now), follower))
    return now


def by_arrival(followers: Followers, seconds: Sequence[float], slots: int) -> float:
    """Return the makespan of first come, first served; among equals in the order of the file."""
    return by_rank(followers, seconds, slots, lambda _step, ready_at: (ready_at,))


def by_longest(followers: Followers, seconds: Sequence[float], slots: int) -> float:
    """Return the makespan if the longest remaining path goes first."""
    longest = path_seconds(followers, seconds)
    return by_rank(followers, seconds, slots, lambda step, _ready_at: (-longest[step],))


def by_level(followers: Followers, seconds: Sequence[float], slots: int) -> float:
    """Return the makespan if each level waits for the whole of the one before, as `gather` after `gather` does."""
    level = [0] * len(seconds)
    for step, after in enumerate(followers):
        for follower in after:
            level[follower] = max(level[follower], level[step] + 1)
    total = 0.0
    for number in range(max(level) + 1):
        busy_until = [0.0] * slots
        for step, its_level in enumerate(level):
            if its_level == number:
                heapreplace(busy_until, busy_until[0] + seconds[step])
        total += max(busy_until)
    return total


def by_heft(followers: Followers, seconds: Sequence[float], slots: int) -> float:
    """Return the makespan that HEFT plans on equal slots: by the longest path, into the earliest gap of any slot."""
    longest, needs = path_seconds(followers, seconds), needs_of(followers)
    ends = [0.0] * len(seconds)
    taken: list[list[tuple[float, float]]] = [[] for _ in range(slots)]
    for step in sorted(range(len(seconds)), key=lambda step: (-longest[step], step)):
        ready_at = max((ends[need] for need in needs[step]), default=0.0)
        start, slot = min((_gap(taken[slot], ready_at, seconds[step]), slot) for slot in range(slots))
        ends[step] = start + seconds[step]
        taken[slot].append((start, ends[step]))
        taken[slot].sort()
    return max(ends)


def _gap(taken: list[tuple[float, float]], ready_at: float, seconds: float) -> float:
    """Return the first instant from which on a slot is free for long enough."""
    edges = [(0.0, 0.0), *taken, (math.inf, math.inf)]
    for (_, free_from), (free_until, _) in pairwise(edges):
        start = max(free_from, ready_at)
        if start + seconds <= free_until:
            return start
    raise AssertionError("the last gap has no end")


# The table

BESIDE = {"fifo": by_arrival, "levels": by_level, "HEFT": by_heft, "longest": by_longest}
COLUMNS = ("estimates", "none", *BESIDE)


def makespans(workflow: Workflow, slots: int) -> dict[str, float]:
    """Return for each column how long the graph takes."""
    return {
        "estimates": by_engine(workflow, slots, is_estimated=True),
        "none": by_engine(workflow, slots, is_estimated=False),
        **{name: schedule(workflow.followers, workflow.seconds, slots) for name, schedule in BESIDE.items()},
    }


def geometric_mean(figures: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, figures)) / len(figures))


def _rows(workflows: list[Workflow]) -> Iterator[tuple[str, float, dict[str, float]]]:
    for workflow in workflows:
        for slots in SLOTS:
            yield f"{workflow.name}, {slots} slots", workflow.bound(slots), makespans(workflow, slots)


def main() -> None:
    folder = os.environ.get("PIPELINE_ENGINE_DATA")
    if not folder:
        print("\nworkflows: left out, because PIPELINE_ENGINE_DATA names no folder of recorded graphs")
        return
    rows = list(_rows(read_workflows(Path(folder) / "workflows")))
    shares = [(name, *(taken[column] / bound for column in COLUMNS)) for name, bound, taken in rows]
    means = [geometric_mean(column) for column in list(zip(*shares, strict=True))[1:]]
    print_table(
        "Makespan over its lower bound, virtual time: this engine with the true times as estimates and with none",
        ("", *COLUMNS),
        [(name, *(f"{figure:.3f}" for figure in figures)) for name, *figures in shares]
        + [("geometric mean", *(f"{mean:.3f}" for mean in means))],
    )

    def worst(of: str, *over: str) -> tuple[float, str]:
        return max((taken[of] / min(taken[name] for name in over), name) for name, _, taken in rows)

    over_fifo, over_planned, blind = (
        worst("estimates", "fifo"),
        worst("estimates", "HEFT", "longest"),
        worst("none", "fifo"),
    )
    blind_mean = means[COLUMNS.index("none")] / means[COLUMNS.index("fifo")]
    print_table(
        "Against the others",
        ("", "ratio", "target", "where"),
        [
            (
                "true times: worst, over first come first served",
                f"{over_fifo[0]:.3f}",
                judged(over_fifo[0], 1.05),
                over_fifo[1],
            ),
            (
                "true times: worst, over the better of HEFT and longest",
                f"{over_planned[0]:.3f}",
                judged(over_planned[0], 1.02),
                over_planned[1],
            ),
            ("no estimates: mean, over first come first served", f"{blind_mean:.3f}", judged(blind_mean, 1.02), ""),
            ("no estimates: worst, over first come first served", f"{blind[0]:.3f}", "", blind[1]),
        ],
    )


if __name__ == "__main__":
    main()
