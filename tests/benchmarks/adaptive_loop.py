"""Whether `Limits(adaptive=True)` finds what a server bears, follows it, and how much it is refused: in virtual time.

The whole engine, and a server that refuses each call beyond its capacity: after 50 ms, with a 429 and no
hint. Its calls take two seconds, and there are more documents than it can serve for 20 minutes. In half of
the rows its capacity is halved at minute 7 and doubled at minute 14. The limit may be 20 % off (or one), and less
than 2 % of the calls may be refused. `python -m tests.benchmarks.adaptive_loop --long` adds a server that bears
512: two minutes and more of processor time.
"""

import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import trio
import trio.testing

from pipeline_engine import Completion, Document, Engine, Limits, Pipeline, RateLimitError, iter_batch_async
from pipeline_engine.values import LimitChanged, Record, Request, RunStarted
from tests.benchmarks.measuring import print_table

CAPACITIES = (8, 32, 128)
LONG_CAPACITY = 512
SLOTS = 1_024
MINUTES = 20
HALVED_AT, DOUBLED_AT = 7 * 60.0, 14 * 60.0
CALL_SECONDS = 2.0
REFUSAL_SECONDS = 0.05
MOST_OFF = 0.2
MOST_REFUSED = 0.02

pipeline = Pipeline("titles", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return document


class Server:
    """Answer after two seconds, or refuse what is beyond the capacity of the moment."""

    name = "simulated:server"
    limits = Limits(adaptive=True)

    def __init__(self, capacity: Callable[[float], int], spread: float) -> None:
        self.calls = self.refused = self.busy = 0
        self._capacity = capacity
        self._spread = spread
        self._dice = random.Random(1)

    async def complete(self, request: Request) -> Completion:
        self.calls += 1
        if self.busy >= self._capacity(trio.current_time()):
            self.refused += 1
            await trio.sleep(REFUSAL_SECONDS)
            raise RateLimitError("is busy.", model=self.name, kind="rate_limited", status=429)
        self.busy += 1
        try:
            await trio.sleep(CALL_SECONDS * self._dice.uniform(1 - self._spread, 1 + self._spread))
        finally:
            self.busy -= 1
        return Completion("A title")


class Changes:
    """Keep the instants at which the limit has moved."""

    def __init__(self) -> None:
        self.limits: list[tuple[float, int]] = [(0.0, 1)]

    def open_run(self, started: RunStarted) -> Callable[[Record], None]:
        return self._read

    def _read(self, record: Record) -> None:
        if isinstance(record, LimitChanged):
            self.limits.append((record.at, record.limit))


@dataclass(frozen=True)
class Phase:
    """A stretch of time in which a server bears the same."""

    capacity: int
    since: float
    until: float


@dataclass(frozen=True)
class Found:
    """What became of the limit in one phase."""

    after: float | None
    """Seconds until it was within 20 % and stayed there for half a minute; None if it never did."""
    within: float
    """The share of time from then on in which it was."""
    mean: float
    """Of the limit over the capacity, from then on."""


def found_in(phase: Phase, limits: Sequence[tuple[float, int]]) -> Found:
    """Judge the limit in one phase."""
    spans = [
        (max(since, phase.since), min(until, phase.until), limit)
        for (since, limit), (until, _) in pairwise([*limits, (phase.until, 0)])
        if since < phase.until and until > phase.since
    ]
    most_off = max(1.0, MOST_OFF * phase.capacity)  # limits are whole: of 4, 20 % would be none
    since = None
    for begin, _, limit in spans:
        if abs(limit - phase.capacity) > most_off:
            since = None
        elif since is None:
            since = begin
        if since is not None and begin - since > 30:
            break
    if since is None:
        return Found(None, 0.0, 0.0)
    later = [(until - begin, limit) for begin, until, limit in spans if begin >= since]
    seconds = sum(length for length, _ in later)
    within = sum(length for length, limit in later if abs(limit - phase.capacity) <= most_off)
    mean = sum(length * limit for length, limit in later)
    return Found(since - phase.since, within / seconds, mean / seconds / phase.capacity)


def run(phases: Sequence[Phase], spread: float) -> tuple[Server, Changes, float]:
    """Ask a server for 20 minutes; return it, the limit's changes, and the processor time it took."""
    began = time.process_time()

    def capacity(now: float) -> int:
        return next(phase.capacity for phase in phases if now < phase.until)

    server, changes = Server(capacity, spread), Changes()

    async def documents() -> AsyncIterator[Document]:
        for number in count():
            yield Document(f"{number}", {"document": f"Document {number}"})

    async def main() -> None:
        async with (
            Engine(models={"fast": server}, capacity=SLOTS, seed=1, sinks=[changes]) as engine,
            iter_batch_async(pipeline, documents(), engine=engine, timeout=MINUTES * 60.0 - 0.001) as results,
        ):
            async for _ in results:
                pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return server, changes, time.process_time() - began


def steady(capacity: int) -> list[Phase]:
    return [Phase(capacity, 0.0, MINUTES * 60.0)]


def changing(capacity: int) -> list[Phase]:
    return [
        Phase(capacity, 0.0, HALVED_AT),
        Phase(capacity // 2, HALVED_AT, DOUBLED_AT),
        Phase(capacity, DOUBLED_AT, MINUTES * 60.0),
    ]


def rows_of(name: str, phases: Sequence[Phase], spread: float = 0.0) -> list[tuple[object, ...]]:
    """Run one server; return a row for each of its phases, with the figures of the whole run in the first one."""
    server, changes, cpu = run(phases, spread)
    refused = server.refused / server.calls
    rows: list[tuple[object, ...]] = []
    for number, phase in enumerate(phases):
        found = found_in(phase, changes.limits)
        off = 1 - found.within
        rows.append(
            (
                name if not number else f"  then {phase.capacity}",
                "never" if found.after is None else f"{found.after:.1f}",
                f"{found.within:.1%}",
                f"{found.mean:.3f}",
                "met" if off <= 0.01 else "MISSED",
                *(
                    (f"{server.calls:,}", f"{refused:.2%}", "met" if refused < MOST_REFUSED else "MISSED", f"{cpu:.0f}")
                    if not number
                    else ("", "", "", "")
                ),
            )
        )
    return rows


def main(arguments: Sequence[str] = ()) -> None:
    capacities = (*CAPACITIES, LONG_CAPACITY) if "--long" in arguments else CAPACITIES
    rows: list[tuple[object, ...]] = []
    for capacity in capacities:
        rows += rows_of(f"bears {capacity}", steady(capacity))
    for capacity in capacities:
        rows += rows_of(f"bears {capacity}, halved, doubled", changing(capacity))
    for capacity in (32, 128):
        rows += rows_of(f"bears {capacity}, calls of 1 to 3 s", steady(capacity), 0.5)
    header = (
        "",
        "found after, s",
        "then within 20 %",
        "mean / borne",
        "",
        "calls",
        "refused",
        f"< {MOST_REFUSED:.0%}",
        "CPU s",
    )
    print_table(f"Adaptive limit of {SLOTS:,} at most, {MINUTES} virtual minutes", header, rows)
    print(f"  Load averages {', '.join(f'{load:.2f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main(sys.argv[1:])
