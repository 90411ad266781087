"""Progress on standard error: a live picture on a terminal, else one line for each finished document."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline_engine.cli.failing import discard
from pipeline_engine.cli.summary import Row, Summary, spend_text
from pipeline_engine.report.numbers import count_text, seconds_text
from pipeline_engine.text import one_line
from pipeline_engine.values import AttemptFinished, AttemptStarted, Cost, HedgeFinished, RunFinished, RunStarted, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

    from pipeline_engine.values import Record

__all__ = ["Activity", "Progress", "console_for", "is_terminal", "time_left"]

_REFRESH_SECONDS = 0.1
_BAR_CELLS = 40


def is_terminal(stream: TextIO) -> bool:
    """Whether what is written is seen by somebody, on a screen that can be drawn upon."""
    return stream.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"} and not os.environ.get("CI")


def console_for(stream: TextIO) -> Console:
    """Return a console that takes all text as text: no markup, no emoji names, no colouring of numbers."""
    return _Console(file=stream, markup=False, emoji=False, highlight=False, force_terminal=is_terminal(stream))


class _Console(Console):
    """Leave it to the command to end when its reader has gone: rich would end it with a code of its own."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Forgiving:
    """Write to a stream as long as it can be written: a run does not end because nobody looks on any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_off = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[..., object], *arguments: str) -> None:
        if self.is_off:
            return
        try:
            act(*arguments)
        except OSError:  # a closed pipe, or a terminal that was closed
            self.is_off = True
            discard(self._stream)


class Activity:
    """Know what is going on at this instant, from the records of all runs: a sink."""

    def __init__(self) -> None:
        self.documents = 0
        """Documents in flight."""
        self.attempts: Counter[str] = Counter()
        """Attempts in flight, by step."""
        self.usage = Usage()
        """The tokens spent so far."""
        self.cost = Cost()
        """What the calls so far have cost, those included that came second."""

    def open_run(self, started: RunStarted) -> Callable[[Record], None]:
        """Count a document in, and return the reader of its further records."""
        del started
        self.documents += 1
        return self._read

    def _read(self, record: Record) -> None:
        if isinstance(record, AttemptStarted):
            self.attempts[record.step] += 1
        elif isinstance(record, AttemptFinished):
            self.attempts[record.step] -= 1
            if record.usage is not None:
                self.usage += record.usage
            if record.cost is not None:
                self.cost += record.cost
        elif isinstance(record, HedgeFinished):
            self.cost += record.cost or Cost()
        elif isinstance(record, RunFinished):
            self.documents -= 1


class Progress:
    """Show how far a run is; nothing is shown unless `refresh` or `tell` is called.

    Rich's own refreshing thread is never started: what is drawn is made and replaced on trio's thread.
    """

    def __init__(self, pipeline: str, steps: Sequence[str], total: int, summary: Summary) -> None:
        self.activity = Activity()
        self.is_live = is_terminal(sys.stderr)
        self._pipeline = one_line(pipeline)
        self._steps = steps
        self._total = total
        self._summary = summary
        self.stopped_by: str | None = None
        """What lets the run end when its calls have finished."""
        self._stream = _Forgiving(sys.stderr)
        self._started_at = trio.current_time()
        self._live: Live | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return trio.current_time() - self._started_at

    def turn_off(self) -> None:
        """Show nothing more if it was shown on a terminal: that has gone. A file stays."""
        if sys.stderr.isatty() and not self._stream.is_off:
            self._stream.is_off = True
            discard(sys.stderr)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live picture, where there is a terminal, and take it away at the end."""
        if not self.is_live:
            yield
            return
        live = Live(
            self.draw(),
            console=console_for(cast("TextIO", self._stream)),
            auto_refresh=False,
            transient=True,
            # What steps print goes above the picture; into a file or a pipe it goes untouched.
            redirect_stdout=sys.stdout.isatty(),
        )
        with live:
            self._live = live
            yield

    async def refresh(self) -> None:
        """Redraw ten times a second, until cancelled."""
        while self._live is not None and not self._stream.is_off:
            self._live.update(self.draw(), refresh=True)
            await trio.sleep(_REFRESH_SECONDS)

    def tell(self, row: Row, reason: str) -> None:
        """Print the line of a finished document, where there is no live picture."""
        if self.is_live:
            return
        took = f" in {seconds_text(row.took)}" if row.took is not None else ""
        why = f": {reason}" if reason else ""
        spent = f" · {self._spent()}" if self._summary.budget is not None else ""
        line = f"[{self._summary.finished}/{self._total}] {row.document} {row.status}{took}{why}{spent}"
        print(line, file=cast("TextIO", self._stream), flush=True)

    def _spent(self) -> str:
        """Return the spend so far, of documents in flight too."""
        return spend_text(
            self._summary.cost_before + self.activity.cost,
            self._summary.usage_before + self.activity.usage,
            self._summary.budget,
        )

    @property
    def _doing(self) -> str:
        return "now" if self.stopped_by is None else f"stopping ({self.stopped_by})"

    def draw(self) -> RenderableType:
        """Return the picture of this instant; it does not change afterwards."""
        summary = self._summary
        # What the journal had is there at once, and tells nothing about the rest.
        kept = summary.restored
        left = time_left(summary.finished - kept, self._total - kept, self.elapsed) if not self.stopped_by else None
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._pipeline, style="bold", no_wrap=True),
            ProgressBar(total=self._total, completed=summary.finished, width=_BAR_CELLS),
            Text(f"{summary.finished}/{self._total}", no_wrap=True),
            Text(seconds_text(self.elapsed) if self.elapsed >= 1 else "", no_wrap=True),
            Text(f"about {seconds_text(left)} left" if left is not None else "", style="dim", no_wrap=True),
        )
        facts = [
            f"{summary.counts['completed']} completed",
            *([f"{count_text(kept)} from the journal"] if kept else []),
            *([f"{summary.not_completed} not completed"] if summary.not_completed else []),
            f"{self.activity.documents} in flight",
        ]
        spent = self._spent()
        running = [
            f"{one_line(step, 24)} {count_text(self.activity.attempts[step])}"
            for step in self._steps
            if self.activity.attempts[step] > 0
        ]
        return Group(
            head,
            Text(" · ".join([*facts, *([spent] if spent else [])]), no_wrap=True, overflow="ellipsis"),
            Text(f"{self._doing}: {' · '.join(running) or 'waiting'}", style="dim", no_wrap=True, overflow="ellipsis"),
        )


def time_left(finished: int, total: int, elapsed: float) -> float | None:
    """Return a rough guess of the seconds that are left; None as long as it would mislead.

    The first documents finish late, because many are under way at once: nothing is said before a
    tenth of them is done.

    Example:
        >>> time_left(20, 100, 10.0), time_left(2, 100, 1.0), time_left(100, 100, 50.0)
        (40.0, None, None)
    """
    if finished == total or finished < 3 or finished * 10 < total:
        return None
    return elapsed / finished * (total - finished)
