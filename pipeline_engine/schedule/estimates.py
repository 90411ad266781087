"""What a pipeline's steps have taken so far: seconds and tokens, for the order of steps and for reservations. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from pipeline_engine.schedule.ordering import best_order, longest_paths

if TYPE_CHECKING:
    from pipeline_engine.plan import Plan

__all__ = ["PlanEstimates", "StepEstimate"]

_REMEMBERED = 128
"""How many of the last calls of a step a percentile is taken from."""
_ENOUGH = 20
"""How many calls it takes before a percentile says anything."""
_RECOUNTED = 16
"""After how many calls a percentile is made anew."""
_MOST_COUNTED = 2000
"""Of how many steps at most it is worth counting who depends on whom."""
_UNKNOWN_REPLY = 256.0
"""Tokens that a reply is taken for before any is known."""
_CHARACTERS_PER_TOKEN = 3.0
"""A cautious figure for text; what a step's calls really use replaces it."""


class _Window:
    """Hold the last values of a kind, and their percentiles, which are made anew once in a while."""

    __slots__ = ("_fresh", "_known", "_values")

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_REMEMBERED)
        self._known: dict[float, float] = {}
        self._fresh = 0

    def add(self, value: float) -> None:
        self._values.append(value)
        self._fresh += 1
        if self._fresh >= _RECOUNTED:
            self._fresh = 0
            self._known.clear()

    def at(self, share: float) -> float | None:
        """Return what that share of the values is at most; None as long as there are too few."""
        if len(self._values) < _ENOUGH:
            return None
        known = self._known.get(share)
        if known is None:
            ordered = sorted(self._values)
            known = self._known[share] = float(ordered[math.ceil(len(ordered) * share) - 1])
        return known


class StepEstimate:
    """Remember how long one step's calls took, and how many tokens they used."""

    __slots__ = ("_replies", "_seconds", "_token_share", "calls", "first_calls", "second_calls", "total_seconds")

    def __init__(self) -> None:
        self.calls = 0
        """How many attempts have succeeded."""
        self.first_calls = 0
        """How many attempts might have been given a second call, …"""
        self.second_calls = 0
        """… and how many were."""
        self.total_seconds = 0.0
        self._seconds = _Window()
        self._replies = _Window()
        self._token_share = 0.0

    def learn(self, seconds: float) -> None:
        """Take in how long a successful attempt took."""
        self.calls += 1
        self.total_seconds += seconds

    def learn_seconds(self, seconds: float) -> None:
        """Take in how long a call took, where somebody asks for percentiles."""
        self._seconds.add(seconds)

    def learn_tokens(self, characters: int, asked: int | None, replied: int | None) -> None:
        """Take in what a call used."""
        if asked is not None and asked > 0 and characters:
            share = asked / characters
            self._token_share = share if not self._token_share else 0.8 * self._token_share + 0.2 * share
        if replied is not None and replied >= 0:
            self._replies.add(replied)

    def seconds_at(self, percentile: float) -> float | None:
        """Return how long that share of the last calls took at most; None as long as there are too few."""
        return self._seconds.at(percentile)

    def asked(self, characters: int) -> float:
        """Return how many tokens a request of so many characters may have."""
        return characters * self._token_share if self._token_share else characters / _CHARACTERS_PER_TOKEN

    def replied(self, most: int | None) -> float:
        """Return how many tokens a reply may have: what nine of ten had, and never more than its cap."""
        known = self._replies.at(0.9)
        if known is None:
            return _UNKNOWN_REPLY if most is None else float(most)
        return known if most is None else min(known, float(most))


