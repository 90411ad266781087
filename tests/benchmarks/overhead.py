"""What the engine adds to a step that does nothing, against hand-written trio and Apache Hamilton.

The five steps of the document pipeline return a dict that is validated into a model of two fields. The plan
is compiled and the engine open; measured is the CPU time from handing in a document to reading its result,
with the run's records kept for its trace. "Bare" is a nursery per level and nothing else; "equipped" has
the limit, timeout, validation and clock readings that the engine has. Hamilton validates nothing.
"""

import asyncio  # noqa: TID251 - Hamilton runs on it
import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from pipeline_engine import Engine, Pipeline, Timeout
from tests.benchmarks import document_dag
from tests.benchmarks.by_hand import Equipped, run_bare
from tests.benchmarks.document_dag import category, keywords, quality, summary, title
from tests.benchmarks.measuring import cpu_seconds, in_turns, judged, print_table

CAPACITY = 10_000
TIMEOUT = 60.0
STEPS = 5
DOCUMENT = "A short document, the same for everybody. " * 5

RunDocument = Callable[[str], Awaitable[Any]]
"""Runs one document and returns a result that has its steps by name."""


def document_pipeline(timeout: float | None) -> Pipeline:
    pipeline = Pipeline("document", inputs={"document": str})
    for function in (title, keywords, category, summary, quality):
        pipeline.step(timeout=Timeout(attempt=timeout))(function)
    return pipeline


def with_engine(documents: int, at_once: int, timeout: float | None) -> float:
    async def measured() -> float:
        async with Engine(capacity=CAPACITY) as engine:
            plan = engine.bind(document_pipeline(timeout)).plan
            return await _measured(lambda document: engine.run(plan, {"document": document}), documents, at_once)

    return trio.run(measured)


def by_hand(documents: int, at_once: int) -> float:
    return trio.run(_measured, run_bare, documents, at_once)


def by_hand_equipped(documents: int, at_once: int, timeout: float | None) -> float:
    return trio.run(_measured, Equipped(CAPACITY, timeout).run, documents, at_once)


async def _measured(run: RunDocument, documents: int, at_once: int) -> float:
    """Return the microseconds of CPU time that each step took."""

    async def run_one() -> None:
        result = await run(DOCUMENT)
        result["summary"], result["quality"]

    await run_one()
    started = cpu_seconds()
    if at_once == 1:
        for _ in range(documents):
            await run_one()
    else:
        for _ in range(documents // at_once):
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(run_one)
    return (cpu_seconds() - started) / (documents * STEPS) * 1e6


def hamilton(documents: int, at_once: int) -> float:
    """Run Hamilton's async driver in its quickest setting: no adapters, no telemetry, a dict as its result."""
    os.environ["HAMILTON_TELEMETRY_ENABLED"] = "false"
    from hamilton import async_driver, base

    async def measured() -> float:
        driver = async_driver.AsyncDriver({}, document_dag, result_builder=base.DictResult())
        await driver.ainit()

        async def run_one() -> None:
            result = await driver.execute(["summary", "quality"], inputs={"document": DOCUMENT})
            result["summary"], result["quality"]

        await run_one()
        started = cpu_seconds()
        if at_once == 1:
            for _ in range(documents):
                await run_one()
        else:
            for _ in range(documents // at_once):
                await asyncio.gather(*(run_one() for _ in range(at_once)))
        return (cpu_seconds() - started) / (documents * STEPS) * 1e6

    return asyncio.run(measured())


def _has_hamilton() -> bool:
    from importlib.util import find_spec

    return find_spec("hamilton") is not None


def main() -> None:
    growth: dict[str, list[float]] = {}
    for documents, at_once in ((1_000, 1), (3_000, 1_000), (10_000, 10_000)):
        contenders: dict[str, Callable[[], float]] = {
            "by hand, bare": lambda d=documents, n=at_once: by_hand(d, n),
            "by hand, equipped": lambda d=documents, n=at_once: by_hand_equipped(d, n, None),
            "engine": lambda d=documents, n=at_once: with_engine(d, n, None),
            "by hand, equipped, with a timeout": lambda d=documents, n=at_once: by_hand_equipped(d, n, TIMEOUT),
            "engine, with a timeout": lambda d=documents, n=at_once: with_engine(d, n, TIMEOUT),
        }
        if at_once < 10_000 and _has_hamilton():
            contenders["Hamilton"] = lambda d=documents, n=at_once: hamilton(d // 2 if n == 1 else n, n)
        timings = in_turns(contenders)
        bare = timings["by hand, bare"]
        rows = []
        for name, timing in timings.items():
            growth.setdefault(name, []).append(timing.median)
            alike, target = "", ""
            if name.startswith("engine"):
                equipped = timings[name.replace("engine", "by hand, equipped")]
                alike = timing / equipped
                targets = [f"equipped {judged(alike, 1.2)}"] if at_once < 10_000 else []
                if at_once < 10_000:
                    targets.append(f"bare {judged(timing / bare, 2.0 if at_once == 1 else 1.5)}")
                if "Hamilton" in timings:
                    targets.append(f"Hamilton {judged(timing / timings['Hamilton'], 1.0)}")
                target = ", ".join(targets)
            rows.append((name, timing.median, timing.best, timing / bare, alike, target))
        print_table(
            f"Document pipeline, no-op steps, {at_once:,} document{'s' * (at_once > 1)} at once: CPU us per step",
            ("", "median", "best", "x bare", "x equipped alike", "targets"),
            rows,
        )
    _print_growth(growth)


def _print_growth(growth: dict[str, list[float]]) -> None:
    _, bare_1_000, bare_10_000 = growth["by hand, bare"]
    rows = []
    for name, costs in growth.items():
        if len(costs) == 3:
            grown = costs[2] / costs[1]
            against = grown / (bare_10_000 / bare_1_000)
            rows.append((name, grown, against, judged(against, 1.25) if name.startswith("engine") else ""))
    print_table("Growth of the cost per step from 1,000 to 10,000 documents at once", ("", "x", "x bare's", ""), rows)
