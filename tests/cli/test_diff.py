"""`diff`: what a changed pipeline would run again, before anybody pays for it."""

import json

import pytest


@pytest.fixture
def journal(cli, write, notes, folder):
    """A journal of three documents."""
    for name in ("a.md", "b.md", "c.md"):
        write(f"docs/{name}", f"Some text of {name}.")
    assert cli("run", "notes.py", "docs", *notes, "--journal", "runs.db").code == 0
    return folder / "runs.db"


@pytest.fixture
def edited(folder, write):
    """Change the pipeline's file."""

    def edit(before, after):
        text = (folder / "notes.py").read_text()
        assert before in text
        write("notes2.py", text.replace(before, after))
        return "notes2.py"

    return edit


def rows(out):
    return [line.split() for line in out.splitlines() if line.split()[:1] in (["title"], ["summary"], ["mood"])]


def test_a_pipeline_that_has_not_changed_would_run_nothing(cli, journal, notes):
    """Exit code zero: nothing to pay for."""
    ran = cli("diff", "notes.py", "--journal", "runs.db", *notes)

    assert (ran.code, ran.err) == (0, "")
    assert rows(ran.out) == [[step, "3", "0", "0", "0", "–"] for step in ("title", "summary", "mood")]
    assert "Nothing would be run again." in ran.out


def test_a_changed_prompt_is_told_with_its_calls_and_what_depends(cli, journal, notes, edited):
    """The summary needs the title: whether it changes, nobody knows before."""
    ran = cli("diff", edited("Title?", "Which title?"), "--journal", "runs.db", *notes)

    assert ran.code == 1
    assert "step 'title': its prompt has changed" in ran.out
    assert [row[:5] for row in rows(ran.out)] == [
        ["title", "0", "3", "0", "3"],
        ["summary", "0", "0", "3", "0"],
        ["mood", "3", "0", "0", "0"],
    ]
    assert "3 of 3 documents would have something run again: 3 calls" in ran.out


def test_the_models_of_the_last_batch_are_used_if_none_are_given(cli, journal):
    """A question about the prompts needs no words about the models."""
    assert cli("diff", "notes.py", "--journal", "runs.db").code == 0


def test_another_model_would_run_its_steps_again(cli, journal, notes, write):
    """At a price that nobody knows."""
    ran = cli("diff", "notes.py", "--journal", "runs.db", "--offline")

    assert ran.code == 1
    assert rows(ran.out)[0] == ["title", "0", "3", "0", "3", "unknown"]
    assert "of unknown price" in ran.out


def test_a_sample_is_told_as_one(cli, journal, notes, edited):
    """Its figures stand for the rest."""
    ran = cli("diff", edited("Mood?", "M?"), "--journal", "runs.db", *notes, "--sample", "2")

    assert "2 of 3 documents looked at" in ran.out
    assert "about 3 of 3 documents would have something run again: about 3 calls" in ran.out


def test_nothing_is_changed_by_asking(cli, journal, notes, edited):
    """Not even who has last asked for a document."""
    before = cli("show", "--journal", "runs.db", "--json").out

    cli("diff", edited("Mood?", "M?"), "--journal", "runs.db", *notes)

    assert cli("show", "--journal", "runs.db", "--json").out == before
    assert len(cli("batches", "--journal", "runs.db", "--json").out.splitlines()) == 1


def test_json_tells_it_step_by_step(cli, journal, notes, edited):
    """For a check before a merge."""
    told = json.loads(cli("diff", edited("Mood?", "M?"), "--journal", "runs.db", *notes, "--json").out)

    assert told["changes"] == ["step 'mood': its prompt has changed"]
    [mood] = [step for step in told["steps"] if step["step"] == "mood"]
    assert (mood["kept"], mood["again"], mood["depends"], mood["calls"]) == (0, 3, 0, 3)


def test_a_pipeline_that_the_journal_does_not_know_is_an_error(cli, journal, notes, edited):
    """Most likely it was renamed, or the journal is another one."""
    ran = cli("diff", edited('Pipeline("notes"', 'Pipeline("other"'), "--journal", "runs.db", *notes)

    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "no documents of pipeline 'other'" in ran.err


def test_documents_that_a_run_would_leave_alone_are_counted_apart(cli, write, notes):
    """With the same pipeline, what has failed is `retry`'s business."""
    write("script.json", {"answers": {"title": {"text": "A title"}, "summary": "A summary.", "mood": "neither"}})
    write("a.md", "Some text.")
    assert cli("run", "notes.py", "a.md", *notes, "--journal", "runs.db").code == 1

    ran = cli("diff", "notes.py", "--journal", "runs.db", *notes)

    assert ran.code == 0
    assert [row[:4] for row in rows(ran.out)] == [
        ["title", "1", "0", "0"],
        ["summary", "1", "0", "0"],
        ["mood", "0", "0", "0"],
    ]
    assert "1 document failed and left alone; `retry` runs them again." in ran.out
