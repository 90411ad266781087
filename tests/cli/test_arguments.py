"""What can be typed, and what is said about what cannot."""

import re
import subprocess
import sys

import pytest

from pipeline_engine.cli.arguments import parse_arguments

COMMANDS = [
    *("run", "resume", "retry", "estimate", "check", "graph", "batches", "show", "doctor", "prune", "diff"),
    *("report", "compare", "watch", "serve", "simulate"),
]


def test_help_names_all_commands_and_nothing_else(cli):
    """What --help shows must exist."""
    ran = cli("--help")

    assert ran.code == 0
    commands = ran.out.partition("COMMAND\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in commands.splitlines()] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_examples(cli, command):
    """An example that can be pasted says more than a list of options."""
    ran = cli(command, "--help")

    assert ran.code == 0
    assert "\nexamples:\n" in ran.out
    assert re.search(rf"^ +(PIPELINE_ENGINE_JOURNAL=\S+ )?pipeline-engine {command} \S", ran.out, re.MULTILINE)


def test_version_is_that_of_the_package(cli):
    """The first question in every bug report."""
    assert cli("--version").out == "pipeline-engine 0.1.0\n"


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["graph", "--help"]])
def test_help_loads_nothing_heavy(argv):
    """Help that takes half a second is not asked for twice; dataclasses and pathlib alone cost 20 ms of it."""
    heavy = {"trio", "pydantic", "rich", "networkx", "httpx2", "asyncio", "dataclasses", "pathlib", "inspect"}
    code = (
        "import sys; from pipeline_engine.cli import main\n"
        f"try: main({argv})\n"
        f"except SystemExit: print(sorted({heavy} & sys.modules.keys()), file=sys.stderr)"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stderr == "[]\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: COMMAND. See pipeline-engine --help."),
        (
            ["frob"],
            (
                f"argument COMMAND: invalid choice: 'frob' (choose from {', '.join(map(repr, COMMANDS))}). "
                "See pipeline-engine --help."
            ),
        ),
        (["run", "p.py"], "the following arguments are required: DOCS. See pipeline-engine run --help."),
        (["run", "p.py", "a.md", "--ofline"], "'--ofline' is not known here. See pipeline-engine run --help."),
        (["check", "p.py", "a.md"], "'a.md' is not known here. See pipeline-engine check --help."),
        (
            ["run", "p.py", "a.md", "--limit", "0"],
            "argument --limit: '0' is not a whole number of 1 or more. See pipeline-engine run --help.",
        ),
        (
            ["run", "p.py", "a.md", "--limit", "-3"],
            "argument --limit: '-3' is not a whole number of 1 or more. See pipeline-engine run --help.",
        ),
        (
            ["run", "p.py", "a.md", "--capacity", "many"],
            "argument --capacity: 'many' is not a whole number of 1 or more. See pipeline-engine run --help.",
        ),
        (
            ["run", "p.py", "a.md", "--timeout", "nan"],
            "argument --timeout: 'nan' is not a number of seconds above 0. See pipeline-engine run --help.",
        ),
        (
            ["run", "p.py", "a.md", "--budget-usd", "0"],
            ("argument --budget-usd: '0' is not an amount above 0, such as 5 or 0.25. See pipeline-engine run --help."),
        ),
        (
            ["run", "p.py", "a.md", "--budget-tokens", "inf"],
            (
                "argument --budget-tokens: 'inf' is not an amount above 0, such as 5 or 0.25. "
                "See pipeline-engine run --help."
            ),
        ),
        (
            ["run", "p.py", "a.md", "--model", "openai:gpt-4o"],
            (
                "argument --model: 'openai:gpt-4o' binds no role to a model. Write ROLE=PROVIDER:MODEL, such as "
                "fast=openai:gpt-4o-mini. See pipeline-engine run --help."
            ),
        ),
        (
            ["run", "p.py", "a.md", "--input", "english"],
            (
                "argument --input: 'english' names no input. Write NAME=VALUE, such as language=en. "
                "See pipeline-engine run --help."
            ),
        ),
        (
            ["run", "p.py", "a.md", "--offline", "--model", "fast=openai:gpt-4o"],
            "argument --model: not allowed with argument --offline. See pipeline-engine run --help.",
        ),
    ],
)
def test_what_makes_no_sense_is_answered_in_one_line(cli, argv, said):
    """Argparse alone would print its usage and hide the one line that matters under it."""
    ran = cli(*argv)

    assert (ran.code, ran.out, ran.err) == (2, "", f"pipeline-engine: {said}\n")


def test_documents_may_stand_on_both_sides_of_an_option():
    """Argparse takes positional words in one place only; people do not."""
    arguments = parse_arguments(["run", "p.py", "a.md", "--offline", "b.md", "c.md"])

    assert arguments.documents == ["a.md", "b.md", "c.md"]


def test_a_role_that_is_given_twice_has_two_models_in_order():
    """The order is that in which they are tried."""
    argv = ["check", "p.py", "--model", "fast=openai:a,strong=openai:b", "--model", "fast=openai:c,d"]

    assert parse_arguments(argv).models == [
        ("fast", "openai:a"),
        ("strong", "openai:b"),
        ("fast", "openai:c,d"),
    ]


def test_an_option_cannot_be_shortened():
    """A shortened option in somebody's script would break when a second one begins alike."""
    with pytest.raises(Exception, match=r"^'--off' is not known here\. See pipeline-engine run --help\.$"):
        parse_arguments(["run", "p.py", "a.md", "--off"])
