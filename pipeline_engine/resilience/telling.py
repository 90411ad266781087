"""Users' callbacks: sync or async, guarded, so that what they raise is logged and changes nothing."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["tell"]

_log = logging.getLogger("pipeline_engine")


async def tell(name: str, callback: Callable[..., Any], *arguments: Any) -> None:
    """Call a callback, and await it if it is async; an exception of its own is logged, never raised."""
    try:
        answer = callback(*arguments)
        if inspect.isawaitable(answer):
            await answer
    except Exception:  # noqa: BLE001 - the user's callback is only told
        _log.exception("%s raised", name)
