"""One engine on a background thread, for many threads that share its limits and connections."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from pipeline_engine.errors import EngineClosedError, OverloadError
from pipeline_engine.journal import held
from pipeline_engine.run.document import Document
from pipeline_engine.run.engine import DEFAULT_CAPACITY, Engine
from pipeline_engine.run.results import RunResult
from pipeline_engine.run.stream import RunnerStream
from pipeline_engine.run.trio_thread import TrioThread
from pipeline_engine.schedule import SchedulerStatistics, StepRun
from pipeline_engine.values import RUNNING_STEP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from pipeline_engine.declare import Budget, Pipeline
    from pipeline_engine.journal import JournalPlace
    from pipeline_engine.plan import Plan
    from pipeline_engine.run.binding import Models
    from pipeline_engine.values import OnChange, Sink

__all__ = ["Runner"]

T = TypeVar("T")


class _Work:
    """Something that was accepted, until it has left."""

    __slots__ = ("takes_place",)

    def __init__(self, *, takes_place: bool) -> None:
        self.takes_place = takes_place


class Runner:
    """Share one engine between threads: web workers, job queues, notebooks.

    Open it with `with`, or with `open()` and `close()`. Make one per process, after it has forked, and not
    one per request: each runner has its own slots and connections. All methods may be called from any thread.

    Args:
        models: The models that roles are bound to, unless a run says otherwise.
        capacity: How many attempts may be in flight at once, over all runs.
        max_pending: How many runs may be accepted and not yet ended, running or queued; 16 times the capacity,
            and at least 1,000, if not given. One more is refused with an `OverloadError`; `map` and batches
            wait instead.
        sinks: Readers of the record streams of all runs, called on the runner's thread.
        seed: Makes the jitter of retries repeatable.
        transport: An `httpx2.AsyncBaseTransport` that carries all calls; you close it.

    Raises:
        ValueError: If `capacity` or `max_pending` is smaller than 1.

    Example:
        >>> from pipeline_engine import Pipeline
        >>> pipeline = Pipeline("greeting", inputs={"name": str})
        >>> @pipeline.step
        ... def greeting(name: str) -> str:
        ...     return f"Hello, {name}!"
        >>> with Runner(capacity=8) as runner:
        ...     future = runner.submit(pipeline, {"name": "Ada"})
        ...     [result[greeting] for result in runner.map(pipeline, [{"name": "Bo"}, {"name": "Cy"}])]
        ...     future.result()[greeting]
        ['Hello, Bo!', 'Hello, Cy!']
        'Hello, Ada!'
    """

    def __init__(
        self,
        *,
        models: Models | None = None,
        capacity: int = DEFAULT_CAPACITY,
        max_pending: int | None = None,
        sinks: Sequence[Sink] = (),
        seed: int | None = None,
        transport: Any = None,
    ) -> None:
        if max_pending is not None and max_pending < 1:
            raise ValueError(f"max_pending={max_pending}: at least one run must be accepted.")
        self.capacity = capacity
        self.max_pending = max(1000, 16 * capacity) if max_pending is None else max_pending
        self._engine = Engine(models=models, capacity=capacity, sinks=sinks, seed=seed, transport=transport)
        self._thread: TrioThread | None = None
        self._process = 0
        self._counts = threading.Condition()
        """Guards the next four, which callers' threads and the runner's own change."""
        self._is_open = False
        self._is_closing = False
        self._accepted: set[_Work] = set()
        self._pending = 0
        # What follows is touched on the runner's thread alone.
        self._last_begun: trio.Event | None = None
        self._scopes: set[trio.CancelScope] = set()
        self._is_cancelling = False
        self._is_finishing = False
        self._failure: Exception | None = None
        self._is_idle = trio.Event()
        self._when_closing: set[Callable[[], object]] = set()

    def __repr__(self) -> str:
        has_ended = self._thread is not None and self._is_open and not self._thread.is_open
        state = "closed" if has_ended else "closing" if self._is_closing else "open" if self._is_open else "not open"
        return f"<Runner {state}, {self._pending} of at most {self.max_pending} runs pending>"

    @property
    def pending(self) -> int:
        """How many runs are accepted and not yet ended; work inside a step, and batches, do not count."""
        return self._pending

    # Opening and closing

    def open(self) -> Self:
        """Start the thread and the engine; returns when they are ready.

        Raises:
            RuntimeError: If it was open before: a closed runner stays closed.
        """
        with self._counts:
            if self._thread is not None:
                raise RuntimeError("this runner was opened before. Make a new one.")
            # A program that forgets to close its runner must still end, after the runs under way.
            self._thread = TrioThread("pipeline_engine runner", is_daemon=True)
        self._process = os.getpid()
        self._thread.start()
        self._thread.call(self._engine.__aenter__)
        atexit.register(self.close)
        self._is_open = True
        return self

    def close(self, timeout: float | None = None) -> None:
        """Accept nothing more, let what was accepted finish, queued or running, then end engine and thread.

        Several threads may close it, and may do so again: each waits for the same end. A run that is
        followed no longer waits for its reader, and an `iter_batch` admits no further document. An
        interrupt cancels what is left. In a process that was forked from the runner's it does nothing.

        Args:
            timeout: Seconds that runs have to finish; those that have not are cancelled then, and raise an
                `EngineClosedError`. 0 cancels at once; None waits for as long as they take.

        Raises:
            RuntimeError: If it is called by a step of this runner, which would wait for itself.
        """
        thread = self._thread
        if thread is None or not self._is_open or self._process != os.getpid():
            return
        thread.refuse_itself()
        if self._is_inside():
            raise RuntimeError("a step cannot close the runner that runs it. Close it where it was opened.")
        try:
            self._begin_to_close(thread)
            if not thread.join(timeout):
                thread.tell(self._cancel)
                thread.join()
        except (KeyboardInterrupt, SystemExit):
            self._begin_to_close(thread)  # the interrupt may have come before it
            thread.tell(self._cancel)
            thread.join()
            raise
        atexit.unregister(self.close)
        if self._failure is not None:
            raise self._failure

    def _begin_to_close(self, thread: TrioThread) -> None:
        with self._counts:
            self._is_closing = True
            self._counts.notify_all()  # those who wait for a place wait in vain
        thread.tell(functools.partial(thread.spawn, self._finish))

    async def _finish(self) -> None:
        if self._is_finishing:  # another thread closes it, too
            return
        self._is_finishing = True
        try:
            for tell in self._when_closing:
                tell()
            with self._counts:
                is_idle = not self._accepted
            if not is_idle:
                await self._is_idle.wait()
            await self._engine.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - raised by whoever closes
            self._failure = error
        finally:
            if self._thread is not None:
                self._thread.end()

    def _cancel(self) -> None:
        self._is_cancelling = True
        for scope in self._scopes:
            scope.cancel()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Running

    def run(
        self,
        dag: Pipeline | Plan,
        inputs: Mapping[str, Any],
        *,
        models: Models | None = None,
        key: str | None = None,
        timeout: float | None = None,
        priority: int = 0,
        budget: Budget | None = None,
        estimates: Mapping[str, float] | None = None,
        journal: str | Path | JournalPlace | None = None,
        on_change: OnChange = "reuse",
    ) -> RunResult:
        """Run one document and wait for its result. An interrupt cancels the run.

        Raises:
            PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
            InputError: If the inputs do not fit.
            OverloadError: If `max_pending` runs are pending; nothing has run.
            EngineClosedError: If the runner is not open, or was closed before the run had ended.
        """
        journal = held(journal)
        function = functools.partial(
            Engine.run,
            dag=dag,
            inputs=inputs,
            models=models,
            key=key,
            timeout=timeout,
            priority=priority,
            budget=budget,
            estimates=estimates,
            journal=journal,
            on_change=on_change,
        )
        return self._call(function, takes_place=True)

    def submit(
        self,
        dag: Pipeline | Plan,
        inputs: Mapping[str, Any],
        *,
        models: Models | None = None,
        key: str | None = None,
        timeout: float | None = None,
        priority: int = 0,
        budget: Budget | None = None,
        journal: str | Path | JournalPlace | None = None,
        on_change: OnChange = "reuse",
    ) -> Future[RunResult]:
        """Start one document and return at once. Cancelling the future cancels the run.

        Under asyncio, `await asyncio.wrap_future(runner.submit(…))` waits for it without blocking the loop,
        and cancelling the task that waits cancels the run.

        Raises:
            OverloadError: If `max_pending` runs are pending; nothing has run.
            EngineClosedError: If the runner is not open. The future has it if the runner was closed before
                the run had ended.
        """
        journal = held(journal)
        function = functools.partial(
            Engine.run,
            dag=dag,
            inputs=inputs,
            models=models,
            key=key,
            timeout=timeout,
            priority=priority,
            budget=budget,
            journal=journal,
            on_change=on_change,
        )
        return self.start_tracked(function, takes_place=True)[0]

    def map(
        self,
        dag: Pipeline | Plan,
        documents: Iterable[Mapping[str, Any] | Document],
        *,
        models: Models | None = None,
    ) -> Iterator[RunResult]:
        """Run many documents and yield their results in the order of the documents.

        At most four times the capacity are submitted ahead of the caller; where the runner is full, it
        waits. Leaving it early cancels the rest.

        Raises:
            EngineClosedError: If the runner is not open, or is closed before all documents are submitted.
        """
        ahead: deque[Future[RunResult]] = deque()
        try:
            for document in documents:
                function = _running(dag, document, models)
                while True:
                    try:
                        ahead.append(self.start_tracked(function, takes_place=True, waits=not ahead)[0])
                        break
                    except OverloadError:  # the caller need not wait for others while there are results
                        yield ahead.popleft().result()
                if len(ahead) >= 4 * self.capacity:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def stream(
        self,
        dag: Pipeline | Plan,
        inputs: Mapping[str, Any],
        *,
        models: Models | None = None,
        key: str | None = None,
        timeout: float | None = None,
        priority: int = 0,
        budget: Budget | None = None,
        estimates: Mapping[str, float] | None = None,
    ) -> RunnerStream:
        """Run one document and follow it, from a thread or under asyncio: pieces of replies, and outcomes.

        Use `with` and `for` in a thread, `async with` and `async for` under asyncio. The events, and the
        arguments, are those of `Engine.stream`. A reader that is slow slows the provider; leaving the block
        early cancels the run and closes its connections.

        Raises:
            PlanError: On entering the block, if the pipeline cannot be compiled or bound.
            InputError: On entering the block, if the inputs do not fit.
            OverloadError: On entering the block, if `max_pending` runs are pending; nothing has run.
            EngineClosedError: On entering the block, if the runner is not open; while reading, if it was
                closed before the run had ended.

        Example:
            >>> from pipeline_engine import Delta, Pipeline
            >>> from pipeline_engine.testing import ScriptedModel
            >>> pipeline = Pipeline("greeting", inputs={"name": str})
            >>> @pipeline.llm("fast", str, stream=True)
            ... def greeting(name: str) -> str:
            ...     return f"Greet {name}."
            >>> with Runner(models={"fast": ScriptedModel({"greeting": "Hello, Ada!"})}) as runner:
            ...     with runner.stream(pipeline, {"name": "Ada"}) as events:
            ...         pieces = [event.text for event in events if isinstance(event, Delta)]
            ...     pieces, events.result[greeting]
            (['Hello,', ' Ada!'], 'Hello, Ada!')
        """
        options = {
            "models": models,
            "key": key,
            "timeout": timeout,
            "priority": priority,
            "budget": budget,
            "estimates": estimates,
        }
        return RunnerStream(self, dag, inputs, options)

    # The engine's own

    def statistics(self) -> SchedulerStatistics:
        """Return how many attempts are in flight, ready and waiting at this instant, and how each model is doing.

        Raises:
            EngineClosedError: If the runner is not open.
        """

        async def ask(engine: Engine) -> SchedulerStatistics:
            return engine.statistics()

        return self.call(ask)

    def reset(self, model: str | None = None) -> None:
        """Forget what was learnt against models: open breakers, cool-downs, refused keys.

        Args:
            model: As in `statistics().models`; all of them if not given.

        Raises:
            KeyError: If no such model was bound.
            EngineClosedError: If the runner is not open.
        """

        async def reset(engine: Engine) -> None:
            engine.reset(model)

        self.call(reset)

    # For batches and streams

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Run an async function of the engine on the runner's thread and wait for it; it takes no place.

        Raises:
            EngineClosedError: If the runner is not open.
        """
        return self._call(functools.partial(_apply, function, arguments, options), takes_place=False)

    def start(self, function: Callable[[Engine], Awaitable[T]]) -> Future[T]:
        """Start an async function of the engine on the runner's thread; first started, first served.

        It takes no place among the pending runs; closing waits for it.

        Raises:
            EngineClosedError: If the runner is not open.
        """
        return self.start_tracked(function, takes_place=False)[0]

    def start_tracked(
        self, function: Callable[[Engine], Awaitable[T]], *, takes_place: bool, waits: bool = False
    ) -> tuple[Future[T], Future[None]]:
        """Start a function of the engine; return its future, and one that is done when it has left.

        Args:
            function: What to await on the runner's thread.
            takes_place: Whether it counts as a pending run, unless it belongs to a step of this runner.
            waits: Whether it waits for a place where it would be refused.

        Raises:
            OverloadError: If there is no place for it.
            EngineClosedError: If the runner is not open.
        """
        thread, work = self._accept(takes_place=takes_place, waits=waits)
        try:
            return thread.submit_tracked(functools.partial(self._perform, work, function), in_order=self._begin)
        except BaseException:
            self._leave(work)
            raise

    @contextmanager
    def when_closing(self, tell: Callable[[], object]) -> Iterator[None]:
        """Have something called on the runner's thread if the runner is closed within the block, or is closing."""
        if self._is_closing:
            tell()
        self._when_closing.add(tell)
        try:
            yield
        finally:
            self._when_closing.discard(tell)

    def _call(self, function: Callable[[Engine], Awaitable[T]], *, takes_place: bool) -> T:
        if self._thread is not None and self._process == os.getpid():
            self._thread.refuse_itself()
        future, left = self.start_tracked(function, takes_place=takes_place)
        try:
            return future.result()
        except (KeyboardInterrupt, SystemExit):
            future.cancel()
            left.result()
            raise

    # Accepting work

    def _is_inside(self) -> bool:
        """Whether the caller is a step that this runner runs."""
        running = RUNNING_STEP.get()
        return isinstance(running, StepRun) and running.execution.host is self._engine and running.is_running

    def _accept(self, *, takes_place: bool, waits: bool) -> tuple[TrioThread, _Work]:
        """Count work in, and return it with the thread that is to do it.

        What a step of this runner asks for belongs to the run that was accepted: it takes no place, and is
        accepted while the runner closes.
        """
        # First of all: after a fork somebody else may hold the lock, for ever.
        if self._thread is not None and self._process not in (0, os.getpid()):
            raise EngineClosedError(
                "runner",
                f"belongs to process {self._process}, and its thread did not survive the fork to process "
                f"{os.getpid()}. Open a Runner in each process, after the fork.",
            )
        is_inside = self._is_inside()
        work = _Work(takes_place=takes_place and not is_inside)
        with self._counts:
            while True:
                is_refused = self._is_closing and not (is_inside and self._accepted)
                if self._thread is None or not self._is_open or is_refused:
                    raise EngineClosedError("runner")
                if not work.takes_place or self._pending < self.max_pending:
                    break
                if not waits:
                    raise OverloadError(self._pending, self.max_pending)
                self._counts.wait()
            self._accepted.add(work)
            self._pending += work.takes_place
            return self._thread, work

    def _leave(self, work: _Work) -> bool:
        """Count work out, once; return whether the runner is closing and this was the last of it."""
        with self._counts:
            if work in self._accepted:
                self._accepted.remove(work)
                self._pending -= work.takes_place
                self._counts.notify_all()
            return self._is_closing and not self._accepted

    def _begin(self) -> tuple[trio.Event | None, trio.Event]:
        before, self._last_begun = self._last_begun, trio.Event()
        return before, self._last_begun

    async def _perform(
        self,
        work: _Work,
        function: Callable[[Engine], Awaitable[T]],
        in_order: tuple[trio.Event | None, trio.Event],
    ) -> T:
        before, begun = in_order
        try:
            try:
                if before is not None:
                    await before.wait()  # trio starts tasks in an order of its own
            finally:
                begun.set()
            with trio.CancelScope() as scope:
                if self._is_cancelling:
                    scope.cancel()
                self._scopes.add(scope)
                try:
                    return await function(self._engine)
                finally:
                    self._scopes.discard(scope)
            raise EngineClosedError(
                "runner",
                "was closed before the run had ended, and the run was cancelled. Give close(timeout=…) more seconds.",
            )
        finally:
            if self._leave(work):
                self._is_idle.set()


def _apply(
    function: Callable[..., Awaitable[T]], arguments: tuple[Any, ...], options: Mapping[str, Any], engine: Engine
) -> Awaitable[T]:
    return function(engine, *arguments, **options)


def _running(
    dag: Pipeline | Plan, document: Mapping[str, Any] | Document, models: Models | None
) -> Callable[[Engine], Awaitable[RunResult]]:
    """Return what runs a document: a mapping of inputs, or one with a key and perhaps an error."""
    if not isinstance(document, Document):
        return functools.partial(Engine.run, dag=dag, inputs=document, models=models)
    error, key = document.error, document.key
    if error is None:
        return functools.partial(Engine.run, dag=dag, inputs=document.inputs, models=models, key=key)

    async def refuse(engine: Engine) -> RunResult:
        return RunResult.refused(engine.bind(dag, models).plan, key, error)

    return refuse
