"""Links between the pages lead somewhere."""

import re

import pytest

from tests.house.pages import PAGES, headings, name_of, without_code

_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)\s]+)\)")


def anchor(heading):
    """Return a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page):
    """A dead link ends the reading."""
    dead = []
    for link in _LINK.findall(without_code(page)):
        place, _, fragment = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (fragment and fragment not in map(anchor, headings(target))):
            dead.append(link)

    assert dead == []


def test_every_page_can_be_reached_from_the_index():
    """A page that no other one names is never read."""
    named = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in _LINK.findall(without_code(page))
    }
    alone = [name_of(page) for page in PAGES if page not in named and page.name not in ("README.md", "index.md")]

    assert alone == []
