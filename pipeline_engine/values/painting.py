"""How a value of a lower floor is drawn for a notebook: by a painter of an upper one, loaded when it is asked for.

A notebook asks a value itself for its drawing, also a pipeline, which knows nothing of plans and drawings. So a painter
is named, not imported: nothing depends on what it needs, and it is there whatever was imported before.
"""

from __future__ import annotations

from importlib import import_module

__all__ = ["painted"]


def painted(value: object, painter: str) -> str:
    """Return a value drawn as a piece of HTML.

    Args:
        value: The value.
        painter: A function that takes it, as `"module:function"`.
    """
    room, _, name = painter.partition(":")
    return str(getattr(import_module(room), name)(value))
