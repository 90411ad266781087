"""A batch that only takes time: the real engine on a virtual clock, with stand-ins for all that it calls."""

from __future__ import annotations

import logging
import random
import threading
from array import array
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

from pipeline_engine.declare import Limits
from pipeline_engine.plan import compile_pipeline
from pipeline_engine.run.api import is_asyncio_running
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.run.document import Document
from pipeline_engine.run.engine import DEFAULT_CAPACITY, Engine
from pipeline_engine.simulation.assumptions import ALL, Assumptions, assume
from pipeline_engine.simulation.clock import VirtualClock
from pipeline_engine.simulation.learning import learn
from pipeline_engine.simulation.stand_ins import Cast, SimulatedModels, bind_stand_ins, callees_of, stand_in_plan
from pipeline_engine.simulation.sweep import Sweep
from pipeline_engine.simulation.tally import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

    from pipeline_engine.declare import Budget, Pipeline
    from pipeline_engine.plan import Plan
    from pipeline_engine.run.binding import Models
    from pipeline_engine.simulation.assumptions import Chances, Durations, StepAssumptions, Tokens
    from pipeline_engine.simulation.recorded import Recorded
    from pipeline_engine.simulation.result import Simulation

__all__ = ["on_virtual_time", "simulate"]

T = TypeVar("T")

_log = logging.getLogger("pipeline_engine")


