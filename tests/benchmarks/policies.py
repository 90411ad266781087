"""What policies win and what they cost: retries that hold no slot, an outage, a stalled provider, and CPU per call.

The first three run on the virtual clock. Retries: the engine against code by hand whose retries sleep with
their slot, as most do, and against the same code that gives it back. Outage: of two providers one is down, or
goes down, and the batch should take as long as on the other alone, and the time to find out. Stall: two
batches share an engine, and the provider of one stops answering. Cost: one call a document to a model that
answers at once, in processor time; what all policies together add is compared to one call over HTTP.
"""

import inspect
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import fmean
from typing import Any

import trio
import trio.testing

from pipeline_engine import (
    Breaker,
    Budget,
    Cache,
    Completion,
    Document,
    Engine,
    Hedge,
    Limits,
    Pipeline,
    Price,
    RateLimitError,
    Retry,
    Timeout,
    UnavailableError,
    Usage,
    current_step,
    iter_batch_async,
)
from pipeline_engine.values import BreakerChanged, Message, Record, Request, Text
from tests.benchmarks import calls
from tests.benchmarks.measuring import Timing, cpu_seconds, in_turns, judged, print_table

CLAIM = "50 to 70 %"
"""What the article that asks for it (DSPy.rb, 2025-09-05) says concurrent processing gains."""


def virtually(function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
    return trio.run(function, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))


# Retries that hold no slot

STEPS: dict[str, tuple[str, ...]] = {
    "title": (),
    "keywords": (),
    "category": (),
    "summary": ("title", "keywords"),
    "quality": ("title", "category"),
}
"""The document pipeline: for each step the steps it needs."""


class BusyError(ConnectionError):
    """A failed call that may be made again after some seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Flaky:
    """Say what every call takes, and after which back-offs it comes through."""

    steps: dict[str, tuple[str, ...]]
    slots: int
    seconds: dict[tuple[int, str], float]
    back_offs: dict[tuple[int, str], tuple[float, ...]]
    """For each document and step the seconds to wait after each of its failures."""

    @property
    def documents(self) -> list[int]:
        return sorted({document for document, _ in self.seconds})

    @property
    def healthy(self) -> list[int]:
        """The documents of which nothing fails."""
        flaky = {document for (document, _), waits in self.back_offs.items() if waits}
        return [document for document in self.documents if document not in flaky]

    async def call(self, document: int, step: str, attempt: int) -> str:
        await trio.sleep(self.seconds[document, step])
        waits = self.back_offs.get((document, step), ())
        if attempt <= len(waits):
            raise BusyError(waits[attempt - 1])
        return step


def two_of_ten() -> Flaky:
    """Ten documents of one call, two slots; the first two fail twice, with two seconds between their attempts."""
    return Flaky(
        {"ask": ()},
        2,
        {(document, "ask"): 0.5 for document in range(10)},
        {(document, "ask"): (2.0, 2.0) for document in range(2)},
    )


def three_of_ten(seed: int) -> Flaky:
    """Ten documents of five calls, four slots; 30 % of the calls fail once, and wait one to three seconds."""
    dice = random.Random(seed)
    keys = [(document, step) for document in range(10) for step in STEPS]
    seconds = {key: dice.uniform(0.5, 1.5) for key in keys}
    return Flaky(STEPS, 4, seconds, {key: (dice.uniform(1.0, 3.0),) for key in keys if dice.random() < 0.3})


async def by_engine(flaky: Flaky) -> dict[int, float]:
    """Return when each document is finished."""
    pipeline = Pipeline("flaky", inputs={"document": int})
    retry = Retry(attempts=3, base_delay=0.0, jitter="none")  # the waits are those that the error names

    def declare(name: str, needs: tuple[str, ...]) -> None:
        async def call(document: int, *_needs: str) -> str:
            return await flaky.call(document, name, current_step().attempt)

        pipeline.step(name=name, retry=retry)(_taking(call, needs))

    for name, needs in flaky.steps.items():
        declare(name, needs)
    finished = {}
    async with (
        Engine(capacity=flaky.slots) as engine,
        iter_batch_async(pipeline, _numbered(flaky.documents), engine=engine) as results,
    ):
        async for result in results:
            result.raise_for_failure()
            finished[int(result.document)] = trio.current_time()
    return finished


def _taking(call: Callable[..., Awaitable[str]], needs: tuple[str, ...]) -> Callable[..., Awaitable[str]]:
    """Return the function with parameters that are named like the step's needs."""

    async def function(*arguments: Any) -> str:
        return await call(*arguments)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ("document", *needs)
    function.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    function.__annotations__ = {"document": int, **dict.fromkeys(needs, str), "return": str}
    return function


