"""The command line, such as `pipeline-engine run`."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from pipeline_engine.cli.arguments import parse_arguments
from pipeline_engine.cli.failing import CommandError, explain
from pipeline_engine.cli.journal_arguments import JOURNAL_COMMANDS

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if documents did not complete, 2 if it cannot be run.

    What is wrong is said in one line on standard error; a traceback is shown only with `--debug`.

    Args:
        argv: The arguments after the program's name; those of the process if not given.

    Raises:
        SystemExit: For `--help` and `--version`, with code 0.

    Example:
        >>> main(["graph", "no-such-file.py"])
        2
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a glyph gets a question mark, not an error in the middle of a run.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # text streams of tests may lack it
    is_debug = False
    try:
        arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
        is_debug = arguments.debug
        code = _perform(arguments)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001 - the border: all is said in one line
        return explain(error, is_debug=is_debug)
    return code


def _perform(arguments: Namespace) -> int:
    if arguments.command == "run":
        from pipeline_engine.cli.running import run

        return run(arguments)
    if arguments.command in ("resume", "retry"):
        from pipeline_engine.cli import resuming

        return resuming.resume(arguments) if arguments.command == "resume" else resuming.retry(arguments)
    if arguments.command == "estimate":
        from pipeline_engine.cli.estimating import estimate

        return estimate(arguments)
    if arguments.command == "simulate":
        from pipeline_engine.cli import simulating

        return simulating.perform(arguments)
    if arguments.command == "check":
        from pipeline_engine.cli.checking import check

        return check(arguments)
    if arguments.command == "graph":
        from pipeline_engine.cli.checking import graph

        return graph(arguments)
    if arguments.command in JOURNAL_COMMANDS:
        from pipeline_engine.cli.journals import perform

        return perform(arguments)
    if arguments.command == "watch":
        from pipeline_engine.cli.watching import watch

        return watch(arguments)
    if arguments.command == "serve":
        from pipeline_engine.cli.serving import serve

        return serve(arguments)
    raise CommandError(f"there is no command {arguments.command!r}.")
