"""Extraction: titles, keyphrases, summaries and labels that a reader would accept."""

import json
import os
from pathlib import Path

import pytest

from pipeline_engine.providers.offline.analysis import Analysis
from pipeline_engine.providers.offline.keywords import keyphrases
from pipeline_engine.providers.offline.labels import nearest_label
from pipeline_engine.providers.offline.sentences import pick, rank, split, usable

TEA = """\
Skip to content

[![build](b.svg)](https://ci)

# Brewing green tea

By Ada Lovelace

Green tea is brewed from leaves that were not oxidised. Water temperature decides how bitter green tea becomes.
Boiling water releases tannins, and tannins make the cup bitter.

## Water temperature

The best water temperature for green tea is eighty degrees. A thermometer shows the water temperature exactly.

```python
# brew the leaves
def brew_tea(leaves):
    return await kettle.boil(leaves)
```

    kettle = Kettle(temperature=80)

## Steeping time

Steeping time matters as much: green tea leaves give their flavour within two minutes. A long steeping time
makes it bitter again.
"""


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (TEA, "Brewing green tea"),
        ("---\ntitle: Front\n---\n# Heading\n\nText.", "Front"),
        ("Tea\n===\n\nText.\n\nPart\n----\n\nMore.", "Tea"),
        ("```\n# install it\n```\n\n# Tea\n", "Tea"),
        ("    # a comment in code\n    x = 1\n\nTea for two\n\nText that goes on and on, as texts do.", "Tea for two"),
        ("Skip to content\n\nMay 3, 2024\n\nTea for two\n\nText that goes on.", "Tea for two"),
        ("# KEP-1027: Union types\n\n## Summary\n\nText.", "Union types"),
        ("# Table of Contents\n\n- [a](#a)\n\n# Tea\n\nText.", "Tea"),
        ("## Abstract\n\nTea pots keep tea warm. A tea pot has a lid. Tea pots are round.", "Tea pots"),
        ("**Tea**\n\nText about it.\n\n## Usage\n\nPour.", "Tea"),
        ("# Installation\n\nRun it.\n\n## Linux\n\nRun it there.", "Installation"),
        ("", ""),
    ],
)
def test_the_title_is_what_the_document_calls_itself(text, title):
    """A wrong title is the first thing that a reader sees."""
    assert Analysis(text).title == title


def test_a_title_is_cut_between_words():
    """A heading may be a paragraph by mistake."""
    title = Analysis(f"# {'word ' * 100}").title

    assert len(title) <= 150
    assert title.endswith("word…")


def test_keyphrases_are_phrases_of_the_subject_without_variants():
    """`tea`, `green tea` and `green teas` are one keyword, not three."""
    assert Analysis(TEA).keyphrases[:3] == ["green tea", "water temperature", "steeping time"]


@pytest.mark.parametrize("word", ["def", "await", "return", "kettle", "brew_tea", "the", "build", "content", "ada"])
def test_code_boilerplate_and_stop_words_are_no_keywords(word):
    """A naive ranking puts `await` and `return` first in every programming text."""
    assert word not in {part for phrase in Analysis(TEA).keyphrases for part in phrase.lower().split()}


def test_names_keep_their_capitals_and_words_at_the_start_of_sentences_do_not():
    """`NASA` and `Rust` are written so; `Compilers` only stood first."""
    phrases = keyphrases(
        ["Compilers exist. NASA has Rust. Rust is for NASA. The compilers of NASA are for Rust. Compilers!"]
    )

    assert phrases == ["NASA", "Rust", "compilers"]


def test_a_sentence_ends_where_a_reader_hears_it():
    """An abbreviation must not cut a summary in two."""
    assert split("Dr. Who, e.g. the 4th, cf. Fig. 3, left. He came back! Really?") == [
        "Dr. Who, e.g. the 4th, cf. Fig. 3, left.",
        "He came back!",
        "Really?",
    ]


def test_only_whole_sentences_are_used():
    """Captions, fragments and code lines make no summary."""
    paragraphs = [
        "Green tea is brewed from leaves.",
        "a fragment that has no start.",
        "Too short.",
        "A caption without end",
    ]

    assert usable([*paragraphs, "Set x = f(y) and z == 3 or [4];"]) == ["Green tea is brewed from leaves."]


def test_a_central_sentence_outranks_one_that_stands_alone():
    """That is what TextRank is for."""
    scores = rank(["Dogs bark at night.", "Green tea needs hot water.", "Hot water makes green tea bitter."])

    assert scores[2] > scores[0]


def test_a_summary_keeps_the_order_and_does_not_repeat_itself():
    """Two sentences that say the same waste the reader's time."""
    sentences = [
        "Last comes first here.",
        "Green tea is very good.",
        "Green tea is very, very good.",
        "Dogs bark loudly.",
    ]

    assert pick(sentences, [1.0, 3.0, 2.9, 2.0], count=3) == [sentences[0], sentences[1], sentences[3]]


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (("invoice", "complaint", "question"), "Total amount due: 90 EUR. Payment within 14 days.", "invoice"),
        (("invoice", "complaint", "question"), "My tea arrived late and broken. I want a refund.", "complaint"),
        (("invoice", "complaint", "question"), "How can I log in? What is my name? Could you explain?", "question"),
        (("positive", "negative", "neutral"), "Great tea, I love it. Excellent.", "positive"),
        (("positive", "negative", "neutral"), "Terrible. The cup was broken.", "negative"),
        (("positive", "negative", "neutral"), "The shop opens at nine.", "neutral"),
        (("bug", "feature"), "It crashes with an exception; steps to reproduce are below.", "bug"),
        (("bug", "feature"), "I wish it would support dark mode. Please add it.", "feature"),
        (("high", "medium", "low"), "Production outage, urgent, fix immediately!", "high"),
        (("report", "reference", "how-to", "news", "other"), "How to install: step one, click install.", "how-to"),
        (
            ("report", "reference", "how-to", "news", "other"),
            "The parameter is optional; its default is None.",
            "reference",
        ),
        (("Tea", "Coffee"), "Espresso is coffee.", "Coffee"),
        (("alpha", "unknown"), "Nothing is near.", "unknown"),
        (("alpha", "beta"), "Nothing is near.", "alpha"),
    ],
)
def test_the_nearest_label_is_chosen(labels, text, label):
    """Branches of a pipeline depend on it, in the demo too."""
    assert nearest_label(labels, Analysis(text).terms) == label


def test_a_description_gives_a_label_its_words():
    """Labels of a company's own mean nothing without it."""
    description = "tier-a: leaking pipes and water damage. tier-b: lost keys."

    assert (
        nearest_label(["tier-b", "tier-a"], Analysis("The pipes leak and there is water.").terms, description)
        == "tier-a"
    )


def test_titles_of_real_documents_are_found():
    """Made-up documents flatter their author; these keep their title in the text."""
    folder = os.environ.get("PIPELINE_ENGINE_DATA")
    if not folder:
        pytest.skip("PIPELINE_ENGINE_DATA is not set: no real documents to read")
    lines = Path(folder, "documents", "documents.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [document for document in map(json.loads, lines) if document["id"].startswith("kep-")]

    assert [Analysis(document["text"]).title for document in documents] == [document["title"] for document in documents]
