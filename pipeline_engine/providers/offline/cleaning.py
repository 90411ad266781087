"""Takes a document apart into headings and prose; code, tables, navigation and markup are left behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from html import unescape
from typing import Literal

__all__ = ["MAX_CHARS", "Block", "Cleaned", "clean", "is_boilerplate", "looks_like_code"]

MAX_CHARS = 100_000
"""What is analysed of a document: its first 100,000 characters, so that the time is bounded."""


@dataclass(frozen=True, slots=True)
class Block:
    """Hold one heading, list item or paragraph as plain text."""

    kind: Literal["heading", "item", "paragraph"]
    text: str
    level: int = 0
    """A heading's level, from 1; 0 for other blocks."""


@dataclass(frozen=True)
class Cleaned:
    """Hold what is left of a document."""

    title: str | None
    """The title that its front matter, header lines or HTML head give."""
    blocks: tuple[Block, ...]

    @cached_property
    def prose(self) -> list[str]:
        """The texts of paragraphs and items, in order, without the lines that serve the page only."""
        texts = (block.text for block in self.blocks if block.kind != "heading")
        return [text for text in texts if len(text) > 150 or not is_boilerplate(text)]


_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_HTML_HEADING = re.compile(r"(?<!`)<h([1-6])\b[^<>]{0,300}>", re.IGNORECASE)
_HTML_HIDDEN = re.compile(r"(?<!`)<(?:(script|style|svg|nav|template|pre|table)\b[^<>]{0,300}>|!--)", re.IGNORECASE)
_HTML_BLOCK = re.compile(
    r"</?(?:p|div|br|hr|li|ul|ol|tr|section|article|details|summary)\b[^<>]{0,300}>", re.IGNORECASE
)
_HTML_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9-]{0,20}(?:\s[^<>]{0,1000})?/?>")
_HTML_START = re.compile(r"\s*<(?:!doctype|html|head|title)\b", re.IGNORECASE)
_HTML_TITLE = re.compile(r"<title>([^<>]{1,300})</title>", re.IGNORECASE)
_SPACE = re.compile(r"\s+")

_HEADER = re.compile(r"[-*]?\s{0,3}\**(\w[\w /-]{0,30}?)\**\s{0,3}:\**\s(.*)")
_TITLE_KEYS = frozenset({"title", "subject", "feature name", "name", "re"})
_HEADER_KEYS = frozenset(
    {
        *_TITLE_KEYS,
        *("author", "authors", "from", "to", "cc", "bcc", "date", "sent", "created", "updated", "modified", "status"),
        *("type", "version", "layout", "tags", "categories", "category", "slug", "draft", "lang", "language", "pep"),
        *("eip", "category", "requires", "resolution", "content-type", "python-version", "post-history", "start date"),
        *("rfc pr", "rust issue", "tracking issue", "sponsor", "discussions-to", "reply-to", "message-id", "topic"),
        *("mime-version", "license", "licence", "description", "keywords", "summary", "permalink", "published", "by"),
    }
)