class PlanEstimates:
    """Rank the steps of a plan: the smallest rank goes first within a document.

    Before anything is known, each step counts as one unit, and of two equal paths the one goes first that
    more steps depend on. What earlier documents took replaces that, step by step: when the number of a
    step's known runs has doubled, the next document's ranks are made anew.

    Args:
        plan: The plan.
        seconds: What is known beforehand, by the names of steps.
        slots: How many steps may run at once, where one document is run with all its seconds known: then
            the best of several orders is chosen.
        steps: What other runs of the plan have learnt, and go on learning.

    Raises:
        ValueError: If `seconds` names no step, or is no number.
    """

    def __init__(
        self,
        plan: Plan,
        seconds: Mapping[str, float] | None = None,
        *,
        slots: int | None = None,
        steps: list[StepEstimate] | None = None,
    ) -> None:
        self._plan = plan
        if not isinstance(seconds, Mapping | None):
            raise TypeError(f"estimates= maps steps' names to seconds, such as {{'summary': 8.0}}, not {seconds!r}.")
        self._given = dict(seconds or {})
        self._is_outdated = False
        unknown = sorted(set(self._given) - set(plan.index_of))
        wrong = [name for name, given in self._given.items() if not _is_seconds(given)]
        if unknown or wrong:
            reasons = [f"{name!r} is no step of it" for name in unknown]
            reasons += [f"{name!r} has {self._given[name]!r}, which is no number of seconds" for name in wrong]
            raise ValueError(f"estimates= does not fit pipeline {plan.name!r}: {', '.join(reasons)}.")
        self.steps = [StepEstimate() for _ in plan.steps] if steps is None else steps
        if seconds and slots is not None and all(step.name in seconds for step in plan.steps):
            known = tuple(float(seconds[step.name]) for step in plan.steps)
            self.ranks = list(_best_order(followers_of(plan), known, slots))
        elif seconds:
            self._rank()
        else:
            self.ranks = _ranks_in_units(plan)

    def learn(self, index: int, seconds: float) -> None:
        """Take in how long an attempt of a step took that succeeded."""
        step = self.steps[index]
        step.learn(seconds)
        if not step.calls & (step.calls - 1):
            self._is_outdated = True

    def refresh(self) -> None:
        """Rank anew with what was learnt, before a document begins: one under way gains nothing by it."""
        if self._is_outdated and not self._given:
            self._is_outdated = False
            self._rank()

    def _rank(self) -> None:
        known = {
            step.index: self._given[step.name] if step.name in self._given else learnt.total_seconds / learnt.calls
            for step, learnt in zip(self._plan.steps, self.steps, strict=True)
            if step.name in self._given or learnt.calls
        }
        unit = sum(known.values()) / len(known) or 1.0
        # In units, not in seconds: what waits already was ranked before, and must stay comparable.
        lengths = [known.get(step.index, unit) / unit for step in self._plan.steps]
        self.ranks = [-longest for longest in longest_paths(followers_of(self._plan), lengths)]


def _is_seconds(given: object) -> bool:
    return isinstance(given, int | float) and isfinite(given) and given >= 0


def followers_of(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Return for each step whoever needs it, in whatever way."""
    return tuple(
        tuple(sorted({*whole, *conditions, *items}))
        for whole, conditions, items in zip(plan.followers, plan.when_followers, plan.item_followers, strict=True)
    )


@lru_cache(maxsize=64)
def _best_order(followers: tuple[tuple[int, ...], ...], seconds: tuple[float, ...], slots: int) -> tuple[float, ...]:
    """Return the order that many runs with the same estimates share."""
    return tuple(float(place) for place in best_order(followers, seconds, slots))


def _ranks_in_units(plan: Plan) -> list[float]:
    """Return ranks by the number of steps on the longest path, then by how many steps depend on one."""
    if len(plan.steps) > _MOST_COUNTED:
        return [float(-step.remaining) for step in plan.steps]
    followers = followers_of(plan)
    descendants = [0] * len(plan.steps)
    for index in range(len(plan.steps) - 1, -1, -1):
        for follower in followers[index]:
            descendants[index] |= descendants[follower] | 1 << follower
    return [-(step.remaining + descendants[step.index].bit_count() / (len(plan.steps) + 1)) for step in plan.steps]
