"""The browser that these tests share."""

import os

import pytest

from tests.browser.browser import SWITCH, browsing, lacks


@pytest.fixture(scope="session")
def browser():
    """A real browser, for as long as the tests run."""
    if not os.environ.get(SWITCH):
        pytest.skip("`make browser` opens pages in a browser")
    missing = lacks()
    if missing:
        pytest.skip(missing)
    with browsing() as running:
        yield running
