"""The site of a journal in a real browser: it follows what is written, anyone can read it, it loads nothing else."""

import re
import subprocess
import sys
from urllib.parse import urlencode

import pytest

from tests.live.conftest import HOSTILE, fill

KEY = f"a{HOSTILE}"
PAGES = {
    "batches": "",
    "batch": "batch",
    "document": f"document?{urlencode({'key': KEY})}",
    "step": f"step?{urlencode({'key': KEY, 'step': 'title'})}",
    "items": f"step?{urlencode({'key': KEY, 'step': 'note'})}",
    "missing": "document?key=nope",
}


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A journal in which every text is hostile."""
    path = tmp_path_factory.mktemp("served") / "runs.db"
    fill(path, text=HOSTILE, reply=HOSTILE, error=HOSTILE, keys=(KEY, "b.md", "z.md"))
    return path


@pytest.fixture(scope="module")
def address(journal):
    """Where the journal is served, by a process of its own."""
    words = [sys.executable, "-m", "pipeline_engine", "serve", str(journal), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        yield re.search(r"http://127\.0\.0\.1:\d+/", serving.stdout.readline())[0]
        serving.kill()


def complaints(browser, address, *, status=200):
    """Return what the page has asked for elsewhere, complained of, or opened."""
    seen = browser.seen()
    elsewhere = [request for request in seen["requests"] if not request.startswith(address)]
    missing = "Failed to load resource: the server responded with a status of 404 (Not Found)"
    return elsewhere, [text for text in seen["messages"] if status == 200 or text != missing], seen["dialogs"]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_can_be_read_by_everybody(browser, address, name, scheme):
    """By the eye, by a screen reader, in the dark."""
    browser.open(address + PAGES[name], scheme=scheme, bypassCSP=True)

    assert browser.violations() == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_is_calm_and_as_wide_as_its_window(browser, address, name, width):
    """Hostile text in every field is shown: nothing opens, nothing loads, nothing complains, nothing sticks out."""
    browser.open(address + PAGES[name], width=width)

    status = 404 if name == "missing" else 200
    assert complaints(browser, address, status=status) == ([], [], 0)
    assert browser.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate("() => document.querySelectorAll('img, script:not([src])').length") == 0


def test_an_open_page_follows_the_journal(browser, address, journal):
    """What another process writes is there within moments, and what somebody is typing stays."""
    browser.open(f"{address}batch?batch=last")
    before = browser.evaluate("() => document.querySelectorAll('#documents tbody tr').length")
    browser.run("await page.fill('input[name=part]', 'half a w');")
    fill(journal, keys=("new.md", "newer.md"))

    found = browser.run(
        "for (let tries = 0; tries < 200; tries++) {"
        " const count = await page.evaluate(() => document.querySelectorAll('#documents tbody tr').length);"
        " if (count === 2) return count; await page.waitForTimeout(50); } return 0;"
    )

    assert (before, found) == (3, 2)
    assert browser.evaluate("() => document.querySelector('input[name=part]').value") == "half a w"
    assert browser.evaluate("() => document.getElementById('live').textContent") == "live"


def test_whoever_uses_the_keyboard_stays_where_they_are(browser, address):
    """A section that is replaced must not take the focus with it."""
    browser.open(address)
    kept = browser.evaluate(
        "() => { const link = document.querySelector('#batches a'); link.focus();"
        " replace('batches', document.getElementById('batches').innerHTML);"
        " return document.activeElement !== link && document.activeElement.href === link.href; }"
    )

    assert kept is True


@pytest.mark.parametrize("page", ["report", f"report?{urlencode({'key': KEY})}"])
def test_a_report_draws_and_is_nobody_here(browser, address, page):
    """Its script runs in a place of its own: it could not read the journal's other pages if it were made to try."""
    browser.open(address + page)

    assert browser.evaluate("() => origin") == "null"
    reached = browser.evaluate("() => fetch('/api/batch').then(() => 'reached', () => 'refused')")
    assert reached == "refused"
    assert browser.evaluate("() => document.querySelectorAll('#chart, svg').length") > 0


def test_a_page_without_script_is_still_a_page(browser, address):
    """What is there at the moment is on it."""
    browser.open(f"{address}batch", javaScriptEnabled=False)

    assert "not live without script" in browser.run("return await page.textContent('#live');")
    assert browser.run("return await page.locator('#documents tbody tr').count();") >= 1
