"""`prune`: said first, done only with --yes."""

import json

import pytest


@pytest.fixture
def journal(cli, write, notes, folder):
    """A journal of two documents."""
    for name in ("a.md", "b.md"):
        write(name, f"Some text of {name}.")
    assert cli("run", "notes.py", "a.md", "b.md", *notes, "--journal", "runs.db").code == 0
    return folder / "runs.db"


def documents(cli):
    return len(cli("show", "--journal", "runs.db", "--json").out.splitlines())


def test_without_yes_it_is_only_said(cli, journal):
    """What is gone is gone."""
    ran = cli("prune", "--journal", "runs.db", "--older-than", "0s")

    assert ran.code == 0
    assert ran.out.startswith(
        "would be forgotten: 2 documents, 6 outputs, 6 calls, 6 attempts, the inputs of 2 documents"
    )
    assert "Nothing was changed. Give --yes to do it." in ran.out
    assert documents(cli) == 2


def test_with_yes_it_is_done(cli, journal):
    """And the file is smaller, or has at least nothing of them."""
    ran = cli("prune", "--journal", "runs.db", "--batch", "last", "--yes")

    assert (ran.code, ran.out.startswith("forgotten: 2 documents")) == (0, True)
    assert documents(cli) == 0
    assert "There is nothing to forget." in cli("prune", "--journal", "runs.db", "--batch", "last").out


def test_results_that_are_kept_are_not_paid_for_again(cli, journal, notes, write):
    """The model would say something else today, and is not asked."""
    assert cli("prune", "--journal", "runs.db", "--older-than", "0s", "--keep-results", "--yes").code == 0
    write("script.json", {"answers": {"title": {"text": "x"}, "summary": "x", "mood": {"value": "bad"}}})

    cli("run", "notes.py", "a.md", "b.md", *notes, "--journal", "runs.db", "--out", "out.jsonl")

    lines = (journal.parent / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["outputs"]["summary"] for line in lines] == ["A summary."] * 2


def test_what_is_younger_stays(cli, journal):
    """Thirty days are not over."""
    ran = cli("prune", "--journal", "runs.db", "--older-than", "30d", "--yes")

    assert (ran.code, ran.out) == (0, "There is nothing to forget.\n")


def test_json_has_the_figures(cli, journal):
    """For the job that does it every night."""
    told = json.loads(cli("prune", "--journal", "runs.db", "--older-than", "0s", "--yes", "--json").out)

    assert (told["is_done"], told["documents"], told["calls"]) == (True, 2, 6)


@pytest.mark.parametrize("argv", [[], ["--older-than", "soon"], ["--older-than", "1d", "--batch", "last"]])
def test_what_is_meant_must_be_said(cli, journal, argv):
    """Nobody forgets everything by a typing error."""
    ran = cli("prune", "--journal", "runs.db", *argv, "--yes")

    assert ran.code == 2
    assert documents(cli) == 2