_ATX = re.compile(r" {0,3}(#{1,6})(?:\s+|$)")
_FENCE = re.compile(r"\s*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,})")
_RULE = re.compile(r"([=\-~^*\"'#+._:<>`])\1{2,}")
_TABLE = re.compile(r"\||\+[-=]|[\s|:+=-]+$|={2,}\s+=")
_FIELD = re.compile(r":[A-Za-z][\w -]{0,40}:(?:\s|$)")
_ITEM = re.compile(r"\s*(?:[-*+•‣◦]|\d{1,3}[.)]|\([a-z0-9]\))\s+(?:\[[ xX]\]\s+)?")
_IMAGE = re.compile(r"!\[[^\[\]]{0,500}\](?:\([^()]{0,1000}\)|\[[^\[\]]{0,200}\])")
_LINK = re.compile(
    r"\[([^\[\]]{0,500})\](?:\((?:[^()\s]|\([^()\s]{0,200}\)){0,1000}(?:\s[^()]{0,300})?\)|\[[^\[\]]{0,200}\])"
)
_REFERENCE = re.compile(r"\s{0,3}\[[^\[\]]{1,200}\]:\s|\.\. (?:_|\[|\|)")
_FOOTNOTE = re.compile(r"\[\^?[\w#*-]{1,30}\]_?")
_ROLE = re.compile(r":[a-z][a-z:+-]{1,30}:`[~!]?([^`<>]{1,300})(?:<[^<>`]{1,300}>)?`")
_STANDARD_ROLE = re.compile(r":(pep|rfc):`(\d{1,6})[^`]{0,50}`")
_RST_LINK = re.compile(r"`([^`<>]{1,300}?)\s{0,3}(?:<[^<>`]{1,500}>)?`__?\b")
_CODE_SPAN = re.compile(r"(`{1,2})([^`]{1,500})\1")
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=\S)([^*]{1,500})(?<=\S)\1(?!\w)|(?<!\w)(_{1,3})(?=\S)([^_]{1,500})(?<=\S)\3(?!\w)"
)
_ADDRESS = re.compile(r"<?\b(?:https?://|www\.|mailto:)[^\s<>]{1,2000}>?")
_EMOJI = re.compile(r":[a-z][a-z0-9_+-]{1,30}:|[\U0001F000-\U0001FAFF\u2600-\u27BF\uFE0F\u2B50]")
_JINJA = re.compile(r"\{[%{#][^{}]{0,500}[%}#]\}|\{#[\w.-]{1,100}\}|\{:[^{}]{0,200}\}")

_CODE_START = re.compile(
    r"(?:(?:async )?def|class|fn|func|impl|struct|enum|namespace|typedef|template|interface)\s+[\w<]+.*[:({;>]\s*$"
    r"|(?:async )?def\s+\w+\(|from\s+[\w.]+\s+import\b|import\s+(?:[\w.]+\s*;?$|[\w.]+\s+as\b|[{*\"'])"
    r"|(?:const|let|var|mut)\s+\w+.*[=;]"
    r"|(?:return|await|yield|raise|throw|assert|del|print|echo|export)\b(?:\s+\S+$|\s?\S*[({=\[])"
    r"|(?:return|break|continue|pass|else:|try:|fi|done|end)\W*$"
    r"|(?:pub|public|private|protected|static|extern)\s+\w+\s*\S*[({<]"
    r"|[$%]\s\S|>>>|\.\.\.\s|#include|#!|#\[|@\w+[\w.]*(?:\(|$)|//|/\*|\*/|\*\s@|<\?|\\\w+\{"
    r"|(?:SELECT|INSERT|UPDATE|CREATE)\s.*[;*(]|\[?\d{2}:\d{2}:\d{2}|Traceback \(most|File \""
    r"|(?:if|elif|for|while|with|except|switch|match)\b.*[:{]\s*$"
    r"|(?:sudo|pip3?|npm|npx|yarn|git|docker|kubectl|cargo|curl|wget|cd|mkdir|apt|apt-get|brew|uv|make|python3?)\s+"
    r"(?:-\S|\S*[/=@]|(?:install|run|clone|add|commit|init|build|push|pull|compose|get|apply|exec|sync)\b)"
)
_ASSIGNMENT = re.compile(r"[\w.\[\]\"']{1,60}(?::\s?[\w.\[\], |]{1,60})?\s?(?:=|\+=|:=|->|=>)\s?\S")
_CODE_MARKS = re.compile(r"[{}();=<>\[\]|\\$]|::|->|==|\w\.\w+\(|_\w+_|^\s*[#/]")
_PROSE = re.compile(r"[A-Z“\"'(]?[\w’',“”\"()-]+(?:\s+\S+){5,}")