async def _numbered(documents: Sequence[int]) -> AsyncIterator[Document]:
    for number in documents:
        yield Document(f"{number}", {"document": number})


async def by_hand(flaky: Flaky, *, is_slot_held: bool) -> dict[int, float]:
    """Return when each document is finished: a task for each call, which starts when its own needs are there."""
    limiter = trio.CapacityLimiter(flaky.slots)
    finished: dict[int, float] = {}

    async def retried(document: int, step: str, slot: AbstractAsyncContextManager[None]) -> None:
        for attempt in count(1):
            try:
                async with slot:
                    await flaky.call(document, step, attempt)
                return
            except BusyError as error:
                await trio.sleep(error.retry_after)

    async def run_call(document: int, step: str, done: dict[str, trio.Event]) -> None:
        for need in flaky.steps[step]:
            await done[need].wait()
        if is_slot_held:
            async with limiter:
                await retried(document, step, nullcontext())
        else:
            await retried(document, step, limiter)
        done[step].set()
        if all(event.is_set() for event in done.values()):
            finished[document] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for document in flaky.documents:
            done = {step: trio.Event() for step in flaky.steps}
            for step in flaky.steps:
                nursery.start_soon(run_call, document, step, done)
                await trio.testing.wait_all_tasks_blocked()  # first come, first served: trio shuffles what it starts
    return finished


RETRYING: dict[str, Callable[[Flaky], Awaitable[dict[int, float]]]] = {
    "by hand, slot held": partial(by_hand, is_slot_held=True),
    "by hand, slot given back": partial(by_hand, is_slot_held=False),
    "engine": by_engine,
}


def print_retries() -> None:
    cases = {
        "10 documents of one call, 2 slots, 2 fail twice": [two_of_ten()],
        "10 documents of five calls, 4 slots, 30 % fail once (mean of 20)": [three_of_ten(seed) for seed in range(20)],
    }
    for title, flaky in cases.items():
        rows: list[tuple[object, ...]] = []
        totals: list[float] = []
        healthy: list[float] = []
        for name, run in RETRYING.items():
            finished = [virtually(run, one) for one in flaky]
            total = fmean(max(times.values()) for times in finished)
            unharmed = [times[document] for one, times in zip(flaky, finished, strict=True) for document in one.healthy]
            last = fmean(
                max(times[document] for document in one.healthy)
                for one, times in zip(flaky, finished, strict=True)
                if one.healthy
            )
            totals.append(total)
            healthy.append(fmean(unharmed))
            gains = (f"{1 - total / totals[0]:.0%}", f"{1 - fmean(unharmed) / healthy[0]:.0%}")
            rows.append((name, total, fmean(unharmed), last, *gains))
        header = ("", "everything, s", "documents without failures", "their last", "gain", "gain of those")
        print_table(f"Retries: {title}, virtual time", header, rows)
    print(f"  The article claims a gain of {CLAIM} where some operations need retries.")


# An outage

DOCUMENTS = 1_000
SLOTS = 10


