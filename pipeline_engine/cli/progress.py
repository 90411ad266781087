"""Progress on standard error: a live picture on a terminal, else one line for each finished document."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

import trio
from rich.live import Live

from pipeline_engine.cli.failing import discard
from pipeline_engine.live.consoles import ForgivingStream, console_for, is_terminal
from pipeline_engine.live.picture import draw_present, spent_text
from pipeline_engine.report.numbers import seconds_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline_engine.cli.summary import Row, Summary
    from pipeline_engine.report import Present

__all__ = ["Progress", "console_for"]


class Progress:
    """Show how far a run is; nothing is shown unless `show` or `tell` is called.

    Rich's own refreshing thread is never started: what is drawn is made and replaced on trio's thread.
    """

    def __init__(self, pipeline: str, total: int, summary: Summary) -> None:
        self.is_live = is_terminal(sys.stderr)
        """Whether there is a terminal, on which a picture is redrawn."""
        self._pipeline = pipeline
        self._total = total
        self._summary = summary
        self._stream = ForgivingStream(sys.stderr, discard)
        self._started_at = trio.current_time()
        self._live: Live | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return trio.current_time() - self._started_at

    def turn_off(self) -> None:
        """Show nothing more if it was shown on a terminal: that has gone. A file stays."""
        if sys.stderr.isatty():
            self._stream.turn_off()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live picture, where there is a terminal, and take it away at the end."""
        if not self.is_live:
            yield
            return
        live = Live(
            console=console_for(cast("TextIO", self._stream)),
            auto_refresh=False,
            transient=True,
            # What steps print goes above the picture; into a file or a pipe it goes untouched.
            redirect_stdout=sys.stdout.isatty(),
        )
        with live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def show(self, present: Present) -> None:
        """Redraw the live picture, while it is shown."""
        if self._live is not None and not self._stream.is_off:
            size = self._live.console.size
            self._live.update(draw_present(present, self._pipeline, size.width, size.height - 1), refresh=True)

    def tell(self, row: Row, reason: str, present: Present) -> None:
        """Print the line of a finished document, where there is no live picture."""
        if self.is_live:
            return
        took = f" in {seconds_text(row.took)}" if row.took is not None else ""
        why = f": {reason}" if reason else ""
        spent = f" · {spent_text(present)}" if self._summary.budget is not None else ""
        line = f"[{self._summary.finished}/{self._total}] {row.document} {row.status}{took}{why}{spent}"
        print(line, file=cast("TextIO", self._stream), flush=True)
