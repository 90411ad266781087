"""A run with a journal, and what is done again: nothing that is finished, and only what was asked for."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_engine import JournalWriteError
from pipeline_engine.cli.keeping import recorded
from pipeline_engine.journal import journal_place
from pipeline_engine.journal.reading import read_journal
from tests.cli.conftest import DOCUMENT

MODELS = ["--model", "fast=scripted:script.json", "--model", "strong=scripted:script.json"]
ANSWERS = {"title": {"text": "A title"}, "summary": "A summary.", "mood": {"value": "good"}}
WITHOUT_SUMMARY = {"title": {"text": "A title"}, "mood": {"value": "good"}}


@pytest.fixture
def three(write, notes):
    """A command on three documents with a journal."""
    for name in "abc":
        write(f"docs/{name}.md", f"Text {name}.")
    return ["run", "notes.py", "docs", *notes, "--journal", "runs.db"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a batch that was stopped when b.md and c.md had one step left: made once, as it takes a second."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "notes.py").write_text(DOCUMENT)
    (folder / "docs").mkdir()
    for name in "abc":
        (folder / f"docs/{name}.md").write_text(f"Text {name}.")
    script = folder / "script.json"
    command = [sys.executable, "-m", "pipeline_engine", "run", "notes.py", "docs", *MODELS, "--journal", "runs.db"]
    script.write_text(json.dumps({"answers": ANSWERS}))
    subprocess.run([*command, "--limit", "1"], cwd=folder, check=True, capture_output=True)
    script.write_text(json.dumps({"answers": ANSWERS, "latency": {"summary": 60}}))
    assert subprocess.run([*command, "--timeout", "1"], cwd=folder, check=False, capture_output=True).returncode == 1
    script.write_text(json.dumps({"answers": ANSWERS}))
    return folder


@pytest.fixture
def interrupted(stopped, folder):
    """That batch, as if a signal had stopped it, and not a timeout of its own; returns its id."""
    shutil.copytree(stopped, folder, dirs_exist_ok=True)
    batch = last_batch()
    assert batch.state == "stopped"
    assert statuses() == {"docs/a.md": "completed", "docs/b.md": "queued", "docs/c.md": "queued"}
    argv = batch.command["argv"]
    edit(batch.batch, {"argv": argv[: argv.index("--timeout")], "cwd": str(folder)})
    return batch.batch


def edit(batch, command):
    """Change what a journal says about how a batch was started."""
    change("update batches set command = ? where batch = ?", json.dumps(command).encode(), batch)


def change(sql, *parameters):
    with contextlib.closing(sqlite3.connect("runs.db")) as journal, journal:
        journal.execute(sql, parameters)


def last_batch(journal="runs.db"):
    with read_journal(journal_place(journal)) as reader:
        return reader.batch("last")


def statuses():
    with read_journal(journal_place("runs.db")) as reader:
        return {stored.document: stored.status for stored in reader.documents("notes")}


# Runs


def test_a_second_run_takes_everything_from_the_journal(cli, three, folder):
    """Nothing is paid for twice; and the files are as whole as those of the first run."""
    first = cli(*three, "--out", "out.jsonl")
    before = sorted((folder / "out.jsonl").read_text().splitlines())

    second = cli(*three, "--out", "out.jsonl")

    assert (first.code, second.code) == (0, 0)
    assert second.err == ""
    *_, counts, kept, batch, results = second.out.splitlines()
    assert counts.startswith("3 documents in ")
    assert counts.endswith(": 3 completed")
    assert kept == "from the journal: 3 documents, 9 calls not sent again"
    assert batch == f"batch: {last_batch().batch} in runs.db"
    assert results == "results: out.jsonl (3 lines)"
    assert sorted((folder / "out.jsonl").read_text().splitlines()) == before


def test_a_new_document_alone_is_run(cli, write, three):
    """A folder grows."""
    cli(*three)
    write("docs/d.md", "Text d.")

    ran = cli(*three)

    assert [line.split(" completed")[0] for line in ran.err.splitlines()] == ["[4/4] docs/d.md"]
    assert "\nfrom the journal: 3 documents, 9 calls not sent again\n" in ran.out


def test_what_failed_before_is_left_alone_and_told(cli, write, three):
    """To try it again may cost money: that is for the user to say."""
    write("script.json", {"answers": WITHOUT_SUMMARY})
    cli(*three)
    write("script.json", {"answers": ANSWERS})

    ran = cli(*three)

    assert ran.code == 1
    assert (
        "left alone: 3 documents that had not completed before; to try again:\n"
        "pipeline-engine retry --failed --journal runs.db\n"
    ) in ran.out


def test_what_has_changed_is_told_and_run_again(cli, write, three, folder):
    """A prompt was edited: of the three steps one is paid for again."""
    cli(*three)
    write("notes2.py", (folder / "notes.py").read_text().replace("Mood?", "Which mood?"))
    three[1] = "notes2.py"

    ran = cli(*three)

    assert ran.err.splitlines()[:3] == [
        "pipeline-engine: the pipeline has changed since the journal's last batch:",
        "  step 'mood': its prompt has changed",
        "pipeline-engine: what has changed, and what depends on it, is run again; all else is reused.",
    ]
    assert "\nfrom the journal: 6 calls not sent again\n" in ran.out


def test_a_change_can_be_refused(cli, write, three, folder):
    """Before anything is paid for, each change on a line of its own."""
    cli(*three)
    changed = (folder / "notes.py").read_text().replace("Mood?", "Which mood?").replace("Title?", "Which title?")
    write("notes2.py", changed)
    three[1] = "notes2.py"

    ran = cli(*three, "--on-change", "error")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "pipeline-engine: pipeline 'notes' has changed since the journal's last batch:\n"
        "  step 'title': its prompt has changed\n"
        "  step 'mood': its prompt has changed\n"
        "pipeline-engine: with --on-change reuse only what has changed is run again; with keep nothing is; "
        "with new everything.\n"
    )


def test_everything_can_begin_anew(cli, three):
    """Another answer is wanted."""
    cli(*three)

    assert "not sent again" not in cli(*three, "--on-change", "new").out


def test_rows_have_restored_documents_too(cli, three, folder):
    """A table of the results does not depend on how often the run was interrupted."""
    for _ in range(2):
        ran = cli(*three, "--rows", "rows.jsonl")
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        assert sorted({(row["document"], row["step"], row["output"]) for row in rows}) == sorted(
            (f"docs/{name}.md", step, output)
            for name in "abc"
            for step, output in (("title", '{"text": "A title"}'), ("summary", '"A summary."'), ("mood", '"good"'))
        )
        assert ran.out.splitlines()[-1] == "rows: rows.jsonl (9 lines)"
    assert {row["is_restored"] for row in rows} == {True}


def test_the_journal_may_be_named_by_the_environment(cli, three, monkeypatch):
    """And is not repeated then in what is to be typed."""
    monkeypatch.setenv("PIPELINE_ENGINE_JOURNAL", "runs.db")

    cli(*three[:-2])

    assert last_batch().state == "done"
    assert cli("resume").out == "nothing to be done: no batch of this journal waits to be resumed.\n"


def test_how_a_batch_was_started_is_kept_without_its_journals_address(cli, three, folder):
    """An address may hold a password."""
    cli(*three, "--limit", "2")

    assert last_batch().command == {"argv": [*three[:-2], "--limit", "2"], "cwd": str(folder)}
    address = "postgresql://me:secret@db/runs"
    assert recorded(["run", "p.py", "--journal", address, "d"]) == ["run", "p.py", "d"]
    assert recorded(["run", "p.py", f"--journal={address}", "d"]) == ["run", "p.py", "d"]


# Journals that cannot be used


def test_a_journal_that_another_process_writes_is_told_with_its_pid(cli, three):
    """Waiting, or PostgreSQL, is the cure."""
    place = journal_place("runs.db")
    journal = place.open()
    try:
        # Runs of one process share a journal: this one must look like another's.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline_engine.journal.opening._SHARED._open", {})
            ran = cli(*three)
    finally:
        place.close(journal)

    assert (ran.code, ran.out) == (2, "")
    assert f"is in use by process {os.getpid()}, and a SQLite journal is for one process at a time" in ran.err
    assert ran.err.count("\n") == 1


def test_what_is_no_journal_is_told_before_anything_is_paid(cli, write, three):
    """Somebody else's file is not written into."""
    write("runs.db", "Some text that is no database, and long enough to be looked at.")
    out = write("out.jsonl", "the last run's results\n")

    ran = cli(*three, "--out", "out.jsonl")

    assert (ran.code, ran.out) == (2, "")
    assert "is no SQLite database, or an encrypted one; name another file" in ran.err
    assert out.read_text() == "the last run's results\n"


