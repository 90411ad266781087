"""Labels: which of a few names is nearest to a text, by the words that such texts use."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from pipeline_engine.providers.offline.words import content_stems, name_words, stem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["nearest_label"]

_LEAST = 0.02
"""A cosine below this is chance: one word of a long text."""

_REST = ("other", "unknown", "none", "misc", "miscellaneous", "general", "neutral", "uncategorized", "unclear", "n/a")

_SYNONYMS: Mapping[str, str] = {
    # kinds of documents
    "report": "report analysis finding results survey quarter annual revenue growth study data"
    " statistics conclusion percent",
    "reference": "reference api parameter specification syntax function class method option argument"
    " default field module",
    "how-to": "how guide step tutorial install configure click open select create follow recipe"
    " walkthrough setup learn",
    "tutorial": "tutorial learn lesson step beginner walkthrough exercise example guide",
    "guide": "guide step how tutorial follow configure recommend practice",
    "news": "news announce yesterday today said minister government president reporter spokesman"
    " official police week election",
    "article": "article story author essay interview reader magazine",
    "blog": "blog post i my thought recently wrote lesson",
    "proposal": "proposal propose motivation rationale alternative design drawback enhancement rfc pep kep",
    "specification": "specification must shall should conform requirement standard protocol syntax normative",
    "announcement": "announce announcement release pleased launch available introduce new version",
    "changelog": "changelog release fix add deprecate remove version change",
    "policy": "policy comply compliance employee rule must privacy regulation data consent",
    "contract": "contract agreement party clause term liability terminate hereby obligation governing",
    "legal": "law court legal attorney plaintiff defendant statute liability agreement regulation",
    "academic": "abstract method experiment hypothesis result citation participant dataset theorem",
    "research": "research study method experiment result hypothesis participant dataset evaluate baseline",
    "minutes": "meeting minutes attendee agenda decision action motion",
    "resume": "experience education skill employment university degree",
    # letters and tickets
    "invoice": "invoice total due amount payment bill vat tax subtotal qty quantity price remit balance iban",
    "receipt": "receipt paid total card purchase thank change cash amount",
    "order": "order ship delivery quantity item purchase customer address tracking",
    "complaint": "complaint complain disappointed unacceptable refund broken late damaged terrible"
    " poor angry unhappy worst apology",
    "question": "question how why what could wonder anyone help ? explain possible clarify",
    "request": "request please would could ask kindly need want",
    "bug": "bug crash error exception traceback broken fail reproduce regression expected actual stack fault wrong",
    "feature": "feature request add support wish would enhancement improve suggestion idea nice",
    "support": "support help problem login account password ticket issue assist",
    "billing": "billing charge invoice payment refund card subscription price plan",
    "sales": "sale price buy offer discount quote demo purchase customer",
    "spam": "free winner click prize offer limited urgent congratulations cash lottery",
    "praise": "thank great love excellent amazing wonderful appreciate awesome happy",
    "security": "security vulnerability attack exploit password encryption authentication threat malware",
    "documentation": "documentation docs readme typo guide explain example",
    # opinions and degrees
    "positive": "good great excellent love happy pleased amazing wonderful best fast easy recommend"
    " perfect enjoy thank nice"
    " delight success win improve reliable helpful",
    "negative": "bad poor terrible hate unhappy disappointed awful worst slow broken fail problem late"
    " refund wrong error lose"
    " angry useless never unfortunately complaint damage",
    "mixed": "but however although mixed though partly",
    "high": "urgent critical immediately asap severe outage emergency important down breach deadline blocker serious",
    "urgent": "urgent asap immediately critical emergency now deadline outage",
    "critical": "critical outage breach severe loss emergency down urgent",
    "medium": "soon moderate should some several moderately",
    "low": "minor whenever trivial cosmetic typo small someday eventually nice",
    # subjects
    "technology": "software computer code api server program python data cloud model network system",
    "software": "software code function program library api developer release test python class",
    "engineering": "system design component test build performance implementation architecture",
    "science": "experiment theory researcher cell physics biology chemistry species climate energy",
    "business": "company market customer revenue sale management strategy product employee",
    "finance": "bank money investment stock market interest loan fund rate price tax revenue",
    "health": "patient doctor hospital disease treatment medical symptom drug health clinic",
    "sports": "team game season player match win coach league score goal",
    "politics": "government election party minister president parliament policy vote law",
    "education": "student school teacher university course learn class exam",
    "travel": "hotel flight trip travel city tour airport guest visit",
    "food": "food cook recipe dish restaurant taste flavour eat kitchen ingredient tea",
    "entertainment": "film movie music show actor song album series",
}
_ALIASES = {
    "howto": "how-to",
    "defect": "bug",
    "enhancement": "feature",
    "paper": "academic",
    "manual": "reference",
    "docs": "documentation",
    "spec": "specification",
    "good": "positive",
    "bad": "negative",
    "p0": "critical",
    "severe": "high",
    "tech": "technology",
}


def nearest_label(labels: Sequence[str], terms: Mapping[str, int], description: str = "") -> str:
    """Return the label whose words, and their usual companions, are nearest to the terms of a text.

    Nearness is the cosine of the two word vectors, counts taken by their logarithm. If nothing is near,
    it is "other", "unknown" or the like where there is one, else the first label.

    Args:
        labels: The names to choose from.
        terms: How often each stem occurs; "?" counts questions.
        description: What the schema says about the choice; words after a label in it count for the label.

    Example:
        >>> nearest_label(["invoice", "complaint", "other"], {"total": 3, "due": 1, "payment": 2})
        'invoice'
        >>> nearest_label(["invoice", "complaint", "other"], {"dog": 3})
        'other'
    """
    weights = {term: 1 + math.log(count) for term, count in terms.items() if count > 0}
    length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    rest = [label for label in labels if label.lower() in _REST]
    scores: dict[str, float] = {}
    for label in labels:
        words = _words_for(label, description)
        near = sum(weights.get(word, 0.0) * weight for word, weight in words.items())
        norm = math.sqrt(sum(weight * weight for weight in words.values())) or 1.0
        scores[label] = 0.0 if label in rest else near / (norm * length)
    best = max(labels, key=lambda label: scores[label])
    return best if scores[best] > _LEAST or not rest else rest[0]


def _words_for(label: str, description: str) -> dict[str, float]:
    lower = label.lower().replace("_", "-").replace(" ", "-")
    own = {stem(word): 2.0 for word in name_words(label) if len(word) > 1}
    keys = [lower, lower.replace("-", ""), *(stem(word) for word in re.split(r"\W+", lower))]
    words: dict[str, float] = {}
    for key in keys:
        for word in _SYNONYMS.get(_ALIASES.get(key, key), "").split():
            words[word if word == "?" else stem(word)] = 1.0
    said = re.search(rf"\b{re.escape(label)}\b\W{{1,4}}([^.;\n]{{1,200}})", description, re.IGNORECASE)
    for word in content_stems(said[1]) if said else ():
        words.setdefault(word, 1.0)
    return {**words, **own}