_BOILERPLATE = re.compile(
    r"(?:skip|jump) to (?:the )?(?:main |page )?(?:content|navigation|search|footer|main)|back to top|on this page"
    r"|(?:home|menu|navigation|search|toc|contents|loading|advertisement|sponsored|print|previous|next)\W*$"
    r"|in this \w+\W*$|table of contents"
    r"|log ?in\b|sign (?:in|up)\b|subscribe (?:to|now)|share (?:this|on)|follow us|read more|edit (?:this|on)\b"
    r"|view (?:on|source|page|in)\b|(?:we|this (?:web)?site) uses? cookies|cookies? (?:notice|policy|settings|consent)"
    r"|accept (?:all|cookies)|privacy policy|terms of (?:use|service)|all rights reserved|copyright (?:\(c\)|©|\d)"
    r"|\(c\) |©|licen[sc]ed? under|spdx-|(?:the )?(?:mit|bsd|apache|gpl)\b.{0,12}licen[sc]e|released under"
    r"|this work is licen[sc]ed|(?:posted|published|updated|written) (?:on|by|in)\b|authors?:"
    r"|by [A-Z][\w.'-]+(?: [A-Z][\w.'-]+){0,3}\W*$|\d+ min(?:ute)?s? read"
    r"|(?:last )?(?:updated|modified|published|date|tags?|categor(?:y|ies)):|last (?:updated|modified)"
    r"|page \d+|build (?:status|passing)|this (?:file|document) (?:was|is) (?:auto|generated)|(?:do not|don't) edit"
    r"|(?:please )?enable javascript|javascript is|release signoff checklist|status of this memo",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\W*(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,?\s+)?"
    r"(?:\d{1,4}[-/. ]+)?(?:\d{1,2}[-/. ]+)?"
    r"(?:(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?,?\s*)?"
    r"\d{1,4}(?:,?\s+\d{4})?(?:[ T]+[\d:]{4,8}\S{0,6})?\W*$",
    re.IGNORECASE,
)


def is_boilerplate(line: str) -> bool:
    """Return whether a line serves the page and not its subject: navigation, notices, dates, bylines.

    Example:
        >>> [is_boilerplate(line) for line in ("Skip to content", "May 3, 2024", "How tea is made")]
        [True, True, False]
    """
    return bool(_BOILERPLATE.match(line) or _DATE.match(line)) or line.count(" | ") > 1


def looks_like_code(line: str) -> bool:
    """Return whether a line reads as a program, a command or its output rather than as a sentence.

    Example:
        >>> [looks_like_code(line) for line in ("await trio.sleep(1)", "x = 1", "Return the book.")]
        [True, True, False]
    """
    line = line.strip()
    if _CODE_START.match(line) or _ASSIGNMENT.match(line):
        return True
    return _marks_code(line)


def _marks_code(line: str) -> bool:
    marks = len(_CODE_MARKS.findall(line[:300]))
    return marks > 2 and marks > len(line[:300].split()) // 2


def clean(text: str) -> Cleaned:
    r"""Return the headings and the prose of a Markdown, reStructuredText, HTML or plain document.

    Example:
        >>> clean("# Tea\n\n```\nboil()\n```\n\nSee [the **pot**](pot.md).").blocks
        (Block(kind='heading', text='Tea', level=1), Block(kind='paragraph', text='See the pot.', level=0))
    """
    text = text[:MAX_CHARS].replace("\r\n", "\n").replace("\r", "\n")
    title, body = _front_matter(_UNSEEN.sub("", text))
    lines = _without_html("\n".join(_without_fences(body.split("\n")))).expandtabs(4).split("\n")
    head_title, lines = _header_lines(lines)
    if _HTML_START.match(body) and (page_title := _HTML_TITLE.search(body[:5000])):
        title = title or _inline(page_title[1])
    return Cleaned(title or head_title, tuple(_Reader(lines).blocks()))


def _front_matter(text: str) -> tuple[str | None, str]:
    text = text.lstrip("\n ") if text.lstrip("\n ").startswith(("---\n", "+++\n")) else text
    mark = text[:3]
    if not text.startswith(("---\n", "+++\n")):
        return None, text
    end = text.find(f"\n{mark}", 3, 20_000)
    if end < 0:
        return None, text
    title = None
    for line in text[4:end].split("\n"):
        key, colon, value = line.partition(":" if mark == "---" else "=")
        if colon and key.strip().lower() == "title" and title is None:
            title = _inline(value.strip().strip("\"'")) or None
    return title, text[end + 4 :].partition("\n")[2]


