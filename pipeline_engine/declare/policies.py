"""How to try: frozen descriptions of retries, timeouts and tolerated losses, and how they merge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields, replace
from enum import Enum
from fractions import Fraction
from math import floor
from typing import Final, Literal, NamedTuple

__all__ = [
    "INHERIT",
    "Cache",
    "Drop",
    "EffectivePolicy",
    "Hedge",
    "Inherit",
    "Kind",
    "Policy",
    "Retry",
    "Timeout",
    "Warm",
    "WhenOpen",
    "effective_policy",
]


class Inherit(Enum):
    """The type of a policy field that was not given."""

    INHERIT = "inherit"

    def __repr__(self) -> str:
        return "INHERIT"


INHERIT: Final = Inherit.INHERIT
"""A field with this value takes what the pipeline, or else the engine, says."""

Kind = Literal["llm", "embed", "function"]
"""What a step does: asks a model, turns texts into vectors, or runs a function."""
Warm = Literal["first"]
"""Which calls may go ahead of the others that begin with the same document."""
WhenOpen = Literal["fallback", "wait", "fail"]
"""What becomes of a call to a model whose breaker is open."""
RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Retry:
    """Try a step again after a transient failure.

    Attempts are counted for each model or other candidate of a step. Only transient errors are
    tried again: the library's own that say so, `ConnectionError` and `TimeoutError` of function
    steps, and what `on` adds. A permanent error goes to the next candidate at once.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> retry = Retry(attempts=4, base_delay=1, max_delay=3)
        >>> [retry.delay_before(attempt) for attempt in (1, 2, 3, 4)]
        [0.0, 1.0, 2.0, 3.0]
    """

    attempts: int = 4
    """All tries, the first one included."""
    strategy: Literal["exponential", "linear", "constant"] = "exponential"
    """How the delay grows: doubled, by one `base_delay` more, or not at all."""
    base_delay: float = 1.0
    """Seconds before the second attempt, without jitter."""
    max_delay: float = 60.0
    """The longest delay, in seconds."""
    jitter: Literal["full", "equal", "decorrelated", "none"] = "full"
    """How delays are spread, so that failed calls do not all come back at the same instant."""
    on: RetryOn | None = None
    """Further errors to try again: exception types, or a predicate over the exception."""
    on_retry: Callable[[int, Exception], Awaitable[None] | None] | None = None
    """Called with the attempt that failed and its error before each retry; its own errors are logged."""
    repair: int = 2
    """How often a model is told what is wrong with its reply and asked again."""
    max_throttled: int = 20
    """How many refusals for rate a step bears; they spend no attempt."""

    def __post_init__(self) -> None:
        _require(self.attempts >= 1, f"Retry(attempts={self.attempts}): at least the first try is needed.")
        _require(self.base_delay >= 0, f"Retry(base_delay={self.base_delay}): a delay is not negative.")
        _require(self.max_delay >= 0, f"Retry(max_delay={self.max_delay}): a delay is not negative.")
        _require(self.repair >= 0, f"Retry(repair={self.repair}): use 0 for no repair.")
        _require(self.max_throttled >= 0, f"Retry(max_throttled={self.max_throttled}): use 0 for none.")
        strategies = ("exponential", "linear", "constant")
        _require(self.strategy in strategies, f"Retry(strategy={self.strategy!r}): one of {strategies}.")
        jitters = ("full", "equal", "decorrelated", "none")
        _require(self.jitter in jitters, f"Retry(jitter={self.jitter!r}): one of {jitters}.")

    def delay_before(self, attempt: int) -> float:
        """Return the seconds to wait before `attempt`, without jitter.

        Pure: the same policy and attempt always give the same number.

        Args:
            attempt: Counted from 1; the first attempt never waits.

        Raises:
            ValueError: If `attempt` is smaller than 1.
        """
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, not from {attempt}.")
        if attempt == 1:
            return 0.0
        if self.strategy == "exponential":
            # Past 2**60 every delay is max_delay; without the cap a large exponent overflows a float.
            growth = float(2 ** min(attempt - 2, 60))
        elif self.strategy == "linear":
            growth = float(attempt - 1)
        else:
            growth = 1.0
        return float(min(self.max_delay, self.base_delay * growth))


@dataclass(frozen=True, slots=True, repr=False)
class Timeout:
    """Bound how long a step may take, in seconds; fields that are not given are inherited.

    `step` counts from the start of the first attempt and covers back-off, repairs and fallbacks.
    `None` switches a timeout off. The tightest one wins, and the error says which one it was.

    Raises:
        ValueError: If a timeout is not positive.

    Example:
        >>> Timeout(attempt=60, step=300)
        Timeout(attempt=60, step=300)
    """

    connect: float | Inherit | None = INHERIT
    """To reach the provider."""
    first_token: float | Inherit | None = INHERIT
    """From the start of an attempt to the first piece of a streamed reply."""
    idle: float | Inherit | None = INHERIT
    """Between two pieces of a streamed reply; keep-alives and comments are no pieces."""
    attempt: float | Inherit | None = INHERIT
    """One try."""
    step: float | Inherit | None = INHERIT
    """All tries together."""

    def __post_init__(self) -> None:
        for name, value in self._given():
            if value is not None:
                _require(value > 0, f"Timeout({name}={value}): a timeout is positive; None switches it off.")

    def _given(self) -> list[tuple[str, float | None]]:
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [(name, value) for name, value in pairs if not isinstance(value, Inherit)]

    def __repr__(self) -> str:
        return f"Timeout({', '.join(f'{name}={value}' for name, value in self._given())})"

    def over(self, base: Timeout) -> Timeout:
        """Return `base` with the fields given here in place of its own."""
        return replace(base, **dict(self._given()))

    def seconds(self, which: Literal["connect", "first_token", "idle", "attempt", "step"]) -> float | None:
        """Return one timeout's length; None if nothing bounds it."""
        value: float | Inherit | None = getattr(self, which)
        return None if isinstance(value, Inherit) else value


