"""Progress for programs and notebooks: a live picture on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO, cast

from pipeline_engine.live.consoles import ForgivingStream, console_for, is_terminal
from pipeline_engine.live.picture import draw_present, present_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.live import Live

    from pipeline_engine.report import Present

__all__ = ["show_progress"]


def show_progress(title: str = "", *, every: float = 10.0, file: TextIO | None = None) -> Callable[[Present], None]:
    r"""Return what shows how far a batch is, for `run_batch(…, progress=show_progress())`.

    On a terminal it is a picture that is redrawn, and the last one stays; elsewhere a line every few seconds.

    Args:
        title: What stands before it.
        every: Seconds between two lines, where there is no terminal.
        file: Where to write; standard error if not given.

    Example:
        >>> import io
        >>> from pipeline_engine import Pipeline, run_batch
        >>> pipeline = Pipeline("double", inputs={"number": int})
        >>> @pipeline.step
        ... def doubled(number: int) -> int:
        ...     return number * 2
        >>> shown = io.StringIO()
        >>> _ = run_batch(pipeline, [{"number": n} for n in range(3)], progress=show_progress(file=shown))
        >>> shown.getvalue()
        '[3/3] 3 completed\n'
    """
    return _Shown(title, every, sys.stderr if file is None else file).show


class _Shown:
    """Hold what is shown of one batch after the other."""

    def __init__(self, title: str, every: float, file: TextIO) -> None:
        self._title = title
        self._every = every
        self._file = ForgivingStream(file)
        self._live: Live | None = None
        self._next_at = every

    def show(self, present: Present) -> None:
        if is_terminal(cast("TextIO", self._file)):
            self._redraw(present)
        elif present.elapsed >= self._next_at or present.is_over:
            self._next_at = self._every if present.is_over else present.elapsed + self._every
            print(present_line(present), file=cast("TextIO", self._file), flush=True)

    def _redraw(self, present: Present) -> None:
        from rich.live import Live

        if self._live is None:
            # Rich's own refreshing thread is never started: what is drawn is made and replaced on trio's thread.
            self._live = Live(console=console_for(cast("TextIO", self._file)), auto_refresh=False)
            self._live.start()
        size = self._live.console.size
        self._live.update(draw_present(present, self._title, size.width, size.height - 1), refresh=True)
        if present.is_over:
            self._live.stop()
            self._live, self._next_at = None, self._every
