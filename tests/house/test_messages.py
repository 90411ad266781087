"""Messages made of several string parts keep the space between them."""

import io
import re
import tokenize

from tests.house.map import modules
from tests.house.pages import ROOT

_PREFIX = re.compile(r"\A([A-Za-z]*)(\"\"\"|'''|\"|')")
_F_START = getattr(tokenize, "FSTRING_START", None)  # from Python 3.12 on, an f-string is many tokens
_F_END = getattr(tokenize, "FSTRING_END", None)


def literals(source):
    """Yield each string literal as written, and whether it stands directly behind another one."""
    lines = source.splitlines(keepends=True)
    follows, depth, start = False, 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == _F_START:
            start = token.start if depth == 0 else start
            depth += 1
        elif token.type == _F_END:
            depth -= 1
            if depth == 0:
                yield _between(lines, start, token.end), follows, start[0]
                follows = True
        elif depth:
            continue
        elif token.type == tokenize.STRING:
            yield token.string, follows, token.start[0]
            follows = True
        elif token.type not in (tokenize.NL, tokenize.COMMENT):
            follows = False


def _between(lines, start, end):
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return lines[first - 1][left:] + "".join(lines[first : last - 1]) + lines[last - 1][:right]


def glued(source):
    """Return the lines on which two parts of a text meet without a space."""
    found, before = [], ""
    for literal, follows, line in literals(source):
        prefix, quote = _PREFIX.match(literal).groups()
        text = literal[len(prefix) + len(quote) : -len(quote)]
        if follows and "r" not in prefix.lower() and re.search(r"[\w.,;:!?…)}”]\Z", before) and re.match(r"\w", text):
            found.append(line)
        before = text
    return found


def test_string_parts_do_not_meet_without_a_space():
    """Seen in admired libraries: "…could not be readcheck the path"."""
    places = [
        f"{path.relative_to(ROOT)}:{line}" for path in modules() for line in glued(path.read_text(encoding="utf-8"))
    ]

    assert places == []


def test_the_check_itself_finds_glued_parts():
    """A test must be able to fail."""
    assert glued('x = (\n    "one"\n    "two"\n)\n') == [3]
    assert glued('x = (\n    f"one {y}."\n    f"Two"\n)\n') == [3]
    assert glued('x = ("one " "two", "three", r"\\d" r"d")\n') == []
