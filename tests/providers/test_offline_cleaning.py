"""Cleaning: only headings and prose are left of a document, whatever it is written in."""

import pytest

from pipeline_engine.providers.offline.cleaning import clean, is_boilerplate, looks_like_code


def blocks(text):
    return [(block.kind, block.text) for block in clean(text).blocks]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("# A *b* `c`", [("heading", "A b c")]),
        ("Tea\n===\n\nHot.", [("heading", "Tea"), ("paragraph", "Hot.")]),
        ("===\nTea\n===", [("heading", "Tea")]),
        ("<h1 align='center'>\n <img src='x'> Tea</h1>\n\nHot.", [("heading", "Tea"), ("paragraph", "Hot.")]),
        ("one\ntwo", [("paragraph", "one two")]),
        ("- one\n- [x] two", [("item", "one"), ("item", "two")]),
        ("> a quote", [("paragraph", "a quote")]),
        ('See [the **pot**](pot.md "x") and ![img](a.png).', [("paragraph", "See the pot and .")]),
        ("See :pep:`492` and :class:`~trio.Nursery`.", [("paragraph", "See PEP 492 and trio.Nursery.")]),
        ("A `link <https://x.org>`__ here.", [("paragraph", "A link here.")]),
        ("[![build](b.svg)](https://ci)\n[docs](https://d) | [faq](https://f)\n\nText.", [("paragraph", "Text.")]),
        ("- [Usage](#usage)\n- [FAQ](#faq)\n\nText.", [("paragraph", "Text.")]),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\nText.", [("paragraph", "Text.")]),
        ("<!-- hidden\n\ntext -->Text.", [("paragraph", "Text.")]),
        ("Fish &amp; chips\u200b.", [("paragraph", "Fish & chips.")]),
        (".. note::\n\n   hidden\n\nText.", [("paragraph", "Text.")]),
        ("", []),
    ],
)
def test_markup_is_taken_off(text, left):
    """A title with stars or a summary with link addresses looks broken."""
    assert blocks(text) == left


@pytest.mark.parametrize(
    "code",
    [
        "```python\ndef boil():\n\n    return tea\n```",
        "~~~\n# not a heading\n~~~",
        "````\n```\ninner\n```\n````",
        "```\nnever closed",
        "    # indented code\n    x = 1",
        "\tfor x in y:\n\n\t\tprint(x)",
        ".. code-block:: python\n\n   await boil()",
        "<pre>\nboil(tea)\n</pre>",
        ">>> boil()\n",
        "await trio.sleep(1)",
        "$ pip install tea",
        "def boil(tea):",
    ],
)
def test_code_is_taken_out(code):
    """A comment in an example once became a document's title."""
    assert blocks(f"Text.\n\n{code}") == [("paragraph", "Text.")]


def test_text_after_a_literal_block_is_kept():
    """In reStructuredText, code is marked by `::` and a deeper indent."""
    text = "Boil it::\n\n  boil(tea)\n\n  pour(tea)\n\nThen wait."

    assert blocks(text) == [("paragraph", "Boil it:"), ("paragraph", "Then wait.")]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('---\ntitle: "Tea: hot"\ntags: x\n---\nText.', "Tea: hot"),
        ("+++\ntitle = 'Tea'\n+++\nText.", "Tea"),
        ("From: a@b.org\nSubject: Late tea\nDate: today\n\nText.", "Late tea"),
        ("- Feature Name: hot_tea\n- Start Date: 2020-01-01\n\nText.", "hot tea"),
        ("<html><head><title>Tea</title></head><p>Text.</p>", "Tea"),
        ("Note: this is prose.", None),
    ],
)
def test_a_title_is_read_from_the_lines_that_are_made_for_it(text, title):
    """What the author calls the document beats every guess."""
    assert clean(text).title == title


@pytest.mark.parametrize(
    "line",
    [
        "Skip to content",
        "We use cookies to improve this site",
        "May 3, 2024",
        "2024-05-03",
        "By Ada Lovelace",
        "Licensed under the MIT License",
        "Copyright (c) 2020 Tea Ltd",
        "Home | Docs | Blog",
        "5 min read",
    ],
)
def test_lines_of_the_page_are_boilerplate(line):
    """They stand first on many pages, where a title is looked for."""
    assert is_boilerplate(line)


@pytest.mark.parametrize(
    "line", ["Navigation patterns for ships", "Home rule in Ireland", "Copyright reform", "Cookie recipes"]
)
def test_subjects_that_sound_like_boilerplate_are_not(line):
    """An article about copyright has a right to its title."""
    assert not is_boilerplate(line)


@pytest.mark.parametrize(
    "line", ["Return the book.", "Import taxes rose", "Make tea, not war", "Git is a tool", "While you wait"]
)
def test_sentences_that_begin_like_code_are_not(line):
    """English and programming languages share their words."""
    assert not looks_like_code(line)
    assert not looks_like_code(line.lower())
