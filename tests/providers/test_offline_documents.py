"""The offline model on this repository's own pages: titles and keywords that a careful human indexer accepts.

`offline_documents.json` was written by reading the pages, before the model was run on them. Where a page
changes its subject, read it and write its entry anew; what the model happens to return proves nothing.
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from pipeline_engine.providers.offline import ExtractiveModel
from pipeline_engine.values import Message, Request
from pipelines.document import Keywords, Title

ROOT = Path(__file__).resolve().parents[2]
ACCEPTED = json.loads(Path(__file__).with_name("offline_documents.json").read_text(encoding="utf-8"))
GENERATED = {"docs/map.md"}
ENOUGH = 0.8

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE_PUNCTUATION = re.compile(r"[()\[\]{}=<>;@$|\\\"]|->|::|\w\.\w|^#|[^\W\d]:$")
MARKUP = re.compile(r"^[#>\-*\s]+|[`*]|<!--\s*|\s*-->")
BOILERPLATE = re.compile(r"https?:|\]\(|<!--|-->|\.md\b|^(next|licen[cs]e|changelog|read on|skip to)\b", re.IGNORECASE)


def normal(phrase):
    """Return a phrase's words without case, hyphens, markup and plural s."""
    return " ".join(map(singular, re.sub(r"[-_/\s`“”\"']+", " ", phrase.casefold()).strip(" .,:;!?").split()))


def singular(word):
    """Return an English word without the ending of its plural, roughly."""
    if len(word) < 4 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes")) else word.removesuffix("s")


def is_accepted(keyword, accepted):
    """Say whether a keyword is an accepted one, stands in one as whole words, or has one in it as whole words."""
    found = f" {normal(keyword)} "
    return any(found in f" {normal(wanted)} " or f" {normal(wanted)} " in found for wanted in accepted)


def text_of(path):
    return (ROOT / path).read_text(encoding="utf-8")


def ask(output, text):
    """Ask the model as a step of the document pipeline does."""
    schema = TypeAdapter(output).json_schema()
    request = Request((Message("user", "Do it."),), schema, output.__name__, sources=(text,))
    return output.model_validate_json(ExtractiveModel().answer(request).text)


@pytest.fixture(scope="module")
def found():
    """What the model returns for each page: one title and up to ten keywords."""
    return {path: (ask(Title, text).text, ask(Keywords, text).items) for path in ACCEPTED for text in [text_of(path)]}


def plain_lines(text):
    """Return the lines of a page without markup, outside of code."""
    return {MARKUP.sub("", line).strip().casefold() for line in FENCE.sub("", text).splitlines()} - {""}


def is_code(phrase, text):
    """Say whether a phrase is a line of a fenced block, or a piece of one with the punctuation of code."""
    lines = [line.strip() for block in FENCE.findall(text) for line in block.splitlines()]
    return phrase in lines or (
        CODE_PUNCTUATION.search(phrase) is not None and any(phrase.casefold() in line.casefold() for line in lines)
    )


def test_every_page_is_listed_and_every_listed_page_exists():
    """A page that is not in the list is judged by nobody, and the figures below would flatter."""
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} | {"README.md"}

    assert sorted(pages - GENERATED) == sorted(ACCEPTED)


def test_the_list_is_short_enough_to_mean_something():
    """Hundreds of accepted words per page would accept any answer."""
    sizes = {path: len({normal(keyword) for keyword in entry["keywords"]}) for path, entry in ACCEPTED.items()}

    assert {path: size for path, size in sizes.items() if not 15 <= size <= 30} == {}


def test_four_of_five_titles_are_ones_that_a_reader_accepts(found):
    """The title is what a table of results shows: a wrong one makes the row useless."""
    misses = {
        path: title for path, (title, _) in found.items() if normal(title) not in map(normal, ACCEPTED[path]["titles"])
    }
    share = 1 - len(misses) / len(found)

    assert share >= ENOUGH, f"{share:.1%} of {len(found)} titles are accepted; these are not: {misses}"


def test_four_of_five_keywords_are_ones_that_an_indexer_accepts(found):
    """Keywords that say nothing about their page make the offline demo look like noise."""
    misses = {
        path: wrong
        for path, (_, keywords) in found.items()
        if (wrong := [keyword for keyword in keywords if not is_accepted(keyword, ACCEPTED[path]["keywords"])])
    }
    count = sum(len(keywords) for _, keywords in found.values())
    share = 1 - sum(map(len, misses.values())) / count

    assert share >= ENOUGH, f"{share:.1%} of {count} keywords are accepted; these are not: {misses}"


def test_every_page_has_keywords_enough_to_be_found_by(found):
    """One safe word per page would pass the share above and help nobody."""
    few = {path: keywords for path, (_, keywords) in found.items() if len({*map(str.casefold, keywords)}) < 5}

    assert few == {}


def test_code_is_neither_a_title_nor_a_keyword(found):
    """These pages are half code, and a line of it is the first thing that careless extraction picks."""
    code = [
        (path, phrase)
        for path, (title, keywords) in found.items()
        for phrase in (title, *keywords)
        if is_code(phrase, text_of(path))
    ]

    assert code == []


def test_boilerplate_is_neither_a_title_nor_a_keyword(found):
    """Lines that stand on many pages (template headings, “prints”) and navigation tell no page from another."""
    pages = {path: plain_lines(text_of(path)) for path in found}
    repeated = {
        line for line, count in Counter(line for lines in pages.values() for line in lines).items() if count > 4
    }
    boilerplate = [
        (path, phrase)
        for path, (title, keywords) in found.items()
        for phrase in (title, *keywords)
        if BOILERPLATE.search(phrase) or phrase.casefold() in repeated & pages[path]
    ]

    assert {"prints", "context", "consequences"} <= repeated
    assert boilerplate == []
