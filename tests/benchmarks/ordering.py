"""In which order work is done, on the virtual clock: exact instants, nothing here depends on the machine.

A batch of documents under few slots should end near the bound that no order can beat, the larger of the
longest critical path and of all work divided by the slots. And it should finish documents all along the
way rather than all of them at the end. Two probes look at single instants: a step starts with its own
needs, and a document that backs off holds no slot.
"""

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median

import trio
import trio.testing

from pipeline_engine import Document, Engine, Pipeline, Retry, current_step, iter_batch_async
from tests.benchmarks.measuring import judged, print_table

DOCUMENTS = 400
SLOTS = 16
SEEDS = (1, 2, 3)
USUAL_SECONDS = {"title": 1.0, "keywords": 1.5, "category": 1.0, "summary": 6.0, "quality": 2.0}
PROBE_SECONDS = {"title": 0.1, "keywords": 0.1, "category": 0.8, "summary": 0.1, "quality": 0.1}

Latencies = dict[tuple[str, str], float]
"""The seconds that each step of each document takes."""


def showcase(latencies: Latencies) -> Pipeline:
    """Return the document pipeline with steps that only take their time."""
    pipeline = Pipeline("document", inputs={"document": str})

    async def wait() -> str:
        context = current_step()
        await trio.sleep(latencies[context.document, context.step])
        return context.step

    @pipeline.step
    async def title(document: str) -> str:
        return await wait()

    @pipeline.step
    async def keywords(document: str) -> str:
        return await wait()

    @pipeline.step
    async def category(document: str) -> str:
        return await wait()

    @pipeline.step
    async def summary(document: str, title: str, keywords: str) -> str:
        return await wait()

    @pipeline.step
    async def quality(document: str, title: str, category: str) -> str:
        return await wait()

    return pipeline


def usual_latencies(seed: int) -> Latencies:
    """Draw latencies as models have them: most near the usual, a few much longer."""
    dice = random.Random(seed)
    return {
        (f"document-{number:03}", step): usual * dice.lognormvariate(0.0, 0.5)
        for number in range(DOCUMENTS)
        for step, usual in USUAL_SECONDS.items()
    }


def critical_path(latencies: Latencies, document: str) -> float:
    title, keywords, category, summary, quality = (latencies[document, step] for step in USUAL_SECONDS)
    return max(max(title, keywords) + summary, max(title, category) + quality)


async def finishing_times(pipeline: Pipeline, keys: list[str], slots: int) -> dict[str, float]:
    """Run documents as a batch and return when each one was finished."""

    async def documents() -> AsyncIterator[Document]:
        for key in keys:  # an async iterable, because a thread would let the virtual clock jump
            yield Document(key, {"document": key})

    started, finished = trio.current_time(), {}
    async with Engine(capacity=slots) as engine, iter_batch_async(pipeline, documents(), engine=engine) as results:
        async for result in results:
            result.raise_for_failure()
            finished[result.document] = trio.current_time() - started
    return finished


def on_virtual_clock(function: Callable[..., Awaitable[dict[str, float]]], *arguments: object) -> dict[str, float]:
    return trio.run(function, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))


def batch_rows(seed: int) -> list[tuple[object, ...]]:
    """Judge one batch: its makespan, its median document and its first one."""
    latencies = usual_latencies(seed)
    keys = list(dict.fromkeys(document for document, _ in latencies))
    finished = on_virtual_clock(finishing_times, showcase(latencies), keys, SLOTS)
    paths = {key: critical_path(latencies, key) for key in keys}
    bound = max(*paths.values(), sum(latencies.values()) / SLOTS)
    makespan = max(finished.values())
    late = makespan / bound
    middle = median(finished.values()) / makespan
    first = finished[keys[0]] / paths[keys[0]]
    return [
        (f"batch {seed}: makespan {makespan:.1f} s, of the bound", f"{late:.3f}", judged(late, 1.03)),
        (f"batch {seed}: median finish, of the makespan", f"{middle:.3f}", judged(middle, 0.6)),
        (f"batch {seed}: first document, of its critical path", f"{first:.3f}", judged(first, 3.0)),
    ]


async def starting_times() -> dict[str, float]:
    """Run one document with room for everything and return when each step started."""
    latencies = {("probe", step): seconds for step, seconds in PROBE_SECONDS.items()}
    async with Engine() as engine:
        trace = (await engine.run(showcase(latencies), {"document": "probe"}, key="probe")).trace
    return {span.step: span.started_at - trace.started_at for span in trace.steps if span.started_at is not None}


def flaky_pipeline() -> Pipeline:
    """Return one step of half a second that fails once for the first two documents, and then backs off a second."""
    pipeline = Pipeline("flaky", inputs={"document": str})

    @pipeline.step(retry=Retry(attempts=2, strategy="constant", base_delay=1.0, jitter="none"))
    async def call(document: str) -> str:
        await trio.sleep(0.5)
        if document in ("document-0", "document-1") and current_step().attempt == 1:
            raise ConnectionError(document)
        return document

    return pipeline


def main() -> None:
    rows: list[tuple[object, ...]] = []
    for seed in SEEDS:
        rows += batch_rows(seed)
    print_table(f"{DOCUMENTS} documents over {SLOTS} slots, virtual time", ("", "ratio", "target"), rows)

    starts = on_virtual_clock(starting_times)
    finished = on_virtual_clock(finishing_times, flaky_pipeline(), [f"document-{place}" for place in range(6)], 2)
    others = max(at for key, at in finished.items() if key not in ("document-0", "document-1"))
    probes = (
        ("readiness: summary starts while category still runs", starts["summary"], 0.1),
        ("readiness: quality starts with category's end", starts["quality"], 0.8),
        ("slots: the four others are done while two back off", others, 1.5),
        ("slots: everything is done", max(finished.values()), 2.0),
    )
    print_table(
        "Probes, virtual time in seconds",
        ("", "seconds", "target"),
        [(name, f"{at:.3f}", f"{target:.3f} {_word(at, target)}") for name, at, target in probes],
    )


def _word(at: float, target: float) -> str:
    return "met" if math.isclose(at, target, abs_tol=1e-9) else "MISSED"
