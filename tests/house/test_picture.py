"""The README's picture is what a run prints, not what somebody remembers."""

import re

from tests.house.pages import ROOT
from tests.house.picture import draw


def test_the_picture_in_the_readme_is_what_a_run_prints():
    """It is the first thing that a visitor sees; it must not promise what is not so."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(document · .*?)\n```", page, re.DOTALL)[1]

    assert shown == draw(), "run: python -m tests.house.picture, and copy what it prints"
