"""Keyphrases: runs of content words, ranked by their links, places and spelling."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pipeline_engine.providers.offline.words import (
    GENERIC_WORDS,
    LEADING_WORDS,
    ORDINARY_VERBS,
    STOP_WORDS,
    WEAK_WORDS,
    stem,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["keyphrases"]

MAX_WORDS = 6000
"""The keyword graph is built from so many words; what a text is about is said by then."""

_WINDOW = 3
_DAMPING = 0.85
_MAX_SHARED = 2  # phrases with one word in common
_TOKEN = re.compile(r"[^\W\d_][\w'’.-]*(?<![.'’-])|[^\s\w]|\w+")
_BEFORE_VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        to can could cannot may might must shall should will would not never always also only then and i you we they it
        he she who which that what nobody everybody everything nothing
        """,
    )
)
_BEFORE_NOUNS = frozenset(
    re.findall(
        r"\w+",
        """
        a an the this these those its their our your his her my each every no any some all both another other such of in
        on with without for by at from per into between one two three many more most
        """,
    )
)
_AFTER_VERBS = frozenset(
    re.findall(r"\w+", "the a an it them its their this these you us me what how whether nothing everything")
)
_OWN_PLURALS = frozenset({"news", "goods"})  # they mean something else than what they look like forms of
_ADJECTIVE_ENDINGS = ("able", "ible", "ous", "ive", "ful", "less", "ed", "ing", "ary")
_CODE_SHAPED = re.compile(r".*[a-z][A-Z].*[a-z]|.*[_.@#$\\]|.*\d{3}")


def keyphrases(paragraphs: Sequence[str], headings: Sequence[str] = (), count: int = 10) -> list[str]:
    """Return the phrases that say best what a text is about, best first; none is a variant of another.

    Words are ranked by a co-occurrence graph (window of three words; Mihalcea and Tarau, "TextRank",
    EMNLP 2004) and by what YAKE found to tell keywords without a corpus: frequency, early places, spread
    over sentences and capital letters (Campos et al., "YAKE!", 2018). Identifiers and stop words never
    become keywords; a word that its neighbours show to be a verb ("it maps", "to bind a model") rarely does.

    Example:
        >>> keyphrases(["A virtual clock jumps. Tests use the virtual clock.", "The virtual clock is exact."], count=1)
        ['virtual clock']
        >>> keyphrases(["It maps the sea. Fishermen who map the sea wait. The sea is a deep sea."], count=1)
        ['sea']
    """
    text = _Text(headings, paragraphs)
    scores = text.phrase_scores()
    ordered = sorted(scores, key=lambda phrase: (-scores[phrase], text.first_seen[phrase]))
    chosen: list[tuple[str, ...]] = []
    used = Counter[str]()
    for phrase in ordered:
        if len(chosen) == count:
            break
        is_worn = any(used[word] >= _MAX_SHARED for word in phrase)
        if not is_worn and not any(_is_variant(phrase, other) for other in chosen):
            chosen.append(phrase)
            used.update(phrase)
    return [text.spelling(phrase) for phrase in chosen]


