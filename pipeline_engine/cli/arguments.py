"""The commands and their options. Only argparse is loaded here, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline_engine.cli.failing import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parse_arguments"]

_PROGRAM = "pipeline-engine"

_ABOUT = """\
Run documents through a pipeline of LLM steps: each step starts the instant its own inputs are ready.

A pipeline is a Python file that declares one Pipeline object."""

_EXAMPLES = """\
examples:
  pipeline-engine check pipelines/document.py
  pipeline-engine graph pipelines/document.py --format mermaid
  pipeline-engine run pipelines/document.py docs --offline

Each command has its own --help with more examples."""

_RUN_ABOUT = """\
Run every document through the pipeline, and show the results and where the time went.

A document that fails does not affect the others. Progress goes to standard error, results to
standard output."""

_RUN_EXAMPLES = """\
examples:
  without a key and without a network, to see how a pipeline runs:
    pipeline-engine run pipelines/document.py README.md docs --offline

  with models, a second one for the role "strong" in case that the first one fails:
    pipeline-engine run pipelines/document.py 'reports/**/*.pdf' \\
      --model fast=openai:gpt-4o-mini \\
      --model strong=openai:gpt-4o --model strong=openai:gpt-4o-mini \\
      --out results.jsonl --report report.html

  a first look at a large folder:
    pipeline-engine run pipelines/document.py archive --offline --limit 5

  at most five dollars; documents that would cost more are not run:
    pipeline-engine run pipelines/document.py archive --budget-usd 5 --out results.jsonl \\
      --model fast=openai:gpt-4o-mini --model strong=openai:gpt-4o

exit codes:
  0  every document completed        1  some did not
  2  the command or the pipeline cannot be run as given
  130, 143  ended by Ctrl-C or SIGTERM; results written so far are kept"""

_CHECK_ABOUT = """\
Compile a pipeline and report all of its problems at once. Nothing is run and nothing is sent."""

_CHECK_EXAMPLES = """\
examples:
  pipeline-engine check pipelines/document.py
  pipeline-engine check mypackage.pipelines:invoices
  pipeline-engine check pipelines/document.py --model fast=openai:gpt-4o-mini --model strong=openai:gpt-4o

With --model it is also checked that every role has a model, and that each has its key.
Exit code 0 if there is no problem, else 2."""

_GRAPH_ABOUT = """\
Draw a pipeline's steps and what they need."""

_GRAPH_EXAMPLES = """\
examples:
  pipeline-engine graph pipelines/document.py
  pipeline-engine graph pipelines/document.py --format mermaid >> README.md
  pipeline-engine graph pipelines/document.py --format dot | dot -Tsvg > document.svg"""

_PIPELINE_HELP = "a .py file or an importable module; add :name where it declares several pipelines"
_MODEL_HELP = "the model for a role; give a role again to add a model that is tried when the one before fails"

# A comma separates bindings only where another ROLE= follows: model names may have commas of their own.
_NEXT_BINDING = re.compile(r",(?=[\w-]+=)")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return what the user asked for.

    Raises:
        CommandError: If the arguments make no sense.
        SystemExit: For `--help` and `--version`.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown or (rest and arguments.command != "run"):
        raise CommandError(f"{(unknown or rest)[0]!r} is not known here. {_see(f'{_PROGRAM} {arguments.command}')}")
    if rest:
        # argparse takes no second group of positional words: `run p.py a.md --offline b.md`.
        arguments.documents += rest
    return arguments


class _Parser(argparse.ArgumentParser):
    """Raises what it has to complain about, so that it is said in our own way."""

    def error(self, message: str) -> NoReturn:
        sentence = message if message.endswith((".", "?")) else f"{message}."
        raise CommandError(f"{sentence} {_see(self.prog)}")


