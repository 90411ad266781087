"""Virtual time: what the engine starts outside of trio runs on clocks that jump over every wait."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio.testing

from pipeline_engine.run.loop import clocks_from

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["virtual_time"]


@contextmanager
def virtual_time() -> Iterator[None]:
    """Let whatever is started meanwhile jump to its next deadline whenever everything waits.

    That is `run_pipeline`, `run_batch`, a `Runner` that is opened, and `run_pipeline_async` under asyncio: each is on
    a virtual clock of its own, which begins at zero. It holds for the whole process, whichever thread starts them.
    Code that is on trio already brings its clock along: `trio.run(main, clock=MockClock(autojump_threshold=0))`.

    Steps in threads, in processes and on the asyncio loop take no virtual time: the clock stands still while they
    work, five seconds of real time at most.

    Example:
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> from pipeline_engine.testing import ScriptedModel
        >>> pipeline = Pipeline("article", inputs={"document": str})
        >>> @pipeline.llm("fast", str)
        ... def title(document: str) -> str:
        ...     return f"Give this a title: {document}"
        >>> with virtual_time():
        ...     result = run_pipeline(
        ...         pipeline, {"document": "…"}, models={"fast": ScriptedModel({"title": "Tides"}, latency=60)}
        ...     )
        >>> result.trace.makespan
        60.0
    """
    with clocks_from(partial(trio.testing.MockClock, autojump_threshold=0)):
        yield