def _is_variant(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    words, others = set(phrase), set(other)
    return words <= others or len(words & others) * 2 > len(words | others) or others < words


class _Text:
    """Counts the words and phrases of a text in one pass."""

    def __init__(self, headings: Sequence[str], paragraphs: Sequence[str]) -> None:
        self.first_seen: dict[tuple[str, ...], int] = {}
        self._phrases: Counter[tuple[str, ...]] = Counter()
        self._spellings: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self._frequency: Counter[str] = Counter()
        self._capitals: Counter[str] = Counter()
        self._insides: Counter[str] = Counter()
        self._blocks: dict[str, set[int]] = defaultdict(set)
        self._links: dict[str, Counter[str]] = defaultdict(Counter)
        self._places: dict[str, int] = {}
        self._in_headings: set[str] = set()
        self._nominal: Counter[str] = Counter()  # how often more a word's neighbours are those of a noun than of a verb
        self._count = 0
        for block, text in enumerate((*headings, *paragraphs)):
            if self._count > MAX_WORDS:
                break
            self._read(text, block)
        for heading in headings:
            self._in_headings.update(stem(word) for word in _TOKEN.findall(heading[:300]))

    def _read(self, text: str, block: int) -> None:
        run: list[str] = []
        is_start = True
        before = ""
        for found in _TOKEN.findall(text):
            token = found.removesuffix("'s").removesuffix("’s")
            self._weigh_neighbours(before, found.lower())
            before = found.lower()
            if token[0].isalpha():
                self._count += 1
            if _is_content(token):
                self._count_word(token, block, is_start=is_start)
                run.append(token)
            else:
                self._count_run(run)
                run = []
            is_start = token in {".", "!", "?", ":"}
        self._count_run(run)

    def _weigh_neighbours(self, before: str, token: str) -> None:
        self._nominal[stem(token)] += (before in _BEFORE_NOUNS) - (before in _BEFORE_VERBS)
        self._nominal[stem(before)] -= token in _AFTER_VERBS

    def _count_word(self, token: str, block: int, *, is_start: bool) -> None:
        word = stem(token)
        self._frequency[word] += 1
        self._places.setdefault(word, self._count)
        self._blocks[word].add(block)
        if not is_start:
            self._insides[word] += 1
            self._capitals[word] += token[0].isupper()

    def _count_run(self, run: list[str]) -> None:
        stems = [stem(word) for word in run]
        for start, word in enumerate(stems):
            for other in stems[start + 1 : start + _WINDOW]:
                if other != word:
                    self._links[word][other] += 1
                    self._links[other][word] += 1
            for length in (1, 2, 3):
                phrase = tuple(stems[start : start + length])
                if len(phrase) < length or len(set(phrase)) < length:
                    break
                if _may_begin(run[start]) and _may_end(run[start + length - 1]):
                    self._phrases[phrase] += 1
                    self.first_seen.setdefault(phrase, len(self.first_seen))
                    self._spellings[phrase][" ".join(run[start : start + length])] += 1

    def phrase_scores(self) -> dict[tuple[str, ...], float]:
        words = self._word_scores()
        least = 1 if self._count < 150 else 2 if self._count < 3000 else 3
        repeated = {phrase: count for phrase, count in self._phrases.items() if count >= least}
        kept = repeated if len(repeated) > 7 else dict(self._phrases)
        inside = Counter[str]()  # how often a word stands in a phrase of two that is kept
        for phrase, count in kept.items():
            if len(phrase) == 2:
                for word in phrase:
                    inside[word] += count
        scores: dict[tuple[str, ...], float] = {}
        for phrase, count in kept.items():
            is_in_heading = all(word in self._in_headings for word in phrase)
            if len(phrase) == 3 and count == 1 and not is_in_heading:
                continue  # three words that met once are a piece of a sentence
            if len(phrase) == 1:
                weight = self._single_weight(phrase[0])
                if not weight:
                    continue
                alone = max(1.0, count - 0.5 * inside[phrase[0]])
                scores[phrase] = words[phrase[0]] * math.log2(1 + alone) * weight
            else:
                share = sum(words[word] for word in phrase) / len(phrase) ** 0.5
                scores[phrase] = share * math.log2(1 + count) * (1.3 if count > 1 else 0.35)
            if is_in_heading:
                scores[phrase] *= 1.3
        return scores

    def _single_weight(self, word: str) -> float:
        """Return how well a word does as a keyword of its own; verbs, adjectives and words for everything do badly."""
        nominal = self._nominal[word]
        if word in ORDINARY_VERBS or word.removesuffix("ed") in ORDINARY_VERBS:
            return 0.3 if nominal > 0 else 0.0
        weight = 0.4 if word in GENERIC_WORDS else 0.5 if word.endswith(_ADJECTIVE_ENDINGS) else 1.0
        return weight if nominal >= 0 else 0.3 * weight  # mostly a verb here: "it maps", "to bind a model"

    def _word_scores(self) -> dict[str, float]:
        ranks = self._ranks()
        counts = list(self._frequency.values())
        mean = sum(counts) / max(1, len(counts))
        scores = {}
        for word, count in self._frequency.items():
            frequency = math.sqrt(count / mean)
            position = 1 / math.log2(3 + self._places[word] / 50)
            spread = math.sqrt(len(self._blocks[word]))
            case = 1 + 0.5 * self._capitals[word] / max(1, self._insides[word])
            scores[word] = ranks.get(word, 0.5) * frequency * position * case * math.log2(1 + spread)
        return scores

    def _ranks(self) -> dict[str, float]:
        shares = {
            word: [(other, weight / total) for other, weight in row.items()]
            for word, row in self._links.items()
            if (total := sum(row.values()))
        }
        scores = dict.fromkeys(shares, 1.0)
        for _ in range(20):
            gathered = dict.fromkeys(shares, 1 - _DAMPING)
            for word, row in shares.items():
                given = _DAMPING * scores[word]
                for other, share in row:
                    gathered[other] += given * share
            scores = gathered
        return scores

    def spelling(self, phrase: tuple[str, ...]) -> str:
        """Return the phrase as it is mostly written; capitals stay where a name or an acronym has them."""
        spellings = self._spellings[phrase]
        folded: Counter[str] = Counter()
        for written, count in spellings.items():
            folded[written.lower()] += count
        common = max(folded, key=lambda written: folded[written])
        forms = [written for written in spellings if written.lower() == common]
        best = max(forms, key=lambda written: spellings[written])
        words = best.split(" ")
        return " ".join(word if self._is_name(word) else word.lower() for word in words)

    def _is_name(self, word: str) -> bool:
        if len(word) > 1 and not word[1:].islower():
            return True
        root = stem(word)
        return self._capitals[root] * 2 > max(1, self._insides[root])


def _is_content(token: str) -> bool:
    lower = token.lower().replace("’", "'")
    forms = {lower} if lower in _OWN_PLURALS else {lower, stem(lower)}
    return (
        token[0].isalpha()
        and 1 < len(token) <= 40
        and forms.isdisjoint(STOP_WORDS)
        and forms.isdisjoint(WEAK_WORDS)
        and not _CODE_SHAPED.match(token)
    )


def _may_begin(token: str) -> bool:
    return len(token) > 2 and not token.lower().endswith("ly")


def _may_end(token: str) -> bool:
    return _may_begin(token) and token.lower() not in LEADING_WORDS
