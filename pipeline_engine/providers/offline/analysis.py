"""What is known about one text, worked out when first asked for and kept for the steps that ask again."""

from __future__ import annotations

from collections import Counter
from functools import cached_property, lru_cache

from pipeline_engine.providers.offline import keywords, sentences, titles
from pipeline_engine.providers.offline.cleaning import MAX_CHARS, Cleaned, clean
from pipeline_engine.providers.offline.words import content_stems, shortened

__all__ = ["Analysis", "analyse"]


class Analysis:
    """Hold what extraction finds in a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def cleaned(self) -> Cleaned:
        """The headings and the prose."""
        return clean(self.text)

    @cached_property
    def headings(self) -> list[str]:
        """The headings, in order."""
        return [block.text for block in self.cleaned.blocks if block.kind == "heading"]

    @cached_property
    def title(self) -> str:
        """What the document calls itself, else its best phrase."""
        return titles.find_title(self.cleaned) or titles.titled(self.keyphrases, self.sentences)

    @cached_property
    def keyphrases(self) -> list[str]:
        """Up to 30 phrases, best first."""
        own = titles.find_title(self.cleaned)
        parts = [heading for heading in self.headings if not titles.names_part(heading)]
        headings = dict.fromkeys((own, *parts) if own else parts)
        return keywords.keyphrases(self.cleaned.prose, [*headings], count=30)

    @cached_property
    def sentences(self) -> list[str]:
        """The first sentences that can stand on their own, in order."""
        return sentences.usable(self.cleaned.prose)

    @cached_property
    def scores(self) -> list[float]:
        """How central each of `sentences` is."""
        return sentences.rank(self.sentences)

    @cached_property
    def terms(self) -> Counter[str]:
        """How often each stem stands in the headings and the prose; those of the title count five times."""
        terms = Counter(content_stems(" ".join(block.text for block in self.cleaned.blocks)))
        for word in content_stems(self.title):
            terms[word] += 4
        terms["?"] = sum(text.count("?") for text in self.cleaned.prose)
        return terms

    def summary(self, count: int = 3, max_chars: int | None = None) -> str:
        """Return the best sentences as one text; the beginning of the text if it has no sentences that fit."""
        picked = sentences.pick(self.sentences, self.scores, count, max_chars)
        return " ".join(picked) or shortened(" ".join(self.cleaned.prose) or self.title, max_chars or 600)


def analyse(text: str) -> Analysis:
    """Return the analysis of a text; the steps of one document share it."""
    return _analyse(text[:MAX_CHARS])


_analyse = lru_cache(maxsize=32)(Analysis)
