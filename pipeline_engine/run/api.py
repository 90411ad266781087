"""Running one document, from anywhere: plain code, threads, trio, asyncio, notebooks.

trio, pydantic and the engine are imported by the first call, so that importing this is quick.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_engine.values import RUNNING_STEP

if TYPE_CHECKING:
    import asyncio  # noqa: TID251 - a type only: asyncio is imported when somebody uses it
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline_engine.declare import Budget, Pipeline
    from pipeline_engine.journal import JournalPlace
    from pipeline_engine.plan import Plan
    from pipeline_engine.run.binding import Models
    from pipeline_engine.run.engine import Engine
    from pipeline_engine.run.results import RunResult
    from pipeline_engine.run.runner import Runner
    from pipeline_engine.run.trio_thread import TrioThread
    from pipeline_engine.values import OnChange, Sink

__all__ = [
    "call_from_anywhere",
    "engine_for",
    "is_asyncio_running",
    "run_on_trio",
    "run_pipeline",
    "run_pipeline_async",
]

T = TypeVar("T")

_shared_thread: TrioThread | None = None
_shared_thread_lock = threading.Lock()
_has_warned = False


async def run_pipeline_async(
    dag: Pipeline | Plan,
    inputs: Mapping[str, Any],
    *,
    models: Models | None = None,
    key: str | None = None,
    capacity: int | None = None,
    sinks: Sequence[Sink] = (),
    timeout: float | None = None,
    priority: int = 0,
    budget: Budget | None = None,
    estimates: Mapping[str, float] | None = None,
    journal: str | Path | JournalPlace | None = None,
    on_change: OnChange = "reuse",
    engine: Engine | None = None,
) -> RunResult:
    """Run one document and return how every step ended; works under trio and under asyncio.

    A step's failure never raises: it is in the result. Under asyncio the work is done by one
    background trio thread per process; context variables, exceptions and cancellation cross, and a
    cancelled caller waits until the run has cleaned up. Inside a step it runs on the step's own
    engine, and the step gives its slot back meanwhile.

    Args:
        dag: A pipeline, or its plan.
        inputs: A value for each declared input.
        models: For each role of the pipeline a model, or several that are tried in order.
        key: The document's key; a hash of the inputs if not given.
        capacity: How many attempts may be in flight at once; 64 if not given.
        sinks: Readers of the run's records, such as `OpenTelemetry()`.
        timeout: Seconds for the whole run; what has no outcome by then is `Stopped`.
        priority: Higher goes first, where the engine is shared.
        budget: Caps what the run may spend.
        estimates: Seconds that steps take, by their names: they decide which of several ready steps goes first.
        journal: A path (SQLite), a postgresql:// address or a journal object. What is finished is kept there, so
            that the same document, run again, does only what is missing.
        on_change: What becomes of saved outputs when the pipeline has changed: "reuse" keeps those of unchanged
            steps, "error" refuses, "keep" keeps all by their steps' names, "new" begins anew.
        engine: An open engine to run on, instead of one for this run alone.

    Raises:
        PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
        InputError: If the inputs do not fit; nothing has run.
        TypeError: If `engine` is given together with `capacity` or `sinks`, which are an engine's own.
        JournalError: If the journal cannot be opened or written: a run does not go on without it.
        PlanChangedError: With `on_change="error"`, if the pipeline is not what it was.
    """
    journal = _held(journal)
    options = _options(models, key, timeout, priority, budget, estimates, journal, on_change)
    return await run_on_trio(engine_for, engine, capacity, sinks, _run, dag, inputs, **options)


def run_pipeline(
    dag: Pipeline | Plan,
    inputs: Mapping[str, Any],
    *,
    models: Models | None = None,
    key: str | None = None,
    capacity: int | None = None,
    sinks: Sequence[Sink] = (),
    timeout: float | None = None,
    priority: int = 0,
    budget: Budget | None = None,
    estimates: Mapping[str, float] | None = None,
    journal: str | Path | JournalPlace | None = None,
    on_change: OnChange = "reuse",
    engine: Runner | None = None,
) -> RunResult:
    """Run one document and return how every step ended; works from anywhere.

    A step's failure never raises: it is in the result. Where an event loop is running already, the
    work is done by a thread while the call blocks that loop, and a warning names
    `run_pipeline_async`. Inside a sync step it runs on the step's own engine.

    Args:
        dag: A pipeline, or its plan.
        inputs: A value for each declared input.
        models: For each role of the pipeline a model, or several that are tried in order.
        key: The document's key; a hash of the inputs if not given.
        capacity: How many attempts may be in flight at once; 64 if not given.
        sinks: Readers of the run's records, such as `OpenTelemetry()`.
        timeout: Seconds for the whole run; what has no outcome by then is `Stopped`.
        priority: Higher goes first, where the engine is shared.
        budget: Caps what the run may spend.
        estimates: Seconds that steps take, by their names: they decide which of several ready steps goes first.
        journal: A path (SQLite), a postgresql:// address or a journal object. What is finished is kept there, so
            that the same document, run again, does only what is missing.
        on_change: What becomes of saved outputs when the pipeline has changed: "reuse" keeps those of unchanged
            steps, "error" refuses, "keep" keeps all by their steps' names, "new" begins anew.
        engine: A runner to run on, instead of an engine for this run alone.

    Raises:
        PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
        InputError: If the inputs do not fit; nothing has run.
        TypeError: If `engine` is given together with `capacity` or `sinks`, which are an engine's own.
        JournalError: If the journal cannot be opened or written: a run does not go on without it.
        PlanChangedError: With `on_change="error"`, if the pipeline is not what it was.

    Example:
        >>> from pipeline_engine import Pipeline
        >>> pipeline = Pipeline("greeting", inputs={"name": str})
        >>> @pipeline.step
        ... def greeting(name: str) -> str:
        ...     return f"Hello, {name}!"
        >>> run_pipeline(pipeline, {"name": "Ada"})[greeting]
        'Hello, Ada!'
    """
    journal = _held(journal)
    options = _options(models, key, timeout, priority, budget, estimates, journal, on_change)
    if engine is not None:
        refuse_own(capacity, sinks)
        if not hasattr(engine, "submit"):
            raise TypeError(
                f"engine= takes a Runner here, not a {type(engine).__name__}. For an Engine use run_pipeline_async."
            )
        return engine.run(dag, inputs, **options)
    return call_from_anywhere(
        functools.partial(engine_for, None, capacity, sinks, _run, dag, inputs, **options), "run_pipeline"
    )


def _options(
    models: Models | None,
    key: str | None,
    timeout: float | None,
    priority: int,
    budget: Budget | None,
    estimates: Mapping[str, float] | None,
    journal: str | Path | JournalPlace | None,
    on_change: OnChange,
) -> dict[str, Any]:
    """Return what `Engine.run` takes beside pipeline and inputs."""
    return {
        "models": models,
        "key": key,
        "timeout": timeout,
        "priority": priority,
        "budget": budget,
        "estimates": estimates,
        "journal": journal,
        "on_change": on_change,
    }


def _held(journal: str | Path | JournalPlace | None) -> str | Path | JournalPlace | None:
    """Return a journal so that no frame shows its password."""
    if journal is None:
        return None
    from pipeline_engine.journal import held

    return held(journal)


async def _run(engine: Engine, dag: Pipeline | Plan, inputs: Mapping[str, Any], **options: Any) -> RunResult:
    return await engine.run(dag, inputs, **options)


def refuse_own(capacity: int | None, sinks: Sequence[Sink]) -> None:
    """Raise if a capacity or sinks are given together with an engine, which has its own.

    Raises:
        TypeError: If `capacity` or `sinks` are given.
    """
    if capacity is not None:
        raise TypeError(
            f"capacity={capacity} was given together with engine=, which has its own. Leave out one of them."
        )
    if sinks:
        raise TypeError("sinks= was given together with engine=, which has its own. Give them to the engine instead.")


async def engine_for(
    engine: Engine | None,
    capacity: int | None,
    sinks: Sequence[Sink],
    use: Callable[..., Awaitable[T]],
    *arguments: Any,
    **options: Any,
) -> T:
    """Call `use` with the engine given, else with that of the step that is running here, else with a new one."""
    from pipeline_engine.run.engine import DEFAULT_CAPACITY, Engine
    from pipeline_engine.schedule import StepRun

    if engine is not None:
        refuse_own(capacity, sinks)
        if not isinstance(engine, Engine):
            raise TypeError(
                f"engine= takes an Engine here, not a {type(engine).__name__}. "
                "For a Runner await asyncio.wrap_future(runner.submit(…)), or use its run() in plain code."
            )
        return await use(engine, *arguments, **options)
    running = RUNNING_STEP.get()
    host = running.execution.host if isinstance(running, StepRun) and capacity is None and not sinks else None
    # The context of a step also reaches other threads, where its engine is out of reach.
    if isinstance(host, Engine) and host.is_here:
        return await use(host, *arguments, **options)
    async with Engine(capacity=DEFAULT_CAPACITY if capacity is None else capacity, sinks=sinks) as own:
        return await use(own, *arguments, **options)


async def run_on_trio(function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
    """Await `function` here under trio; under asyncio, let the process' one trio thread do it.

    Raises:
        RuntimeError: If neither trio nor asyncio is running.
    """
    import trio

    if trio.lowlevel.in_trio_run():
        return await function(*arguments, **options)
    if not is_asyncio_running():
        raise RuntimeError(
            "no event loop is running here. Use run_pipeline(…), or call this from trio or asyncio code."
        )
    return await _from_asyncio(functools.partial(function, *arguments, **options))


def is_asyncio_running() -> bool:
    """Return whether an asyncio loop is running in this thread."""
    asyncio_module = sys.modules.get("asyncio")
    if asyncio_module is None:
        return False
    try:
        asyncio_module.get_running_loop()
    except RuntimeError:
        return False
    return True


def _forget_thread() -> None:
    """A forked child has no such thread, and must not wait for it."""
    global _shared_thread, _shared_thread_lock
    _shared_thread, _shared_thread_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_thread)


def _thread() -> TrioThread:
    global _shared_thread  # noqa: PLW0603 - one thread per process, made when it is first needed
    from pipeline_engine.run.loop import has_clock_of_its_own
    from pipeline_engine.run.trio_thread import TrioThread

    if has_clock_of_its_own():  # the shared thread's clock is real, and stays
        thread = TrioThread("pipeline_engine trio of a test", is_daemon=True)
        thread.start()
        return thread
    with _shared_thread_lock:
        if _shared_thread is None or not _shared_thread.is_open:
            _shared_thread = TrioThread("pipeline_engine trio", is_daemon=True)
            _shared_thread.start()
        return _shared_thread


async def _from_asyncio(function: Callable[[], Awaitable[T]]) -> T:
    import asyncio  # noqa: TID251 - a type only: asyncio is imported when somebody uses it

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ended.done():
            ended.set_result(None)

    async def perform() -> T:
        try:
            return await function()
        finally:
            # Told from inside, so that a cancelled caller waits until everything was cleaned up.
            loop.call_soon_threadsafe(tell)

    thread = _thread()
    future = thread.submit(perform)
    if thread is not _shared_thread:
        thread.end()  # when this has ended
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        future.cancel()
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                continue  # told again: the run is on its way out already
        raise


def call_from_anywhere(function: Callable[[], Awaitable[T]], name: str) -> T:
    """Run an async function to its end from sync code, whatever is running around it."""
    import trio

    from pipeline_engine.run.loop import run_loop
    from pipeline_engine.run.trio_thread import TrioThread

    if RUNNING_STEP.get() is not None and _is_worker_thread():
        return trio.from_thread.run(_within_trio, function)
    if not trio.lowlevel.in_trio_run() and not is_asyncio_running():
        return run_loop(function)
    _warn_once(name)
    thread = TrioThread(f"pipeline_engine {name}")
    thread.start()
    try:
        return thread.call(function)
    finally:
        thread.close()


async def _within_trio(function: Callable[[], Awaitable[T]]) -> T:
    from pipeline_engine.schedule import within_trio

    with within_trio():  # the step's thread waits
        return await function()


def _is_worker_thread() -> bool:
    import trio

    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:
        return False
    return True


def _warn_once(name: str) -> None:
    global _has_warned  # noqa: PLW0603 - once per process
    if not _has_warned:
        _has_warned = True
        warnings.warn(
            f"{name}() blocks the event loop that is running here until it returns. "
            f"Use `await {name}_async(…)` instead.",
            RuntimeWarning,
            stacklevel=4,
        )
