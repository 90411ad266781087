"""`compare`: what a change has brought, before anybody builds on it."""

import json

import pytest


@pytest.fixture
def journal(cli, write, notes, folder):
    """A journal of two batches of three documents, between which the summary's prompt was changed."""
    for name in ("a.md", "b.md", "c.md"):
        write(f"docs/{name}", f"Some text of {name}.")
    assert cli("run", "notes.py", "docs", *notes, "--journal", "runs.db", "--rows", "1.rows").code == 0
    write("notes2.py", (folder / "notes.py").read_text().replace("Summary of", "A short summary of"))
    script = json.loads((folder / "script.json").read_text())
    script["answers"]["summary"] = "\x1b[31mA hostile <b>summary</b>."
    write("script.json", script)
    assert cli("run", "notes2.py", "docs", *notes, "--journal", "runs.db", "--rows", "2.rows").code == 0
    return "runs.db"


def test_the_last_batch_is_compared_with_the_one_before(cli, journal):
    """It is what is asked after every change, so it takes no names."""
    ran = cli("compare", "--journal", journal)

    assert ran.code == 1
    assert "3 documents in both; the outputs of 3 differ, most in summary (3)." in ran.out
    rows = [line.split() for line in ran.out.splitlines() if line.split()[:1] in (["title"], ["summary"])]
    assert rows[:2] == [["title", "3", "0", "0", "0"], ["summary", "0", "3", "0", "0"]]


@pytest.mark.parametrize(("columns", "has_medians"), [("80", False), ("120", True)])
def test_figures_say_of_what_they_are_however_narrow_it_is(cli, journal, monkeypatch, columns, has_medians):
    """A row whose step was squeezed out tells nothing."""
    monkeypatch.setenv("COLUMNS", columns)
    out = cli("compare", "--journal", journal).out

    rows = [
        line for line in out.splitlines() if line.startswith(("document ", "title ", "summary ")) and " time " in line
    ]
    assert [row.split()[0] for row in rows] == ["document", "summary"]
    assert ("p95 B" in out) is has_medians


def test_what_a_model_has_said_cannot_steer_the_terminal(cli, journal):
    """Outputs stand in the table."""
    out = cli("compare", "--journal", journal).out

    assert "\x1b" not in out
    assert "\\x1b[31mA hostile <b>summary</b>." in out


def test_it_is_written_as_json_as_lines_and_as_a_page(cli, journal, folder):
    """The table shows the first ten; the others are for whoever reads on, and for programs."""
    ran = cli("compare", "previous", "last", "--journal", journal, "--json", "--out", "d.jsonl", "--html", "c.html")

    told = json.loads(ran.out)
    assert (told["documents"], told["different"], told["steps"][1]["different"]) == (3, 3, 3)
    lines = [json.loads(line) for line in (folder / "d.jsonl").read_text().splitlines()]
    assert [line["document"] for line in lines] == ["docs/a.md", "docs/b.md", "docs/c.md"]
    assert lines[0]["steps"]["summary"]["a"] == "A summary."
    page = (folder / "c.html").read_text()
    assert "&lt;b&gt;summary&lt;/b&gt;" in page
    assert "<b>summary" not in page


def test_nothing_that_differs_is_exit_code_0_and_an_empty_file(cli, journal, folder):
    """A check in a script reads the code; the file of the comparison before must not be taken for this one's."""
    (folder / "d.jsonl").write_text("old\n")
    ran = cli("compare", "last", "last", "--journal", journal, "--out", "d.jsonl")

    assert ran.code == 0
    assert "3 documents in both; no output differs" in ran.out
    assert (folder / "d.jsonl").read_text() == ""


def test_files_of_rows_need_no_journal(cli, journal):
    """They can be sent to somebody who has none."""
    ran = cli("compare", "1.rows", "2.rows")

    assert ran.code == 1
    assert "A: 1.rows" in ran.out


def test_two_journals_are_given_one_after_the_other(cli, journal, write, notes):
    """Each model was tried with a journal of its own."""
    assert cli("run", "notes2.py", "docs", *notes, "--journal", "other.db").code == 0
    ran = cli("compare", "--journal", journal, "--journal", "other.db", "--json")

    told = json.loads(ran.out)
    assert (told["documents"], told["different"]) == (3, 0)


def test_labels_say_who_is_right(cli, journal, write):
    """Different is not better."""
    lines = [{"document": f"docs/{name}.md", "summary": "A summary."} for name in "abc"]
    write("labels.jsonl", "\n".join(map(json.dumps, lines)))
    out = cli("compare", "--journal", journal, "--labels", "labels.jsonl").out

    assert "against the labels" in out
    [row] = [" ".join(line.split()) for line in out.splitlines() if "100%" in line]
    assert row.startswith("summary 3 3 (100%) 0 (0%) 3 0 too few to tell")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "last", "--journal", "runs.db"], "there is no batch 'nothing'. \"last\" is the latest one"),
        (["before.jsonl", "2.rows"], "'before.jsonl' is no file here, and a batch is looked up in a journal"),
        (["1.rows", "docs/a.md"], "'docs/a.md' holds neither results nor rows"),
        (["--journal", "a", "--journal", "b", "--journal", "c"], "--journal is given once, or twice"),
        (["1.rows", "2.rows", "--labels", "docs/a.md"], "line 1 of 'docs/a.md' is no JSON"),
        (["1.rows", "2.rows", "--labels", "none.csv"], "'none.csv': No such file or directory"),
        (["1.rows", "2.rows", "--labels", "runs.db"], "'runs.db' holds no labels"),
        (
            ["1.rows", "2.rows", "--html", "none/c.html"],
            "--html 'none/c.html' lies in the folder 'none'",
        ),
        (["1.rows", "runs.db"], "'runs.db' is a journal. Name a batch in it"),
        (["previous", "last", "--journal", "nowhere.db"], "nowhere.db"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line_and_leaves_files_alone(cli, journal, folder, words, message):
    """The file of an earlier comparison is worth more than an empty one."""
    (folder / "d.jsonl").write_text("old\n")
    ran = cli("compare", *words, "--out", "d.jsonl")

    assert ran.code == 2
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert (folder / "d.jsonl").read_text() == "old\n"
