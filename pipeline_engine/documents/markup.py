"""Turns HTML into the text a reader sees: blocks as lines, headings as `# ` lines, no navigation."""

from __future__ import annotations

import re
from html import unescape

__all__ = ["html_to_text"]

_DROPPED = frozenset({"footer", "header", "nav", "noscript", "script", "style", "svg", "template"})
_RAW = frozenset({"script", "style"})
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_VOID = frozenset({"br", "hr"})
_CELLS = frozenset({"td", "th"})
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        """address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption figure
        form head hgroup html legend main menu ol p section summary table tbody tfoot thead ul""",
    )
)
_LINES = frozenset({"li", "tr", "option", *_VOID})

_TAG_NAME = re.compile(r"/?[a-zA-Z][a-zA-Z0-9:-]*")
# Possessive, so that a tag that does not end is given up after one pass over it.
_TAG_REST = re.compile(r"""(?:[^>"']++|"[^"]*+"|'[^']*+')*+>""")
_SPACE = re.compile(r"\s+")


def html_to_text(html: str) -> str:
    r"""Return the readable text of a page; its `<title>` stands for it if there is no other text.

    Scripts, styles, navigation, page headers and footers are left out; what stands in `pre` keeps its
    lines inside a fence. The time is linear in the length of the page, well-formed or not.

    Example:
        >>> html_to_text("<h1>Tea</h1><nav>Home</nav><p>Boil the <b>water</b>.</p>")
        '# Tea\n\nBoil the water.'
    """
    page = _Page()
    for is_tag, piece in _pieces(html):
        if is_tag:
            page.take_tag(piece)
        else:
            page.take_text(unescape(piece))
    return page.text()


def _pieces(html: str) -> list[tuple[bool, str]]:
    """Return tags (as `name` or `/name`, in lower case) and texts, in order.

    html.parser is not used: it needs 14 s for 40 kB of "<a " (Python 3.11.7), which a document may hold.
    """
    pieces: list[tuple[bool, str]] = []
    are_quotes_paired = True  # false once a quote is left open: from there on quotes are not trusted
    last = html.rfind(">")
    at = 0
    while True:
        opening = html.find("<", at)
        if not 0 <= opening < last:
            pieces.append((False, html[at:]))
            return pieces
        text_end = opening
        if html.startswith(("<!", "<?"), opening):
            closing = "-->" if html.startswith("<!--", opening) else ">"
            end = html.find(closing, opening + 2)
            if end < 0:  # an open comment hides the rest, as in a browser
                pieces.append((False, html[at:text_end]))
                return pieces
            end += len(closing)
            pieces.append((False, html[at:text_end]))
        elif name := _TAG_NAME.match(html, opening + 1):
            rest = _TAG_REST.match(html, name.end()) if are_quotes_paired else None
            are_quotes_paired = rest is not None
            end = rest.end() if rest else html.find(">", name.end()) + 1
            pieces += [(False, html[at:text_end]), (True, name[0].lower())]
            if name[0].lower() in _RAW:
                end = _end_of_raw(html, end, name[0].lower())
        else:
            end = opening + 1
            pieces.append((False, html[at:end]))
        at = end


def _end_of_raw(html: str, start: int, tag: str) -> int:
    """Return where the closing tag of a script or style begins; such text is not markup."""
    closing = re.compile(f"</{tag}", re.IGNORECASE).search(html, start)
    return closing.start() if closing else len(html)


class _Page:
    """Collects the lines of a page while its tags go by."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._prefix = ""
        self._title: list[str] = []
        self._dropped = ""
        self._depth = 0
        self._is_title = False
        self._is_pre = False

    def take_text(self, text: str) -> None:
        if self._is_title:
            self._title.append(text)
        elif not self._dropped and text:
            self._line.append(text)

    def take_tag(self, tag: str) -> None:
        name = tag.removeprefix("/")
        is_end = tag.startswith("/")
        if self._dropped:
            self._depth += (-1 if is_end else 1) if name == self._dropped else 0
            if self._depth == 0:
                self._dropped = ""
        elif name in _DROPPED and not is_end:
            self._end_line()
            self._dropped, self._depth = name, 1
        elif name == "title":
            self._is_title = not is_end
        elif name == "pre" and self._is_pre is is_end:
            self._end_line()
            self._lines += ["```", ""] if is_end else ["", "```"]
            self._is_pre = not is_end
        elif name in _HEADINGS:
            self._end_line(blank=True)
            self._prefix = "" if is_end else f"{_HEADINGS[name]} "
        elif name in _BLOCKS:
            self._end_line(blank=True)
        elif name in _LINES:
            self._end_line()
            self._prefix = "- " if name == "li" and not is_end else self._prefix
        elif name in _CELLS and not is_end and self._line:
            self._line.append(" | ")

    def _end_line(self, *, blank: bool = False) -> None:
        text = "".join(self._line)
        self._line.clear()
        if self._is_pre:
            self._lines += text.strip("\n").split("\n") if text.strip() else []
            return
        flat = _SPACE.sub(" ", text).strip()
        if flat:
            self._lines.append(self._prefix + flat)
            self._prefix = ""
        if blank and self._lines and self._lines[-1]:
            self._lines.append("")

    def text(self) -> str:
        self._end_line()
        if self._is_pre:
            self._lines.append("```")
        title = _SPACE.sub(" ", "".join(self._title)).strip()
        has_heading = any(line.startswith("# ") for line in self._lines)
        if title and not has_heading:
            self._lines[:0] = [f"# {title}", ""]
        return "\n".join(self._lines).strip()
