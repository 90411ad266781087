"""`run`: what is on the screen, what is in the files, and how it ends."""

import json
import os
import re

import pytest

ANSWERS = {"title": {"text": "A title"}, "summary": "A summary.", "mood": {"value": "good"}}
LATENCY = {"title": 1.0, "summary": 2.0, "mood": 0.5}


def without_times(text):
    """Put a sign in the place of each duration, and take the padding away that depends on it."""
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d+)? m?s\b", "<time>", text))


# What is on the screen


def test_one_document_shows_every_output_and_where_the_time_went(cli, write, notes, virtual_time):
    """The first thing that a newcomer sees."""
    write("script.json", {"answers": ANSWERS, "latency": LATENCY})
    write("a.md", "Some text.")

    ran = cli("run", "notes.py", "a.md", *notes)

    assert ran.code == 0
    assert ran.err == "[1/1] a.md completed in 3.0 s\n"
    # Where the bars stand is the waterfall's business, and tested there.
    assert [re.sub(r"[█┬─ ]+", " ", line).strip() for line in ran.out.splitlines()] == [
        "step output for a.md",
        "",
        "title A title",
        "summary A summary.",
        "mood good",
        "",
        "notes · a.md · completed · 3 steps · 3 attempts",
        "",
        "0 1 s 2 s start took",
        "",
        "◆ title +0 s 1.0 s ✓ scripted:script.json",
        "mood +0 s 0.5 s ✓ scripted:script.json",
        "◆ summary +1.0 s 2.0 s ✓ scripted:script.json",
        "",
        "attempt ◆ critical path",
        "makespan 3.0 s; the critical path title → summary needs all of it; more slots cannot help",
        "",
        "1 document in 3.0 s: 1 completed",
    ]


def test_many_documents_are_a_table_with_the_outputs_that_nobody_needs(cli, write, notes):
    """What a pipeline is run for are its leaves; the steps before them are means."""
    for name in ("a.md", "b.md"):
        write(f"docs/{name}", "Some text.")

    ran = cli("run", "notes.py", "docs", *notes, "--capacity", "1")

    assert ran.code == 0
    lines = [line.rstrip() for line in without_times(ran.out).splitlines()]
    assert lines[0] == "document status took summary mood"
    assert lines[2:6] == [
        "docs/a.md ✓ completed <time> A summary. good",
        "docs/b.md ✓ completed <time> A summary. good",
        "",
        "Where the time of the slowest document went:",
    ]
    assert lines[-1] == "2 documents in <time>: 2 completed"


def test_a_line_for_each_document_tells_how_far_a_run_is_in_a_log(cli, write, notes):
    """Where nobody looks, a picture that redraws itself is noise."""
    for name in ("a.md", "b.md", "c.md"):
        write(f"docs/{name}", "Some text.")

    ran = cli("run", "notes.py", "docs", *notes, "--capacity", "1", "--max-documents", "1")

    assert without_times(ran.err).splitlines() == [
        "[1/3] docs/a.md completed in <time>",
        "[2/3] docs/b.md completed in <time>",
        "[3/3] docs/c.md completed in <time>",
    ]


def test_more_documents_than_fit_are_counted(cli, write, notes):
    """Nobody reads a thousand rows, and nobody should hold them in memory."""
    for number in range(53):
        write(f"docs/{number:02}.md", "Some text.")

    out = cli("run", "notes.py", "docs", *notes).out

    assert out.count("✓ completed") == 50
    assert "\n… and 3 more documents; --out FILE keeps all of them.\n" in out