def test_a_journal_that_can_be_written_no_more_ends_the_run_with_a_code_of_its_own(cli, three, monkeypatch):
    """A script may make room and run the same again."""
    from pipeline_engine.journal.sqlite import SqliteStore

    commit, count = SqliteStore.commit, []

    def fail_later(store):
        count.append(1)
        if len(count) > 6:
            raise sqlite3.OperationalError("database or disk is full")
        commit(store)

    monkeypatch.setattr(SqliteStore, "commit", fail_later)

    ran = cli(*three, "--max-documents", "1")

    assert ran.code == 74
    assert "cannot be written any more, so the run was stopped: database or disk is full." in ran.err.splitlines()[-1]
    assert JournalWriteError.__name__ not in ran.err


# Resume


def test_resume_runs_the_batchs_own_command_for_what_is_missing(cli, interrupted):
    """Nobody remembers the options of last week."""
    ran = cli("resume", "--journal", "runs.db")

    assert ran.code == 0
    assert sorted(line.split()[1] for line in ran.err.splitlines()) == ["docs/b.md", "docs/c.md"]
    assert f"\nfrom the journal: 1 document, 7 calls not sent again\nbatch: {interrupted} in runs.db\n" in ran.out
    assert set(statuses().values()) == {"completed"}
    assert last_batch().state == "done"


