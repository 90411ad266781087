"""Sentences: where one ends, and which of them say most about a text."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from pipeline_engine.providers.offline.cleaning import is_boilerplate, looks_like_code
from pipeline_engine.providers.offline.words import content_stems

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["pick", "rank", "split", "usable"]

MAX_SENTENCES = 200
"""The graph has an edge for every two similar sentences: a bound keeps the time linear."""

_DAMPING = 0.85
_MIN_SIMILARITY = 0.05
_LEAD_BONUS = 1.15
_MAX_OVERLAP = 0.4

_END = re.compile(r"[.!?…][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9`])|[。！？]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[])(?:e\.g|i\.e|etc|cf|vs|al|approx|resp|ca|mr|mrs|ms|dr|prof|st|no"
    r"|fig|eq|sec|ch|vol|pp?|inc|ltd|co|jr|sr|[a-z])\.[)\]]?\s*$",
    re.IGNORECASE,
)

_LEANING = re.compile(
    r"(?:this|that|these|those|it|its|they|he|she|them|such|both|then|thus|hence|so|but|and|or|also|however|instead"
    r"|rather|therefore|furthermore|moreover|similarly|otherwise|nevertheless|finally|again|there (?:is|are)"
    r"|in (?:fact|addition|particular|this|that|these|contrast|other)|for (?:example|instance|this)|on the other"
    r"|as (?:a result|such|above|before)|definition|note|example|the (?:former|latter|following|above))\b|[(\"'“]|\d",
    re.IGNORECASE,
)


def split(text: str) -> list[str]:
    """Return the sentences of a paragraph.

    Example:
        >>> split("Tea needs water, e.g. Evian. It boils at 100. Then wait!")
        ['Tea needs water, e.g. Evian.', 'It boils at 100.', 'Then wait!']
    """
    sentences: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if _ABBREVIATION.search(text, max(start, end.start() - 12), end.start() + 1):
            continue
        sentences.append(text[start : end.end()].strip())
        start = end.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def usable(paragraphs: Sequence[str]) -> list[str]:
    """Return the sentences that can stand on their own, each once: whole ones, no code, no boilerplate."""
    found: dict[str, None] = {}
    for paragraph in paragraphs:
        for sentence in split(paragraph):
            if 30 <= len(sentence) <= 600 and _is_whole(sentence):
                found.setdefault(sentence)
        if len(found) >= MAX_SENTENCES:
            break
    return list(found)[:MAX_SENTENCES]


def _is_whole(sentence: str) -> bool:
    words = sentence.split()
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return (
        len(words) >= 5
        and sentence[-1] in ".!?…。！？”\"')"
        and (sentence[0].isupper() or not sentence[0].isascii() or sentence[0] in "\"“'(" or sentence[0].isdigit())
        and letters > 0.8 * len(sentence)
        and not is_boilerplate(sentence)
        and not looks_like_code(sentence)
    )


def rank(sentences: Sequence[str]) -> list[float]:
    """Return how central each sentence is: TextRank, with a bonus for the first ones.

    Sentences are linked by the cosine of their tf-idf vectors (links below 0.05 are dropped) and ranked
    by power iteration; see Mihalcea and Tarau, "TextRank: Bringing Order into Text", EMNLP 2004.

    Example:
        >>> scores = rank(["Tea is hot.", "Hot tea needs hot water.", "Dogs bark."])
        >>> scores[1] > scores[2]
        True
    """
    scores = _power_iteration(_links([Counter(content_stems(sentence)) for sentence in sentences]))
    lead = max(1, min(3, len(sentences) // 5))
    return [
        score * (_LEAD_BONUS if place < lead else 1.0) * _standing(sentences[place], place)
        for place, score in enumerate(scores)
    ]


def _standing(sentence: str, place: int) -> float:
    """Return how well a sentence does alone: an answer without its question, or a long one, does badly."""
    early = 1 + 0.5 / (1 + place / 10)
    alone = 0.6 if _LEANING.match(sentence) or sentence.endswith("?") else 1.0
    return early * alone * min(1.0, 300 / len(sentence))


def _links(bags: Sequence[Counter[str]]) -> list[dict[int, float]]:
    holders: dict[str, list[int]] = {}
    for place, bag in enumerate(bags):
        for word in bag:
            holders.setdefault(word, []).append(place)
    weights = {word: math.log(1 + len(bags) / len(places)) for word, places in holders.items()}
    vectors = [{word: count * weights[word] for word, count in bag.items()} for bag in bags]
    lengths = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
    links: list[dict[int, float]] = [{} for _ in bags]
    for place, vector in enumerate(vectors):
        products: dict[int, float] = {}
        for word, value in vector.items():
            for other in holders[word]:
                if other > place:
                    products[other] = products.get(other, 0.0) + value * vectors[other][word]
        for other, product in products.items():
            similarity = product / (lengths[place] * lengths[other])
            if similarity > _MIN_SIMILARITY:
                links[place][other] = links[other][place] = similarity
    return links


def _power_iteration(links: Sequence[dict[int, float]]) -> list[float]:
    scores = [1.0] * len(links)
    shares = [
        [(other, weight / total) for other, weight in row.items()] if (total := sum(row.values())) else []
        for row in links
    ]
    for _ in range(30):
        gathered = [1 - _DAMPING] * len(links)
        for place, row in enumerate(shares):
            given = _DAMPING * scores[place]
            for other, share in row:
                gathered[other] += given * share
        change = max((abs(new - old) for new, old in zip(gathered, scores, strict=True)), default=0.0)
        scores = gathered
        if change < 1e-3:
            break
    return scores


def pick(sentences: Sequence[str], scores: Sequence[float], count: int, max_chars: int | None = None) -> list[str]:
    """Return the `count` best sentences in the order of the text; none repeats another, all fit `max_chars`.

    Two sentences are taken to say the same if they share more than 40 % of their words (Jaccard).

    Example:
        >>> pick(["Tea is hot today.", "Dogs bark.", "Tea is hot now."], [3, 2, 1], count=2)
        ['Tea is hot today.', 'Dogs bark.']
    """
    best = sorted(range(len(sentences)), key=lambda place: (-scores[place], place))
    picked: list[tuple[int, set[str]]] = []
    used = 0
    for place in best:
        if len(picked) == count:
            break
        words = set(content_stems(sentences[place]))
        length = len(sentences[place]) + bool(picked)
        if max_chars is not None and used + length > max_chars:
            continue
        if any(len(words & other) > _MAX_OVERLAP * len(words | other) for _, other in picked):
            continue
        picked.append((place, words))
        used += length
    return [sentences[place] for place, _ in sorted(picked, key=lambda one: one[0])]