def _header_lines(lines: list[str]) -> tuple[str | None, list[str]]:
    """Take off the `Key: value` lines at the top, as letters, proposals and mails have them."""
    at = 0
    while at < len(lines) and not lines[at].strip():
        at += 1
    start, title = at, None
    while at < len(lines) and lines[at].strip():
        header = _HEADER.match(lines[at].strip()[:400])
        if header is None and at > start and lines[at].startswith(" "):
            at += 1  # a folded value
            continue
        if header is None or header[1].lower() not in _HEADER_KEYS:
            break
        if header[1].lower() in _TITLE_KEYS and title is None:
            value = _inline(header[2])
            title = value.replace("_", " ").replace("-", " ") if value and " " not in value else value
        at += 1
    return title or None, lines[at:] if at > start else lines


def _without_fences(lines: list[str]) -> list[str]:
    kept: list[str] = []
    fence = ""
    for line in lines:
        found = _FENCE.match(line)
        if fence:
            is_end = found is not None and found[1].startswith(fence) and not line.strip(" `~")
            fence = "" if is_end else fence
        elif found is not None and "`" not in line[found.end() :]:
            fence = found[1]
            kept.append("")
        else:
            kept.append(line)
    return kept


def _without_html(text: str) -> str:
    if "<" not in text:
        return text
    text = _without_hidden(text)
    kept, at = [], 0
    for opening in _HTML_HEADING.finditer(text):
        end = text.find(f"</{opening[0][1:3]}", opening.end(), opening.end() + 2000)
        if opening.start() < at or end < 0:
            continue
        inner = _SPACE.sub(" ", _HTML_TAG.sub(" ", text[opening.end() : end])).strip()
        kept += [text[at : opening.start()], f"\n\n{'#' * int(opening[1])} {inner}\n\n" if inner else "\n"]
        at = end + 5
    return _HTML_BLOCK.sub("\n", "".join((*kept, text[at:])))


def _without_hidden(text: str) -> str:
    """Cut out comments and the elements that hold no prose; one that is never closed stays."""
    lower = text.lower()
    kept, at, unclosed = [], 0, set[str]()
    for opening in _HTML_HIDDEN.finditer(text):
        closing = "-->" if opening[0] == "<!--" else f"</{opening[1].lower()}>"
        if opening.start() < at or closing in unclosed:
            continue
        end = lower.find(closing, opening.end())
        if end < 0:
            unclosed.add(closing)
            continue
        kept.append(text[at : opening.start()])
        at = end + len(closing)
    return "".join((*kept, text[at:]))


