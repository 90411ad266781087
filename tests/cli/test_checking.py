"""The commands that look at a pipeline and run nothing."""

import pytest

PROBLEMS = """
from pydantic import BaseModel

from pipeline_engine import Pipeline

pipeline = Pipeline("broken", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return document


@pipeline.llm("fast", str)
def summary(document: str, titel: str) -> str:
    return document
"""


def test_a_sound_pipeline_is_summed_up_in_one_line(cli, notes):
    """For a commit hook: a glance, and exit code 0."""
    ran = cli("check", "notes.py")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "ok: pipeline 'notes': 3 steps, 1 input, roles fast, strong\n"


def test_with_models_it_is_also_checked_that_they_can_be_opened(cli, notes):
    """A missing key is found here, not after the first hundred documents were read."""
    ran = cli("check", "notes.py", *notes)

    assert ran.out == "ok: pipeline 'notes': 3 steps, 1 input, roles fast, strong, every role has its model\n"


def test_all_problems_are_told_at_once_each_with_its_place(cli, write):
    """One run of the command, one round of corrections."""
    write("broken.py", PROBLEMS)

    ran = cli("check", "broken.py")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "pipeline-engine: pipeline 'broken' has 1 problem:\n"
        "  PE101 step 'summary' needs 'titel', but no step or input has that name. Did you mean 'title'? "
        "(broken.py:14)\n"
    )


def test_models_are_told_all_at_once_too(cli, notes):
    """An unknown role, a missing key and an unknown provider in one go."""
    ran = cli("check", "notes.py", "--model", "fast=openai:gpt-4o,fats=openai:gpt-4o,strong=opnai:gpt-4o")

    assert (ran.code, ran.out) == (2, "")
    assert [line.split()[0] for line in ran.err.splitlines()[1:]] == ["PE202", "PE202", "PE203"]
    assert "Set OPENAI_API_KEY" in ran.err
    assert "Did you mean 'openai:gpt-4o'?" in ran.err


@pytest.mark.parametrize(
    ("drawing", "first"),
    [("text", "notes (document)"), ("mermaid", "flowchart LR"), ("dot", 'digraph "notes" {')],
)
def test_a_pipeline_is_drawn_in_three_languages(cli, notes, drawing, first):
    """For the terminal, for Markdown, for Graphviz."""
    ran = cli("graph", "notes.py", "--format", drawing)

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == first


def test_the_drawing_for_a_terminal_is_the_default(cli, notes):
    """It needs nothing but the terminal that one is in."""
    assert cli("graph", "notes.py").out == (
        "notes (document)\n├─ title    ← document\n│  mood     ← document\n└─ summary  ← document, title\n"
    )
