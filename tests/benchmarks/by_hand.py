"""The document pipeline as one would write it on trio without an engine: bare, and equipped like the engine."""

from typing import Any

import trio
from pydantic import TypeAdapter

from tests.benchmarks.document_dag import Answer, category, keywords, quality, summary, title

__all__ = ["Equipped", "run_bare"]


async def run_bare(document: str) -> dict[str, Any]:
    """Run a nursery per level: no timing, no limit, no timeout, no validation."""
    results: dict[str, Any] = {}

    async def put(name: str, step: Any, *needs: Any) -> None:
        results[name] = await step(*needs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, "title", title, document)
        nursery.start_soon(put, "keywords", keywords, document)
        nursery.start_soon(put, "category", category, document)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, "summary", summary, document, results["title"], results["keywords"])
        nursery.start_soon(put, "quality", quality, document, results["title"], results["category"])
    return results


class Equipped:
    """Run the same two levels with a limit, a timeout, validation and two clock readings a step."""

    def __init__(self, capacity: int, timeout: float | None) -> None:
        self._limiter = trio.CapacityLimiter(capacity)
        self._timeout = timeout
        self._validate = TypeAdapter(Answer).validator.validate_python

    async def run(self, document: str) -> dict[str, Any]:
        results: dict[str, Any] = {}
        times: dict[str, tuple[float, float]] = {}

        async def put(name: str, step: Any, *needs: Any) -> None:
            async with self._limiter:
                started = trio.current_time()
                if self._timeout is None:
                    answer = await step(*needs)
                else:
                    with trio.move_on_after(self._timeout) as scope:
                        answer = await step(*needs)
                    if scope.cancelled_caught:
                        raise TimeoutError(name)
                times[name] = (started, trio.current_time())
            results[name] = self._validate(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, "title", title, document)
            nursery.start_soon(put, "keywords", keywords, document)
            nursery.start_soon(put, "category", category, document)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, "summary", summary, document, results["title"], results["keywords"])
            nursery.start_soon(put, "quality", quality, document, results["title"], results["category"])
        return results
