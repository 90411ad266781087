"""The command `serve`: a page on this machine that shows a journal, live and read-only."""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING

import trio

from pipeline_engine.cli.failing import COMPLETED, CommandError
from pipeline_engine.journal import journal_place, read_journal
from pipeline_engine.live.http import listen, serve_connections
from pipeline_engine.live.site import Site
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from argparse import Namespace

    from pipeline_engine.journal import JournalPlace

__all__ = ["serve"]


def serve(arguments: Namespace) -> int:
    """Serve the page until somebody ends it.

    Raises:
        CommandError: If the port is taken.
        JournalError: If the journal cannot be opened.
    """
    place = journal_place(arguments.journal)
    with read_journal(place):
        pass  # what is wrong with it is told now, and not on a page
    trio.run(_serve, place, arguments.port, arguments.open)
    return COMPLETED


async def _serve(place: JournalPlace, port: int, is_opened: bool) -> None:  # noqa: FBT001 - called by trio.run alone
    try:
        listener = await listen(port)
    except OSError as error:
        raise CommandError(
            f"port {port} cannot be used: {error.strerror or error}. Name another one with --port."
        ) from error
    address = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
    print(one_line(f"serving {place.name} at {address} on this machine alone; Ctrl-C ends it"), flush=True)
    if is_opened:
        webbrowser.open(address)
    await serve_connections(listener, Site(place).answer)
