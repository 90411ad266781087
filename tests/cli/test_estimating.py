"""`estimate`: what a few documents say about all of them."""

import re

import pytest

from pipeline_engine import Price, Usage
from pipeline_engine.cli import running
from pipeline_engine.journal import journal_place
from pipeline_engine.journal.reading import read_journal
from pipeline_engine.providers.scripted import Reply, ScriptedModel

ONE_STEP = """
from pipeline_engine import Pipeline

pipeline = Pipeline("notes", inputs={"document": str})

@pipeline.llm("fast", str)
def title(document: str) -> str:
    return document
"""


@pytest.fixture
def priced(monkeypatch):
    """Let `priced:model` be a model that counts a token for each character, and ten for its reply; returns it."""

    def reply(request):
        return Reply("fine", usage=Usage(len(request.messages[-1].text), 10))

    model = ScriptedModel({"*": reply}, price=Price(100, 1000), name="priced:model")
    monkeypatch.setattr(running, "chains_of", lambda bindings: dict.fromkeys(dict(bindings), model))
    return model


@pytest.fixture
def archive(write, priced):
    """A hundred documents of 10 to 1,000 characters; returns the arguments for them."""
    write("one.py", ONE_STEP)
    for number in range(1, 101):
        write(f"docs/{number:03}.md", "x" * (10 * number))
    return ["one.py", "docs", "--model", "fast=priced:model"]


def test_what_the_others_take_is_told_per_step_and_in_all(cli, archive, priced):
    """Before they are paid for: $5.90 is a decision, $59 is another one."""
    ran = cli("estimate", *archive, "--sample", "10")

    assert ran.code == 0
    lines = [re.sub(r" +", " ", line).strip() for line in ran.out.splitlines()]
    asked = sorted(len(request.messages[-1].text) for request in priced.requests)
    assert asked == [60, 160, 260, 360, 460, 560, 660, 760, 860, 960]
    assert lines[0] == "sample: 10 of 100 documents, spread evenly over their sizes: 10.1% of all characters"
    assert re.fullmatch(r"10 completed in \S+ \S+ · \$0\.6100 · 5,100 tokens in, 100 out", lines[1])
    assert lines[2:8] == [
        "",
        "the other 90 documents:",
        "",
        "step calls tokens in tokens out dollars",
        "─" * len(lines[6]),
        "title 90 ±0% 45.4 k ±0% 900 ±0% $5.44 ±0%",
    ]
    assert lines[8:10] == ["in all 90 ±0% 45.4 k ±0% 900 ±0% $5.44 ±0%", ""]
    assert lines[10] == "dollars: about $5.44, between $5.44 and $5.44"
    assert lines[11].startswith("time: between ")
    assert lines[11].endswith(
        ", if 64 calls at once are answered as quickly as in the sample and no rate limit slows them"
    )
    assert lines[-1] == "the sample will be paid for again; with --journal here and for `run` it is not"


def test_the_sample_is_the_same_every_time(cli, archive, priced):
    """Two people who ask get one answer."""
    for _ in range(2):
        cli("estimate", *archive, "--sample", "7")
    asked = [request.messages[-1].text for request in priced.requests]

    assert sorted(asked[:7]) == sorted(asked[7:])


def test_with_a_journal_the_sample_is_not_paid_for_again(cli, archive, priced):
    """An estimate is the first part of the run."""
    estimated = cli("estimate", *archive, "--sample", "10", "--journal", "runs.db")
    ran = cli("run", *archive, "--journal", "runs.db")

    assert len(priced.requests) == 100
    assert estimated.out.splitlines()[-1] == (
        "the sample is in runs.db: the same command with `run` does not pay for it again"
    )
    assert "from the journal: 10 documents, 10 calls not sent again" in ran.out
    with read_journal(journal_place("runs.db")) as reader:
        assert reader.batch("last").command["argv"] == ["run", *archive]


def test_what_a_journal_holds_already_is_no_part_of_it(cli, archive, priced):
    """It will cost nothing."""
    cli("run", *archive, "--journal", "runs.db", "--limit", "40")

    some = cli("estimate", *archive, "--journal", "runs.db")
    cli("run", *archive, "--journal", "runs.db")
    none = cli("estimate", *archive, "--journal", "runs.db")

    assert some.out.startswith("sample: 20 of 60 documents, ")
    assert "\nnot counted: 40 documents that the journal holds already\n" in some.out
    assert (none.code, none.out) == (
        0,
        "nothing to estimate: all of 100 documents have ended before, by the journal.\n",
    )


def test_what_would_be_run_again_is_a_part_of_it(cli, write, archive, priced):
    """A document whose file has changed, and all of them when the prompt has, are paid for once more."""
    cli("run", *archive, "--journal", "runs.db", "--limit", "40")
    write("docs/001.md", "y" * 100)

    changed_file = cli("estimate", *archive, "--journal", "runs.db", "--sample", "5")
    write("two.py", ONE_STEP.replace("return document", "return 'Title? ' + document"))
    changed_prompt = cli("estimate", "two.py", *archive[1:], "--journal", "runs.db", "--sample", "5")

    assert changed_file.out.startswith("sample: 5 of 61 documents, ")
    assert changed_prompt.out.startswith("sample: 5 of 100 documents, ")


def test_a_sample_of_everything_leaves_nothing(cli, archive):
    """Five documents are run rather than estimated."""
    ran = cli("estimate", *archive, "--limit", "5")

    assert ran.out.splitlines()[-1] == "No document is left."


def test_without_models_tokens_are_unknown_and_say_so(cli, write):
    """0 tokens would be a lie."""
    write("one.py", ONE_STEP)
    for number in range(4):
        write(f"docs/{number}.md", "Tea is made of leaves. Leaves are boiled in water. Water is hot.")

    ran = cli("estimate", "one.py", "docs", "--offline", "--sample", "2")

    assert ran.code == 0
    assert re.search(r"^title +2 +unknown +unknown +\$0\.00$", ran.out, re.MULTILINE)
    assert "ranges: none can be told from fewer than 5 documents; give a larger --sample" in ran.out.splitlines()


def test_a_price_that_nobody_knows_is_unknown(cli, archive, priced):
    """It is not zero."""
    priced.price = None

    assert "dollars: unknown, because the price of a model, or what its calls have used, is not known" in (
        cli("estimate", *archive).out.splitlines()
    )


def test_what_cannot_be_read_is_named_and_not_counted(cli, write, archive):
    """It costs nothing, and will fail."""
    write("docs/empty.md", "")

    ran = cli("estimate", *archive, "--sample", "5")

    assert ran.out.startswith("sample: 5 of 100 documents, ")
    assert "\nnot counted, because they cannot be read: docs/empty.md\n" in ran.out


def test_a_document_that_fails_is_named_and_counted(cli, write, notes):
    """Its calls are paid for, too."""
    write("script.json", {"answers": {"title": {"text": "A title"}, "mood": {"value": "good"}}})
    for number in range(8):
        write(f"docs/{number}.md", "Some text.")

    ran = cli("estimate", "notes.py", "docs", *notes, "--sample", "1")

    assert ran.code == 1
    assert "\nnot completed: docs/4.md: step 'summary' failed: " in ran.out
    assert re.search(r"^in all +21 ", ran.out, re.MULTILINE)
