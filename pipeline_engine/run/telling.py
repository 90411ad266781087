"""How far a batch has come, told to those who look on: its journal, and a function of the caller's."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from pipeline_engine.errors import JournalError
from pipeline_engine.report import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline_engine.report import Present
    from pipeline_engine.run.durable import DurableBatch

__all__ = ["Telling"]

_log = logging.getLogger("pipeline_engine")
_JOURNAL_SECONDS = 1.0
"""How often a journal is told, at most."""
_CALLER_SECONDS = 0.1
"""How often the caller's function is called."""


class Telling:
    """Tell the present moment of a batch while it goes on, and a last time when it ends.

    Args:
        look: Returns the present moment.
        call: The caller's function, if there is one. What it raises is logged, and ends its calls alone.
    """

    def __init__(self, look: Callable[[], Present], call: Callable[[Present], object] | None) -> None:
        self._look = look
        self._call = call
        self._durable: DurableBatch | None = None
        self._news = trio.Event()
        self._scope = trio.CancelScope()
        self.observer = Observer(self._note)
        """Reads the records of the batch's runs."""

    def begin(self, nursery: trio.Nursery, durable: DurableBatch | None) -> None:
        """Tell from now on."""
        self.observer.started_at = trio.current_time()
        self._durable = durable
        nursery.start_soon(self._tell)

    def end(self) -> None:
        """Say the last word. Does nothing the second time."""
        if self._scope.cancel_called:
            return
        self._scope.cancel()
        last = replace(self._look(), is_over=True)
        self._tell_caller(last)
        try:
            self._tell_journal(last)
        except JournalError:
            pass  # whoever has written to it was told

    def _note(self) -> None:
        self._news.set()

    async def _tell(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                if self._call is not None:
                    nursery.start_soon(self._keep_calling)
                while self._durable is not None:
                    # No timer runs while nothing happens: a virtual clock would jump while a thread writes.
                    await self._news.wait()
                    self._news = trio.Event()
                    self._tell_journal(self._look())
                    await trio.sleep(_JOURNAL_SECONDS)

    async def _keep_calling(self) -> None:
        while self._call is not None:
            self._tell_caller(self._look())
            await trio.sleep(_CALLER_SECONDS)

    def _tell_caller(self, present: Present) -> None:
        if self._call is None:
            return
        try:
            self._call(present)
        except Exception:  # noqa: BLE001 - somebody else's code, which only looks on
            _log.exception("progress= raised; it is not called any more")
            self._call = None

    def _tell_journal(self, present: Present) -> None:
        if self._durable is not None:
            self._durable.tell(present.to_json())
