"""Calls that wait for other calls: equal ones are sent once, and one may warm a provider's cache for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pipeline_engine.schedule.step_run import StepRun
    from pipeline_engine.values import Message

__all__ = ["Flight", "Flights", "Warming", "shared_prefix"]


class Flight:
    """Equal calls at one moment: the leader's is sent, and the followers take its reply."""

    __slots__ = ("followers", "key", "leader")

    def __init__(self, key: Hashable, leader: StepRun) -> None:
        self.key = key
        self.leader = leader
        self.followers: dict[StepRun, None] = {}


class Flights:
    """Know which calls are in flight or about to be, over all runs of an engine.

    Who is queued counts as in flight: its call will be sent, and an equal one need not be.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}

    def join(self, key: Hashable, step_run: StepRun) -> StepRun | None:
        """Let a call join its equals; return the one that it follows, or None if it goes first."""
        flight = self._flights.get(key)
        if flight is None:
            step_run.flight = self._flights[key] = Flight(key, step_run)
            return None
        flight.followers[step_run] = None
        step_run.flight = flight
        return flight.leader

    def land(self, leader: StepRun) -> list[StepRun]:
        """End a flight whose leader has a reply; return who takes it, in the order of joining."""
        flight = self._leave(leader)
        if flight is None:
            return []
        followers = list(flight.followers)
        for follower in followers:
            follower.flight = None
        return followers

    def leave(self, step_run: StepRun) -> StepRun | None:
        """Let a call leave without a reply; return the follower that leads now and must be sent, if any."""
        flight = self._leave(step_run)
        if flight is None or not flight.followers:
            return None
        leader = next(iter(flight.followers))
        del flight.followers[leader]
        flight.leader = leader
        self._flights[flight.key] = flight
        return leader

    def _leave(self, step_run: StepRun) -> Flight | None:
        """Return the flight that has lost its leader, if it was one."""
        flight, step_run.flight = step_run.flight, None
        if flight is None:
            return None
        if flight.leader is not step_run:
            flight.followers.pop(step_run, None)
            return None
        del self._flights[flight.key]
        return flight


class Warming:
    """The calls of one document that begin alike: one goes ahead until the provider has read what they share."""

    __slots__ = ("is_warm", "leader", "waiting")

    def __init__(self) -> None:
        self.is_warm = False
        self.leader: StepRun | None = None
        self.waiting: dict[StepRun, None] = {}


def shared_prefix(messages: tuple[Message, ...]) -> tuple[Any, ...] | None:
    """Return what the messages say up to their last shared text; None if they share nothing.

    Example:
        >>> from pipeline_engine.values import Message, Text
        >>> shared_prefix((Message("user", Text("A long document", is_shared=True), "Summarise it."),))
        (('user', Text(text='A long document', is_shared=True)),)
    """
    parts = [(message.role, part) for message in messages for part in message.parts]
    last = max((place for place, (_role, part) in enumerate(parts) if getattr(part, "is_shared", False)), default=None)
    return None if last is None else tuple(parts[: last + 1])
