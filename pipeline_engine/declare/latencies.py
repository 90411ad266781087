"""How long things take, and how many tokens they have, where that varies: distributions to draw from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = ["Constant", "Distribution", "Empirical", "LogNormal", "Uniform", "as_distribution", "parse_distribution"]

_Z95 = 1.6448536269514722
"""The 95 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same.

    Raises:
        ValueError: If it is negative, or no finite number.

    Example:
        >>> import random
        >>> Constant(2.0).sample(random.Random(1))
        2.0
    """

    value: float
    """Seconds, or tokens."""

    def __post_init__(self) -> None:
        _require(f"Constant({self.value!r})", [self.value], "a number that is not negative, such as 2")

    def sample(self, random: random.Random) -> float:
        """Draw a value; here nothing is drawn."""
        return self.value


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything between two values, each as likely as the others.

    Raises:
        ValueError: If a value is negative or no finite number, or `low` is larger than `high`.

    Example:
        >>> import random
        >>> 1.0 <= Uniform(1, 4).sample(random.Random(1)) <= 4.0
        True
    """

    low: float
    """The least."""
    high: float
    """The most."""

    def __post_init__(self) -> None:
        what = f"Uniform({self.low!r}, {self.high!r})"
        _require(what, [self.low, self.high], "two numbers that are not negative, such as Uniform(1, 4)")
        if self.low > self.high:
            raise ValueError(f"{what}: the least comes first. Write Uniform({self.high!r}, {self.low!r}).")

    def sample(self, random: random.Random) -> float:
        """Draw a value."""
        return random.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Mostly near the median, now and then much more: how models and networks answer.

    The logarithm of such a value is normally distributed. It is said by two figures that every provider's
    dashboard shows.

    Raises:
        ValueError: If `median` is not positive, or `p95` is smaller.

    Example:
        >>> import random
        >>> dice = random.Random(1)
        >>> drawn = sorted(LogNormal(median=2, p95=8).sample(dice) for _ in range(10_000))
        >>> round(drawn[5_000], 1), round(drawn[9_500])
        (2.0, 8)
    """

    median: float
    """Half of all values are smaller."""
    p95: float
    """95 of 100 values are smaller."""
    _mu: float = field(init=False, repr=False, compare=False)
    _sigma: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        what = f"LogNormal({self.median!r}, {self.p95!r})"
        _require(what, [self.median, self.p95], "two positive numbers, such as LogNormal(2, 8)")
        if self.median <= 0 or self.p95 < self.median:
            raise ValueError(f"{what}: the median is positive, and the 95th percentile is no smaller than it.")
        object.__setattr__(self, "_mu", math.log(self.median))
        object.__setattr__(self, "_sigma", math.log(self.p95 / self.median) / _Z95)

    def sample(self, random: random.Random) -> float:
        """Draw a value."""
        return random.lognormvariate(self._mu, self._sigma)


@dataclass(frozen=True, slots=True)
class Empirical:
    """What was measured, each value as likely as the others: the distribution of a sample.

    Raises:
        ValueError: If there is no sample, or one is negative or no finite number.

    Example:
        >>> import random
        >>> Empirical([0.5, 0.7, 3.0]).sample(random.Random(1)) in (0.5, 0.7, 3.0)
        True
    """

    samples: Sequence[float] = field(repr=False)
    """The values that were seen."""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("Empirical([]): there is nothing to draw from. Give at least one value.")
        object.__setattr__(self, "samples", tuple(self.samples))
        _require("Empirical(…)", self.samples, "numbers that are not negative")

    def sample(self, random: random.Random) -> float:
        """Draw one of the values."""
        return self.samples[int(random.random() * len(self.samples))]


Distribution: TypeAlias = Constant | Uniform | LogNormal | Empirical
"""What a latency, a count of tokens or a number of items is drawn from."""


def _require(what: str, values: Sequence[float], wanted: str) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{what}: {value!r} is no number. Give {wanted}.")
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{what}: give {wanted}.")


def as_distribution(value: Distribution | float | str) -> Distribution:
    """Return a distribution: the value itself, a constant for a number, or what a short form says.

    Raises:
        ValueError: If it is no such thing.

    Example:
        >>> as_distribution(2)
        Constant(value=2)
        >>> as_distribution("lognormal:2,8")
        LogNormal(median=2.0, p95=8.0)
    """
    if isinstance(value, Distribution):
        return value
    if isinstance(value, str):
        return parse_distribution(value)
    return Constant(value)


def parse_distribution(text: str) -> Distribution:
    """Return the distribution that a short form names, as command lines have it.

    A number is a constant; seconds may say so (`2s`, `250ms`, `2m`). Others are named: `uniform:1..4`, and
    `lognormal:2,8` for a median of 2 and a 95th percentile of 8.

    Raises:
        ValueError: If it is none of these; the message has examples.

    Example:
        >>> parse_distribution("250ms"), parse_distribution("uniform:1..4")
        (Constant(value=0.25), Uniform(low=1.0, high=4.0))
    """
    name, colon, figures = text.strip().partition(":")
    if not colon:
        return Constant(_number(text, name))
    form = _FORMS.get(name.strip().lower())
    if form is None:
        raise ValueError(f"{text!r} is no distribution. {_EXAMPLES}")
    make, separator = form
    given = figures.split(separator)
    if len(given) != 2:
        raise ValueError(f"{text!r} has {len(given)} of two figures. {_EXAMPLES}")
    return make(_number(text, given[0]), _number(text, given[1]))


_EXAMPLES = "Write a number (2, 2s or 250ms), uniform:1..4, or lognormal:2,8 for a median of 2 and a p95 of 8."
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
"""Of the suffixes the longest first: "2ms" ends in "s", too."""
_FORMS: dict[str, tuple[Callable[[float, float], Distribution], str]] = {
    "uniform": (Uniform, ".."),
    "lognormal": (LogNormal, ","),
}


def _number(text: str, figure: str) -> float:
    figure = figure.strip()
    unit = next((unit for unit in _UNITS if figure.endswith(unit)), "")
    try:
        number = float(figure.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{figure!r} in {text!r} is no number that is not negative. {_EXAMPLES}")
    return number
