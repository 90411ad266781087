"""How the command line fails: exit codes, and one line that says what, where and what next.

It is loaded for `--help`, too: what only a failure needs is imported where it happens.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from pipeline_engine.errors import (
    JournalError,
    JournalFileError,
    JournalInUseError,
    JournalVersionError,
    PipelineEngineError,
    PlanChangedError,
    PlanError,
)
from pipeline_engine.text import one_line, safe_text

if TYPE_CHECKING:
    from typing import TextIO

__all__ = [
    "COMPLETED",
    "CUT_OFF",
    "INTERRUPTED",
    "JOURNAL_FAILED",
    "NOT_COMPLETED",
    "TERMINATED",
    "UNUSABLE",
    "CommandError",
    "discard",
    "explain",
    "say",
    "short_path",
]

COMPLETED = 0
"""Every document completed."""
NOT_COMPLETED = 1
"""Some document did not complete."""
UNUSABLE = 2
"""The command, or the pipeline, cannot be run as it was given."""
JOURNAL_FAILED = 74
"""The journal can be read or written no more: EX_IOERR of sysexits.h. The same command may succeed later."""
INTERRUPTED = 130
"""Ended by Ctrl-C: 128 and the number of the signal, as shells have it."""
CUT_OFF = 141
"""Ended because nobody reads the output any more, as `| head` does."""
TERMINATED = 143
"""Ended by SIGTERM."""


class CommandError(Exception):
    """Raised for what the user can mend; its message says what is wrong, where, and what to do.

    Attributes:
        exit_code: What the process ends with.
    """

    def __init__(self, message: str, *, exit_code: int = UNUSABLE) -> None:
        self.exit_code = exit_code
        super().__init__(message)


def say(message: str) -> None:
    """Print one message of our own on standard error; what it quotes cannot steer the terminal."""
    try:
        print(f"pipeline-engine: {safe_text(message)}", file=sys.stderr)
    except OSError:
        discard(sys.stderr)  # its reader has gone, or its terminal: nobody is left to be told


def explain(error: BaseException, *, is_debug: bool) -> int:
    """Say on standard error what went wrong, and return the exit code."""
    if isinstance(error, BaseExceptionGroup):
        interrupts = error.subgroup(KeyboardInterrupt)
        error = _first(error if interrupts is None else interrupts)
    if isinstance(error, KeyboardInterrupt):
        say("interrupted.")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        discard(sys.stdout, sys.stderr)
        return CUT_OFF
    if is_debug:
        import traceback

        print(safe_text("".join(traceback.format_exception(error))), file=sys.stderr)
    if isinstance(error, PlanError):
        # The one message of several lines: a problem on each.
        told = str(PlanError(error.pipeline, [_with_short_path(problem) for problem in error.problems]))
        say("\n".join([told, *getattr(error, "__notes__", [])]))
        return UNUSABLE
    if isinstance(error, PlanChangedError):
        say("\n  ".join([f"pipeline {error.pipeline!r} has changed since the journal's last batch:", *error.changes]))
        say(_CHANGE_CURE)
        return UNUSABLE
    if isinstance(error, CommandError):
        say(one_line(str(error)))
        return error.exit_code
    if isinstance(error, JournalError):
        say(one_line(str(error)))
        return UNUSABLE if isinstance(error, _UNUSABLE_JOURNALS) else JOURNAL_FAILED
    if isinstance(error, PipelineEngineError):
        say(one_line(str(error)))
        return UNUSABLE
    if isinstance(error, OSError):
        name = f"{str(error.filename)!r}: " if error.filename is not None else ""
        say(one_line(f"{name}{error.strerror or error}. The run ended there."))
        return NOT_COMPLETED
    more = "" if is_debug else " Run it again with --debug for the traceback."
    say(one_line(f"something that should not happen: {type(error).__name__}: {error}.{more}"))
    return NOT_COMPLETED


_UNUSABLE_JOURNALS = (JournalFileError, JournalInUseError, JournalVersionError)
"""Nothing has run: another place, or another time, is needed."""
_CHANGE_CURE = "with --on-change reuse only what has changed is run again; with keep nothing is; with new everything."


def short_path(path: str) -> str:
    """Return a path as the user would write it from here.

    Example:
        >>> from pathlib import Path
        >>> short_path(str(Path.cwd() / "pipelines" / "document.py"))
        'pipelines/document.py'
    """
    from pathlib import Path

    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _with_short_path(problem: object) -> object:
    from dataclasses import replace

    from pipeline_engine.values import Problem

    if not isinstance(problem, Problem) or problem.file is None:
        return problem
    return replace(problem, file=short_path(problem.file))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def discard(*streams: TextIO) -> None:
    """Let what is written to streams whose readers have gone go nowhere, so that the process can end in peace."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream of a test has no file
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
