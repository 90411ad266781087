"""Where pictures are drawn: terminals, as far as they are there, and streams whose readers may leave."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ForgivingStream", "console_for", "is_terminal"]


def is_terminal(stream: TextIO) -> bool:
    """Whether what is written is seen by somebody, on a screen that can be drawn upon."""
    return stream.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"} and not os.environ.get("CI")


def console_for(stream: TextIO) -> Console:
    """Return a console that takes all text as text: no markup, no emoji names, no colouring of numbers."""
    return _Console(file=stream, markup=False, emoji=False, highlight=False, force_terminal=is_terminal(stream))


class _Console(Console):
    """Leave it to the caller to end when its reader has gone: rich would end it with a code of its own."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class ForgivingStream:
    """Write to a stream as long as it can be written: a run does not end because nobody looks on any more.

    Args:
        stream: Where to write.
        give_up: Called with the stream once it cannot be written any more.
    """

    def __init__(self, stream: TextIO, give_up: Callable[[TextIO], object] | None = None) -> None:
        self._stream = stream
        self._give_up = give_up
        self.is_off = False
        """Whether nothing is written any more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or do nothing if nobody is there."""
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing if nobody is there."""
        self._attempt(self._stream.flush)

    def turn_off(self) -> None:
        """Write nothing any more."""
        if not self.is_off:
            self.is_off = True
            if self._give_up is not None:
                self._give_up(self._stream)

    def _attempt(self, act: Callable[..., object], *arguments: str) -> None:
        if self.is_off:
            return
        try:
            act(*arguments)
        except OSError:  # a closed pipe, or a terminal that was closed
            self.turn_off()