def test_what_documents_and_models_say_is_shown_never_obeyed(cli, write, notes):
    """A title may hold markup and a file name may hold terminal commands."""
    write("script.json", {"answers": {**ANSWERS, "summary": "[red]\x1b[31m\u202eevil[/red] :smile:"}})
    write("docs/[bold]x[bold].md", "Some text.")
    write("docs/\x1b]0;y.md", "Some text.")

    ran = cli("run", "notes.py", "docs", *notes)

    assert "\x1b" not in ran.out + ran.err
    assert ran.out.count("[red]\\x1b[31m\\u202eevil[/red] :smile:") == 2
    assert "docs/[bold]x[bold].md" in ran.out
    assert "docs/\\x1b]0;y.md" in ran.out


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_name_that_is_no_text_comes_back_from_the_results(cli, folder, notes):
    """Old archives are full of them; the name in the results must lead back to the file."""
    name = os.fsdecode(b"caf\xe9.md")
    (folder / name).write_text("Some text.")

    ran = cli("run", "notes.py", name, *notes, "--out", "out.jsonl")

    assert ran.code == 0
    assert json.loads((folder / "out.jsonl").read_text(encoding="utf-8"))["document"] == name


def test_offline_says_once_that_it_is_no_llm(cli, write, notes):
    """What it extracts can look like an answer."""
    write("a.md", "Tea is made of leaves. Leaves are boiled in water. Water is hot.")
    write("b.md", "Coffee is made of beans. Beans are roasted. Roasted beans are ground.")

    ran = cli("run", "notes.py", "a.md", "b.md", "--offline")

    assert ran.code == 0
    said = "pipeline-engine: offline:extractive is no LLM: it picks words and sentences out of each document.\n"
    assert ran.err.count(said) == 1


# Failing documents


def test_a_document_that_cannot_be_read_fails_alone(cli, write, notes):
    """One bad file in a thousand is the rule, not the exception."""
    write("docs/binary.md", b"\x00\x01\x02")
    write("docs/empty.md", "")
    write("docs/good.md", "Some text.")

    ran = cli("run", "notes.py", "docs", "docs/good.md", *notes)

    assert ran.code == 1
    lines = [line.rstrip() for line in without_times(ran.out).splitlines()]
    assert lines[2:9] == [
        "docs/binary.md ✗ failed ✗ skipped ✗ skipped",
        "docs/empty.md ✗ failed ✗ skipped ✗ skipped",
        "docs/good.md ✓ completed <time> A summary. good",
        "",
        "not completed:",
        " docs/binary.md: is binary, not text: a NUL byte at offset 0. Give a text, HTML, PDF or DOCX file.",
        " docs/empty.md: is empty. Give a document with text in it.",
    ]
    assert lines[-1] == "3 documents in <time>: 1 completed, 2 failed"


def test_many_failures_are_counted_after_the_first_ten(cli, write, notes):
    """A wrong folder of scans must not scroll the results away."""
    for number in range(12):
        write(f"docs/{number:02}.md", "")

    lines = cli("run", "notes.py", "docs", *notes).out.splitlines()

    assert lines[lines.index("not completed:") + 1] == "  docs/00.md: is empty. Give a document with text in it."
    assert lines[lines.index("not completed:") + 11] == "  … and 2 more; --out FILE keeps their reasons."
    assert lines[-1].endswith(": 12 failed")


def test_more_outputs_than_fit_are_counted(cli, write):
    """Four columns can be read; the rest is in the file."""
    source = 'from pipeline_engine import Pipeline\np = Pipeline("p", inputs={"t": str})\n'
    steps = "".join(f"@p.step\nasync def s{number}(t: str) -> int:\n    return {number}\n" for number in range(6))
    write("p.py", source + steps)
    write("docs/a.md", "Some text.")
    write("docs/b.md", "Some text.")

    out = cli("run", "p.py", "docs").out

    assert out.splitlines()[0].split() == ["document", "status", "took", "s0", "s1", "s2", "s3"]
    assert "\n2 more outputs of each document; --out FILE keeps all of them.\n" in out


def test_a_file_that_is_named_but_missing_ends_the_command(cli, write, notes):
    """It is a typing mistake, and nothing has been paid for yet."""
    write("a.md", "Some text.")

    ran = cli("run", "notes.py", "a.md", "b.md", *notes)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "pipeline-engine: 'b.md' does not exist. Check the path and the folder that you run from.\n"


