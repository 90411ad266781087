"""One model's governor: every call to it passes here, and what it needs is tested and taken together.

Asked one after the other, conditions break each other's promises: with tokens taken first and the slot
afterwards, calls start in a bunch when slots come free; with the breaker asked on entry, a whole queue goes
through after it has opened. So the queue asks `refusal` and calls `admit` at the same instant, with nothing
in between, and a call that waits holds nothing. Pure: the caller brings clock and randomness.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pipeline_engine.errors import LimitError, ParkedError, RateLimitError
from pipeline_engine.resilience.adaptive import AdaptiveLimit
from pipeline_engine.resilience.circuit import Circuit, CircuitState
from pipeline_engine.resilience.rates import Rate, SettledRate
from pipeline_engine.values import (
    BreakerChanged,
    CooldownStarted,
    CredentialParked,
    LimitChanged,
    QueueCause,
    RateLimitState,
    RateLimitWindow,
    Record,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from pipeline_engine.declare import Breaker, Limits
    from pipeline_engine.resilience.verdicts import Verdict

__all__ = ["Credential", "Governor", "ModelStatistics", "Permit", "Refusal"]

_SPREAD_SHARE = 0.1
"""Calls come back after a cool-down over this share of its length, …"""
_LONGEST_SPREAD = 1.0
"""… but over no more than these seconds."""
_WINDOW_MARGIN = 1.5
"""By how much a reset may be later than a refill at the limit's rate per minute would take."""
_CALM = 60.0
"""Seconds after the last refusal for rate until a model counts as calm."""
_LARGER = 4.0
"""How many times larger than a call at hand those are taken for that nobody has measured yet."""
_FIRST_RETRIES = 3.0
"""Retries that a retry budget grants before any first try has earned one."""
_MOST_RETRIES = 10.0
"""Retries that may be saved up: an hour of calm must not pay for a storm."""


class Refusal(NamedTuple):
    """Say why a call may not start now."""

    cause: QueueCause
    until: float
    """The instant from which it may, as far as anybody knows; infinite if another call must end first."""


class Permit:
    """Hold what an admitted call has taken, until it is given back."""

    __slots__ = ("generation", "reserved", "started_at", "tokens")

    def __init__(
        self, started_at: float, tokens: float, generation: int, reserved: Sequence[tuple[SettledRate, int]] = ()
    ) -> None:
        self.started_at = started_at
        self.tokens = tokens
        self.generation = generation
        self.reserved = reserved
        """The numbers under which its tokens were reserved."""


class Credential:
    """Stand for a key, shared by the models that use it."""

    __slots__ = ("governors", "refused")

    def __init__(self) -> None:
        self.governors: list[Governor] = []
        """Of the models that use it."""
        self.refused: Exception | None = None
        """Why a provider has refused it: it is parked then, and no call with it is sent any more."""


class ModelStatistics(NamedTuple):
    """Tell how a model is doing right now."""

    in_flight: int
    """Calls on the wire."""
    max_in_flight: int | None
    """How many there may be, where that is bounded: the adaptive limit moves."""
    waiting: int
    """Calls that are ready and wait."""
    breaker: CircuitState | None
    """The breaker's state; None if the model has none."""
    cooldown: float
    """Seconds until the end of the cool-down that its provider asked for."""
    is_parked: bool
    """Whether its key was refused or its quota is used up, so that nothing is sent any more."""