class _Reader:
    """Reads lines into blocks; what is open at a line is kept here."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._blocks: list[Block] = []
        self._open: list[str] = []
        self._kind: Literal["item", "paragraph"] = "paragraph"
        self._is_list = False
        self._is_table = False
        self._skipped_indent: int | None = None  # lines deeper than this are code
        self._rules: list[str] = []

    def blocks(self) -> list[Block]:
        is_after_blank = True
        for line in self._lines:
            text = line.strip()
            if not text:
                self._close()
                is_after_blank, self._is_table = True, False
                continue
            self._take(text, len(line) - len(line.lstrip()), is_after_blank=is_after_blank)
            is_after_blank = False
        self._close()
        return self._blocks

    def _take(self, text: str, indent: int, *, is_after_blank: bool) -> None:
        if self._skipped_indent is not None:
            if indent > self._skipped_indent:
                return
            self._skipped_indent = None
        if text.startswith((".. ", "::: ", "!!! ", "??? ")) or text in {"..", "::"}:
            self._close()
            self._skipped_indent = indent
        elif indent >= 4 and is_after_blank and self._is_code_block(text):
            self._skipped_indent = 3
        elif heading := _ATX.match(text):
            self._close()
            self._add_heading(text[heading.end() :].rstrip("#").strip() or "", len(heading[1]))
        elif rule := _RULE.fullmatch(text):
            self._take_rule(rule[1])
        elif _TABLE.match(text) or text.count(" | ") > 1:
            self._close()
            self._is_table = True
        elif self._is_table or _REFERENCE.match(text) or _FIELD.match(text) or self._is_code_line(text):
            self._is_table = self._is_table and not is_after_blank
        else:
            self._take_prose(text, indent)

    def _take_prose(self, text: str, indent: int) -> None:
        text = text.lstrip("> ") if text.startswith(">") else text
        if item := _ITEM.match(text):
            self._close()
            self._kind, self._is_list = "item", True
            text = text[item.end() :]
            if text.startswith("[") and "](#" in text:  # a table of contents
                return
        elif indent == 0 and not self._open:
            self._is_list = False
        if not self._open and _is_only_links(text):
            return
        if indent and self._is_term():
            self._close()
        self._open.append(text)
        if text.endswith("::"):
            self._close()
            self._skipped_indent = indent

    def _is_term(self) -> bool:
        """Return whether the open line is the term of a definition, whose text follows deeper."""
        is_one_line = len(self._open) == 1 and self._kind == "paragraph" and not self._is_list
        return is_one_line and len(self._open[0]) <= 60 and self._open[0][-1] not in ",;-"

    def _is_code_block(self, text: str) -> bool:
        is_prose = _PROSE.match(text) is not None and not _CODE_MARKS.search(text)
        return not (is_prose or (self._is_list and not looks_like_code(text)))

    def _is_code_line(self, text: str) -> bool:
        # Inside a paragraph a wrapped line may begin with any word, "return" and "import" too.
        text = _CODE_SPAN.sub("", _LINK.sub(r"\1", _IMAGE.sub("", text)))
        return looks_like_code(text) if not self._open else _marks_code(text)

    def _take_rule(self, mark: str) -> None:
        """Make the single line above a rule a heading; the first kind of rule seen is the first level."""
        if len(self._open) == 1 and self._kind == "paragraph" and len(self._open[0]) <= 120:
            if mark not in self._rules:
                self._rules.append(mark)
            heading = self._open.pop()
            self._add_heading(heading, self._rules.index(mark) + 1)
        self._close()

    def _add_heading(self, text: str, level: int) -> None:
        if plain := _inline(text):
            self._blocks.append(Block("heading", plain, level))

    def _close(self) -> None:
        if not self._open:
            self._kind = "paragraph"
            return
        text = _inline(" ".join(self._open))
        if any(character.isalpha() for character in text):
            self._blocks.append(Block(self._kind, text))
        self._open.clear()
        self._kind = "paragraph"


def _is_only_links(text: str) -> bool:
    """Return whether a line is navigation: links with nothing but signs between them."""
    return "](" in text and not any(map(str.isalnum, _LINK.sub("", _IMAGE.sub("", text))))


def _inline(text: str) -> str:
    """Return a line's text without the marks of Markdown, reStructuredText and HTML."""
    text = _IMAGE.sub("", text)
    text = _JINJA.sub("", text)
    text = _LINK.sub(r"\1", text)
    text = _STANDARD_ROLE.sub(lambda found: f"{found[1].upper()} {found[2]}", text)
    text = _ROLE.sub(r"\1", text)
    text = _RST_LINK.sub(r"\1", text)
    text = _CODE_SPAN.sub(r"\2", text)
    text = _HTML_TAG.sub("", text)
    text = _EMPHASIS.sub(lambda found: found[2] or found[4], text)
    for pattern in (_ADDRESS, _FOOTNOTE, _EMOJI):
        text = pattern.sub("", text)
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", unescape(text))
    return _SPACE.sub(" ", text.replace("::", ":") if text.endswith("::") else text).strip(" `|")
