"""How much of their bound batches use that meet failures: of slots, of requests or of tokens a minute; in virtual time.

Replies take as long as real ones did (`traces/cassette_latency.csv`, OpenAI's whole replies: half a second to
minutes), and requests and replies are as large as real ones were (`traces/azure_2023_conv_10k.csv`). Of all
calls 5 % fail: with a 500, by never answering, and a few with a 429 that asks for 1 to 5 seconds, after which
its model cools down for everybody. Measured is what was used from the first saturation to the start of
the last document's first call, divided by what the bound allows there. Seconds in which the model was told to cool down
are taken out; what a rate saves up meanwhile, its burst, is not. The data come from the folder that
PIPELINE_ENGINE_DATA names.
"""

import csv
import math
import os
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

import trio
import trio.testing

from pipeline_engine import (
    Completion,
    Document,
    Engine,
    Limits,
    Pipeline,
    Policy,
    RateLimitError,
    Retry,
    Timeout,
    UnavailableError,
    Usage,
    iter_batch_async,
)
from pipeline_engine.values import AttemptStarted, CooldownStarted, QueueLeft, Record, Request, current_step
from pipelines.document import Title
from pipelines.document import pipeline as five_steps
from tests.benchmarks.measuring import print_table

__all__ = ["Measured", "Traffic", "measure"]

CALLS = {10: 4_000, 32: 4_000, 100: 6_000, 320: 10_000, 1_000: 24_000}
"""For each number of slots, how many calls a batch comes to: minutes of virtual time, and the ramp takes seconds."""
LEAST_SHARE = 0.95
FAILING = 0.05
"""The share of calls that fail."""
HANGING = 0.005
"""The share of those that never answer: each holds its slot until its attempt times out, as long as 18 others."""
THROTTLED = 0.1
"""The share of refusals for rate times the slots, but never more than 1 % of the calls. A model is asked some 0.3
times a second for each slot and cools down for 3 seconds after each refusal: so it cools a tenth of the time."""
BOUND_SHARE = 0.5
"""The share of what the slots would do that a binding rate allows."""
BURST_SECONDS = 10
"""Of tokens: with the minute that is the default, most of a short run would live on the burst."""
ANSWERS = {
    "title": '{"text":"A title"}',
    "keywords": '{"items":["tea","water"]}',
    "category": '{"label":"report"}',
    "summary": '{"text":"A summary."}',
    "quality": '{"score":0.5}',
}
FILLING = "words " * 20_000
CHARACTERS_PER_TOKEN = (3.4, 4.8)

Binding = Literal["slots", "requests", "tokens"]
Pair = tuple[float, float]

one_step = Pipeline(
    "title",
    inputs={"document": str},
    policy=Policy(retry=Retry(attempts=4), timeout=Timeout(attempt=60, step=300)),
)


@one_step.llm("fast", Title)
def title(document: str) -> str:
    return f"Give this document a short factual title.\n\n{document[:8000]}"


PIPELINES: dict[str, tuple[Pipeline, int, float]] = {"five steps": (five_steps, 5, 0.8), "one step": (one_step, 1, 1.0)}
"""For each pipeline how many calls a document takes, and which share of them goes to the model that is bound."""


@dataclass(frozen=True)
class Traffic:
    """What calls take and how large they are, as they were recorded."""

    seconds: list[float]
    tokens: list[tuple[int, int]]
    """Of requests and of their replies."""

    @classmethod
    def read(cls, folder: Path) -> "Traffic":
        """Read the traces of a data folder."""
        latencies = _rows(folder / "traces" / "cassette_latency.csv")
        sizes = _rows(folder / "traces" / "azure_2023_conv_10k.csv")
        return cls(
            [
                float(row["server_ms"]) / 1000
                for row in latencies
                if row["provider"] == "openai" and row["mode"] == "json"
            ],
            [(int(row["input_tokens"]), int(row["output_tokens"])) for row in sizes],
        )

    @property
    def mean_seconds(self) -> float:
        """How long a call holds its slot on average, if it times out after a minute."""
        return (1 - HANGING) * fmean(min(second, 60.0) for second in self.seconds) + HANGING * 60.0

    @property
    def mean_tokens(self) -> float:
        """How many tokens a call of the bound model uses on average."""
        asked = fmean(min(asked, 8000 / 4.1) for asked, _ in self.tokens)
        return asked + fmean(replied for _, replied in self.tokens)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@dataclass
class Load:
    """What the servers of a run see together."""

    slots: int
    in_flight: int = 0
    saturated_at: float = math.inf


