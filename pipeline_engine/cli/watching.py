"""The command `watch`: the present moment of a batch that another process runs, until it has ended."""

from __future__ import annotations

import shlex
import sys
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import trio
from rich.live import Live

from pipeline_engine.cli.failing import COMPLETED, NOT_COMPLETED, CommandError
from pipeline_engine.cli.journals import print_json
from pipeline_engine.journal import journal_place
from pipeline_engine.live.consoles import console_for, is_terminal
from pipeline_engine.live.picture import draw_present, present_line
from pipeline_engine.live.watching import watched
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from pipeline_engine.live.moments import Moment

__all__ = ["watch"]


def watch(arguments: Namespace) -> int:
    """Show the batch until it has ended, and return whether all of its documents are completed.

    Raises:
        CommandError: If there is no such batch.
        JournalError: If the journal cannot be opened or read.
    """
    last = trio.run(_watch, arguments)
    if arguments.once:
        return COMPLETED
    return COMPLETED if last.state == "done" and not last.present.not_completed else NOT_COMPLETED


async def _watch(arguments: Namespace) -> Moment:
    moment: Moment | None = None
    try:
        async with aclosing(watched(journal_place(arguments.journal), arguments.batch)) as moments:
            with _showing(arguments) as show:
                async for moment in moments:
                    show(moment)
                    if arguments.once:
                        break
    except LookupError as error:
        raise CommandError(str(error.args[0] if error.args else error)) from None
    if moment is None:
        raise AssertionError("a batch has at least one moment")
    if not arguments.json:
        print(one_line(_state_text(moment, arguments.journal)))
    return moment


@contextmanager
def _showing(arguments: Namespace) -> Iterator[Callable[[Moment], None]]:
    """Give what shows a moment: as JSON, as a line where there is no terminal, or as a picture that is redrawn."""
    if arguments.json:
        yield _print_json
    elif not is_terminal(sys.stdout):
        yield _Lines().show
    else:
        console = console_for(sys.stdout)
        if arguments.once:
            yield lambda moment: console.print(_picture(moment, console))
            return
        # Rich's own refreshing thread is never started, and the last picture stays.
        with Live(console=console, auto_refresh=False) as live:
            yield lambda moment: live.update(_picture(moment, console), refresh=True)


def _print_json(moment: Moment) -> None:
    print_json(moment.told())
    sys.stdout.flush()


class _Lines:
    """Print a line for each moment in which another document has ended."""

    def __init__(self) -> None:
        self._last: object = None

    def show(self, moment: Moment) -> None:
        counts = (moment.state, dict(moment.present.documents))
        if counts != self._last:
            self._last = counts
            print(present_line(moment.present), flush=True)


def _picture(moment: Moment, console: Console) -> RenderableType:
    title = f"{moment.batch.pipeline} {moment.batch.batch}"
    return draw_present(moment.present, title, console.size.width, console.size.height - 1)


def _state_text(moment: Moment, journal: str) -> str:
    """Return where the batch stands, and how to go on with one that has not come to its end."""
    batch = moment.batch
    said = f"batch {batch.batch} of pipeline {batch.pipeline!r}"
    if moment.state == "running":
        return f"{said} is running in {'1 process' if moment.processes == 1 else f'{moment.processes} processes'}."
    if moment.state == "done":
        return f"{said} is done."
    why = "its process has ended" if moment.state == "interrupted" else "it was stopped"
    if not batch.command:
        return f"{said} is not done: {why}. A program has started it: run that again, and it does what is missing."
    name = journal_place(journal).name
    return f"{said} is not done: {why}. Go on with: pipeline-engine resume {batch.batch} --journal {shlex.quote(name)}"