@dataclass(frozen=True, slots=True)
class Cache:
    """Allow equal calls to share one reply.

    Calls that are in flight at the same moment and would send the same request are sent once: the first
    one goes out, and the others take its reply, without a slot and unbilled. Each step validates it for
    itself. If the call fails, the next of them is sent. Equal calls of one document stay apart, so that
    five samples stay five.

    With a journal, the replies behind outputs that were validated, complete and no fallback's serve equal calls
    of later documents, runs and pipelines, too, as long as they are in the journal.

    Example:
        >>> Cache(namespace="tenant-7")
        Cache(namespace='tenant-7')
    """

    namespace: str = ""
    """Only calls of one namespace share replies: give each tenant one of its own."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """Send a second call when the first one takes unusually long, and take the reply that comes first.

    The slower call is cancelled, and what it may have cost is shown. A second call is only sent where a
    slot is free for it and its model is well, preferably to the step's next model. It is for models
    whose slowest replies are many times slower than the usual one; a streamed step is never hedged.

    Raises:
        ValueError: If `after` is neither a percentile nor a positive number of seconds, or `max_extra` is
            no share.

    Example:
        >>> Hedge(after="p95").percentile, Hedge(after=2.5).percentile
        (0.95, None)
    """

    after: float | str = "p95"
    """When the second call is sent: seconds, or a percentile of how long this step's calls have taken."""
    max_extra: float = 0.05
    """The largest share of calls that may be second ones."""

    def __post_init__(self) -> None:
        if isinstance(self.after, str):
            digits = self.after.removeprefix("p")
            is_percentile = self.after.startswith("p") and digits.isdigit() and 0 < int(digits) < 100
            _require(is_percentile, f'Hedge(after={self.after!r}): seconds, or a percentile such as "p95".')
        else:
            _require(self.after > 0, f"Hedge(after={self.after}): a positive number of seconds.")
        given: object = self.max_extra
        is_share = isinstance(given, int | float) and 0 < given <= 1
        _require(is_share, f"Hedge(max_extra={self.max_extra!r}): a share, more than 0 and at most 1, such as 0.05.")

    @property
    def percentile(self) -> float | None:
        """The share of calls that are faster; None if seconds were given."""
        return int(self.after[1:]) / 100 if isinstance(self.after, str) else None


@dataclass(frozen=True, slots=True, repr=False)
class Policy:
    """Say how steps are tried: on a pipeline as the default of its steps, on a step for itself.

    A field that is not given is inherited; `None` switches it off. All but `timeout` reach the steps
    that call models only: whether a function may be repeated is for the function's own `retry=` to say.

    Example:
        >>> Policy(retry=Retry(attempts=2), timeout=30).timeout
        Timeout(attempt=30)
    """

    retry: Retry | Inherit | None = INHERIT
    """When and how often to try again."""
    timeout: Timeout | Inherit | None = INHERIT
    """How long it may take; a plain number is the attempt's timeout in seconds."""
    cache: Cache | Inherit | None = INHERIT
    """Whether equal calls may share one reply."""
    warm: Warm | Inherit | None = INHERIT
    """With "first", one call of a document that begins with a shared text (see `fenced`) goes ahead, and the
    others follow at its first token: then they find the text in the provider's prompt cache."""
    hedge: Hedge | Inherit | None = INHERIT
    """Whether a second call is sent when the first takes unusually long."""
    when_open: WhenOpen | Inherit | None = INHERIT
    """What becomes of a call to a model whose breaker is open. "fallback" goes on to whatever is tried next,
    "wait" waits until it closes, "fail" fails the step at once. If not given, other models and steps are
    tried next, plain values are not, and where there is nothing to try it waits."""

    def __init__(
        self,
        *,
        retry: Retry | Inherit | None = INHERIT,
        timeout: Timeout | float | Inherit | None = INHERIT,
        cache: Cache | Inherit | None = INHERIT,
        warm: Warm | Inherit | None = INHERIT,
        hedge: Hedge | Inherit | None = INHERIT,
        when_open: WhenOpen | Inherit | None = INHERIT,
    ) -> None:
        if isinstance(timeout, int | float):
            timeout = Timeout(attempt=timeout)
        if not isinstance(retry, Retry | Inherit | None):
            raise TypeError(f"retry= takes a Retry(…) or None, not {retry!r}.")
        if not isinstance(timeout, Timeout | Inherit | None):
            raise TypeError(f"timeout= takes a Timeout(…), seconds, or None, not {timeout!r}.")
        if not isinstance(cache, Cache | Inherit | None):
            raise TypeError(f"cache= takes a Cache(…) or None, not {cache!r}.")
        if warm not in ("first", INHERIT, None):
            raise ValueError(f'warm= takes "first" or None, not {warm!r}.')
        if not isinstance(hedge, Hedge | Inherit | None):
            raise TypeError(f"hedge= takes a Hedge(…) or None, not {hedge!r}.")
        if when_open not in ("fallback", "wait", "fail", INHERIT, None):
            raise ValueError(f'when_open= takes "fallback", "wait", "fail" or None, not {when_open!r}.')
        object.__setattr__(self, "retry", retry)
        object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "cache", cache)
        object.__setattr__(self, "warm", warm)
        object.__setattr__(self, "hedge", hedge)
        object.__setattr__(self, "when_open", when_open)

    def __repr__(self) -> str:
        given = ((part.name, getattr(self, part.name)) for part in fields(self))
        return f"Policy({', '.join(f'{name}={value!r}' for name, value in given if value is not INHERIT)})"

    def over(self, base: Policy) -> Policy:
        """Return `base` with the fields given here in place of its own; `Timeout` merges field by field."""
        given = {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if not isinstance(getattr(self, part.name), Inherit)
        }
        if isinstance(self.timeout, Timeout) and not isinstance(base.timeout, Inherit):
            # What was switched off outside does not come back by a side door.
            given["timeout"] = self.timeout.over(_NO_TIMEOUT if base.timeout is None else base.timeout)
        return replace(base, **given)