class Server:
    """A model whose calls are drawn from the recorded ones, and fail now and then."""

    def __init__(self, name: str, traffic: Traffic, load: Load, seed: int, limits: Limits | None = None) -> None:
        self.name = name
        self.limits = limits
        self.calls: list[tuple[float, float, int]] = []
        """Of each call its start, its end, and the tokens it was billed for."""
        self._traffic = traffic
        self._load = load
        self._dice = random.Random(seed)
        self._throttled = min(0.01, THROTTLED / load.slots)

    async def complete(self, request: Request) -> Completion:
        load, dice = self._load, self._dice
        started = trio.current_time()
        load.in_flight += 1
        if load.in_flight == load.slots:
            load.saturated_at = min(load.saturated_at, started)
        billed = 0
        try:
            fate = dice.random()
            seconds = dice.choice(self._traffic.seconds)
            if fate < self._throttled:
                await trio.sleep(0.05)
                asked_for = dice.uniform(1.0, 5.0)
                raise RateLimitError(
                    "is busy.", model=self.name, kind="rate_limited", status=429, retry_after=asked_for
                )
            if fate < HANGING:
                await trio.sleep_forever()
            await trio.sleep(seconds)
            if fate < FAILING:
                raise UnavailableError("is down.", model=self.name, kind="server", status=500)
            asked = round(len(request.messages[-1].text) / dice.uniform(*CHARACTERS_PER_TOKEN))
            replied = dice.choice(self._traffic.tokens)[1]
            billed = asked + replied
            return Completion(ANSWERS[current_step().step], usage=Usage(asked, replied))
        finally:
            load.in_flight -= 1
            self.calls.append((started, trio.current_time(), billed))


@dataclass(frozen=True)
class Measured:
    """What a batch has used of its bound."""

    share: float
    calls: int
    seconds: float
    """Virtual ones, from the first saturation to the last document's first call."""
    cooling: float
    """The part of them in which the bound model was told to cool down."""
    cooldowns: int
    completed: float
    """The share of documents that completed."""
    cpu: float = field(compare=False)
    """Processor seconds."""


def limits_of(traffic: Traffic, slots: int, binding: Binding, share_of_calls: float) -> Limits | None:
    """Return what binds a model at half of what the slots would let it do."""
    per_minute = BOUND_SHARE * share_of_calls * slots / traffic.mean_seconds * 60
    if binding == "requests":
        return Limits(rpm=per_minute)
    if binding == "tokens":
        tokens = per_minute * traffic.mean_tokens
        return Limits(tpm=tokens, burst_tokens=max(tokens / 60 * BURST_SECONDS, 20_000))
    return None