def test_a_folder_without_documents_ends_the_command(cli, folder, notes):
    """A run of nothing that ends well would hide a wrong path."""
    (folder / "photos").mkdir()

    ran = cli("run", "notes.py", "photos", *notes)

    assert ran.code == 2
    assert ran.err.startswith("pipeline-engine: 'photos' holds no document. Documents end in .csv, .docx, ")


def test_a_step_that_fails_leaves_the_other_outputs(cli, write, notes):
    """What was paid for is shown; the cell that is missing is named, and its reason stands below."""
    write("script.json", {"answers": {key: ANSWERS[key] for key in ("title", "mood")}})
    write("docs/a.md", "Some text.")
    write("docs/b.md", "Some text.")

    ran = cli("run", "notes.py", "docs", *notes, "--max-documents", "1")

    assert ran.code == 1
    lines = [line.rstrip() for line in without_times(ran.out).splitlines()]
    assert lines[2:6] == [
        "docs/a.md ◐ partial <time> ✗ failed good",
        "docs/b.md ◐ partial <time> ✗ failed good",
        "",
        "not completed:",
    ]
    reason = (
        "step 'summary' failed: model 'scripted:script.json' has no scripted answer for step 'summary'. "
        "It knows: mood, title."
    )
    assert lines[6:8] == [f" docs/a.md: {reason}", f" docs/b.md: {reason}"]


def test_debug_shows_where_a_steps_own_code_failed(cli, write):
    """`KeyError: 'x'` alone finds nothing."""
    source = 'from pipeline_engine import Pipeline\np = Pipeline("p", inputs={"t": str})\n'
    write("p.py", source + '@p.step\ndef length(t: str) -> int:\n    return {}["x"]\n')
    write("a.md", "Some text.")

    ran = cli("run", "p.py", "a.md", "--debug")

    assert ran.code == 1
    assert "a.md:\nTraceback (most recent call last):\n" in ran.err
    assert 'p.py", line 5, in length\n' in ran.err
    assert "Traceback" not in cli("run", "p.py", "a.md").err


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # the batch leaves its source half read
def test_what_a_timeout_leaves_undone_is_counted(cli, write, notes):
    """Exit code 0 would say that all of the documents are there."""
    write("script.json", {"answers": ANSWERS, "latency": 60})
    for name in ("a.md", "b.md", "c.md"):
        write(f"docs/{name}", "Some text.")

    ran = cli("run", "notes.py", "docs", *notes, "--max-documents", "1", "--timeout", "0.1")

    assert ran.code == 1
    *_, line, why = ran.out.splitlines()
    counts = re.fullmatch(r"3 documents in <time>: (\d) stopped, (\d) not started", without_times(line))
    assert counts is not None
    assert int(counts[1]) + int(counts[2]) == 3
    assert why == "stopped: the batch's timeout of 0.1 s"


def test_a_documents_own_timeout_stops_that_document(cli, write, notes, virtual_time):
    """One endless document must not hold up the rest."""
    write("script.json", {"answers": ANSWERS, "latency": 60})
    write("a.md", "Some text.")

    ran = cli("run", "notes.py", "a.md", *notes, "--document-timeout", "2.5")

    assert ran.code == 1
    assert ran.out.splitlines()[-1] == "1 document in 2.5 s: 1 stopped"


# Budgets


@pytest.fixture
def counted(monkeypatch):
    """Let `counted:model` on the command line be a model whose every call costs a hundred dollars."""
    from pipeline_engine import Price, Usage
    from pipeline_engine.cli import running
    from pipeline_engine.providers.scripted import Reply, ScriptedModel

    model = ScriptedModel(
        {"*": Reply("fine", usage=Usage(100, 1))}, price=Price(1_000_000, 0), max_tokens=1, name="counted:model"
    )
    monkeypatch.setattr(running, "chains_of", lambda bindings: dict.fromkeys(dict(bindings), model))
    return ["--model", "fast=counted:model", "--max-documents", "1"]


