"""HTML: the text that a reader sees, from any page, in linear time."""

import pytest

from pipeline_engine.documents.markup import html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Tea</h1><p>Hot.</p>", "# Tea\n\nHot."),
        ("<h2 class='a > b'>Part</h2>text", "## Part\n\ntext"),
        ("<title>Tea</title><p>Hot.</p>", "# Tea\n\nHot."),
        ("<title>Site</title><h1>Tea</h1>", "# Tea"),
        ("<p>a\n  b</p><p>c<br>d</p>", "a b\n\nc\nd"),
        ("<ul><li>a</li><li>b</li></ul>", "- a\n- b"),
        ("<table><tr><th>A<th>B<tr><td>1</td><td>2</td></tr></table>", "A | B\n1 | 2"),
        ("<p>Tea &amp; milk &lt;3 &eacute;</p>", "Tea & milk <3 é"),
        ("<p>keep</p><pre>x = 1\n  y</pre><p>on</p>", "keep\n\n\n```\nx = 1\n  y\n```\n\non"),
        ("one <!-- <p>hidden</p> --> two", "one two"),
        ("<p>1 < 2 and 3 > 2</p>", "1 < 2 and 3 > 2"),
        ("<p>unclosed <b>bold", "unclosed bold"),
        ("<p title=it's>quote</p><p>next</p>", "quote\n\nnext"),
        ("text <", "text <"),
    ],
)
def test_a_page_reads_as_its_blocks(html, text):
    """Titles, chunks and prompts depend on headings and paragraphs being where the reader sees them."""
    assert html_to_text(html) == text


@pytest.mark.parametrize("tag", ["script", "style", "nav", "header", "footer", "template", "noscript", "svg"])
def test_what_is_not_the_document_is_left_out(tag):
    """A menu in the prompt costs tokens and becomes a keyword."""
    assert html_to_text(f"<{tag} class=x>menu <b>bold</b></{tag}><p>text</p>") == "text"


def test_a_nested_menu_is_left_out_whole():
    """The first closing tag is not the end of the outer menu."""
    assert html_to_text("<nav>a<nav>b</nav>c</nav><p>text</p>") == "text"


def test_a_comparison_in_a_script_is_no_tag():
    """`a<b` would otherwise swallow the end of the script, and the page with it."""
    assert html_to_text("<script>if (a<b) f('</p>')</script><p>text</p>") == "text"


@pytest.mark.parametrize(
    "piece", ["<", "<a ", "<a x='", '<a ">"', "<!--", "<!x ", "<?", "</a ", "<script>", "<nav>", "&#"]
)
@pytest.mark.parametrize("end", ["", ">", "'\">-->"])
def test_a_megabyte_of_broken_markup_ends(piece, end):
    """html.parser takes minutes for some of these; one document must not hold up a batch."""
    assert isinstance(html_to_text(piece * (1_000_000 // len(piece)) + end), str)
