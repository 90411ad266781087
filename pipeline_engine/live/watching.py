"""Watching a batch from another process: its journal is asked again and again until the batch has ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from pipeline_engine.journal import read_journal
from pipeline_engine.live.moments import Moments

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pipeline_engine.journal import JournalPlace
    from pipeline_engine.live.moments import Moment

__all__ = ["wall_time", "watched"]

_SECONDS = 1.0
_SHARE = 10.0
"""A journal is left alone for so many times as long as it took to answer, where that is slow."""


def wall_time() -> float:
    """Return the present time, in seconds since the epoch: what is looked at belongs to other processes' clocks."""
    return datetime.now(UTC).timestamp()


async def watched(place: JournalPlace, batch: str) -> AsyncGenerator[Moment, None]:
    """Yield the moments of a batch, about one a second; the last one is that in which nothing happens any more.

    Args:
        place: The journal.
        batch: The batch's id, the beginning of it, or "last".

    Raises:
        LookupError: If there is no such batch.
        JournalError: If the journal cannot be opened or read.
    """
    moments = Moments()

    def look(name: str) -> Moment:
        with read_journal(place) as reader:
            return moments.look(reader, name, wall_time())

    while True:
        began = trio.current_time()
        # Whoever leaves does not wait for a database that hangs.
        moment = await trio.to_thread.run_sync(look, batch, abandon_on_cancel=True)
        yield moment
        if moment.is_over:
            return
        batch = moment.batch.batch  # "last" is the one that was the last when the watch began
        await trio.sleep(max(_SECONDS, _SHARE * (trio.current_time() - began)))
