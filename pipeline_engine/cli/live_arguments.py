"""The commands that look on while a journal is written, and their options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pipeline_engine.cli.journal_arguments import add_place

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_live_commands"]

_WATCH_ABOUT = """\
Show the present moment of a batch that other processes run: how far it is, calls in flight, what
everything waits for, spend, errors. It ends when the batch has ended, or when its process has."""

_WATCH_EXAMPLES = """\
examples:
  pipeline-engine watch runs.db
  pipeline-engine watch postgresql://db.example/runs --batch 20261121-1240
  pipeline-engine watch runs.db --once
  pipeline-engine watch runs.db --json | jq '.now.waits'

Where there is no terminal a line is printed whenever a document has ended.

exit codes:
  0  the batch is done, and every document completed; or with --once
  1  it is not, or its process has ended
  2  there is no such batch, or the journal cannot be read"""

_SERVE_ABOUT = """\
Show a journal as a page in a browser of this machine: batches, documents, steps, prompts and replies
on request, reports. Open pages follow what is written. Nothing can be changed, and no other machine
can ask; every user of this machine can."""

_SERVE_EXAMPLES = """\
examples:
  pipeline-engine serve runs.db --open
  pipeline-engine serve runs.db --port 9000

All that is shown is there as JSON, too, below /api. Ctrl-C ends it at once."""


def add_live_commands(command: Callable[..., Any]) -> list[Any]:
    """Add the commands, and return their parsers.

    Args:
        command: Makes a command's parser.
    """
    watch = command("watch", "watch a batch that is running", _WATCH_ABOUT, _WATCH_EXAMPLES, about="journal")
    add_place(watch)
    watch.add_argument("--batch", metavar="BATCH", default="last", help="a batch's id (default: the last)")
    watch.add_argument("--once", action="store_true", help="show the present moment and end")
    watch.add_argument("--json", action="store_true", help="a line of JSON for each moment, about one a second")
    serve = command("serve", "show a journal in the browser", _SERVE_ABOUT, _SERVE_EXAMPLES, about="journal")
    add_place(serve)
    serve.add_argument("--port", metavar="PORT", type=_port, default=8765, help="the port (default 8765); 0 is any")
    serve.add_argument("--open", action="store_true", help="show it in the browser")
    return [watch, serve]


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port. Give a number up to 65535; 0 takes any that is free.")
    return int(text)
