"""What the engine adds to a step that does nothing, against hand-written trio and Apache Hamilton.

The five steps of the document pipeline return a dict that is validated into a model of two fields. The plan
is compiled and the engine open; measured is the CPU time from handing in a document to reading its result,
with the run's records kept for its trace. "Bare" is a nursery per level and nothing else; "equipped" has
the limit, timeout, validation and clock readings that the engine has. Hamilton validates nothing.
"""

import asyncio  # noqa: TID251 - Hamilton runs on it
import os
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import trio

from pipeline_engine import Engine, Pipeline, Timeout
from tests.benchmarks import document_dag
from tests.benchmarks.by_hand import Equipped, run_bare
from tests.benchmarks.document_dag import category, keywords, quality, summary, title
from tests.benchmarks.measuring import Timing, cpu_seconds, in_turns, judged, print_table

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


def main() -> None:
    growth: dict[str, list[float]] = {}
    for documents, at_once in ((1_000, 1), (5_000, 1_000), (10_000, 10_000)):
        contenders: dict[str, Callable[[], float]] = {
            "by hand, bare": partial(by_hand, documents, at_once),
            "by hand, equipped": partial(by_hand_equipped, documents, at_once, None),
            "engine": partial(with_engine, documents, at_once, None),
            "by hand, equipped, with a timeout": partial(by_hand_equipped, documents, at_once, TIMEOUT),
            "engine, with a timeout": partial(with_engine, documents, at_once, TIMEOUT),
        }
        timings = in_turns(contenders)
        for name, timing in timings.items():
            growth.setdefault(name, []).append(timing.median)
        _print_overhead(timings, at_once)
    _print_growth(growth)
    if find_spec("hamilton") is None:
        print("\nApache Hamilton is not installed: skipped")
        return
    # At the end, because the libraries it loads make the collector slower for everybody.
    for documents, at_once in ((500, 1), (2_000, 1_000)):
        contenders = {
            "by hand, bare": partial(by_hand, documents, at_once),
            "engine, with a timeout": partial(with_engine, documents, at_once, TIMEOUT),
            "Hamilton": partial(hamilton, documents, at_once),
        }
        _print_hamilton(in_turns(contenders), at_once)


def _print_overhead(timings: dict[str, Timing], at_once: int) -> None:
    bare, rows = timings["by hand, bare"], []
    for name, timing in timings.items():
        alike: float | str = ""
        targets = ""
        if name.startswith("engine"):
            alike = timing / timings[name.replace("engine", "by hand, equipped")]
            if at_once <= 1_000:
                against_bare = judged(timing / bare, 2.0 if at_once == 1 else 1.5)
                targets = f"bare {against_bare}, equipped {judged(alike, 1.2)}"
        rows.append((name, timing.median, timing.best, timing / bare, alike, targets))
    title = f"Document pipeline, no-op steps, {_documents(at_once)}: CPU us per step"
    print_table(title, ("", "median", "best", "x bare", "x equipped alike", "targets"), rows)


def _print_growth(growth: dict[str, list[float]]) -> None:
    _, bare_1_000, bare_10_000 = growth["by hand, bare"]
    rows = []
    for name, (_, at_1_000, at_10_000) in growth.items():
        grown = at_10_000 / at_1_000
        against = grown / (bare_10_000 / bare_1_000)
        rows.append((name, grown, against, judged(against, 1.25) if name.startswith("engine") else ""))
    title = "Growth of the cost per step from 1,000 to 10,000 documents at once"
    print_table(title, ("", "x", "x bare's", "target"), rows)


def _print_hamilton(timings: dict[str, Timing], at_once: int) -> None:
    bare, peer = timings["by hand, bare"], timings["Hamilton"]
    rows = [
        (name, timing.median, timing / bare, timing / peer, judged(timing / peer, 1.0) if "engine" in name else "")
        for name, timing in timings.items()
    ]
    title = f"The same against Apache Hamilton's async driver, {_documents(at_once)}: CPU us per step"
    print_table(title, ("", "median", "x bare", "x Hamilton", "target"), rows)


def _documents(at_once: int) -> str:
    return "one document at a time" if at_once == 1 else f"{at_once:,} documents at once"
