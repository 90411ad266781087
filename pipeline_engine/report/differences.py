"""How two outputs of one step differ: field by field, in numbers that can be added up. Pure.

Outputs are in JSON's types. A field is a place in an object, such as `label` or `address.city`; an output that is no
object is one field without a name.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Literal

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "FieldComparison",
    "FieldKind",
    "FieldSums",
    "add_fields",
    "distance_between",
    "fields_of",
    "is_equal",
    "overlap",
    "short_text",
    "similarity",
]

FieldKind = Literal["number", "label", "text", "list", "other"]
"""What a field holds: a label is a short text or a truth value that comes again and again."""

_MAX_DEPTH = 5
_MAX_FIELDS = 200
_MAX_WORDS = 400
"""Of a text: comparing words takes time that grows with their square."""
_MAX_CHARACTERS = 8000
_MAX_MEMBERS = 2000
_MAX_TEXTS = 2000
"""How many pairs of different texts of a field are compared word by word: their mean is known well by then."""
_SHOWN_CHANGES = 5
_MAX_LABEL = 32
_MAX_LABELS = 20
_WORDS = re.compile(r"\w+|[^\w\s]")


def fields_of(output: Any) -> dict[str, Any]:
    """Return the fields of an output: those of an object by their paths, else the output itself as "".

    Example:
        >>> fields_of({"label": "news", "address": {"city": "Rome"}})
        {'label': 'news', 'address.city': 'Rome'}
        >>> fields_of("a text")
        {'': 'a text'}
    """
    fields: dict[str, Any] = {}
    _collect(output, "", 0, fields)
    return fields


def _collect(value: Any, path: str, depth: int, fields: dict[str, Any]) -> None:
    if isinstance(value, dict) and value and depth < _MAX_DEPTH:
        for name, member in value.items():
            _collect(member, f"{path}.{name}" if path else str(name), depth + 1, fields)
    elif len(fields) < _MAX_FIELDS:
        fields[path] = value


def is_equal(a: Any, b: Any) -> bool:
    """Return whether two values are the same; True is not 1.

    Example:
        >>> is_equal(1, 1.0), is_equal(True, 1)
        (True, False)
    """
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def distance_between(a: Any, b: Any) -> float:
    """Return how far apart two outputs are, from 0 for equal ones to 1: the mean over their fields.

    Numbers are as far apart as their difference is large beside the larger one, texts as far as they have no words
    in common, lists as far as they have no members in common; whatever else differs is 1 apart.

    Example:
        >>> distance_between({"label": "news", "score": 8}, {"label": "news", "score": 6})
        0.125
    """
    if is_equal(a, b):
        return 0.0
    ours, theirs = fields_of(a), fields_of(b)
    names = dict.fromkeys([*ours, *theirs])
    apart = [_apart(ours[name], theirs[name]) if name in ours and name in theirs else 1.0 for name in names]
    return sum(apart) / len(apart)


def _apart(a: Any, b: Any) -> float:
    if is_equal(a, b):
        return 0.0
    if _is_number(a) and _is_number(b):
        return float(min(1.0, abs(a - b) / max(abs(a), abs(b))))
    if isinstance(a, str) and isinstance(b, str):
        return 1.0 - similarity(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return 1.0 - overlap(a, b)
    return 1.0


def similarity(a: str, b: str) -> float:
    """Return how alike two texts are, from 0 to 1: the share of their words that stand in both, in the same order.

    Of long texts only the first few hundred words are compared.

    Example:
        >>> round(similarity("Rain in March.", "Snow in March."), 2)
        0.75
    """
    if a == b:
        return 1.0
    ours, theirs = (_WORDS.findall(text[:_MAX_CHARACTERS])[:_MAX_WORDS] for text in (a, b))
    return SequenceMatcher(None, ours, theirs, autojunk=False).ratio()


def overlap(a: Sequence[Any], b: Sequence[Any]) -> float:
    """Return what two lists have in common, from 0 to 1: of all their members, the share that is in both.

    Neither order nor repetition counts.

    Example:
        >>> overlap(["rain", "wind"], ["wind", "snow"])
        0.3333333333333333
    """
    ours, theirs = ({_canonical(member) for member in members[:_MAX_MEMBERS]} for members in (a, b))
    everything = ours | theirs
    return len(ours & theirs) / len(everything) if everything else 1.0


def short_text(value: Any, width: int) -> str:
    r"""Return a value on one line, safe to print: a text as it is, anything else as JSON.

    Example:
        >>> short_text("two\nlines", 20), short_text({"label": "news"}, 10)
        ('two lines', '{"label":…')
    """
    if isinstance(value, str):
        return one_line(value[: 4 * width], width)
    return one_line(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)[: 4 * width], width)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _may_be_label(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and len(value) <= _MAX_LABEL)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class FieldComparison:
    """Say how a field of a step's output differs over all documents in which both have it."""

    path: str
    """Its place in the output; empty if the output is no object."""
    kind: FieldKind
    """What it holds."""
    count: int
    """In how many documents both have it."""
    equal: int
    """In how many of them it is the same."""
    only_a: int = 0
    """In how many documents only A's output has it."""
    only_b: int = 0
    """In how many documents only B's output has it."""
    mean_a: float | None = None
    """The mean of A's numbers."""
    mean_b: float | None = None
    """The mean of B's numbers."""
    mean_distance: float | None = None
    """The mean of how far apart two numbers are, whichever is larger."""
    similarity: float | None = None
    """How alike texts are, in the mean, from 0 to 1."""
    overlap: float | None = None
    """How much lists have in common, in the mean, from 0 to 1."""
    changes: tuple[tuple[str, str, int], ...] = ()
    """Of labels, what became what and how often, commonest first."""

    @property
    def share(self) -> float:
        """The share of documents in which it is the same."""
        return self.equal / self.count if self.count else 1.0

    @property
    def text(self) -> str:
        """How it differs, in words; empty where it never does.

        Example:
            >>> FieldComparison("score", "number", 4, 2, mean_a=0.5, mean_b=0.75, mean_distance=0.25).text
            'mean 0.5 → 0.75 (+0.25), 0.25 apart'
        """
        parts = []
        if self.kind == "number" and self.mean_a is not None and self.mean_b is not None and self.equal < self.count:
            change = self.mean_b - self.mean_a
            parts.append(f"mean {self.mean_a:.4g} → {self.mean_b:.4g} ({change:+.3g}), {self.mean_distance:.3g} apart")
        if self.similarity is not None and self.equal < self.count:
            parts.append(f"{self.similarity:.0%} alike")
        if self.overlap is not None and self.equal < self.count:
            parts.append(f"{self.overlap:.0%} in common")
        parts += [f"{a} → {b} {count}×" for a, b, count in self.changes]
        parts += [f"{count} only in {side}" for side, count in (("A", self.only_a), ("B", self.only_b)) if count]
        return ", ".join(parts)

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "field": self.path,
            "kind": self.kind,
            "count": self.count,
            "equal": self.equal,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "mean_distance": self.mean_distance,
            "similarity": self.similarity,
            "overlap": self.overlap,
            "changes": [{"a": a, "b": b, "count": count} for a, b, count in self.changes],
        }


