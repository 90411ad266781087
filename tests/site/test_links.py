"""The site's links: what leads nowhere is found, what leads somewhere is let through."""

import pytest

from tests.site.links import broken_links


@pytest.fixture
def site(tmp_path):
    """A page in a folder, and one that is linked to."""
    (tmp_path / "guide").mkdir()
    (tmp_path / "other.html").write_text('<h2 id="second-part">Second part</h2>', encoding="utf-8")
    (tmp_path / "style.css").touch()

    def with_page(body):
        (tmp_path / "guide" / "page.html").write_text(body, encoding="utf-8")
        return tmp_path

    return with_page


@pytest.mark.parametrize(
    "body",
    [
        '<a href="../other.html">a file</a>',
        '<a href="../other.html#second-part">an anchor of it</a>',
        '<a href="/other.html">a file, from the root</a>',
        '<p id="here"></p><a href="#here">an anchor of this page</a>',
        '<a href="https://trio.readthedocs.io/en/stable/">another site</a>',
        '<a href="mailto:someone@example.org">an address</a>',
        '<link rel="stylesheet" href="../style.css">',
    ],
)
def test_a_link_that_leads_somewhere_is_let_through(site, body):
    """A checker that cries wolf is switched off."""
    assert broken_links(site(body)) == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('<a href="../gone.html">x</a>', "../gone.html leads to no file"),
        ('<a href="..">x</a>', ".. leads to no file"),
        ('<a href="../other.html#third-part">x</a>', "../other.html#third-part leads to no anchor"),
        ('<a href="#nowhere">x</a>', "#nowhere leads to no anchor"),
        ('<a href="https://localhost/">x</a>', "https://localhost/ is not an address"),
        ('<a href="javascript:alert(1)">x</a>', "javascript:alert(1) has a scheme of its own"),
        ('<img src="gone.png">', "gone.png leads to no file"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(site, body, found):
    """A dead link ends the reading."""
    assert broken_links(site(body)) == [f"guide/page.html: {found}"]


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="https://cdn.example.org/x.css">',
        '<img src="//cdn.example.org/x.png">',
    ],
)
def test_nothing_may_be_fetched_from_elsewhere(site, body):
    """Who reads the docs tells nobody, and they can be read without a network."""
    assert [line for line in broken_links(site(body)) if line.endswith("is fetched from elsewhere")] != []