class _Version(argparse.Action):
    """Prints the version; it is looked up only when asked for, because the look-up takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"{_PROGRAM} {version(_PROGRAM)}")
        parser.exit()


def _see(program: str) -> str:
    return f"See {program} --help."


def _parser() -> _Parser:
    parser = _Parser(
        prog=_PROGRAM,
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    run = _command(commands, "run", "run documents through a pipeline", _RUN_ABOUT, _RUN_EXAMPLES)
    _add_run_arguments(run)
    check = _command(commands, "check", "report all problems of a pipeline", _CHECK_ABOUT, _CHECK_EXAMPLES)
    _add_model(check)
    graph = _command(commands, "graph", "draw a pipeline", _GRAPH_ABOUT, _GRAPH_EXAMPLES)
    graph.add_argument(
        "--format",
        choices=["text", "mermaid", "dot"],
        default="text",
        help="text for a terminal (default), Mermaid for Markdown, dot for Graphviz",
    )
    for command in (run, check, graph):
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _command(commands: Any, name: str, line: str, about: str, examples: str) -> _Parser:
    parser: _Parser = commands.add_parser(
        name,
        help=line,
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pipeline", metavar="PIPELINE", help=_PIPELINE_HELP)
    return parser


def _add_model(parser: Any) -> None:
    parser.add_argument(
        "--model",
        dest="models",
        metavar="ROLE=PROVIDER:MODEL",
        type=_bindings,
        action="extend",
        default=[],
        help=_MODEL_HELP,
    )


def _add_run_arguments(parser: _Parser) -> None:
    parser.add_argument("documents", metavar="DOCS", nargs="+", help="files, folders and 'globs'")
    models = parser.add_argument_group("models").add_mutually_exclusive_group()
    _add_model(models)
    models.add_argument(
        "--offline", action="store_true", help="no LLM, no key, no network: extracts instead of writing"
    )
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument(
        "--input",
        dest="inputs",
        metavar="NAME=VALUE",
        type=_named_value,
        action="append",
        default=[],
        help="a further input of the pipeline, the same for all documents; JSON where the input is no text",
    )
    inputs.add_argument("--limit", metavar="N", type=_count, help="take only the first N documents")
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--out", metavar="FILE", help="write each result as a line of JSON as soon as it is there")
    outputs.add_argument("--report", metavar="FILE", help="write the slowest document's timing as an HTML page")
    pace = parser.add_argument_group("pace")
    pace.add_argument("--capacity", metavar="N", type=_count, help="attempts in flight at once (default 64)")
    pace.add_argument(
        "--max-documents",
        metavar="N",
        type=_count,
        help="documents in flight at once (default four times the capacity)",
    )
    pace.add_argument("--timeout", metavar="S", type=_seconds, help="seconds for the whole run")
    pace.add_argument("--document-timeout", metavar="S", type=_seconds, help="seconds for each document")

    budget = parser.add_argument_group("budget")
    budget.add_argument(
        "--budget-usd",
        metavar="USD",
        type=_amount,
        help="the most that all calls together may cost; nothing more is started when it is spent",
    )
    budget.add_argument(
        "--budget-tokens", metavar="N", type=_amount, help="the most tokens of requests and replies together"
    )


def _bindings(text: str) -> list[tuple[str, str]]:
    """Return the roles and models of one `--model`: mostly one, but `fast=a,strong=b` is understood."""
    bindings = []
    for part in _NEXT_BINDING.split(text):
        role, equals, model = (piece.strip() for piece in part.partition("="))
        if not equals or not role or not model:
            raise argparse.ArgumentTypeError(
                f"{part!r} binds no role to a model. Write ROLE=PROVIDER:MODEL, such as fast=openai:gpt-4o-mini."
            )
        bindings.append((role, model))
    return bindings


def _named_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} names no input. Write NAME=VALUE, such as language=en.")
    return name.strip(), value


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more.")
    return count


def _seconds(text: str) -> float:
    return _positive(text, "a number of seconds above 0")


def _amount(text: str) -> float:
    return _positive(text, "an amount above 0, such as 5 or 0.25")


def _positive(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}.")
    return number
