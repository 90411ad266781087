"""Which recorded request is nearest to one that is not recorded, and where the two differ. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline_engine.testing.cassette import Recording

__all__ = ["differences", "nearest"]

_BEFORE, _AFTER = 20, 40
"""Characters that are quoted before and after the first one that differs."""


def nearest(recordings: Iterable[Recording], step: str, model: str, request: Any) -> Recording | None:
    """Return the recording that is most like a request; one of the same step and model is, whatever it asks."""
    text = json.dumps(request, sort_keys=True)

    def likeness(recording: Recording) -> tuple[bool, bool, float]:
        other = json.dumps(recording.request, sort_keys=True)
        begins = _alike(text, other)
        ends = _alike(text[:begins:-1], other[:begins:-1])
        return recording.step == step, recording.model == model, (begins + ends) / max(len(text), len(other))

    return max(recordings, key=likeness, default=None)


def differences(recording: Recording, model: str, request: Any) -> list[str]:
    """Return where a recording differs from what is asked now, a clause each.

    Example:
        >>> from pipeline_engine.testing.cassette import Recording
        >>> old = Recording(step="title", item=None, call=1, key="…", model="openai:gpt-4o-mini",
        ...                 request={"messages": [["user", "Name the sea."]]})
        >>> differences(old, "openai:gpt-4o-mini", {"messages": [["user", "Name the tide."]]})
        ['messages[0][1] differs from character 9 on: “Name the sea.” was recorded, “Name the tide.” is asked']
    """
    found = [] if recording.model == model else [f"{recording.model!r} was asked, and now {model!r} is"]
    return [*found, *_compared("", recording.request, request)]


def _compared(place: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{place}.{name}" if place else name
            if name not in new:
                yield f"{inner} was recorded, and is not asked any more"
            elif name not in old:
                yield f"{inner} was not recorded, and is asked"
            else:
                yield from _compared(inner, old[name], new[name])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _compared(f"{place}[{index}]", one, other)
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{place} were {len(old)}, and are {len(new)}"
    elif isinstance(old, str) and isinstance(new, str) and old != new:
        at = _alike(old, new)
        yield (
            f"{place} differs from character {at} on: “{_excerpt(old, at)}” was recorded, "
            f"“{_excerpt(new, at)}” is asked"
        )
    elif old != new:
        yield f"{place} was {_short(old)}, and is {_short(new)}"


def _alike(old: str, new: str) -> int:
    """Return with how many equal characters two texts begin."""
    least, most = 0, min(len(old), len(new))
    while least < most:
        middle = (least + most + 1) // 2
        if old[:middle] == new[:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def _excerpt(text: str, at: int) -> str:
    start = max(0, at - _BEFORE)
    end = at + _AFTER
    return f"{'…' if start else ''}{one_line(text[start:end])}{'…' if end < len(text) else ''}"


def _short(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False), 60)
