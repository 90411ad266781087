"""Batches without an end in sight: what a million documents leave behind in memory, without a journal and with one.

Each batch has documents of one step, made one by one by a generator, and runs in a fresh process. The resident
set is read whenever another hundredth of the documents was taken. A batch that keeps something of each document
grows to its end; one that keeps only what is in flight is as large there as at its tenth part.

Run by name, with `make endless`: a million documents take a quarter of an hour, and the journal grows to 500 MB.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from pipeline_engine import Completion, Document, Engine, Pipeline, Usage, run_batch_async
from pipeline_engine.values import Request
from tests.benchmarks.measuring import describe_disk, judged, load_averages, print_table

CASES = {"no journal": 1_000_000, "SQLite, FULL": 200_000}
MOST_GROWTH = 1.1
SHOWN = (1, 10, 25, 50, 75, 100)
"""Which hundredths of a batch are shown."""
CAPACITY = 64
TEXT = "A document of some length, which nobody reads. " * 20

pipeline = Pipeline("endless", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return f"Give this document a short factual title.\n\n{document}"


class Quick:
    """Answer in the next turn of the loop, and keep nothing."""

    name = "simulated:quick"

    async def complete(self, request: Request) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion("A title", usage=Usage(300, 5))


def resident_megabytes() -> float:
    """Return this process's resident set, as Linux tells it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def documents(number: int, samples: list[float]) -> Iterator[Document]:
    """Yield documents, and take a sample of memory at each hundredth of them."""
    for place in range(number):
        yield Document(f"document-{place}", {"document": f"{place} {TEXT}"})
        if (place + 1) % (number // 100) == 0:
            samples.append(resident_megabytes())


def run(case: str, number: int, folder: Path) -> dict[str, object]:
    """Run a batch and return what it took."""
    samples: list[float] = []
    journal = None if case == "no journal" else folder / "endless.db"

    async def batch() -> float:
        async with Engine(models={"fast": Quick()}, capacity=CAPACITY) as engine:
            started = time.perf_counter()
            result = await run_batch_async(pipeline, documents(number, samples), engine=engine, journal=journal)
            if result.counts != {"completed": number}:
                raise AssertionError(result.counts)
            return time.perf_counter() - started

    seconds = trio.run(batch)
    size = sum(file.stat().st_size for file in folder.glob("endless.db*")) / 1e6
    return {"samples": samples, "seconds": seconds, "cpu": time.process_time(), "journal": size}


def main(scale: float = 1.0) -> None:
    """Run all cases, each in a process of its own.

    Args:
        scale: Which part of the documents is run: less than 1 for a look.
    """
    if not Path("/proc/self/statm").exists():
        print("\nendless: skipped, it reads the resident set from Linux' /proc.")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        print(f"\njournals lie on {describe_disk(Path(folder))}")
        for case, all_of_them in CASES.items():
            number = int(all_of_them * scale)
            command = [sys.executable, "-m", "tests.benchmarks.endless", case, str(number), folder]
            reply = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            told = json.loads(reply.stdout)
            samples = told["samples"]
            growth = samples[99] / samples[9]
            rows.append(
                (
                    f"{case}, {number:,}",
                    *(f"{samples[place - 1]:.0f}" for place in SHOWN),
                    f"{max(samples):.0f}",
                    f"{growth:.3f}",
                    judged(growth, MOST_GROWTH),
                    f"{number / told['seconds']:,.0f}",
                    f"{told['cpu'] / number * 1e6:.0f}",
                    f"{told['journal']:.0f}",
                )
            )
    print_table(
        "Documents of one step from a generator, each batch in a fresh process: resident MB after each part of them",
        ("", *(f"{place} %" for place in SHOWN), "most", "100/10", "target", "docs/s", "CPU us", "journal, MB"),
        rows,
    )
    print(f"  load averages {load_averages()}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main(*map(float, sys.argv[1:]))
