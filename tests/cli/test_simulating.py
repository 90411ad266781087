"""`simulate`: what a batch would take, in virtual time."""

import json

import pytest

PIPELINE = """
from pipeline_engine import Pipeline

pipeline = Pipeline("article", inputs={"document": str})

@pipeline.llm("fast", str)
def title(document: str) -> str:
    raise AssertionError("nothing of it is run")

@pipeline.llm("strong", str)
def summary(document: str, title: str) -> str:
    raise AssertionError("nothing of it is run")
"""


@pytest.fixture
def article(write):
    """A pipeline of two steps; returns its path."""
    write("article.py", PIPELINE)
    return "article.py"


def test_a_batch_is_told_in_a_few_lines(cli, article):
    """The answer is a sentence; the table says why."""
    ran = cli(
        "simulate", article, "--documents", "100", "--latency", "2s", "--latency", "summary=4", "--capacity", "10"
    )

    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("100 documents in 1 min ")
    assert "10 slots allow no less than 1 min 00 s" in lines[0]
    assert lines[-2].split()[:3] == ["title", "100", "100"]


def test_several_capacities_are_a_table_and_a_plot(cli, article, tmp_path):
    """How many slots are worth having is seen at a glance."""
    plot = tmp_path / "sweep.svg"

    ran = cli("simulate", article, "--latency", "1", "--rpm", "600", "--capacity", "64,8,16", "--plot", str(plot))

    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()[:4]] == ["capacity", "8", "16", "64"]
    assert ran.out.splitlines()[-1] == "64 slots are not too many: fewer of these take more than 5 % longer"
    assert plot.read_text(encoding="utf-8").startswith("<svg")


def test_everything_is_there_as_json(cli, article):
    """A table is for people; a script reads JSON."""
    ran = cli("simulate", article, "--tokens", "800,200", "--model", "fast=openai:gpt-4o-mini", "--seed", "7", "--json")

    told = json.loads(ran.out)
    assert told["documents"] == 1000
    assert told["input_tokens"] == 1_600_000
    assert told["cost_usd"] is None  # nobody has said what "strong" is


def test_calls_are_as_they_were_in_a_journal(cli, article, write, tmp_path):
    """What was measured is better than what is guessed."""
    write("article.py", PIPELINE.replace('raise AssertionError("nothing of it is run")', "return document"))
    write("docs/a.md", "A text. " * 20)
    assert cli("run", article, "docs", "--offline", "--journal", "runs.db").code == 0

    ran = cli("simulate", article, "--learn", "runs.db", "--documents", "50")

    assert ran.code == 0
    assert ran.out.startswith("50 documents in ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--latency", "titel=3"],
            "latency= names 'titel', which is no step, role or model here. Did you mean 'title'?",
        ),
        (["--latency", "foo:3"], "--latency: 'foo:3' is no distribution."),
        (["--latency", "title="], "'title=' has no value."),
        (["--tokens", "800"], "--tokens: '800' is no pair."),
        (["--failures", "2"], "failures=2.0: it is a share from 0 to 1"),
        (["--rpm", "many"], "--rpm: 'many' is no number, such as 0.02 or 500."),
        (["--capacity", "8,x"], "'x' is not a whole number of 1 or more."),
        (["--plot", "x.svg"], "--plot draws a sweep. Give several capacities"),
        (["--learn", "nowhere.db"], "nowhere.db"),
        (["--batch", "last"], "--batch names a batch of a journal. Say which one: --learn PATH."),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(cli, article, options, said):
    """A typo that is ignored gives an answer that is believed."""
    ran = cli("simulate", article, *options)

    assert ran.code != 0
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