def test_resume_works_from_any_folder(cli, interrupted, folder, monkeypatch):
    """Documents are named as they were found from where the batch was started."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    ran = cli("resume", interrupted[:-3], "--journal", "../runs.db")

    assert ran.code == 0
    assert f"batch: {interrupted} in ../runs.db" in ran.out
    assert Path.cwd() == elsewhere


def test_a_document_that_is_gone_is_run_with_what_the_journal_holds(cli, interrupted, folder):
    """It was accepted, so it comes to an end."""
    (folder / "docs/b.md").unlink()

    ran = cli("resume", "--journal", "runs.db")

    assert ran.code == 0
    said = "pipeline-engine: not found any more, and run with the text that the journal holds: docs/b.md."
    assert ran.err.splitlines()[0] == said
    assert set(statuses().values()) == {"completed"}


def test_a_document_that_is_gone_and_not_held_is_named(cli, interrupted, folder):
    """A batch that is done except for what nobody has any more must say so."""
    (folder / "docs/b.md").unlink()
    change("update documents set inputs = null where document = 'docs/b.md'")

    ran = cli("resume", "--journal", "runs.db")

    assert ran.err.splitlines()[0] == (
        "pipeline-engine: not found any more, and not run, because the journal holds no text of them: docs/b.md."
    )
    assert (ran.code, statuses()["docs/b.md"]) == (1, "queued")


def test_a_document_that_has_changed_is_run_with_its_new_text_and_named(cli, write, interrupted):
    """What it is about is the file's name, not its old text."""
    write("docs/b.md", "Another text.")

    ran = cli("resume", "--journal", "runs.db")

    assert "changed since they were accepted, and run with their new text: docs/b.md" in ran.out.splitlines()
    assert ran.code == 0


