"""One engine on a background thread, for many threads that share its limits and connections."""

from __future__ import annotations

import atexit
import functools
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from pipeline_engine.errors import EngineClosedError
from pipeline_engine.run.document import Document
from pipeline_engine.run.engine import DEFAULT_CAPACITY, Engine
from pipeline_engine.run.results import RunResult
from pipeline_engine.run.trio_thread import TrioThread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from pipeline_engine.declare import Budget, Pipeline
    from pipeline_engine.plan import Plan
    from pipeline_engine.run.binding import Models
    from pipeline_engine.values import Sink

__all__ = ["Runner"]

T = TypeVar("T")


class Runner:
    """Share one engine between threads: web workers, job queues, notebooks.

    Open it with `with`, or with `open()` and `close()`. Make one per process, not one per request:
    each runner has its own slots and connections.

    Args:
        models: The models that roles are bound to, unless a run says otherwise.
        capacity: How many attempts may be in flight at once, over all runs.
        sinks: Readers of the record streams of all runs, called on the runner's thread.
        seed: Makes the jitter of retries repeatable.
        transport: An `httpx2.AsyncBaseTransport` that carries all calls; you close it.

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
        sinks: Sequence[Sink] = (),
        seed: int | None = None,
        transport: Any = None,
    ) -> None:
        self.capacity = capacity
        self._engine = Engine(models=models, capacity=capacity, sinks=sinks, seed=seed, transport=transport)
        self._thread: TrioThread | None = None
        self._in_flight = 0
        self._idle: trio.Event | None = None
        self._last_begun: trio.Event | None = None

    def open(self) -> Self:
        """Start the thread and the engine; returns when they are ready.

        Raises:
            RuntimeError: If it was open before: a closed runner stays closed.
        """
        if self._thread is not None:
            raise RuntimeError("this runner was opened before. Make a new one.")
        # A program that forgets to close its runner must still end, after the runs under way.
        self._thread = TrioThread("pipeline_engine runner", is_daemon=True)
        atexit.register(self.close)
        self._thread.start()
        self._thread.call(self._engine.__aenter__)
        return self

    def close(self) -> None:
        """Let the runs under way finish, then end engine and thread. Does nothing the second time."""
        atexit.unregister(self.close)
        if self._thread is not None and self._thread.is_open:
            self._thread.call(self._drain)
            self._thread.close()

    async def _drain(self) -> None:
        while self._in_flight:
            if self._idle is None or self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()
        await self._engine.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

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
    ) -> RunResult:
        """Run one document and wait for its result. An interrupt cancels the run.

        Raises:
            PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
            InputError: If the inputs do not fit.
            EngineClosedError: If the runner is not open.
        """
        return self.call(
            Engine.run,
            dag,
            inputs,
            models=models,
            key=key,
            timeout=timeout,
            priority=priority,
            budget=budget,
            estimates=estimates,
        )

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
    ) -> Future[RunResult]:
        """Start one document and return at once. Cancelling the future cancels the run.

        Raises:
            EngineClosedError: If the runner is not open.
        """
        return self.start(
            lambda engine: engine.run(
                dag, inputs, models=models, key=key, timeout=timeout, priority=priority, budget=budget
            )
        )

    def map(
        self,
        dag: Pipeline | Plan,
        documents: Iterable[Mapping[str, Any] | Document],
        *,
        models: Models | None = None,
    ) -> Iterator[RunResult]:
        """Run many documents and yield their results in the order of the documents.

        At most four times the capacity are submitted ahead of the caller.

        Raises:
            EngineClosedError: If the runner is not open.
        """
        waiting: list[Future[RunResult]] = []
        try:
            for document in documents:
                waiting.append(self._submit_document(dag, document, models))
                if len(waiting) >= 4 * self.capacity:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()

    def _submit_document(
        self, dag: Pipeline | Plan, document: Mapping[str, Any] | Document, models: Models | None
    ) -> Future[RunResult]:
        if not isinstance(document, Document):
            return self.submit(dag, document, models=models)
        error, key = document.error, document.key
        if error is None:
            return self.submit(dag, document.inputs, models=models, key=key)

        async def refuse(engine: Engine) -> RunResult:
            return RunResult.refused(engine.bind(dag, models).plan, key, error)

        return self.start(refuse)

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Run an async function of the engine on the runner's thread and wait for it.

        Raises:
            EngineClosedError: If the runner is not open.
        """
        call = functools.partial(self._count, function, *arguments, **options)
        return self._open_thread().call(call, in_order=self._begin)

    def start(self, function: Callable[..., Awaitable[T]]) -> Future[T]:
        """Start an async function of the engine on the runner's thread; first started, first served.

        Raises:
            EngineClosedError: If the runner is not open.
        """
        return self._open_thread().submit(functools.partial(self._count, function), in_order=self._begin)

    def _begin(self) -> tuple[trio.Event | None, trio.Event]:
        """Accept work, in the order of submissions: closing waits for it from now on."""
        self._in_flight += 1
        before, self._last_begun = self._last_begun, trio.Event()
        return before, self._last_begun

    async def _count(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        *given, (before, begun) = arguments
        try:
            try:
                if before is not None:
                    await before.wait()  # trio starts tasks in an order of its own
            finally:
                begun.set()
            return await function(self._engine, *given, **options)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0 and self._idle is not None:
                self._idle.set()

    def _open_thread(self) -> TrioThread:
        if self._thread is None or not self._thread.is_open:
            raise EngineClosedError("runner")
        return self._thread
