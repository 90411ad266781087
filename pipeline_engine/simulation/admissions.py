"""How documents were let into a recorded batch: how many at once, and how long after there was room for them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline_engine.report import Trace

__all__ = ["Admission", "Admissions", "admissions_of"]

_RUNNING = frozenset({"attempt", "failed"})
_PROMPT = 0.05
"""Seconds in which a batch lets in a document that is there: reading it costs a hop to a thread."""
_DIGITS = 3
"""To how many digits of a second the clocks of two engines are told apart."""


class Admission(NamedTuple):
    """Say how a document was let in."""

    gap: float = 0.0
    """Seconds after the document before it at which it was there: it came from outside, or was slowly read."""
    delay: float = 0.0
    """Seconds that it took to let it in, when there was room for it."""


class Admissions(NamedTuple):
    """Say how the documents of a batch were let in."""

    documents: tuple[Admission, ...]
    most_at_once: int
    """How many documents were in flight at most."""


class _Change(NamedTuple):
    """An instant at which something began or ended. Sorted, what ends at an instant comes first."""

    at: float
    attempts: int
    documents: int


def admissions_of(traces: Sequence[Trace], capacity: int) -> Admissions:
    """Return how the documents of a batch were let in.

    Args:
        traces: All runs of the batch, in the order in which they started; at least one.
        capacity: Its slots.
    """
    to_wall_time = traces[0].wall_time - traces[0].started_at
    changes = sorted(change for trace in traces for change in _changes(trace, to_wall_time))
    most_at_once, documents = 1, 0  # one that took no time has ended when it begins
    for change in changes:
        documents += change.documents
        most_at_once = max(most_at_once, documents)
    admissions = []
    attempts = documents = 0
    before = changes[0].at
    room_since: float | None = changes[0].at
    for change in changes:
        if change.documents > 0:
            late = 0.0 if room_since is None else change.at - room_since
            # It was not there when there was room for it; or it was, and the hand-over took a moment.
            admissions.append(Admission(gap=change.at - before) if late > _PROMPT else Admission(delay=late))
            before = change.at
        attempts += change.attempts
        documents += change.documents
        if attempts >= capacity or documents >= most_at_once:
            room_since = None
        elif room_since is None or change.documents > 0:
            room_since = change.at
    return Admissions(tuple(admissions), most_at_once)


def _changes(trace: Trace, to_wall_time: float) -> Iterator[_Change]:
    # Engines have clocks of their own. Wall times are coarse: instants of one engine must not be shifted by that.
    shift = round(trace.wall_time - trace.started_at - to_wall_time, _DIGITS)
    yield _Change(trace.started_at + shift, 0, 1)
    yield _Change(trace.last_at + shift, 0, -1)
    for span in trace.spans:
        calls = [(segment.start, segment.end) for segment in span.segments if segment.kind in _RUNNING]
        calls += [(call.start, call.end) for call in span.second_calls]
        for start, end in calls:
            yield _Change(start + shift, 1, 0)
            yield _Change(end + shift, -1, 0)
