"""Every problem code has a heading in the reference: whoever meets one looks it up by its code."""

import ast
import re

from tests.house.map import modules
from tests.house.pages import ROOT, headings

CODE = re.compile(r"PE\d{3}")


def codes_in_the_source():
    return {
        node.value
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value)
    }


def test_codes_and_headings_are_the_same():
    """A code without an explanation is a riddle; an explanation without a code is a leftover."""
    described = [
        match[0] for heading in headings(ROOT / "docs/reference/problems.md") if (match := CODE.match(heading))
    ]

    assert sorted(described) == sorted(codes_in_the_source())