ONE_STEP = """
from pipeline_engine import Pipeline

pipeline = Pipeline("notes", inputs={"document": str})

@pipeline.llm("fast", str)
def title(document: str) -> str:
    return document
"""


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # the batch leaves its source half read
def test_a_budget_ends_a_run_and_is_named_as_the_reason(cli, write, counted):
    """Money that is spent is gone: what was not run must be told, with what to raise."""
    write("one.py", ONE_STEP)
    for number in range(5):
        write(f"docs/{number}.md", "x" * 84)

    ran = cli("run", "one.py", "docs", *counted, "--budget-usd", "250")

    assert ran.code == 1
    *_, line, why = ran.out.splitlines()
    assert without_times(line) == (
        "5 documents in <time>: 2 completed, 1 stopped, 2 not started · $200.00 of $250.00 · 200 tokens in, 2 out"
    )
    assert why == "stopped: the batch's budget of $250 has no room for another call"
    assert "  docs/2.md: stopped: the batch's budget of $250 has no room for another call" in ran.out.splitlines()


def test_each_line_of_a_log_tells_how_much_of_the_budget_is_spent(cli, write, counted):
    """A long run is stopped by hand while there is still something left."""
    write("one.py", ONE_STEP)
    write("docs/a.md", "Some text.")
    write("docs/b.md", "Some text.")

    ran = cli("run", "one.py", "docs", *counted, "--budget-tokens", "1000")

    assert without_times(ran.err).splitlines() == [
        "[1/2] docs/a.md completed in <time> · $100.00 · 101 of 1,000 tokens",
        "[2/2] docs/b.md completed in <time> · $200.00 · 202 of 1,000 tokens",
    ]
    assert ran.code == 0


