"""How a run is ended from outside: the first signal lets calls finish, the second cancels them, the third kills."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import trio

from pipeline_engine.cli.failing import INTERRUPTED, TERMINATED, say

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stopping"]

_PATIENCE = {signal.SIGINT: 60.0, signal.SIGTERM: 8.0}
"""Seconds that calls have to finish. Whoever sends SIGTERM, such as a container's manager, kills after ten."""
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopping:
    """Bring a run to its end when signals ask for it; the run is inside `with stopping.scope`.

    Example:
        >>> stopping = Stopping()
        >>> stopping.receive(signal.SIGINT)  # nothing has begun that could finish
        >>> stopping.scope.cancel_called, stopping.cause, stopping.exit_code
        (True, 'Ctrl-C', 130)
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.number: int | None = None
        """The first signal; None as long as there was none."""
        self._drain: Callable[[str], None] | None = None

    @property
    def cause(self) -> str:
        """What the first signal is called."""
        return _NAMES[signal.Signals(self.number)] if self.number is not None else ""

    @property
    def exit_code(self) -> int:
        """What the process ends with after the first signal: 128 and its number, as shells have it."""
        return INTERRUPTED if self.number == signal.SIGINT else TERMINATED

    def let_finish(self, drain: Callable[[str], None]) -> None:
        """From now on there are calls that may finish: the first signal calls `drain` with its name."""
        self._drain = drain

    async def watch(
        self, hang_up: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive signals until cancelled. A terminal that goes away ends nothing: it calls `hang_up`."""
        if threading.current_thread() is not threading.main_thread():
            task_status.started()
            return  # signals reach only the main thread
        hangups = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none
        with trio.open_signal_receiver(*_PATIENCE, *hangups) as signals:
            task_status.started()
            async for number in signals:
                if number in hangups:
                    hang_up()
                else:
                    self.receive(number)

    def receive(self, number: int) -> None:
        """Take a signal: the first one lets calls finish, a further one cancels them."""
        if self.number is not None:
            for deadly in _PATIENCE:
                # The third one must work whatever hangs here, and so is not for Python to handle.
                signal.signal(deadly, signal.SIG_DFL)
            say("calls in flight are cancelled.")
            self.scope.cancel()
            return
        self.number = number
        if self._drain is None:
            self.scope.cancel()
            return
        patience = _PATIENCE[signal.Signals(number)]
        self.scope.deadline = trio.current_time() + patience
        self._drain(self.cause)
        say(
            f"{self.cause}: nothing more is started, and calls in flight have {patience:g} s to finish. "
            f"{'Press Ctrl-C again to cancel them' if number == signal.SIGINT else 'A second signal cancels them'}."
        )
