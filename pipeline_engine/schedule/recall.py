"""What a journal remembers of a document, and which of it serves a step that asks. Pure.

What a step or item has left behind is its own first: five steps that ask the same question five times get
back each its own answer. Only when it has asked for something else, or is in the plan no more, may others
that want exactly this have it: so a renamed step, or items that have moved in their list, pay for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pipeline_engine.values import SavedCall, SavedOutput

__all__ = ["Recall"]

Place = tuple[str, int]
"""A step's name and the number of its item."""


class Recall:
    """Find saved outputs and replies for the steps of one document.

    Args:
        calls: The replies that were paid for, oldest first.
        outputs: The outputs that were accepted, oldest first.
        steps: The names of the steps that will ask.
        is_by_name: Whether an output serves its step whatever its key is.
    """

    def __init__(
        self,
        calls: Iterable[SavedCall] = (),
        outputs: Iterable[SavedOutput] = (),
        steps: Collection[str] = (),
        *,
        is_by_name: bool = False,
    ) -> None:
        self._is_by_name = is_by_name
        self._steps = steps
        self._outputs: dict[Place, dict[str, SavedOutput]] = {}
        self._by_key: dict[str, list[SavedOutput]] = {}
        self._replies: dict[str, list[SavedCall]] = {}
        self._calls: dict[str, SavedCall] = {}
        self._ordinals: dict[str, int] = {}
        self._latest: dict[Place, str] = {}
        self._released: set[Place] = set()
        self._widths: dict[str, int] = {}
        self._used: set[str] = set()
        for call in calls:
            self._calls[call.key] = call
            self._ordinals[call.request] = max(self._ordinals.get(call.request, 0), call.ordinal + 1)
            if not call.is_void:
                self._replies.setdefault(call.request, []).append(call)
        for output in outputs:
            self._outputs.setdefault((output.step, output.item), {})[output.key] = output
            self._by_key.setdefault(output.key, []).append(output)
            self._latest[output.step, output.item] = output.key
        self.is_empty = not self._calls and not self._outputs
        """Whether nothing is remembered: then nobody need ask."""

    def open(self, step: str, width: int) -> None:
        """Take note of how many items a mapped step has: those beyond will not ask for what is theirs."""
        self._widths[step] = width

    def own_output(self, step: str, item: int, key: str | None) -> SavedOutput | None:
        """Return what a step or item has left behind itself for just this key, and take it."""
        saved = self._outputs.get((step, item))
        if not saved:
            return None
        if self._is_by_name:
            found = next(reversed(saved.values()))
        else:
            known = saved.get(key) if key else None
            if known is None:
                return None
            found = known
        self._take(found)
        return found

    def is_latest(self, output: SavedOutput) -> bool:
        """Whether nothing was accepted after it at its place: else it must be accepted anew to be what stands there."""
        return self._latest[output.step, output.item] == output.key

    def release(self, step: str, item: int) -> None:
        """Let others have what a step or item has left behind: it wants something else now."""
        self._released.add((step, item))

    def moved_output(self, key: str | None) -> SavedOutput | None:
        """Return an output for this key that its own step or item does not want, and take it."""
        for output in self._by_key.get(key, ()) if key else ():
            place = (output.step, output.item)
            if self._is_free(place) and self._outputs.get(place, {}).get(output.key) is output:
                self._take(output)
                return output
        return None

    def reply(self, step: str, item: int, request: str) -> SavedCall | None:
        """Return a reply to this request that nobody has taken yet, and take it: preferably the step's own."""
        free = [call for call in self._replies.get(request, ()) if call.key not in self._used]
        own = (call for call in free if (call.step, call.item) == (step, item))
        found = next(own, None) or next((call for call in free if self._is_free((call.step, call.item))), None)
        if found is not None:
            self._used.add(found.key)
        return found

    def call(self, key: str) -> SavedCall | None:
        """Return the call with this key."""
        return self._calls.get(key)

    def next_ordinal(self, request: str) -> int:
        """Return which of the document's equal requests the next one is."""
        ordinal = self._ordinals.get(request, 0)
        self._ordinals[request] = ordinal + 1
        return ordinal

    def give_back(self, output: SavedOutput) -> None:
        """Put an output back that cannot be used as it is; its calls may serve all the same."""
        self._used.difference_update(output.calls)

    def _is_free(self, place: Place) -> bool:
        step, item = place
        return place in self._released or step not in self._steps or item >= self._widths.get(step, item + 1)

    def _take(self, output: SavedOutput) -> None:
        self._outputs[output.step, output.item].pop(output.key, None)
        self._used.update(output.calls)
