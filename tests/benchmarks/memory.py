"""What a document in flight weighs: 10,000 of them, their five steps parked, each in a fresh process.

Measured is the growth of the resident set from the first documents to all of them. By hand, a document is
a nursery with five tasks, each under the same timeout. A step that waits for a slot has no task and no
timeout of its own, so a queued document is much lighter than one on the wire.
"""

import gc
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median

import trio
import trio.testing

from pipeline_engine import Engine, Pipeline, Timeout
from tests.benchmarks.measuring import judged, print_table

DOCUMENTS = 10_000
STEPS = 5
TIMEOUT = 3600.0
PROCESSES = 3


async def park(document: str) -> int:
    await trio.sleep_forever()
    raise AssertionError("nobody wakes it")


def parked_pipeline(timeout: float | None) -> Pipeline:
    pipeline = Pipeline("parked", inputs={"document": str})
    for place in range(STEPS):
        pipeline.step(name=f"step_{place}", timeout=Timeout(attempt=timeout))(park)
    return pipeline


async def by_hand(timeout: float | None) -> float:
    async def step(results: dict[int, int], place: int, document: str) -> None:
        if timeout is None:
            results[place] = await park(document)
        else:
            with trio.move_on_after(timeout):
                results[place] = await park(document)

    async def run(document: str) -> None:
        results: dict[int, int] = {}
        async with trio.open_nursery() as nursery:
            for place in range(STEPS):
                nursery.start_soon(step, results, place, document)

    return await kilobytes_each(run)


async def on_engine(timeout: float | None, capacity: int, keeps_records: bool) -> float:
    async with Engine(capacity=capacity) as engine:
        bound = engine.bind(parked_pipeline(timeout))

        async def run(document: str) -> None:
            await engine.run_bound(bound, {"document": document}, key=document, keeps_records=keeps_records)

        return await kilobytes_each(run)


async def kilobytes_each(run: Callable[[str], Awaitable[None]]) -> float:
    """Start all documents, and return by how much each of them made the process grow."""
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(run, f"warm-up {number}")
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        before = resident_kilobytes()
        for number in range(DOCUMENTS):
            nursery.start_soon(run, f"document {number}")
        await trio.testing.wait_all_tasks_blocked()
        grown = resident_kilobytes() - before
        nursery.cancel_scope.cancel()
    return grown / DOCUMENTS


def resident_kilobytes() -> float:
    """Return this process's resident set, as Linux tells it."""
    for entry in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if entry.startswith("VmRSS:"):
            return float(entry.split()[1])
    raise OSError("/proc/self/status has no VmRSS")


ON_THE_WIRE = STEPS * (DOCUMENTS + 200)

CASES: dict[str, Callable[[], Awaitable[float]]] = {
    "by hand, with a timeout": partial(by_hand, TIMEOUT),
    "engine, with a timeout": partial(on_engine, TIMEOUT, ON_THE_WIRE, False),
    "engine, with a timeout, records kept": partial(on_engine, TIMEOUT, ON_THE_WIRE, True),
    "by hand": partial(by_hand, None),
    "engine": partial(on_engine, None, ON_THE_WIRE, False),
    "engine, records kept": partial(on_engine, None, ON_THE_WIRE, True),
    "engine, waiting for a slot": partial(on_engine, TIMEOUT, 1, False),
}


def main() -> None:
    if not Path("/proc/self/status").exists():
        print("\nmemory: skipped, it reads the resident set from Linux' /proc.")
        return
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(PROCESSES):
        for name in CASES:
            command = [sys.executable, "-m", "tests.benchmarks.memory", name]
            reply = subprocess.run(command, capture_output=True, text=True, check=True)
            taken[name].append(float(reply.stdout))
    rows = []
    for name, kilobytes in taken.items():
        alike = "by hand, with a timeout" if "timeout" in name or "slot" in name else "by hand"
        ratio = median(kilobytes) / median(taken[alike])
        is_target = name == "engine, with a timeout"
        rows.append((name, median(kilobytes), ratio, judged(ratio, 1.3) if is_target else ""))
    title = f"{DOCUMENTS:,} documents in flight, {STEPS} steps parked in each, fresh processes: KB per document"
    print_table(title, ("", "KB", "x by hand", "target"), rows)


if __name__ == "__main__":
    print(trio.run(CASES[sys.argv[1]]))