def test_a_budget_that_nobody_can_count_is_refused_before_anything_is_paid(cli, write, notes, monkeypatch):
    """And before the results of the last run are gone."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    write("one.py", ONE_STEP)
    write("a.md", "Some text.")
    out = write("out.jsonl", "the last run's results\n")

    ran = cli("run", "one.py", "a.md", "--model", "fast=openai:my-own", "--budget-usd", "5", "--out", "out.jsonl")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "pipeline-engine: pipeline 'notes' has 1 problem:\n"
        "  PE204 a budget in US dollars cannot count the calls of model 'openai:my-own', whose price is unknown. "
        "Say it: Model('openai:my-own', price=Price(input_usd=…, output_usd=…)), per million tokens.\n"
        "Without a price, --budget-tokens N caps the spend.\n"
    )
    assert out.read_text() == "the last run's results\n"


# Inputs and choices


def test_the_first_documents_are_enough_for_a_look(cli, write, notes):
    """A folder of a million files costs nothing to try."""
    for number in range(5):
        write(f"docs/{number}.md", "Some text.")

    assert without_times(cli("run", "notes.py", "docs", *notes, "--limit", "2").out).endswith(
        "2 documents in <time>: 2 completed\n"
    )


def test_further_inputs_are_the_same_for_all_documents(cli, write):
    """A language, a date, a customer."""
    source = 'from pipeline_engine import Pipeline\np = Pipeline("p", inputs={"document": str, "times": int})\n'
    write(
        "p.py", source + "@p.step\nasync def repeated(document: str, times: int) -> str:\n    return document * times\n"
    )
    write("a.md", "ab")

    ran = cli("run", "p.py", "a.md", "--input", "times=3")

    assert "\nrepeated  ababab\n" in re.sub(r" +\n", "\n", ran.out)


def test_two_models_for_a_role_are_tried_in_order(cli, write, notes):
    """The second is there for the day on which the first is not."""
    write("down.json", {"answers": {}})
    write("a.md", "Some text.")

    ran = cli(
        "run", "notes.py", "a.md",
        "--model", "fast=scripted:down.json", "--model", "strong=scripted:script.json",
        "--model", "fast=scripted:script.json",
    )  # fmt: skip

    assert ran.code == 0
    assert "\ntitle    (fallback) A title" in ran.out


def test_a_role_without_a_model_is_told_with_the_way_out(cli, write, notes):
    """The first command that most people type has no --model."""
    write("a.md", "Some text.")

    ran = cli("run", "notes.py", "a.md")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "pipeline-engine: pipeline 'notes' has 2 problems:\n"
        "  PE201 role 'fast' has no model, but is used by 'title' and 'mood'. "
        "Bind it: models={'fast': \"provider:model\"}, or --model fast=provider:model. (notes.py:16)\n"
        "  PE201 role 'strong' has no model, but is used by 'summary'. "
        "Bind it: models={'strong': \"provider:model\"}, or --model strong=provider:model. (notes.py:21)\n"
        "To see it run without any model, give --offline.\n"
    )


def test_a_missing_key_is_told_before_anything_is_read(cli, write, notes):
    """And before the results of the last run are gone."""
    write("a.md", "Some text.")
    out = write("out.jsonl", "the last run's results\n")

    ran = cli("run", "notes.py", "a.md", "--model", "fast=openai:gpt-4o,strong=openai:gpt-4o", "--out", "out.jsonl")

    assert ran.code == 2
    assert "PE202 role 'fast': model 'openai:gpt-4o' needs a key. Set OPENAI_API_KEY" in ran.err
    assert out.read_text() == "the last run's results\n"


# Files


def test_each_result_is_a_line_of_json(cli, write, folder, notes):
    """Any tool can go on from there."""
    write("docs/a.md", "Some text.")
    write("docs/b.md", "")

    ran = cli("run", "notes.py", "docs", *notes, "--out", "out.jsonl")

    results = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(results, key=lambda result: result["document"]) == [
        {
            "document": "docs/a.md",
            "status": "completed",
            "outputs": {"title": {"text": "A title"}, "mood": "good", "summary": "A summary."},
            "errors": {},
        },
        {
            "document": "docs/b.md",
            "status": "failed",
            "outputs": {},
            "errors": {"inputs": "'docs/b.md' is empty. Give a document with text in it."},
        },
    ]
    assert ran.out.splitlines()[-1] == "results: out.jsonl (2 lines)"


def test_the_report_is_of_all_documents(cli, write, folder, notes):
    """What bounded a batch is seen in none of its documents alone."""
    write("script.json", {"answers": {**ANSWERS, "mood": {"value": "<script>"}}})
    write("docs/a.md", "Some text.")
    write("docs/b.md", "More text.")
    write("docs/<b>.md", "")

    ran = cli("run", "notes.py", "docs", *notes, "--report", "report.html")

    assert ran.out.splitlines()[-1] == "report: report.html"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "docs/a.md" in page
    assert "docs/b.md" in page
    assert "Batch report" in page


def test_without_a_run_there_is_no_report(cli, write, folder, notes):
    """Nothing is better than an empty page."""
    write("a.md", "")

    ran = cli("run", "notes.py", "a.md", *notes, "--report", "report.html")

    assert ran.code == 1
    assert ran.out.splitlines()[-1] == "report: not written, because no document was run"
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--out", "no/out.jsonl"],
            "--out 'no/out.jsonl' lies in the folder 'no', which does not exist. Make it first.",
        ),
        (["--out", "docs"], "--out 'docs' is a folder. Name a file in it."),
        (["--report", "docs"], "--report 'docs' is a folder. Name a file in it."),
        (
            ["--out", "docs/a.md"],
            "--out 'docs/a.md' would overwrite one of the documents. Name another file.",
        ),
        (
            ["--out", "x.html", "--report", "./x.html"],
            "--out and --report are both 'x.html'. Give each a file of its own.",
        ),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_the_run(cli, write, notes, options, said):
    """After an hour of paid calls would be a bad time to find out."""
    write("docs/a.md", "Some text.")

    ran = cli("run", "notes.py", "docs", *notes, *options)

    assert (ran.code, ran.out, ran.err) == (2, "", f"pipeline-engine: {said}\n")
