"""Following one run: its events, and at the end its result; on trio, and from outside of it."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline_engine.run.channel import ThreadChannel
from pipeline_engine.schedule import Follower

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Self

    from pipeline_engine.declare import Pipeline
    from pipeline_engine.plan import Plan
    from pipeline_engine.run.engine import Engine
    from pipeline_engine.run.results import RunResult
    from pipeline_engine.run.runner import Runner
    from pipeline_engine.schedule import Event

__all__ = ["RunStream", "RunnerStream"]

_MAX_WAITING = 16
"""How many events cross to another thread ahead of their reader: a burst of pieces goes in one go."""


class RunStream:
    """Iterate over what happens in a run: `Delta`, `Restarted`, and a `StepFinished` for each outcome."""

    def __init__(self) -> None:
        self.follower = Follower()
        """Where the run tells its events."""
        self._result: RunResult | None = None

    @property
    def result(self) -> RunResult:
        """How every step ended.

        Raises:
            RuntimeError: If the run is not over: read all events first.
        """
        return _result(self._result)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self.follower.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def fill(self, run: Callable[[], Awaitable[RunResult]]) -> None:
        """Run to the end, and say that nothing more will come."""
        try:
            self._result = await run()
        finally:
            self.follower.close()


class RunnerStream:
    """Follow a run of a `Runner`: with `with` and `for` in a thread, with `async with` and `async for` under asyncio.

    Entering the block waits until the run was accepted. Leaving it early cancels the run, and waits until
    its connections are closed and its slots given back.
    """

    def __init__(
        self, runner: Runner, dag: Pipeline | Plan, inputs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._runner = runner
        self._arguments = (dag, inputs)
        self._options = options
        self._channel: ThreadChannel[Event] = ThreadChannel(_MAX_WAITING)
        self._has_begun: Future[bool] = Future()
        self._run: Future[None] | None = None
        self._left: Future[None] = Future()
        self._is_async = False
        self._result: RunResult | None = None

    @property
    def result(self) -> RunResult:
        """How every step ended.

        Raises:
            RuntimeError: If the run is not over: read all events first.
        """
        return _result(self._result)

    def _begin(self) -> Future[None]:
        if self._run is not None:
            raise RuntimeError("this stream was opened before. Call runner.stream(…) again for another run.")
        self._run, self._left = self._runner.start_tracked(self._relay, takes_place=True)
        self._run.add_done_callback(lambda _run: self._end())
        return self._run

    async def _relay(self, engine: Engine) -> None:
        dag, inputs = self._arguments
        async with engine.stream(dag, inputs, **self._options) as events:
            self._tell_begun(has_begun=True)
            # A runner that closes waits for its runs, and must not wait for readers that may be gone.
            with self._runner.when_closing(self._channel.unbound):
                async for event in events:
                    await self._channel.send(event)
        self._result = events.result

    def _end(self) -> None:
        self._channel.close()
        self._tell_begun(has_begun=False)

    def _tell_begun(self, *, has_begun: bool) -> None:
        with suppress(InvalidStateError):  # told before, or whoever waited was cancelled
            self._has_begun.set_result(has_begun)

    # In a thread

    def __enter__(self) -> Self:
        run = self._begin()
        try:
            if not self._has_begun.result():
                run.result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        if self._run is not None:
            self._run.cancel()
            self._left.result()

    def __iter__(self) -> Self:
        if self._run is None or self._is_async:
            raise TypeError(
                "in a thread a stream is opened and read with `with` and `for`: "
                "`with runner.stream(…) as events:`, and then `for event in events:`."
            )
        return self

    def __next__(self) -> Event:
        event = self._channel.receive()
        if event is None:
            self._raise_failure()
            raise StopIteration
        return event

    # Under asyncio

    async def __aenter__(self) -> Self:
        asyncio = _asyncio()
        run, self._is_async = self._begin(), True
        try:
            if not await asyncio.wrap_future(self._has_begun):
                await asyncio.wrap_future(run)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        asyncio = _asyncio()
        if self._run is None:
            return
        self._run.cancel()
        left = asyncio.wrap_future(self._left)
        cancelled: BaseException | None = None
        while not left.done():
            try:
                await asyncio.shield(left)
            except asyncio.CancelledError as error:
                cancelled = error  # told again: the run is on its way out already
        if cancelled is not None:
            raise cancelled

    def __aiter__(self) -> Self:
        if not self._is_async:
            raise TypeError(
                "under asyncio a stream is opened and read with `async with` and `async for`: "
                "`async with runner.stream(…) as events:`, and then `async for event in events:`."
            )
        return self

    async def __anext__(self) -> Event:
        event = await self._channel.receive_in_asyncio()
        if event is None:
            self._raise_failure()
            raise StopAsyncIteration
        return event

    def _raise_failure(self) -> None:
        """Raise what broke the run off, such as the closing of its runner. Leaving the block is no failure."""
        if self._run is not None and not self._run.cancelled():
            self._run.result()


def _result(result: RunResult | None) -> RunResult:
    if result is None:
        raise RuntimeError("the run is not over, so it has no result. Read its events to their end first.")
    return result


def _asyncio() -> Any:
    """Return asyncio, if it runs here.

    Raises:
        RuntimeError: If it does not.
    """
    import asyncio  # noqa: TID251 - the reader's own loop

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "`async with runner.stream(…)` is for asyncio, which does not run here. Under trio open an Engine, "
            "and use `async with engine.stream(…)`."
        ) from None
    return asyncio
