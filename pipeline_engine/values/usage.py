"""What a call used, and what is left of a provider's limits: counts, seconds and money."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cost", "RateLimitState", "RateLimitWindow", "Timings", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Count the tokens of a call. Unknown is None, which is not zero.

    The two totals are what providers bill at their input and output prices; the other counts are
    parts of them. So the sums hold for every provider, although each counts in its own way.

    Example:
        >>> Usage(input_tokens=10, output_tokens=2) + Usage(input_tokens=5)
        Usage(input_tokens=15, output_tokens=2)
        >>> Usage(input_tokens=1000, cache_read_tokens=900).uncached_tokens
        100
    """

    input_tokens: int | None = None
    """Tokens of the request, those read from and written to the provider's prompt cache included."""
    output_tokens: int | None = None
    """Tokens of the reply, those of its reasoning included."""
    cache_read_tokens: int | None = None
    """Those of the request that the provider's prompt cache served."""
    cache_write_tokens: int | None = None
    """Those of the request that were put into the provider's prompt cache."""
    reasoning_tokens: int | None = None
    """Those of the reply that the model spent on thinking."""

    @property
    def uncached_tokens(self) -> int | None:
        """Tokens of the request that the prompt cache has neither served nor taken in."""
        if self.input_tokens is None:
            return None
        return max(0, self.input_tokens - (self.cache_read_tokens or 0) - (self.cache_write_tokens or 0))

    @property
    def total_tokens(self) -> int | None:
        """Tokens of request and reply together; None if either is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.cache_read_tokens, other.cache_read_tokens),
            _sum(self.cache_write_tokens, other.cache_write_tokens),
            _sum(self.reasoning_tokens, other.reasoning_tokens),
        )

    def __repr__(self) -> str:
        known = ((name, getattr(self, name)) for name in self.__slots__)
        return f"Usage({', '.join(f'{name}={value}' for name, value in known if value is not None)})"


def _sum(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else left + right


@dataclass(frozen=True, slots=True)
class Cost:
    """Say what calls cost, in US dollars. A price that nobody knows is unknown, which is not zero.

    Example:
        >>> Cost(usd=0.002) + Cost(unpriced_calls=1)
        Cost(usd=0.002, saved_usd=0.0, unpriced_calls=1)
        >>> print(Cost(usd=0.002) + Cost(unpriced_calls=1))
        $0.0020 and 1 call of unknown price
    """

    usd: float = 0.0
    """What the calls of known price cost together."""
    saved_usd: float = 0.0
    """What they would have cost more without the provider's prompt cache."""
    unpriced_calls: int = 0
    """How many calls are not in the sum, because the price of their model or their tokens are unknown."""

    @property
    def is_known(self) -> bool:
        """Whether the sum holds every call."""
        return self.unpriced_calls == 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.saved_usd + other.saved_usd, self.unpriced_calls + other.unpriced_calls)

    def __str__(self) -> str:
        unknown = f"{self.unpriced_calls} call{'' if self.unpriced_calls == 1 else 's'} of unknown price"
        if self.unpriced_calls and not self.usd:
            return unknown
        known = f"${self.usd:.4f}" if self.usd < 1 else f"${self.usd:,.2f}"
        return f"{known} and {unknown}" if self.unpriced_calls else known


@dataclass(frozen=True, slots=True)
class RateLimitWindow:
    """Say what a provider has told about one of its limits. None is "not told"."""

    limit: int | None = None
    """How many there may be in a window."""
    remaining: int | None = None
    """How many are left in the current one."""
    reset_after: float | None = None
    """Seconds until the window is full again."""


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """Say what a reply's headers have told about the provider's limits."""

    requests: RateLimitWindow | None = None
    """Requests."""
    tokens: RateLimitWindow | None = None
    """Tokens of requests and replies together."""
    input_tokens: RateLimitWindow | None = None
    """Tokens of requests, where they are limited apart."""
    output_tokens: RateLimitWindow | None = None
    """Tokens of replies, where they are limited apart."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Say where the seconds of one call went, from its start on."""

    connect: float | None = None
    """To have a connection: name look-up, TCP and TLS; None if an open one was used again."""
    first_token: float | None = None
    """Until the first piece of the reply's content; None for a reply that was not streamed."""
    total: float | None = None
    """Until the reply was complete."""
