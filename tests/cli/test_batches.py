"""`batches`: what a journal holds, at a glance."""

import json

HOSTILE = "\x1b[31m\u202eevil"


def run(cli, write, notes, *names, journal="runs.db"):
    for name in names:
        write(name, f"Some text of {name}.")
    ran = cli("run", "notes.py", *names, *notes, "--journal", journal)
    assert ran.code == 0, ran.err


def test_batches_are_listed_latest_first(cli, write, notes):
    """The id, how it stands, how many documents, what they cost."""
    run(cli, write, notes, "a.md")
    run(cli, write, notes, "b.md", "c.md")

    ran = cli("batches", "--journal", "runs.db")

    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["batch", "pipeline", "state", "documents", "calls", "cost"]
    assert [line[1:] for line in lines[2:]] == [
        ["notes", "done", "2", "completed", "6", "$0.0000"],
        ["notes", "done", "1", "completed", "3", "$0.0000"],
    ]


def test_json_has_a_line_for_each_batch(cli, write, notes):
    """For those who count what a month has cost."""
    run(cli, write, notes, "a.md")

    [line] = cli("batches", "--journal", "runs.db", "--json").out.splitlines()

    told = json.loads(line)
    assert (told["pipeline"], told["state"], told["documents"], told["calls"]) == ("notes", "done", {"completed": 1}, 3)
    assert told["command"]["argv"][:2] == ["run", "notes.py"]


def test_a_table_fits_a_narrow_terminal(cli, write, notes, monkeypatch):
    """Eighty cells are what a terminal has at first."""
    monkeypatch.setenv("COLUMNS", "80")
    run(cli, write, notes, "a.md")

    lines = cli("batches", "--journal", "runs.db").out.splitlines()

    assert len(lines) == 3
    assert max(map(len, lines)) <= 80


def test_a_limit_is_told(cli, write, notes):
    """Nobody must believe that there were no more."""
    for name in ("a.md", "b.md"):
        run(cli, write, notes, name)

    assert "There may be more; --all lists all of them." in cli("batches", "--journal", "runs.db", "--limit", "1").out


def test_a_journal_that_is_not_there_is_an_error_of_one_line(cli):
    """And what to do about it."""
    ran = cli("batches", "--journal", "none.db")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert "does not exist; run documents with --journal to make one" in ran.err


def test_a_file_that_is_no_journal_stays_as_it_is(cli, write):
    """A typing error in a path must not cost anybody their data."""
    path = write("data.txt", "not a database, but long enough to be somebody's work" * 50)

    ran = cli("batches", "--journal", "data.txt")

    assert ran.code == 2
    assert "is no SQLite database" in ran.err
    assert path.read_text().startswith("not a database")


def test_a_journal_must_be_named(cli, monkeypatch):
    """By the option or the environment."""
    monkeypatch.delenv("PIPELINE_ENGINE_JOURNAL", raising=False)
    assert cli("batches").code == 2

    monkeypatch.setenv("PIPELINE_ENGINE_JOURNAL", "none.db")
    assert "'none.db'" in cli("batches").err


def test_every_command_has_help_with_examples(cli):
    """Nobody reads a manual first."""
    for command in ("batches", "show", "doctor", "prune", "diff"):
        ran = cli(command, "--help")

        assert ran.code == 0
        assert f"pipeline-engine {command}" in ran.out.split("examples:")[1]
        assert max(map(len, ran.out.splitlines())) <= 106