def test_a_batch_that_has_ended_is_not_resumed(cli, three):
    """To ask for it is no mistake."""
    cli(*three)

    ran = cli("resume", last_batch().batch, "--journal", "runs.db")

    assert (ran.code, ran.out) == (0, f"nothing to be done: batch {last_batch().batch} has ended.\n")


@pytest.mark.parametrize("command", [["resume"], ["retry"]])
@pytest.mark.usefixtures("folder")
def test_what_a_program_has_started_is_for_that_program(cli, command):
    """Its documents may come from anywhere."""
    from pipeline_engine import Pipeline, run_batch

    pipeline = Pipeline("halve", inputs={"number": int})

    @pipeline.step
    def half(number: int) -> float:
        return 1 / number

    run_batch(pipeline, [{"number": 0}], journal="runs.db")
    batch = last_batch().batch
    change("update batches set state = 'stopped'")

    ran = cli(*command, "--journal", "runs.db")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"pipeline-engine: batch {batch} was started by a program, not by this command. Run that program again: "
        "it does only what is missing.\n"
    )


def test_a_folder_that_is_gone_is_told(cli, interrupted):
    """Its documents were named from there."""
    edit(interrupted, {**last_batch().command, "cwd": "/no/such/folder"})

    ran = cli("resume", "--journal", "runs.db")

    assert ran.code == 2
    assert "was started in the folder '/no/such/folder', which cannot be entered: No such file or directory." in ran.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["resume", "nope", "--journal", "runs.db"],
            "there is no batch 'nope'. \"last\" is the latest one; `batches` lists them all.",
        ),
        (["resume"], "the following arguments are required: --journal. See pipeline-engine resume --help."),
        (
            ["retry", "--failed", "--fallbacks", "--journal", "runs.db"],
            "argument --fallbacks: not allowed with argument --failed. See pipeline-engine retry --help.",
        ),
    ],
)
def test_what_cannot_be_meant_is_answered_in_one_line(cli, three, argv, said):
    """With what to do instead."""
    cli(*three)

    ran = cli(*argv)

    assert (ran.code, ran.out, ran.err) == (2, "", f"pipeline-engine: {said}\n")


# Retry


@pytest.fixture
def failed(cli, write, three):
    """A batch of three, of which the second could not be summarised; with files of its results."""
    three += ["--out", "out.jsonl", "--rows", "rows.jsonl"]
    cli(*three, "--limit", "1")
    write("script.json", {"answers": WITHOUT_SUMMARY})
    cli(*three, "--limit", "2")
    write("script.json", {"answers": ANSWERS})
    assert cli(*three).code == 1
    assert statuses() == {"docs/a.md": "completed", "docs/b.md": "partial", "docs/c.md": "completed"}
    return three


def test_retry_runs_only_what_failed_and_its_finished_steps_are_kept(cli, write, failed, folder):
    """The others are not even looked at: nothing of them can be paid for."""
    write("docs/d.md", "A new one, which nobody has asked for here.")

    ran = cli("retry", "--failed", "--journal", "runs.db")

    assert ran.code == 0
    assert [line.split(" completed")[0] for line in ran.err.splitlines()] == ["[1/1] docs/b.md"]
    assert "\nfrom the journal: 2 calls not sent again\n" in ran.out
    assert set(statuses().values()) == {"completed"}
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert sorted((line["document"], line["status"]) for line in lines) == [
        (f"docs/{name}.md", "completed") for name in "abc"
    ]
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 9
    assert {row["status"] for row in rows} == {"completed"}
    assert ran.out.splitlines()[-2:] == ["results: out.jsonl (1 new line)", "rows: rows.jsonl (3 new lines)"]


