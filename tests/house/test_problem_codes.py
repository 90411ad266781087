"""Every problem code has a heading in the reference: whoever meets one looks it up by its code."""

import ast
import re

import pytest

from tests.house.broken import messages
from tests.house.map import modules
from tests.house.pages import ROOT, headings

PAGE = ROOT / "docs/reference/problems.md"
CODE = re.compile(r"PE\d{3}")


def codes_in_the_source():
    return {
        node.value
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value)
    }


def quotes():
    """Return the message that the page quotes for each code."""
    return dict(re.findall(r"^## (PE\d{3}) .*\n\n> (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def test_codes_and_headings_are_the_same():
    """A code without an explanation is a riddle; an explanation without a code is a leftover."""
    described = [match[0] for heading in headings(PAGE) if (match := CODE.match(heading))]

    assert sorted(described) == sorted(codes_in_the_source())
    assert sorted(quotes()) == sorted(described)


@pytest.mark.parametrize("code", sorted(quotes()))
def test_the_page_quotes_what_is_really_said(monkeypatch, code):
    """People search for the sentence that they see. A "…" in a quote stands for anything."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    pattern = ".+".join(re.escape(part) for part in re.split(" …|…|article.py:12", quotes()[code]))

    said = messages()[code]

    assert any(re.fullmatch(pattern, message) for message in said), said