class Governor:
    """Decide when calls to one model may start, and learn from how they end.

    Args:
        model: As `"provider:model"`.
        capacity: How many calls the engine may have in flight at all.
        dice: The source of jitter.
        limits: What the model bears.
        breaker: When it is left alone.
        credential: The key that its calls use.

    Example:
        >>> import random
        >>> from pipeline_engine.declare import Limits
        >>> from pipeline_engine.resilience.verdicts import SUCCESS
        >>> governor = Governor("openai:gpt-4o", 64, random.Random(1), limits=Limits(max_concurrency=1))
        >>> permit = governor.admit(0.0)
        >>> governor.refusal(0.0)
        Refusal(cause='concurrency', until=inf)
        >>> governor.finish(permit, 2.0, SUCCESS)
        >>> governor.refusal(2.0) is None
        True
    """

    def __init__(
        self,
        model: str,
        capacity: int,
        dice: random.Random,
        *,
        limits: Limits | None = None,
        breaker: Breaker | None = None,
        credential: Credential | None = None,
    ) -> None:
        self.model = model
        self.capacity = capacity
        self.limits: Limits | None = None
        self.breaker: Breaker | None = None
        self.credential = credential or Credential()
        self.credential.governors.append(self)
        self.in_flight = 0
        self.max_in_flight: float = math.inf
        self.adaptive: AdaptiveLimit | None = None
        self.circuit: Circuit | None = None
        self.cool_until = -math.inf
        """Nothing starts before: the provider has asked for it."""
        self.no_quota: Exception | None = None
        """Why the provider answers nothing more: the account's quota for this model is used up."""
        self.throttled_at = -math.inf
        """When a call was last refused for rate."""
        self.news: list[Record] = []
        """What has changed since somebody told it last."""
        self._dice = dice
        self._rates: list[tuple[QueueCause, Rate]] = []
        self._own_tokens: Rate | None = None
        self._told: dict[QueueCause, Rate] = {}
        self._pace: Rate | None = None
        self._pace_until = -math.inf
        self._retries = _FIRST_RETRIES
        self._retry_share: float | None = None
        self._now = 0.0
        self.adopt(limits, breaker)

    def adopt(self, limits: Limits | None, breaker: Breaker | None) -> None:
        """Take over limits and a breaker, where none are known so far."""
        if self.breaker is None and breaker is not None:
            self.breaker = breaker
            self.circuit = Circuit(breaker, self._breaker_changed)
        if self.limits is None and limits is not None:
            self.limits = limits
            self._retry_share = limits.max_retry_share
            self._limit_by(limits)

    def _limit_by(self, limits: Limits) -> None:
        if limits.rpm is not None:
            self._rates.append(("requests", Rate(limits.rpm / 60, limits.requests_at_once)))
        if limits.tpm is not None:
            self._own_tokens = SettledRate(limits.tpm / 60, limits.tokens_at_once)
            self._rates.append(("tokens", self._own_tokens))
        if limits.max_concurrency is not None:
            self.max_in_flight = limits.max_concurrency
        if limits.adaptive:
            self.adaptive = AdaptiveLimit(maximum=int(min(self.capacity, self.max_in_flight)))
            self.max_in_flight = self.adaptive.limit

    # Before a call

    @property
    def counts_tokens(self) -> bool:
        """Whether a call must bring an estimate of its tokens: calls of different size wait differently then."""
        return self._own_tokens is not None or "tokens" in self._told

    def has_room_for(self, calls: int, now: float, tokens: float = 0.0) -> bool:
        """Whether so many calls of about this size could all start now, so that their order makes no difference."""
        if self.in_flight + calls > self.max_in_flight or self._pace is not None or now < self.cool_until:
            return False
        if self.circuit is not None and self.circuit.state is not CircuitState.CLOSED:
            return False
        return all(
            rate.available(now) >= (calls if cause == "requests" else _LARGER * calls * tokens)
            for cause, rate in self._rates
        )

    @property
    def most_tokens(self) -> float:
        """The largest call that can ever start."""
        return math.inf if self._own_tokens is None else self._own_tokens.burst

    def kept_away_until(self, now: float) -> float:
        """Return until when the breaker keeps the next call away: `now` if it does not."""
        return now if self.circuit is None else self.circuit.admits_at(now)

    def refusal(self, now: float, tokens: float = 0.0) -> Refusal | None:
        """Return why a call may not start now; None if it may, at this very instant.

        Args:
            now: The instant.
            tokens: What the call may need, of request and reply together.
        """
        if now < self.cool_until:
            return Refusal("cooldown", self.cool_until)
        circuit = self.circuit
        if circuit is not None and circuit.state is not CircuitState.CLOSED:
            at = circuit.admits_at(now)
            if at > now:
                return Refusal("breaker", at)
        if self._pace is not None:
            if now >= self._pace_until:
                self._pace = None
            elif wait := self._pace.wait(now):
                return Refusal("cooldown", now + wait)
        if self.in_flight >= self.max_in_flight:
            return Refusal("concurrency", math.inf)
        for cause, rate in self._rates:
            wait = rate.wait(now, 1.0 if cause == "requests" else min(tokens, rate.burst))
            if wait:
                return Refusal(cause, now + wait)
        return None

    def admit(self, now: float, tokens: float = 0.0) -> Permit:
        """Let a call start, and take what it needs. Ask `refusal` first, at the same instant."""
        self.in_flight += 1
        reserved = []
        for _cause, rate in self._rates:
            if isinstance(rate, SettledRate):
                reserved.append((rate, rate.reserve(now, tokens)))
            else:
                rate.take(now)
        if self._pace is not None:
            self._pace.take(now)
        if self.adaptive is not None:
            self.adaptive.started(now, self.in_flight)
        generation = 0
        if self.circuit is not None:
            self._now = now
            generation = self.circuit.enter(now)
        return Permit(now, tokens, generation, reserved)

    @property
    def probe_interval(self) -> float:
        """The seconds between two tries to find out whether the model is well again."""
        return math.inf if self.circuit is None else self.circuit.breaker.timeout

    def is_calm(self, now: float) -> bool:
        """Whether the model is well and has refused no call for a while: it may be asked more than is needed."""
        is_closed = self.circuit is None or self.circuit.state is CircuitState.CLOSED
        return is_closed and now - self.throttled_at > _CALM and now >= self.cool_until

    def is_probe(self, permit: Permit) -> bool:
        """Whether a call in flight is one that decides about the breaker."""
        circuit = self.circuit
        return (
            circuit is not None and circuit.state is CircuitState.HALF_OPEN and permit.generation == circuit.generation
        )

    # After a call

    def finish(
        self,
        permit: Permit,
        now: float,
        verdict: Verdict,
        *,
        tokens: float | None = None,
        retry_after: float | None = None,
        has_jitter: bool = True,
        told: RateLimitState | None = None,
    ) -> None:
        """Take back what a call had, and learn from how it ended.

        Args:
            permit: What `admit` returned.
            now: The instant.
            verdict: What its end says about the model.
            tokens: What it really used; None keeps the estimate, because nobody knows better.
            retry_after: The seconds that the provider asked to wait.
            has_jitter: Whether the end of that wait is spread at random.
            told: What its reply said about the provider's limits.
        """
        self.in_flight -= 1
        if self.circuit is not None:
            self._now = now
            self.circuit.leave(permit.generation, now, is_failure=verdict.is_failure)
        if self.adaptive is not None and verdict.is_congested is not None:
            self._adapt(self.adaptive, permit, now, is_congested=verdict.is_congested)
        if tokens is not None:
            for rate, number in permit.reserved:
                rate.settle(number, permit.tokens - tokens)
        if told is not None:
            self._tighten(now, told)
        if verdict.is_congested:
            self.throttled_at = now
        if retry_after is not None:
            self.cool_down(now, retry_after, has_jitter=has_jitter)

    def cancel(self, permit: Permit) -> None:
        """Take back what a cancelled call had. It says nothing about the model; its tokens may have been used."""
        self.in_flight -= 1
        if self.circuit is not None:
            self.circuit.leave(permit.generation, permit.started_at, is_failure=None)

    def cool_down(self, now: float, seconds: float, *, has_jitter: bool = True) -> None:
        """Start nothing for these seconds; after them calls come back one by one, not all at once.

        With jitter the end is put off by a random part of the spread: other processes were told to wait, too.
        """
        if now + seconds <= self.cool_until:
            return
        spread = min(_LONGEST_SPREAD, seconds * _SPREAD_SHARE)
        self.cool_until = now + seconds + (self._dice.uniform(0.0, spread / 2) if has_jitter else 0.0)
        self._pace = Rate(per_second=2 * self.capacity / spread, burst=1.0)
        self._pace_until = self.cool_until + spread / 2
        self.news.append(CooldownStarted(now, self.model, self.cool_until))

    def park(self, now: float, error: Exception) -> None:
        """Send nothing more with a key that was refused, to any of its models."""
        if self.credential.refused is None:
            self.credential.refused = error
            self.news.append(CredentialParked(now, self.model))

    def obstacle(self, now: float, tokens: float, deadline: float) -> Exception | None:
        """Return why it is of no use to wait for this model; None if a call may start before the deadline."""
        refused = self.credential.refused or self.no_quota
        if refused is not None:
            return ParkedError(self.model, refused)
        if tokens > self.most_tokens:
            return LimitError(self.model, tokens, self.most_tokens)
        if self.cool_until >= deadline and self.cool_until > now:
            return self.cooling_error(now, "which is beyond the step's or the run's deadline")
        return None

    def cooling_error(self, now: float, why: str) -> RateLimitError:
        """Return the error of a call that is not kept waiting for the end of a cool-down."""
        wait = self.cool_until - now
        return RateLimitError(
            f"is cooling down for {wait:.0f} s more, {why}", model=self.model, kind="cooling_down", retry_after=wait
        )

    def reset(self, now: float) -> None:
        """Forget a refused key, a cool-down, and all evidence against the model."""
        self.credential.refused = self.no_quota = None
        self.cool_until = -math.inf
        self._pace = None
        if self.circuit is not None:
            self._now = now
            self.circuit.reset()

    def may_retry(self) -> bool:
        """Return whether the retry budget grants one more retry, and take it from there."""
        if self._retry_share is None:
            return True
        if self._retries < 1.0:
            return False
        self._retries -= 1.0
        return True

    def count_first_try(self) -> None:
        """Let the first try of a step earn its share of a retry."""
        if self._retry_share is not None:
            self._retries = min(max(_MOST_RETRIES, _FIRST_RETRIES), self._retries + self._retry_share)

    def take_news(self) -> list[Record]:
        """Return what has changed since the last time."""
        news, self.news = self.news, []
        return news

    def statistics(self, now: float, waiting: int = 0) -> ModelStatistics:
        """Return how the model is doing."""
        bound = None if self.max_in_flight == math.inf else int(self.max_in_flight)
        state = None if self.circuit is None else self.circuit.state
        cooldown = max(0.0, self.cool_until - now)
        is_parked = self.credential.refused is not None or self.no_quota is not None
        return ModelStatistics(self.in_flight, bound, waiting, state, cooldown, is_parked)

    def _adapt(self, adaptive: AdaptiveLimit, permit: Permit, now: float, *, is_congested: bool) -> None:
        if adaptive.finished(now, permit.started_at, is_congested=is_congested):
            self.max_in_flight = adaptive.limit
            self.news.append(LimitChanged(now, self.model, adaptive.limit))

    def _tighten(self, now: float, told: RateLimitState) -> None:
        self._tighten_one(now, "requests", told.requests)
        self._tighten_one(now, "tokens", told.tokens or told.input_tokens)

    def _tighten_one(self, now: float, cause: QueueCause, window: RateLimitWindow | None) -> None:
        """Believe a provider's headers where they are stricter than what is known; nonsense is ignored."""
        if window is None or window.remaining is None or window.remaining < 0:
            return
        limit, remaining, reset = window.limit, window.remaining, window.reset_after
        if limit is None or limit <= 0 or remaining > limit:
            if limit is None and remaining == 0 and reset is not None and reset > 0:
                self.cool_until = max(self.cool_until, now + reset)
            return
        rate = self._told.get(cause)
        if rate is None:
            kind = SettledRate if cause == "tokens" else Rate
            rate = self._told[cause] = kind(limit / 60, float(limit))
            self._rates.append((cause, rate))
        per_minute, used = limit / 60, limit - remaining
        if reset is not None and used and reset > _WINDOW_MARGIN * used / per_minute:
            # No bucket that refills each minute, but a window of its own: an hour, a day, or fixed minutes.
            rate.restart(used / reset, float(limit), now + reset)
            return
        if (rate.per_second, rate.burst) != (per_minute, limit):
            rate.restart(per_minute, float(limit), max(now, rate.full_at))
        rate.tighten(now, remaining)

    def _breaker_changed(self, before: CircuitState, after: CircuitState) -> None:
        self.news.append(BreakerChanged(self._now, self.model, before.value, after.value))
