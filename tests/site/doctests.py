"""Our docstrings say `Example:`, and Google's style knows `Examples:` only: what is read by griffe says the latter."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["Doctests"]

_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Doctests(griffe.Extension):
    """Lets griffe see the examples of docstrings as code, not as prose."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in an object's docstring."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub("Examples:", obj.docstring.value)