class EffectivePolicy(NamedTuple):
    """Hold what applies to one step when all layers are merged."""

    retry: Retry
    timeout: Timeout
    """Every field is given."""
    timeout_said: Timeout
    """Without what is only the engine's default: a model's own timeouts stand between the two."""
    cache: Cache | None
    warm: Warm | None
    hedge: Hedge | None
    when_open: WhenOpen | None


_NO_TIMEOUT = Timeout(connect=None, first_token=None, idle=None, attempt=None, step=None)
_ONCE = Retry(attempts=1, max_throttled=0)
_CALL_DEFAULT = Policy(retry=Retry(), timeout=Timeout(connect=10, attempt=300))
_FUNCTION_DEFAULT = Policy(retry=_ONCE, timeout=_NO_TIMEOUT)


def effective_policy(kind: Kind, layers: list[Policy]) -> EffectivePolicy:
    """Merge the policies that apply to one step, outermost first, over the engine's own defaults.

    Example:
        >>> merged = effective_policy("llm", [Policy(timeout=60)])
        >>> merged.retry.attempts, merged.timeout.seconds("connect"), merged.timeout.seconds("attempt")
        (4, 10, 60)
    """
    *outer, own = layers
    said = Policy()
    for layer in outer:
        # The engine cannot know whether a function may be repeated: only its own retry= says so.
        said = (Policy(timeout=layer.timeout) if kind == "function" else layer).over(said)
    said = own.over(said)
    merged = said.over(_FUNCTION_DEFAULT if kind == "function" else _CALL_DEFAULT)
    retry = merged.retry if isinstance(merged.retry, Retry) else Retry(attempts=1, repair=0, max_throttled=0)
    timeout = merged.timeout if isinstance(merged.timeout, Timeout) else _NO_TIMEOUT
    timeout_said = _NO_TIMEOUT if said.timeout is None else said.timeout
    return EffectivePolicy(
        retry,
        timeout.over(_NO_TIMEOUT),
        Timeout() if isinstance(timeout_said, Inherit) else timeout_said,
        merged.cache if isinstance(merged.cache, Cache) else None,
        "first" if merged.warm == "first" else None,
        merged.hedge if isinstance(merged.hedge, Hedge) else None,
        None if isinstance(merged.when_open, Inherit) else merged.when_open,
    )


@dataclass(frozen=True, slots=True)
class Drop:
    """Go on without a few failed items of a mapped step.

    Raises:
        ValueError: If `at_most` is negative, or a share above 1.

    Example:
        >>> Drop(at_most=0.1).allowance(25), Drop(at_most=3).allowance(25)
        (2, 3)
    """

    at_most: float | int
    """A share of the items as a float, or their number as an int."""

    def __post_init__(self) -> None:
        _require(self.at_most >= 0, f"Drop(at_most={self.at_most}): it is not negative.")
        is_share = isinstance(self.at_most, float)
        _require(
            not is_share or self.at_most <= 1,
            f"Drop(at_most={self.at_most}): a share is at most 1.0; give an int for a number of items.",
        )

    def allowance(self, width: int) -> int:
        """Return how many of `width` items may be lost."""
        if isinstance(self.at_most, int):
            return self.at_most
        # As it is written: 0.29 of 100 is 29, although 0.29 * 100 is a little less as floats.
        return floor(Fraction(str(self.at_most)) * width)
