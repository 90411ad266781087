"""`show`: from a batch to a document to the exact prompt and the raw reply."""

import json

import pytest

from pipeline_engine.cli.showing import _folded

HOSTILE = "[red]\x1b[31m\u202eevil[/red]"
ANSWERS = {"title": {"text": "A title"}, "summary": "A summary.", "mood": {"value": "good"}}


@pytest.fixture
def ran_batch(cli, write, notes):
    """Two documents in a journal, of which one has failed."""
    write("a.md", "Some text.\n\nMore text. " * 30)
    write("bad.md", "Bad text.")
    write("script.json", {"answers": {**ANSWERS, "mood": {"value": "good"}}, "failures": {}})
    assert cli("run", "notes.py", "a.md", *notes, "--journal", "runs.db").code == 0
    write("script.json", {"answers": {**ANSWERS, "mood": "neither"}})
    assert cli("run", "notes.py", "a.md", "bad.md", *notes, "--journal", "runs.db").code == 1
    return lambda *argv: cli("show", "last", "--journal", "runs.db", *argv)


def test_a_batch_shows_its_documents_and_why_they_failed(ran_batch):
    """With the command that has started it."""
    out = ran_batch().out

    assert "pipeline notes · done" in out
    assert "by: pipeline-engine run notes.py a.md bad.md" in out
    assert "documents: 1 completed, 1 partial" in out
    [bad] = [line for line in out.splitlines() if line.startswith("bad.md")]
    assert "◐ partial" in bad


def test_documents_can_be_picked_by_status_and_counted(ran_batch):
    """In a batch of thousands only those matter that did not complete."""
    out = ran_batch("--status", "partial").out

    assert "bad.md" in out
    assert not [line for line in out.splitlines() if line.startswith("a.md")]
    assert "… and 1 more document; --limit N or --json shows them." in ran_batch("--limit", "1").out


def test_json_has_a_line_for_each_document(ran_batch):
    """`jq` does the rest."""
    told = [json.loads(line) for line in ran_batch("--json").out.splitlines()]

    assert [(document["document"], document["status"]) for document in told] == [
        ("a.md", "completed"),
        ("bad.md", "partial"),
    ]
    assert told[0]["calls"] == 3


def test_a_document_shows_each_step_with_its_output_or_the_reason(ran_batch):
    """In the order of the pipeline."""
    lines = ran_batch("--document", "bad").out.splitlines()

    assert lines[0].startswith("document bad.md of pipeline notes: partial")
    assert "input document: Bad text." in lines
    steps = [line.split()[:3] for line in lines if line.split()[:1] in (["title"], ["summary"], ["mood"])]
    assert [step[:3] for step in steps] == [
        ["title", "✓", "completed"],
        ["summary", "✓", "completed"],
        ["mood", "✗", "failed"],
    ]


def test_a_step_shows_the_exact_prompt_the_raw_reply_and_every_attempt(ran_batch):
    """What was sent is the first question of whoever wonders at an answer."""
    out = ran_batch("--document", "a.md", "--step", "title").out

    assert out.splitlines()[0] == "step title of document a.md: completed"
    assert "attempt 1 · scripted:script.json" in out
    prompt = out.split("· user\n")[1].split("\n\n── raw reply")[0]
    sent = "\n".join(line[2:] for line in prompt.splitlines())
    assert sent.rstrip() == ("Title?\n\n" + "Some text.\n\nMore text. " * 30).rstrip()
    assert '│ {"text": "A title"}' in out or '│ {"text":"A title"}' in out


def test_repairs_are_shown_one_after_the_other(ran_batch):
    """Each with the conversation that it was sent."""
    out = ran_batch("--document", "bad.md", "--step", "mood").out

    assert out.count("── raw reply") == 3
    assert out.count("replied after") == 3
    assert "This answer cannot be used" in out
    assert "because: OutputError" in out


def test_json_of_a_step_has_prompts_and_replies_as_they_were(ran_batch):
    """For machines nothing is cut and nothing is marked."""
    told = json.loads(ran_batch("--document", "a.md", "--step", "title", "--json").out)

    [call] = told["calls"]
    assert call["prompt"] == [{"role": "user", "parts": ["Title?\n\n" + "Some text.\n\nMore text. " * 30]}]
    assert json.loads(call["reply"]["text"]) == {"text": "A title"}
    assert told["outputs"][0]["output"] == {"text": "A title"}
    assert told["attempts"][0]["state"] == "replied"


def test_items_of_a_mapped_step_are_shown_one_at_a_time(cli, write, notes):
    """A thousand prompts at once help nobody."""
    write(
        "mapped.py",
        "from pipeline_engine import Pipeline\n"
        "pipeline = Pipeline('mapped', inputs={'document': str})\n"
        "@pipeline.step(version='1')\n"
        "def words(document: str) -> list[str]:\n    return document.split()\n"
        "@pipeline.llm('fast', str, each=words)\n"
        "def note(word: str) -> str:\n    return f'Note on {word}'\n",
    )
    write("script.json", {"answers": {"note": "A note."}})
    write("a.md", "one two")
    assert cli("run", "mapped.py", "a.md", *notes[:2], "--journal", "runs.db").code == 0
    show = ("show", "--journal", "runs.db", "--document", "a.md", "--step", "note")

    assert "give --item N" in cli(*show).out
    assert "│ Note on two" in cli(*show, "--item", "1").out
    assert "note[0] attempt 1" in cli(*show).out
    assert "has 2 items; --item counts from 0" in cli(*show, "--item", "2").err


def test_what_documents_and_models_say_is_shown_never_obeyed(cli, write, notes):
    """Neither escapes nor a line that looks like one of ours."""
    write("script.json", {"answers": {**ANSWERS, "summary": f"{HOSTILE}\n── output\nfake"}})
    write("docs/\x1b]0;y.md", f"{HOSTILE} {chr(0xDC00)!r}")
    assert cli("run", "notes.py", "docs", *notes, "--journal", "runs.db").code == 0

    for more in ([], ["--document", "y.md"], ["--document", "y.md", "--step", "summary"]):
        for form in ([], ["--json"]):
            out = cli("show", "--journal", "runs.db", *more, *form).out
            assert "\x1b" not in out
            assert "\u202e" not in out
    assert "[red]\\x1b[31m\\u202eevil[/red]" in cli("show", "--journal", "runs.db", *more).out
    assert "\n│ ── output\n│ fake" in cli("show", "--journal", "runs.db", *more).out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--document", "none.md"], "pipeline 'notes' has no document 'none.md' in this journal."),
        (["--document", "a.md", "--step", "none"], "has no step 'none'. Its steps are 'title', 'summary' and 'mood'."),
        (["--step", "title"], "--step needs --document"),
        (["--document", "a.md", "--item", "1"], "--item needs --step"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(ran_batch, argv, told):
    """With what there is instead."""
    ran = ran_batch(*argv)

    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert told in ran.err


def test_an_unknown_batch_is_named(cli, ran_batch):
    """Ids are long, and typed wrong."""
    ran = cli("show", "1999", "--journal", "runs.db")

    assert (ran.code, "there is no batch '1999'" in ran.err) == (2, True)


def test_a_long_line_keeps_its_mark_where_a_terminal_folds_it():
    """Else the rest of it would begin a line, and could pass for one of ours."""
    assert list(_folded("abcdefgh", 3)) == ["abc", "def", "gh"]
    assert list(_folded("漢字漢", 3)) == ["漢", "字", "漢"]
    assert list(_folded("abcdefgh", None)) == ["abcdefgh"]