def measure(traffic: Traffic, name: str, binding: Binding, slots: int, calls: int, seed: int = 1) -> Measured:
    """Run one batch on the virtual clock and return what it has used of its bound."""
    began = time.process_time()
    pipeline, calls_each, share_of_calls = PIPELINES[name]
    limits = limits_of(traffic, slots, binding, share_of_calls)
    load = Load(slots)
    fast = Server("simulated:fast", traffic, load, seed, limits)
    strong = Server("simulated:strong", traffic, load, seed + 1)
    models = {"fast": fast, "strong": strong} if calls_each > 1 else {"fast": fast}
    records: list[CooldownStarted | QueueLeft] = []
    first_calls: list[float] = []
    statuses: list[str] = []

    async def documents() -> AsyncIterator[Document]:
        dice = random.Random(seed + 2)
        for number in range(calls // calls_each):
            characters = 4 * dice.choice(traffic.tokens)[0]
            yield Document(f"{number}", {"document": f"{number} {FILLING[:characters]}"})

    async def run() -> None:
        async with (
            Engine(models=models, capacity=slots, seed=seed) as engine,
            iter_batch_async(pipeline, documents(), engine=engine) as results,
        ):
            async for result in results:
                statuses.append(result.status)
                first_calls.append(next(record.at for record in result.records if isinstance(record, AttemptStarted)))
                records.extend(record for record in result.records if isinstance(record, CooldownStarted | QueueLeft))

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    end = max(first_calls)
    start = load.saturated_at if binding == "slots" else _first_wait(records, binding)
    told = [record for record in records if isinstance(record, CooldownStarted) and record.model == fast.name]
    cooled = _within(_united((record.at, record.until) for record in told), start, end)
    cooling = sum(until - since for since, until in cooled)
    every = fast.calls + strong.calls
    if binding == "slots":
        windows = _between(cooled, start, end)
        used = sum(_overlap(windows, [(begun, ended) for begun, ended, _ in every]))
        bound = slots * (end - start - cooling)
    elif limits is not None and limits.rpm is not None:
        used = sum(start <= begun < end for begun, _, _ in fast.calls)
        bound = _allowed(limits.rpm / 60, limits.requests_at_once, cooled, start, end)
    elif limits is not None and limits.tpm is not None:
        used = sum(billed for begun, _, billed in fast.calls if start <= begun < end)
        bound = _allowed(limits.tpm / 60, limits.tokens_at_once, cooled, start, end)
    else:
        raise AssertionError("a rate that binds was set")
    return Measured(
        share=used / bound,
        calls=len(every),
        seconds=end - start,
        cooling=cooling / (end - start),
        cooldowns=len(told),
        completed=statuses.count("completed") / len(statuses),
        cpu=time.process_time() - began,
    )


def _first_wait(records: Sequence[Record], binding: Binding) -> float:
    """Return when the first call went that had to wait for what binds."""
    return min(
        record.at
        for record in records
        if isinstance(record, QueueLeft) and any(cause == binding for cause, _ in record.waits)
    )


def _allowed(rate: float, burst: float, cooled: Sequence[Pair], start: float, end: float) -> float:
    """Return what a rate gives while nothing cools, with what it has saved up in each cool-down."""
    saved = sum(min(burst, rate * (until - since)) for since, until in cooled)
    return rate * (end - start - sum(until - since for since, until in cooled)) + saved


def _united(spans: Iterable[Pair]) -> list[Pair]:
    """Return spans that overlap as one."""
    united: list[Pair] = []
    for since, until in sorted(spans):
        if united and since <= united[-1][1]:
            united[-1] = (united[-1][0], max(until, united[-1][1]))
        else:
            united.append((since, until))
    return united


def _within(spans: Iterable[Pair], start: float, end: float) -> list[Pair]:
    return [(max(since, start), min(until, end)) for since, until in spans if since < end and until > start]


def _between(cooled: Sequence[Pair], start: float, end: float) -> list[Pair]:
    """Return the windows that cool-downs leave."""
    edges = [start, *(edge for span in cooled for edge in span), end]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _overlap(windows: Sequence[Pair], spans: Sequence[Pair]) -> Iterable[float]:
    """Yield for each window how many seconds of it all spans together fill."""
    points = sorted([(since, 1) for since, _ in spans] + [(until, -1) for _, until in spans])
    filled: list[Pair] = []
    total, level, last = 0.0, 0, points[0][0]
    for at, change in points:
        total += level * (at - last)
        level, last = level + change, at
        filled.append((at, total))
    position = 0

    def until(instant: float) -> float:
        nonlocal position
        while position + 1 < len(filled) and filled[position + 1][0] <= instant:
            position += 1
        at, so_far = filled[position]
        following = filled[position + 1] if position + 1 < len(filled) else (at + 1, so_far)
        step = following[0] - at
        return so_far + ((following[1] - so_far) * (instant - at) / step if step and instant > at else 0.0)

    for since, to in windows:
        before = until(since)
        yield until(to) - before


def main() -> None:
    folder = os.environ.get("PIPELINE_ENGINE_DATA")
    if not folder:
        print("\nthroughput: left out, because PIPELINE_ENGINE_DATA names no folder of recorded traffic")
        return
    traffic = Traffic.read(Path(folder))
    cpu = 0.0
    for name in PIPELINES:
        rows: list[tuple[object, ...]] = []
        for binding in ("slots", "requests", "tokens"):
            for slots, calls in CALLS.items():
                measured = measure(traffic, name, binding, slots, calls)
                cpu += measured.cpu
                rows.append(_row(binding, slots, measured))
        header = ("", "used", "target", "calls", "seconds", "cooling", "cool-downs", "documents", "CPU us a call")
        print_table(f"Throughput over its bound, {name}, virtual time", header, rows)
    print(f"\n  {cpu:.0f} s of processor time; load averages {', '.join(f'{load:.2f}' for load in os.getloadavg())}")


def _row(binding: Binding, slots: int, measured: Measured) -> tuple[object, ...]:
    return (
        f"{slots:,} slots, bound by {binding}",
        f"{measured.share:.3f}",
        f">= {LEAST_SHARE} {'met' if measured.share >= LEAST_SHARE else 'MISSED'}",
        f"{measured.calls:,}",
        f"{measured.seconds:.0f}",
        f"{measured.cooling:.0%}",
        measured.cooldowns,
        f"{measured.completed:.1%}",
        f"{measured.cpu / measured.calls * 1e6:.0f}",
    )


if __name__ == "__main__":
    main()