class FieldSums:
    """Add up how one field differs, a document at a time, in memory that does not grow with them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._count = self._equal = 0
        self._only = {"a": 0, "b": 0}
        self._numbers = self._texts = self._lists = 0
        self._sums = dict.fromkeys(("a", "b", "apart", "similarity", "overlap"), 0.0)
        self._different_texts = 0
        self._changes: Counter[tuple[str, str]] = Counter()
        self._labels: Counter[Any] = Counter()
        self._is_label = True

    def add(self, a: Any, b: Any) -> None:
        """Take in the field of one document."""
        self._count += 1
        equal = is_equal(a, b)
        self._equal += equal
        self._note_labels(a, b, equal=equal)
        if _is_number(a) and _is_number(b):
            self._numbers += 1
            self._sums["a"] += a
            self._sums["b"] += b
            self._sums["apart"] += abs(a - b)
        elif isinstance(a, str) and isinstance(b, str):
            self._add_texts(a, b, equal=equal)
        elif isinstance(a, list) and isinstance(b, list):
            self._lists += 1
            self._sums["overlap"] += 1.0 if equal else overlap(a, b)

    def add_one(self, side: Literal["a", "b"]) -> None:
        """Take note of a document in which only one output has the field."""
        self._only[side] += 1

    def _add_texts(self, a: str, b: str, *, equal: bool) -> None:
        self._texts += 1
        if not equal and self._different_texts < _MAX_TEXTS:
            self._different_texts += 1
            self._sums["similarity"] += similarity(a, b)

    def _note_labels(self, a: Any, b: Any, *, equal: bool) -> None:
        if not self._is_label:
            return
        short = all(
            isinstance(value, bool) or (isinstance(value, str) and len(value) <= _MAX_LABEL) for value in (a, b)
        )
        change = (short_text(a, _MAX_LABEL), short_text(b, _MAX_LABEL)) if short else ("", "")
        if short:
            self._labels.update(change)
        if not short or len(self._labels) > _MAX_LABELS:
            self._is_label = False
            self._labels.clear()
            self._changes.clear()
        elif not equal:
            self._changes[change] += 1

    def result(self) -> FieldComparison:
        """Return the sums so far."""
        kind = self._kind()
        numbers = self._numbers if kind == "number" else 0
        return FieldComparison(
            self._path,
            kind,
            self._count,
            self._equal,
            self._only["a"],
            self._only["b"],
            self._sums["a"] / numbers if numbers else None,
            self._sums["b"] / numbers if numbers else None,
            self._sums["apart"] / numbers if numbers else None,
            self._mean_similarity() if kind == "text" else None,
            self._sums["overlap"] / self._lists if kind == "list" else None,
            self._shown_changes() if kind == "label" else (),
        )

    def _kind(self) -> FieldKind:
        # Labels come again: in a few documents with a title each, no two of which are alike, titles are texts.
        if self._labels and self._is_label and 2 * len(self._labels) <= self._labels.total():
            return "label"
        kinds: list[tuple[int, FieldKind]] = [(self._numbers, "number"), (self._texts, "text"), (self._lists, "list")]
        most, kind = max(kinds, key=lambda counted: counted[0])
        return kind if most else "other"

    def _mean_similarity(self) -> float | None:
        """Return the mean over all texts, of which equal ones are wholly alike."""
        if not self._texts:
            return None
        different = self._texts - self._equal
        if not self._different_texts:
            return 1.0
        return (self._equal + different * self._sums["similarity"] / self._different_texts) / self._texts

    def _shown_changes(self) -> tuple[tuple[str, str, int], ...]:
        ordered = sorted(self._changes.items(), key=lambda change: (-change[1], change[0]))
        return tuple((a, b, count) for (a, b), count in ordered[:_SHOWN_CHANGES])


def add_fields(sums: dict[str, FieldSums], a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Take in the fields of two outputs of one document."""
    for path in dict.fromkeys([*a, *b]):
        field = sums.get(path)
        if field is None:
            if len(sums) >= _MAX_FIELDS:
                continue
            field = sums[path] = FieldSums(path)
        if path in a and path in b:
            field.add(a[path], b[path])
        else:
            field.add_one("a" if path in a else "b")
