"""Following one run from outside: its events, and at the end its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.schedule import Follower

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from pipeline_engine.run.results import RunResult
    from pipeline_engine.schedule import Event

__all__ = ["RunStream"]


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
        if self._result is None:
            raise RuntimeError("the run is not over, so it has no result. Read its events to their end first.")
        return self._result

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
