"""What work may be given as: an awaitable, or an async function that makes one when it is time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["Work", "begin", "discard", "name_of", "require_work"]

T = TypeVar("T")
Work = Awaitable[T] | Callable[[], Awaitable[T]]


def begin(work: Work[T]) -> Awaitable[T]:
    """Return what is to be awaited.

    Raises:
        TypeError: If a function was given that returns something else.
    """
    if inspect.isawaitable(work):
        return work
    made = work()
    if not inspect.isawaitable(made):
        raise TypeError(
            f"{name_of(work)} returned {type(made).__name__}, which cannot be awaited. "
            "Give an async function, or wrap a plain one with sync_to_async."
        )
    return made


def require_work(work: Any) -> None:
    """Raise for what can be neither awaited nor called.

    Raises:
        TypeError: If it is neither.
    """
    if not inspect.isawaitable(work) and not callable(work):
        raise TypeError(f"{work!r} is neither an awaitable nor an async function. Give f(…) or partial(f, …).")


def discard(work: Any) -> None:
    """Close a coroutine that will never be awaited: else Python warns about it when it is collected."""
    if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        work.close()


def name_of(work: Any) -> str:
    """Return what to call it in a message: its function's name in quotes."""
    while isinstance(work, functools.partial):
        work = work.func
    return repr(getattr(work, "__qualname__", type(work).__name__).rpartition("<locals>.")[2])
