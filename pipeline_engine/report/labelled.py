"""Which of two batches is right more often, where a file says what is right; and whether chance could have done it.

Pure. An expected value stands for a step, or for a field of its output: `category`, or `category.label`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline_engine.report.differences import fields_of, is_equal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LabelComparison", "LabelSums", "expectations", "is_right", "sign_test"]

_FEWEST = 6
"""Of five documents in which only one side is right, even five for one side come about by chance too often."""
_SIGNIFICANT = 0.05


def expectations(expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return expected values by place, however they were nested.

    Example:
        >>> expectations({"category": {"label": "news"}, "quality.score": 3, "mood": "good"})
        {'category.label': 'news', 'quality.score': 3, 'mood': 'good'}
    """
    found: dict[str, Any] = {}
    for name, value in expected.items():
        for path, leaf in fields_of(value).items():
            found[f"{name}.{path}" if path else name] = leaf
    return found


def is_right(expected: Any, output: Any, field: str = "") -> bool:
    """Return whether an output, or a field of it, is what was expected.

    An output that is an object with one field may be meant without it. Texts are compared without the white space
    around them, lists without their order, and texts of a CSV file with whatever they spell.

    Example:
        >>> is_right("news", {"label": "news"}), is_right("0.50", {"score": 0.5}, "score"), is_right("news", "new")
        (True, True, False)
    """
    fields = fields_of(output)
    if field:
        if field not in fields:
            return False
        actual = fields[field]
    else:
        actual = next(iter(fields.values())) if len(fields) == 1 else output
    if isinstance(expected, str) and not isinstance(actual, str):
        expected = _spelt(expected)
    if isinstance(expected, str) and isinstance(actual, str):
        return expected.strip() == actual.strip()
    if isinstance(expected, list) and isinstance(actual, list):
        return sorted(map(_canonical, expected)) == sorted(map(_canonical, actual))
    if isinstance(expected, float) and isinstance(actual, float):
        return math.isclose(expected, actual, rel_tol=1e-9)
    return is_equal(expected, actual)


def _spelt(text: str) -> Any:
    try:
        return json.loads(text.strip().lower() if text.strip().lower() in ("true", "false", "null") else text)
    except ValueError:
        return text


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def sign_test(only_a: int, only_b: int) -> float:
    """Return how often chance alone would make a difference as large as this one, or larger.

    It is McNemar's exact test: of the documents in which one side is right and the other one wrong, each side would
    have half if neither were better.

    Example:
        >>> sign_test(1, 9), sign_test(5, 5)
        (0.021484375, 1.0)
    """
    total, fewer = only_a + only_b, min(only_a, only_b)
    if total <= 1000:
        tail = sum(math.comb(total, count) for count in range(fewer + 1)) / 2**total
    else:  # by logarithms: the numbers themselves have thousands of digits
        logs = (
            math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
            for count in range(fewer + 1)
        )
        tail = sum(math.exp(log - total * math.log(2)) for log in logs)
    return float(min(1.0, 2 * tail))


@dataclass(frozen=True, slots=True)
class LabelComparison:
    """Say how often A and B are right about one labelled step or field, in the documents that both have run."""

    name: str
    """The step or the field."""
    count: int
    """How many labelled documents both have run, and could be judged."""
    both: int
    """In how many of them both are right."""
    only_a: int
    """In how many of them A is right and B is wrong."""
    only_b: int
    """In how many of them B is right and A is wrong."""
    missing_a: int = 0
    """In how many of them A has no output, which counts as wrong."""
    missing_b: int = 0
    """In how many of them B has no output, which counts as wrong."""
    left_out: int = 0
    """How many labelled documents could not be judged: one side has not run them, or their outputs are not kept."""

    @property
    def right_a(self) -> int:
        """How often A is right."""
        return self.both + self.only_a

    @property
    def right_b(self) -> int:
        """How often B is right."""
        return self.both + self.only_b

    @property
    def rights(self) -> tuple[int, int]:
        """How often A and B are right."""
        return self.right_a, self.right_b

    @property
    def p_value(self) -> float:
        """How often chance alone would make a difference as large as this one; see `sign_test`."""
        return sign_test(self.only_a, self.only_b)

    @property
    def verdict(self) -> str:
        """What follows from it, in one sentence.

        Example:
            >>> LabelComparison("category", 40, 30, 1, 9).verdict
            'B is right more often: chance alone would do as much in 2.1 of 100 such comparisons'
            >>> LabelComparison("category", 40, 30, 1, 3).verdict
            'too few to tell: only 4 documents divide them'
        """
        apart = self.only_a + self.only_b
        if not apart:
            return "no document divides them"
        if apart < _FEWEST:
            return f"too few to tell: only {apart} document{'' if apart == 1 else 's'} divide{'s' * (apart == 1)} them"
        p = self.p_value
        chance = f"{100 * p:.2g}" if p >= 0.0001 else "less than 0.01"
        if p >= _SIGNIFICANT:
            return f"no difference that chance could not make: alone it would do as much in {100 * p:.0f} of 100"
        better = "A" if self.only_a > self.only_b else "B"
        return f"{better} is right more often: chance alone would do as much in {chance} of 100 such comparisons"

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "label": self.name,
            "count": self.count,
            "right_a": self.right_a,
            "right_b": self.right_b,
            "both": self.both,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "missing_a": self.missing_a,
            "missing_b": self.missing_b,
            "left_out": self.left_out,
            "p_value": self.p_value,
            "verdict": self.verdict,
        }


class LabelSums:
    """Count how often A and B are right about one step or field."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._counts = dict.fromkeys(("count", "both", "only_a", "only_b", "missing_a", "missing_b", "left_out"), 0)

    def add(self, *, is_right_a: bool, is_right_b: bool, has_a: bool, has_b: bool) -> None:
        """Take in one document."""
        counts = self._counts
        counts["count"] += 1
        counts["missing_a"] += not has_a
        counts["missing_b"] += not has_b
        if is_right_a or is_right_b:
            counts["both" if is_right_a and is_right_b else "only_a" if is_right_a else "only_b"] += 1

    def leave_out(self) -> None:
        """Take note of a document that cannot be judged."""
        self._counts["left_out"] += 1

    def result(self) -> LabelComparison:
        """Return the counts so far."""
        return LabelComparison(self._name, **self._counts)
