"""The docstrings in full: a page for each group of public names."""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline_engine import resilience, testing
from tests.house.pages import ROOT

__all__ = ["Group", "groups"]

FRONT_DOOR = "pipeline_engine"

_GROUP = re.compile(r"^## (.+)$", re.MULTILINE)
_NAME = re.compile(r"^### `(\w+)`$", re.MULTILINE)


class Group(NamedTuple):
    """Some public names that belong together."""

    title: str
    """What they are for."""
    module: str
    """Where they are imported from."""
    names: list[str]
    """What they are called, in the order of the page."""

    @property
    def place(self) -> str:
        """Where its page stands, from the root of the site."""
        slug = re.sub(r"\W+", "-", self.title.lower())
        return f"docs/reference/docstrings/{slug}.md"

    @property
    def page(self) -> str:
        """Its page, which mkdocstrings fills in."""
        asked = "\n\n".join(f"::: {self.module}.{name}" for name in self.names)
        return f"# {self.title}\n\nEverything here is imported from `{self.module}`.\n\n{asked}\n"


def groups() -> list[Group]:
    """Return all public names: the front door's as its reference groups them, then those of the side doors."""
    _, *parts = _GROUP.split((ROOT / "docs/reference/api.md").read_text(encoding="utf-8"))
    sections = zip(parts[::2], parts[1::2], strict=True)
    front = [Group(title, FRONT_DOOR, _NAME.findall(text)) for title, text in sections if FRONT_DOOR not in title]
    return [
        *front,
        Group("For tests", testing.__name__, sorted(testing.__all__)),
        Group("Resilience for any code", resilience.__name__, sorted(resilience.__all__)),
    ]
