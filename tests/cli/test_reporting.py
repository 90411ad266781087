"""`report`: from a journal to a page, of a batch or of one document."""

import base64
import json
import re
import webbrowser

import pytest


@pytest.fixture
def ran_batch(cli, write, notes):
    """Three documents in a journal."""
    for name in ("a", "b", "c"):
        write(f"docs/{name}.md", f"Some text of {name}.")
    assert cli("run", "notes.py", "docs", *notes, "--journal", "runs.db").code == 0
    return lambda *argv: cli("report", "runs.db", *argv)


def documents(page):
    found = re.search(r'id="first">([^<]*)</script>', page.read_text(encoding="utf-8"))
    data = json.loads(base64.b64decode(found[1]))
    return {data["texts"][key] for key in data["documents"]["key"]}


def test_a_batch_is_written_as_a_page(ran_batch, folder):
    """The last one, where nobody says which."""
    ran = ran_batch()

    assert ran.code == 0
    assert re.fullmatch(r"report: report\.html \(batch \S+\)\n", ran.out)
    assert documents(folder / "report.html") == {"docs/a.md", "docs/b.md", "docs/c.md"}


def test_a_document_has_a_page_of_its_own(ran_batch, folder):
    """Named by any part of its key that only it has."""
    ran = ran_batch("--document", "b.md", "--out", "b.html")

    assert ran.out == "report: b.html (document docs/b.md)\n"
    assert documents(folder / "b.html") == {"docs/b.md"}
    assert "Run report" in (folder / "b.html").read_text(encoding="utf-8")


def test_of_too_many_spans_some_runs_are_drawn_and_all_are_counted(ran_batch, folder):
    """A page of a million steps would open nowhere."""
    assert ran_batch("--max-spans", "4").code == 0

    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "The waterfall shows 1 of 3 runs" in page
    assert "of 3 completed" in page


def test_the_page_is_opened_where_that_is_asked_for(ran_batch, folder, monkeypatch):
    """By the address of the file, so that a name with spaces works too."""
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)

    ran_batch("--open", "--out", "my page.html")

    assert opened == [(folder / "my page.html").resolve().as_uri()]


def test_what_other_settings_would_have_brought_is_on_the_page_if_asked_for(ran_batch, folder):
    """Or if it takes no time to reckon."""
    for options, is_there in (((), True), (("--what-if",), True), (("--no-what-if",), False)):
        assert ran_batch(*options).code == 0
        assert ("<h2>What if</h2>" in (folder / "report.html").read_text(encoding="utf-8")) is is_there


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "nope"], "there is no batch 'nope'."),
        (["--document", "nope"], "pipeline 'notes' has no document 'nope' in this journal."),
        (["--out", "nowhere/page.html"], "lies in the folder 'nowhere', which does not exist."),
        (["--max-spans", "0"], "'0' is not a whole number of 1 or more."),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(ran_batch, options, said):
    """And no file is written."""
    ran = ran_batch(*options)

    assert ran.code == 2
    assert said in ran.err


def test_a_batch_whose_runs_were_forgotten_has_no_page(ran_batch, cli, folder):
    """An empty page would look like a batch that did nothing."""
    cli("prune", "--journal", "runs.db", "--older-than", "0s", "--keep-results", "--yes")

    ran = ran_batch()

    assert ran.code == 2
    assert "has no runs in this journal: none has ended yet" in ran.err
    assert not (folder / "report.html").exists()


def test_the_journal_may_be_named_by_the_environment(ran_batch, cli, monkeypatch):
    """As for all commands that look at one."""
    monkeypatch.setenv("PIPELINE_ENGINE_JOURNAL", "runs.db")

    assert cli("report").code == 0


def test_a_batch_may_stand_against_an_earlier_one(ran_batch, cli, notes, folder):
    """Where the time went, and whether the answers are still the same: one page to show around."""
    assert cli("run", "notes.py", "docs", *notes, "--journal", "runs.db", "--on-change", "new").code == 0

    assert ran_batch("--against", "previous").code == 0

    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "3 documents in both" in page.partition('<section id="comparison">')[2]
    ran_batch()
    assert '<section id="comparison">' not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_batch_does_not_stand_against_itself(ran_batch):
    """It would be found equal, and somebody would believe it."""
    ran = ran_batch("--against", "last")

    assert ran.code == 2
    assert "cannot stand against itself" in ran.err


def test_a_document_stands_against_nothing(ran_batch):
    """Two questions at once get no half answer."""
    ran = ran_batch("--against", "previous", "--document", "b.md")

    assert ran.code == 2
    assert "--against compares batches" in ran.err
