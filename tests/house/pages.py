"""The pages that readers see: the README, the changelog and everything under docs/."""

from __future__ import annotations

import re
from pathlib import Path

from tests.house.map import ROOT

__all__ = ["PAGES", "ROOT", "headings", "name_of", "without_code"]

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    """Return a page's path from the root of the repository, for test ids and messages."""
    return page.relative_to(ROOT).as_posix()


def without_code(page: Path) -> str:
    """Return the page's prose."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def headings(page: Path) -> list[str]:
    """Return the text of the page's headings."""
    return [heading.strip() for heading in _HEADING.findall(without_code(page))]