@overload
def simulate(
    dag: Pipeline | Plan,
    documents: int = ...,
    *,
    latency: Durations | None = ...,
    tokens: Tokens | None = ...,
    failures: Chances = ...,
    items: Durations = ...,
    branches: Chances = ...,
    accepted: Chances = ...,
    like: Recorded | Mapping[str, StepAssumptions] | None = ...,
    models: Models | None = ...,
    limits: Limits | Mapping[str, Limits] | None = ...,
    capacity: int = ...,
    max_documents: int | None = ...,
    arrivals: float | None = ...,
    budget: Budget | None = ...,
    seed: int = ...,
    progress: Callable[[int], object] | None = ...,
) -> Simulation: ...
@overload
def simulate(
    dag: Pipeline | Plan,
    documents: int = ...,
    *,
    latency: Durations | None = ...,
    tokens: Tokens | None = ...,
    failures: Chances = ...,
    items: Durations = ...,
    branches: Chances = ...,
    accepted: Chances = ...,
    like: Recorded | Mapping[str, StepAssumptions] | None = ...,
    models: Models | None = ...,
    limits: Limits | Mapping[str, Limits] | None = ...,
    capacity: Sequence[int],
    max_documents: int | None = ...,
    arrivals: float | None = ...,
    budget: Budget | None = ...,
    seed: int = ...,
    progress: Callable[[int], object] | None = ...,
) -> Sweep: ...
def simulate(
    dag: Pipeline | Plan,
    documents: int = 1000,
    *,
    latency: Durations | None = None,
    tokens: Tokens | None = None,
    failures: Chances = 0.0,
    items: Durations = 5,
    branches: Chances = 1.0,
    accepted: Chances = 1.0,
    like: Recorded | Mapping[str, StepAssumptions] | None = None,
    models: Models | None = None,
    limits: Limits | Mapping[str, Limits] | None = None,
    capacity: int | Sequence[int] = DEFAULT_CAPACITY,
    max_documents: int | None = None,
    arrivals: float | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Simulation | Sweep:
    """Run a batch that exists only in virtual time, and return what it would take.

    The engine, its scheduler, policies, limits, breakers and budgets are the real ones. Nothing of the pipeline's own
    code is run and nothing is sent: steps and models take their time as distributions say, and fail as often. The
    same seed gives the same simulation, and at other capacities the same calls take as long.

    What calls are like can be said for all of them, or by the name of a step, a model or a role, in this order;
    "*" stands for all others. A function step takes no time unless it is named.

    Not simulated are shared equal calls, warmed prompt caches and streams; the journal takes no time.

    Args:
        dag: A pipeline, or its plan.
        documents: How many there are.
        latency: Seconds of an attempt: a number, a distribution, or a short form such as "lognormal:2,8"; with
            neither this nor `like`, a median of 2 and a 95th percentile of 8.
        tokens: Tokens of a request and of its reply; without them, cost is unknown.
        failures: The share of attempts that fail and may be repeated.
        items: How many items a mapped step has.
        branches: The share of documents in which a step's `when=` says yes.
        accepted: The share of outputs that a cascade's `accept=` takes.
        like: Runs that have happened, whose calls these are like: a result or trace of a run or a batch, several
            traces, a journal, or what `learn` has returned. What is said by name goes before it; a step of which
            it tells nothing is as if it were not given.
        models: The models that roles are bound to, for their prices, limits and timeouts. None needs a key.
        limits: What models bear; one for each, or by roles or models.
        capacity: How many attempts may be in flight at once; several numbers make a sweep.
        max_documents: How many documents may be in flight at once; four times the capacity if not given.
        arrivals: Documents per second, at random (a Poisson process); all are there at once if not given.
        budget: Caps what all calls together may spend.
        seed: Other seeds give other calls of the same kind.
        progress: Called with the number of documents that have ended, after each of them.

    Raises:
        PlanError: If the pipeline cannot be compiled, or models are given for roles that it does not have.
        ValueError: If a name is that of nothing in the pipeline, a figure makes no sense, or `like` tells nothing of
            any of its steps.
        JournalError: If `like` is a journal that cannot be read.

    Example:
        >>> from pipeline_engine import Pipeline
        >>> pipeline = Pipeline("article", inputs={"document": str})
        >>> @pipeline.llm("fast", str)
        ... def title(document: str) -> str:
        ...     return f"Give this document a title: {document}"
        >>> simulation = simulate(pipeline, documents=1000, latency=2, capacity=50, limits=Limits(rpm=600))
        >>> round(simulation.makespan), simulation.bounds.binding.kind
        (101, 'requests')
    """
    _check_count("documents", documents)
    if arrivals is not None and not (isfinite(arrivals) and arrivals > 0):
        raise ValueError(f"arrivals={arrivals!r}: it is a positive number of documents per second.")
    plan = compile_pipeline(dag)
    learnt = {} if like is None else _learnt(like, plan)
    said = Assumptions(latency, tokens, failures, items, branches, accepted, learnt)
    run = partial(
        _simulate,
        plan,
        documents,
        said=said,
        models=models,
        limits={ALL: limits} if isinstance(limits, Limits) else dict(limits or {}),
        max_documents=max_documents,
        arrivals=arrivals,
        budget=budget,
        seed=seed,
        progress=progress,
    )
    if isinstance(capacity, int):
        return run(capacity)
    if not capacity:
        raise ValueError("capacity=[]: a sweep needs at least one number.")
    return Sweep(tuple(run(slots) for slots in sorted(set(capacity))))


def _learnt(like: Recorded | Mapping[str, StepAssumptions], plan: Plan) -> Mapping[str, StepAssumptions]:
    learnt = like if isinstance(like, Mapping) else learn(like)
    if not any(step.name in learnt for step in plan.steps):
        # Figures of nobody's would look like measured ones.
        known = (
            f"only of {', '.join(sorted(learnt))}"
            if learnt
            else "of none: all came from a journal, or the runs were pruned"
        )
        raise ValueError(
            f"like= tells nothing of any step of pipeline {plan.name!r}; it tells {known}. "
            "Name a batch in which this pipeline has called its models, or say what calls are like."
        )
    return learnt


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: it is a whole number, 1 or more.")


def _simulate(plan: Plan, documents: int, capacity: int, **options: Any) -> Simulation:
    _check_count("capacity", capacity)
    return on_virtual_time(partial(_run, plan, documents, capacity, **options))


async def _run(
    plan: Plan,
    documents: int,
    capacity: int,
    clock: VirtualClock,
    *,
    said: Assumptions,
    models: Models | None,
    limits: Mapping[str, Limits],
    max_documents: int | None,
    arrivals: float | None,
    budget: Budget | None,
    seed: int,
    progress: Callable[[int], object] | None,
) -> Simulation:
    cast = Cast(clock, seed)
    stand_ins = SimulatedModels(cast, limits)
    played = stand_in_plan(plan, cast)
    arrived = _Arrivals(clock, partial(cast.inputs, played), documents, arrivals, seed)
    tally = Tally(played, capacity)
    async with Engine(capacity=capacity, seed=seed) as engine:
        bound = bind_stand_ins(engine, played, stand_ins.bind(plan, models))
        budget = stand_ins.budget(budget)
        cast.learn(played, assume(played, callees_of(bound, budget), said))
        stream = BatchStream(engine, bound, arrived.documents(), max_documents=max_documents, budget=budget)
        async with stream:
            async for result in stream:
                tally.add(result.records, arrived.at(result.document))
                if progress is not None:
                    progress(tally.documents)
    return tally.result(clock.current_time(), stream.stopped_by)


class _Arrivals:
    """Hand in documents when they arrive, and remember when that was.

    Args:
        clock: Where the time passes.
        inputs: Returns a document's inputs.
        count: How many documents there are.
        per_second: How many arrive in a second, on average; None if all are there from the start.
        seed: Makes other arrivals at the same rate.
    """

    def __init__(
        self,
        clock: VirtualClock,
        inputs: Callable[[int], dict[str, Any]],
        count: int,
        per_second: float | None,
        seed: int,
    ) -> None:
        self._clock = clock
        self._inputs = inputs
        self._count = count
        self._per_second = per_second
        self._dice = random.Random(f"{seed} arrivals")
        self._at = array("d")

    async def documents(self) -> AsyncGenerator[Document]:
        """Yield each document at its instant, or when it is asked for if that is later."""
        at = 0.0
        for number in range(self._count):
            if self._per_second is not None:
                at += self._dice.expovariate(self._per_second)
                self._at.append(at)
                if at > self._clock.current_time():
                    await self._clock.sleep(at - self._clock.current_time(), (-1,))
            yield Document(str(number), self._inputs(number))

    def at(self, document: str) -> float | None:
        """Return when a document has arrived; None if all were there from the start."""
        return None if self._per_second is None else self._at[int(document)]


def on_virtual_time(main: Callable[[VirtualClock], Awaitable[T]]) -> T:
    """Run an async function on a virtual clock, which it is given, from wherever this is called."""
    clock = VirtualClock()

    def run() -> T:
        with _without_warnings():
            # In a context of its own: a step that simulates must not be taken for the step that is simulated.
            return Context().run(partial(trio.run, main, clock, clock=clock))

    if not trio.lowlevel.in_trio_run() and not is_asyncio_running():
        return run()
    with ThreadPoolExecutor(1, "pipeline_engine simulation") as thread:
        return thread.submit(run).result()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep this thread's warnings out of the log: no real model is down."""
    thread = threading.get_ident()

    def is_real(record: logging.LogRecord) -> bool:
        return record.thread != thread

    _log.addFilter(is_real)
    try:
        yield
    finally:
        _log.removeFilter(is_real)
