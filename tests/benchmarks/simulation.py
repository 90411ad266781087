"""Simulated batches against a loop that only sleeps: seconds and memory on the same virtual clock, same latencies.

The loop is the least that a batch of five steps needs on trio: a task for each document, nurseries for the steps
of a level, `trio.sleep` for each step, one limiter for the slots and one for the documents in flight. It has no
queue, no policies, no models, no records and no result but the makespan. The simulation has all of them: the real
engine, retries and timeouts as the pipeline says, models with prices, and sums over all documents.

Each runs in fresh processes, taking turns. Run by name, with `python -m tests.benchmarks simulation`: it takes
about ten minutes. `python -m tests.benchmarks.simulation 0.1` has a look at a tenth of the documents.
"""

import json
import random
import resource
import subprocess
import sys
import time
from statistics import median

import trio

from pipeline_engine.simulation import VirtualClock, simulate
from tests.benchmarks.measuring import judged, load_averages, print_table

DOCUMENTS = 100_000
ROUNDS = 3
CAPACITY = 64
MEDIAN, P95 = 2.0, 8.0
MOST_TIMES, MOST_MEGABYTES = 3.0, 100.0
STEPS = 5


def by_sleeping(documents: int) -> float:
    """Return the makespan of the loop."""
    dice = random.Random(0)
    # The distribution that LogNormal(2, 8) is.
    mu, sigma = 0.6931471805599453, 0.8428058
    slots = trio.CapacityLimiter(CAPACITY)
    places = trio.CapacityLimiter(4 * CAPACITY)

    async def step() -> None:
        async with slots:
            await trio.sleep(dice.lognormvariate(mu, sigma))

    async def document(number: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(step)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(step)
        places.release_on_behalf_of(number)

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            for number in range(documents):
                await places.acquire_on_behalf_of(number)
                nursery.start_soon(document, number)
        return trio.current_time()

    return trio.run(main, clock=VirtualClock())


def by_simulation(documents: int) -> float:
    """Return the makespan of the document pipeline, simulated."""
    from pipelines.document import pipeline

    models = {"fast": "openai:gpt-4o-mini", "strong": "openai:gpt-4o"}
    latency = f"lognormal:{MEDIAN},{P95}"
    return simulate(pipeline, documents, latency=latency, tokens=(800, 200), models=models, capacity=CAPACITY).makespan


RUNS = {"loop": by_sleeping, "simulation": by_simulation}


def measured(name: str, documents: int) -> dict[str, float]:
    """Run one of them in a process of its own, and return what it took."""
    command = [sys.executable, "-m", "tests.benchmarks.simulation", name, str(documents)]
    told: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return told


def main(scale: float = 1.0) -> None:
    """Let both take turns.

    Args:
        scale: Which part of the documents is run: less than 1 for a look.
    """
    documents = int(DOCUMENTS * scale)
    rounds = [{name: measured(name, documents) for name in RUNS} for _ in range(ROUNDS)]
    rows = []
    for name in RUNS:
        seconds = [taken[name]["seconds"] for taken in rounds]
        megabytes = max(taken[name]["megabytes"] for taken in rounds)
        rows.append(
            (
                name,
                f"{median(seconds):.1f}",
                f"{min(seconds):.1f} to {max(seconds):.1f}",
                f"{median(seconds) / documents / STEPS * 1e6:.0f}",
                f"{megabytes:.0f}",
                f"{rounds[0][name]['makespan']:,.0f}",
            )
        )
    print_table(
        f"{documents:,} documents of five steps, each in a fresh process: CPU seconds, {ROUNDS} rounds in turns",
        ("", "median", "range", "us per step", "peak MB", "virtual s"),
        rows,
    )
    times = median(taken["simulation"]["seconds"] / taken["loop"]["seconds"] for taken in rounds)
    most = max(taken["simulation"]["megabytes"] for taken in rounds)
    print(f"  simulation over loop {times:.2f}, {judged(times, MOST_TIMES)}")
    print(f"  memory {most:.0f} MB, {judged(most, MOST_MEGABYTES)}")
    print(f"  load averages {load_averages()}")


def tell(name: str, documents: int) -> None:
    """Run one of them here, and print what it took."""
    RUNS[name](100)  # imports and first compilations
    started = time.process_time()
    makespan = RUNS[name](documents)
    seconds = time.process_time() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "makespan": makespan}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        tell(sys.argv[1], int(sys.argv[2]))
    else:
        main(*map(float, sys.argv[1:]))