def test_nothing_failed_is_no_mistake(cli, three):
    """A script may ask every morning."""
    cli(*three)

    failed, fallbacks = cli("retry", "--journal", "runs.db"), cli("retry", "--fallbacks", "--journal", "runs.db")

    assert (failed.code, failed.out) == (0, "nothing to be done: no document of pipeline 'notes' has failed.\n")
    assert (fallbacks.code, fallbacks.out) == (
        0,
        "nothing to be done: no document of pipeline 'notes' has an output that came from a fallback.\n",
    )


def test_what_waits_is_not_what_failed(cli, interrupted):
    """And there is a command for it."""
    ran = cli("retry", "--journal", "runs.db")

    assert (
        ran.out == "nothing to be done: no document of pipeline 'notes' has failed; 2 documents of it can be resumed.\n"
    )


def test_what_fallbacks_have_answered_is_asked_again(cli, write, three):
    """The first model was down for an hour; its answers are the better ones."""
    write("down.json", {"answers": {"title": ANSWERS["title"], "mood": ANSWERS["mood"]}})
    three[3:7] = ["--model", "fast=scripted:down.json", "--model", "strong=scripted:down.json"]
    cli(*three, "--model", "strong=scripted:script.json")
    write("script.json", {"answers": ANSWERS | {"summary": "no"}})
    write("down.json", {"answers": ANSWERS | {"summary": "The better one."}})

    ran = cli("retry", "--fallbacks", "--journal", "runs.db")

    assert ran.code == 0
    assert ran.out.count("The better one.") == 3
    assert "\nfrom the journal: 6 calls not sent again\n" in ran.out
    again = cli("retry", "--fallbacks", "--journal", "runs.db")
    assert again.out.startswith("nothing to be done")


def test_a_failed_document_that_is_gone_is_tried_with_what_the_journal_holds(cli, failed, folder):
    """Its file may have been cleaned up after the run."""
    (folder / "docs/b.md").unlink()

    ran = cli("retry", "--journal", "runs.db")

    assert ran.code == 0
    assert "run with the text that the journal holds: docs/b.md." in ran.err
    assert set(statuses().values()) == {"completed"}


def test_a_retry_keeps_to_its_documents_whatever_the_command_was_limited_to(cli, write, three, folder):
    """The limit was on a first look; its failures are tried again all the same, from their files."""
    write("script.json", {"answers": WITHOUT_SUMMARY})
    cli(*three, "--limit", "2")
    write("script.json", {"answers": ANSWERS})
    write("docs/0.md", "A new one comes first.")

    ran = cli("retry", "--journal", "runs.db")

    assert ran.code == 0
    assert sorted(line.split()[1] for line in ran.err.splitlines()) == ["docs/a.md", "docs/b.md"]


def test_a_sample_that_was_interrupted_is_gone_on_with(cli, three, interrupted):
    """An estimate is a batch, too."""
    edit(interrupted, {**last_batch().command, "argv": ["estimate", *three[1:-2], "--sample", "1"]})

    ran = cli("resume", "--journal", "runs.db")

    assert ran.code == 0
    assert ran.out.startswith("sample: 1 of 2 documents, spread evenly over their sizes")


def test_no_password_is_shown_or_kept(cli, three, postgres, monkeypatch):
    """Screens are shared, and journals are copied."""
    address = f"{postgres}{'&' if '?' in postgres else '?'}password=canary-1234"
    command = [*three[:-1], address]

    ran = cli(*command)
    again = cli("resume", "--journal", address)
    monkeypatch.setenv("PIPELINE_ENGINE_JOURNAL", address)
    failed = cli("retry")

    assert (ran.code, again.code, failed.code) == (0, 0, 0)
    with read_journal(journal_place(address)) as reader:
        told = str(reader.batch("last").command)
    assert "canary" not in "".join([told, *(text for one in (ran, again, failed) for text in (one.out, one.err))])
    assert "batch: " in ran.out