class Provider:
    """Answer each call after a second, from some instant on fail, or hang."""

    def __init__(
        self,
        name: str,
        *,
        down_at: float = float("inf"),
        failure_seconds: float = 0.1,
        limits: Limits | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.breaker = breaker
        self.calls = 0
        self._down_at = down_at
        self._failure_seconds = failure_seconds

    async def complete(self, request: Request) -> Completion:
        self.calls += 1
        if trio.current_time() >= self._down_at:
            await trio.sleep(self._failure_seconds)
            raise UnavailableError("is down.", model=self.name, kind="server", status=500)
        await trio.sleep(1.0)
        return Completion("A title")


class BreakerOpened:
    """Keep the first instant at which a breaker has opened."""

    def __init__(self) -> None:
        self.at: float | None = None

    def open_run(self, started: object) -> Callable[[Record], None]:
        return self._read

    def _read(self, record: Record) -> None:
        if isinstance(record, BreakerChanged) and record.after == "open" and self.at is None:
            self.at = record.at


def ask_once(**options: Any) -> Pipeline:
    pipeline = Pipeline("titles", inputs={"document": str})
    pipeline.llm("fast", str, name="title", **options)(lambda document: document)
    return pipeline


async def _documents(number: int, name: str = "document") -> AsyncIterator[Document]:
    for place in range(number):
        yield Document(f"{name}-{place}", {"document": f"{name} {place}"})


async def batch_seconds(
    engine: Engine, models: Any, number: int = DOCUMENTS, *, is_healthy: bool = True, **options: Any
) -> float:
    started = trio.current_time()
    options.setdefault("timeout", Timeout(attempt=10))
    pipeline, documents = ask_once(**options), _documents(number)
    async with iter_batch_async(pipeline, documents, engine=engine, models={"fast": models}) as results:
        statuses = [result.status async for result in results]
    if is_healthy and set(statuses) != {"completed"}:
        raise AssertionError(f"{len(statuses)} documents ended as {set(statuses)}")
    return trio.current_time() - started


async def outage(first: Provider | None, second: Provider) -> tuple[float, float | None]:
    """Return how long a batch takes, and when the first provider's breaker has opened."""
    opened = BreakerOpened()
    async with Engine(capacity=SLOTS, seed=1, sinks=[opened]) as engine:
        return await batch_seconds(engine, second if first is None else [first, second]), opened.at


def print_outages() -> None:
    alone, _ = virtually(outage, None, Provider("simulated:spare"))
    rows: list[tuple[object, ...]] = [("the fallback alone", alone, "", "", "", "")]
    cases = {
        "down, refuses after 0.1 s": (0.0, 0.1),
        "down, never answers: attempts time out after 10 s": (0.0, 1e6),
        "goes down after 30 s, refuses after 0.1 s": (30.0, 0.1),
        "goes down after 30 s, never answers": (30.0, 1e6),
    }
    for name, (down_at, failure_seconds) in cases.items():
        first = Provider("simulated:first", down_at=down_at, failure_seconds=failure_seconds, breaker=Breaker())
        taken, opened_at = virtually(outage, first, Provider("simulated:spare"))
        detected = (opened_at or 0.0) - down_at
        bound = alone + detected
        rows.append((name, taken, detected, taken - bound, first.calls, judged(round(taken / bound, 3), 1.05)))
    header = ("", "batch, s", "found out after", "beyond both", "its calls", "over both")
    print_table(f"Outage: {DOCUMENTS:,} documents, {SLOTS} slots, two providers, virtual time", header, rows)


# A stalled provider

STALL_SLOTS = 32
STALL_DOCUMENTS = 640


async def beside(other: Provider | None, **options: Any) -> float:
    """Return how long a batch of calls to a healthy provider takes, beside a batch that calls another one."""
    taken: list[float] = []
    async with Engine(capacity=STALL_SLOTS, seed=1) as engine, trio.open_nursery() as nursery:

        async def run(provider: Provider, **more: Any) -> None:
            is_healthy = provider is healthy
            seconds = await batch_seconds(engine, provider, STALL_DOCUMENTS, is_healthy=is_healthy, **more)
            if is_healthy:
                taken.append(seconds)
                nursery.cancel_scope.cancel()

        healthy = Provider("simulated:healthy")
        if other is not None:
            nursery.start_soon(partial(run, other, **options))
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(run, healthy)
    return taken[0]


def print_stalls() -> None:
    alone = virtually(beside, None)
    fair = 2 * alone
    stalled = partial(Provider, "simulated:stalled", down_at=0.0)
    patient = {"timeout": Timeout(attempt=60), "retry": Retry(attempts=100)}
    cases: dict[str, tuple[Provider, dict[str, Any], float]] = {
        "beside one that is well": (Provider("simulated:other"), {}, fair),
        "beside one that is down, with a breaker": (stalled(breaker=Breaker()), patient, alone),
        "beside one that cools down for 10 minutes": (Cooling("simulated:cooling"), patient, alone),
        "beside one that never answers, Limits(max_concurrency=8)": (
            stalled(failure_seconds=1e6, limits=Limits(max_concurrency=8)),
            patient,
            alone * STALL_SLOTS / (STALL_SLOTS - 8),
        ),
        "beside one that never answers, a breaker": (stalled(failure_seconds=1e6, breaker=Breaker()), patient, alone),
        "beside one that never answers, nothing bounds it": (stalled(failure_seconds=1e6), patient, alone),
    }
    rows: list[tuple[object, ...]] = [("alone", alone, "", "", "")]
    for name, (other, options, bound) in cases.items():
        taken = virtually(partial(beside, **options), other)
        rows.append((name, taken, bound, taken / bound, judged(round(taken / bound, 3), 1.05)))
    print_table(
        f"Stall: {STALL_DOCUMENTS} documents of a call of 1 s, {STALL_SLOTS} slots, beside another batch, virtual time",
        ("", "batch, s", "at best", "ratio", "target"),
        rows,
    )


class Cooling(Provider):
    """Ask everybody to wait for ten minutes."""

    async def complete(self, request: Request) -> Completion:
        await trio.sleep(0.1)
        raise RateLimitError("is busy.", model=self.name, kind="rate_limited", status=429, retry_after=600.0)


# What policies cost

COST_DOCUMENTS = 2_000
COST_SLOTS = 64
HTTP_LEVEL = calls.whole(100, 0.2, 20)
MOST_OF_BARE = 3.0
MOST_OF_HTTP = 0.1
PLENTY = 1e9
NO_POLICIES: dict[str, Any] = {"retry": None, "timeout": None}


class Quick:
    """Answer in the next turn of the loop."""

    name = "simulated:quick"
    price = Price(input_usd=1, output_usd=1)
    max_tokens = 50

    def __init__(self, limits: Limits | None = None, breaker: Breaker | None = None) -> None:
        self.limits = limits
        self.breaker = breaker

    async def complete(self, request: Request) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion("ok", usage=Usage(10, 5))


@dataclass(frozen=True)
class Policies:
    """What one contender has switched on."""

    step: dict[str, Any]
    limits: Limits | None = None
    breaker: Breaker | None = None
    budget: Budget | None = None


REQUESTS = Limits(rpm=PLENTY, burst_requests=PLENTY)
TOKENS = Limits(tpm=1e12)
EVERYTHING = Limits(rpm=PLENTY, burst_requests=PLENTY, tpm=1e12, max_concurrency=10 * COST_SLOTS, adaptive=True)
SINGLE: dict[str, Policies] = {
    "Retry and Timeout, the defaults": Policies({}),
    "Limits(rpm)": Policies(NO_POLICIES, REQUESTS),
    "Limits(tpm)": Policies(NO_POLICIES, TOKENS),
    "Limits(max_concurrency)": Policies(NO_POLICIES, Limits(max_concurrency=10 * COST_SLOTS)),
    "Limits(adaptive)": Policies(NO_POLICIES, Limits(adaptive=True)),
    "Breaker": Policies(NO_POLICIES, breaker=Breaker()),
    "Budget(usd, tokens)": Policies(NO_POLICIES, budget=Budget(usd=PLENTY, tokens=1e12)),
    "Hedge": Policies({**NO_POLICIES, "hedge": Hedge(after=10.0)}),
    "Cache": Policies({**NO_POLICIES, "cache": Cache()}),
}
ALL = Policies({"hedge": Hedge(after=10.0), "cache": Cache()}, EVERYTHING, Breaker(), Budget(usd=PLENTY, tokens=1e12))


def with_engine(policies: Policies) -> float:
    """Return the microseconds of processor time that a document of one call takes in a batch."""
    pipeline = ask_once(**policies.step)
    documents = [{"document": f"document {number}"} for number in range(COST_DOCUMENTS)]

    async def run() -> float:
        model = Quick(policies.limits, policies.breaker)
        async with Engine(models={"fast": model}, capacity=COST_SLOTS) as engine:
            started = cpu_seconds()
            async with iter_batch_async(pipeline, documents, engine=engine, budget=policies.budget) as results:
                async for result in results:
                    if result.status != "completed":
                        raise AssertionError(result.reason)
            return (cpu_seconds() - started) / COST_DOCUMENTS * 1e6

    return trio.run(run)


def with_trio() -> float:
    """Return the same for workers that only call the model and keep its answers."""

    async def run() -> float:
        model, answers = Quick(), []
        documents: Iterator[str] = iter([f"document {number}" for number in range(COST_DOCUMENTS)])

        async def work() -> None:
            for document in documents:
                answer = await model.complete(Request((Message("user", Text(document)),)))
                answers.append(answer.text)

        started = cpu_seconds()
        async with trio.open_nursery() as nursery:
            for _ in range(COST_SLOTS):
                nursery.start_soon(work)
        return (cpu_seconds() - started) / COST_DOCUMENTS * 1e6

    return trio.run(run)


def over_http() -> float:
    """Return the microseconds of processor time of one call to a server on this machine, a hundred at a time."""
    measured = calls.run("ours, httptools", HTTP_LEVEL)
    if measured is None:
        raise AssertionError("the calls over HTTP did not finish")
    return measured.cpu / (HTTP_LEVEL.calls * HTTP_LEVEL.rounds) * 1e6


def print_costs() -> None:
    contenders: dict[str, Callable[[], float]] = {
        "engine, no policies": partial(with_engine, Policies(NO_POLICIES)),
        "engine, all policies at once": partial(with_engine, ALL),
        **{f"  {name}": partial(with_engine, policies) for name, policies in SINGLE.items()},
        "workers on trio, by hand": with_trio,
        "one call over HTTP": over_http,
    }
    timings = in_turns(contenders)
    bare, http = timings["engine, no policies"], timings["one call over HTTP"]
    rows: list[tuple[object, ...]] = []
    for name, timing in timings.items():
        added = Timing(tuple(own - its for own, its in zip(timing.rounds, bare.rounds, strict=True)))
        ratio, of_http = timing / bare, added / http
        target = ""
        if name == "engine, all policies at once":
            target = f"x bare {judged(ratio, MOST_OF_BARE)}, of HTTP {judged(of_http, MOST_OF_HTTP)}"
        is_engine = timing is not bare and timing is not http and "by hand" not in name
        rows.append(
            (name, timing.median, ratio, *((added.median, f"{of_http:.1%}") if is_engine else ("", "")), target)
        )
    print_table(
        f"Cost: {COST_DOCUMENTS:,} documents of one call that answers at once, {COST_SLOTS} slots: CPU us per document",
        ("", "median", "x bare", "added", "of a call over HTTP", "target"),
        rows,
    )


def main() -> None:
    began = time.process_time()
    logging.getLogger("pipeline_engine").setLevel(logging.ERROR)  # each breaker that opens is a warning
    print_retries()
    print_outages()
    print_stalls()
    print_costs()
    print(
        f"\n  {time.process_time() - began:.0f} s of processor time; load averages "
        f"{', '.join(f'{load:.2f}' for load in os.getloadavg())}"
    )


if __name__ == "__main__":
    main()
