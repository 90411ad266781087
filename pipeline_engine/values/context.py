"""What a running step may know about itself."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

__all__ = ["RUNNING_STEP", "StepContext", "current_step"]


@dataclass(frozen=True, slots=True)
class StepContext:
    """Tell a running step where it stands.

    It reaches sync steps in their threads and asyncio steps on their loop, too.
    """

    run_id: str
    """The run, new for every execution."""
    pipeline: str
    """The pipeline's name."""
    document: str
    """The document's key."""
    step: str
    """The step's name."""
    item: int | None
    """The item's place, counted from 0; None outside mapped steps."""
    attempt: int
    """Counted from 1 over all that this step or item tries."""
    deadline: float | None
    """When the attempt will be ended, on the engine's clock; None if nothing bounds it."""

    @property
    def idempotency_key(self) -> str:
        """A key that is the same for every attempt of this step and document, also after a crash.

        It is a hash of pipeline, document, step and item. Give it to services that can recognise
        a request they have served before.
        """
        identity = "\x00".join((self.pipeline, self.document, self.step, str(self.item)))
        return sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds run, document, step and attempt to each line's `extra`."""
        return logging.LoggerAdapter(
            logging.getLogger(f"pipeline_engine.step.{self.step}"),
            {
                "run": self.run_id,
                "document": self.document,
                "step": self.step,
                "attempt": self.attempt,
            },
        )


class _RunningStep(Protocol):
    def context(self) -> StepContext: ...


# Holds what can make the context, not the context itself: few steps ever ask, and it is set for each attempt.
RUNNING_STEP: ContextVar[_RunningStep | None] = ContextVar("pipeline_engine_running_step", default=None)
"""Set by the scheduler around every attempt."""


def current_step() -> StepContext:
    """Return the context of the step that is running here.

    Raises:
        LookupError: If no step is running in this context.
    """
    running = RUNNING_STEP.get()
    if running is None:
        raise LookupError("no step is running here. Call current_step() inside a step's function, not at import.")
    return running.context()
