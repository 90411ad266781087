"""The commands and their options. Only argparse is loaded here, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline_engine.cli.failing import CommandError
from pipeline_engine.cli.journal_arguments import JOURNAL_VARIABLE, add_journal_commands
from pipeline_engine.cli.live_arguments import add_live_commands
from pipeline_engine.cli.simulation_arguments import add_simulate_command

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["JOURNAL_VARIABLE", "add_journal", "parse_arguments"]

_PROGRAM = "pipeline-engine"

_ABOUT = """\
Run documents through a pipeline of LLM steps: each step starts the instant its own inputs are ready.

A pipeline is a Python file that declares one Pipeline object."""

_EXAMPLES = """\
examples:
  pipeline-engine check pipelines/document.py
  pipeline-engine graph pipelines/document.py --format mermaid
  pipeline-engine run pipelines/document.py docs --offline
  pipeline-engine run pipelines/document.py docs --offline --journal runs.db
  pipeline-engine resume --journal runs.db

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

  what is finished is kept: the same command again, or `resume`, does only what is missing:
    pipeline-engine run pipelines/document.py archive --journal runs.db --rows rows.jsonl \\
      --model fast=openai:gpt-4o-mini --model strong=openai:gpt-4o

Ctrl-C and SIGTERM let the calls in flight finish (60 and 8 seconds at most); a second one cancels
them, a third one kills.

exit codes:
  0  every document completed        1  some did not
  2  the command or the pipeline cannot be run as given
  74  the journal can be written no more
  130, 143  ended by Ctrl-C or SIGTERM; what is finished is kept"""

_RESUME_ABOUT = """\
Go on with a batch that was interrupted: the command that started it is run again, in the folder in
which it was started.

Documents that have ended are not run again, and calls that were paid for are not sent again. A
document whose file is gone is run with the text that the journal holds."""

_RESUME_EXAMPLES = """\
examples:
  the journal's last batch, if it has not ended:
    pipeline-engine resume --journal runs.db

  a certain one; `last` and the beginning of an id will do:
    pipeline-engine resume 20261121-1240 --journal runs.db

  a database's password is not in the journal: give the address again, or put it into the environment:
    PIPELINE_ENGINE_JOURNAL=postgresql://me:secret@db.example/runs pipeline-engine resume

Exit codes are those of `run`; 0, too, if there is nothing to resume."""

_RETRY_ABOUT = """\
Run documents of a batch again that have ended: those that failed, or those with outputs that came
from a fallback. All others are left alone.

Steps that were completed are not run again, and calls that were paid for are not sent again. The
files of --out and --rows that the batch was run with get the new results in the place of the old
ones. A document whose file has changed is run with its new text; one whose file is gone, with the
text that the journal holds."""

_RETRY_EXAMPLES = """\
examples:
  the documents of the last batch that did not complete:
    pipeline-engine retry --failed --journal runs.db

  the first model is back: ask it for what its fallbacks have answered meanwhile:
    pipeline-engine retry --fallbacks --journal runs.db

  of a certain batch:
    pipeline-engine retry 20261121-124019-ab12cd --journal runs.db

Exit codes are those of `run`; 0, too, if there is nothing to be done."""

_ESTIMATE_ABOUT = """\
Run a few documents with the real models, and say what the others would take: tokens, dollars and
minutes, per step and in all, each with its range.

The sample is spread evenly over the documents sorted by their size, and is the same every time.
It is paid for; with --journal its results are kept, so that `run` does not pay for them again."""

_ESTIMATE_EXAMPLES = """\
examples:
  pipeline-engine estimate pipelines/document.py archive --journal runs.db \\
    --model fast=openai:gpt-4o-mini --model strong=openai:gpt-4o

  a larger sample has a narrower range:
    pipeline-engine estimate pipelines/document.py archive --sample 100 --budget-usd 1 \\
      --model fast=openai:gpt-4o-mini --model strong=openai:gpt-4o

  without models, to see how it works; tokens and dollars are unknown then:
    pipeline-engine estimate pipelines/document.py docs --offline

Exit code 0 if all of the sample completed, else 1."""

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

_WITH_DOCUMENTS = ("run", "estimate")
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
    if unknown or (rest and arguments.command not in _WITH_DOCUMENTS):
        raise CommandError(f"{(unknown or rest)[0]!r} is not known here. {_see(f'{_PROGRAM} {arguments.command}')}")
    if rest:
        # argparse takes no second group of positional words: `run p.py a.md --offline b.md`.
        arguments.documents += rest
    arguments.argv = list(argv)
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
    resume = _command(
        commands, "resume", "go on with a batch that was interrupted", _RESUME_ABOUT, _RESUME_EXAMPLES, about="batch"
    )
    retry = _command(commands, "retry", "run documents again that failed", _RETRY_ABOUT, _RETRY_EXAMPLES, about="batch")
    which = retry.add_mutually_exclusive_group()
    which.add_argument("--failed", action="store_true", help="documents that did not complete (default)")
    which.add_argument("--fallbacks", action="store_true", help="documents with outputs that came from a fallback")
    for command in (resume, retry):
        add_journal(command)
    estimate = _command(commands, "estimate", "say what a run would cost and take", _ESTIMATE_ABOUT, _ESTIMATE_EXAMPLES)
    _add_estimate_arguments(estimate)
    check = _command(commands, "check", "report all problems of a pipeline", _CHECK_ABOUT, _CHECK_EXAMPLES)
    _add_model(check)
    graph = _command(commands, "graph", "draw a pipeline", _GRAPH_ABOUT, _GRAPH_EXAMPLES)
    graph.add_argument(
        "--format",
        choices=["text", "mermaid", "dot"],
        default="text",
        help="text for a terminal (default), Mermaid for Markdown, dot for Graphviz",
    )
    journals = add_journal_commands(partial(_command, commands), add_journal, _add_models)
    live = add_live_commands(partial(_command, commands))
    simulate = add_simulate_command(partial(_command, commands), _add_model, _add_budget)
    for command in (run, resume, retry, estimate, check, graph, *journals, *live, simulate):
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _command(commands: Any, name: str, line: str, text: str, examples: str, *, about: str = "pipeline") -> _Parser:
    parser: _Parser = commands.add_parser(
        name,
        help=line,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if about == "pipeline":
        parser.add_argument("pipeline", metavar="PIPELINE", help=_PIPELINE_HELP)
    elif about == "batch":
        parser.add_argument(
            "batch", metavar="BATCH", nargs="?", default="last", help="a batch's id (default: the last)"
        )
    return parser


def add_journal(parser: Any) -> None:
    """Add `--journal` to a command that cannot do without one."""
    address = os.environ.get(JOURNAL_VARIABLE)
    parser.add_argument(
        "--journal",
        metavar="PATH|ADDRESS",
        default=address or None,
        required=not address,
        help=f"the journal: a file, or a postgresql:// address (default: ${JOURNAL_VARIABLE})",
    )


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
    _add_documents(parser)
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--out", metavar="FILE", help="write each result as a line of JSON as soon as it is there")
    outputs.add_argument(
        "--rows",
        metavar="FILE",
        help="write a row for each document and step as a line of JSON, for tables; the file appears at the end",
    )
    outputs.add_argument("--report", metavar="FILE", help="write where the time and the money went as an HTML page")
    outputs.add_argument("--chrome", metavar="FILE", help="write the runs as trace events, for Perfetto")
    telling = parser.add_argument_group("logs and telemetry")
    telling.add_argument(
        "--log", metavar="FILE", help="add a line of JSON for each step that ends, and for each warning"
    )
    telling.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="the lowest level that is logged (default info); debug has each attempt",
    )
    telling.add_argument(
        "--otel", action="store_true", help="send spans and metrics to where OpenTelemetry's variables say"
    )
    _add_optional_journal(parser)
    pace = _add_pace(parser)
    pace.add_argument("--document-timeout", metavar="S", type=_seconds, help="seconds for each document")
    _add_budget(parser)


def _add_estimate_arguments(parser: _Parser) -> None:
    _add_documents(parser)
    parser.add_argument("--sample", metavar="N", type=_count, default=20, help="documents to run (default 20)")
    _add_optional_journal(parser)
    _add_pace(parser)
    _add_budget(parser)


def _add_models(parser: Any) -> None:
    models = parser.add_argument_group("models").add_mutually_exclusive_group()
    _add_model(models)
    models.add_argument(
        "--offline", action="store_true", help="no LLM, no key, no network: extracts instead of writing"
    )


def _add_documents(parser: _Parser) -> None:
    parser.add_argument("documents", metavar="DOCS", nargs="+", help="files, folders and 'globs'")
    _add_models(parser)
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


def _add_optional_journal(parser: _Parser) -> None:
    journal = parser.add_argument_group("journal")
    journal.add_argument(
        "--journal",
        metavar="PATH|ADDRESS",
        default=os.environ.get(JOURNAL_VARIABLE) or None,
        help="keep what is finished in a file, or at a postgresql:// address, so that nothing is paid for twice "
        f"(default: ${JOURNAL_VARIABLE})",
    )
    journal.add_argument(
        "--on-change",
        choices=["reuse", "error", "keep", "new"],
        default="reuse",
        help="if the pipeline has changed: run again what has changed (default), refuse, run nothing again, or all",
    )


def _add_pace(parser: _Parser) -> Any:
    pace = parser.add_argument_group("pace")
    pace.add_argument("--capacity", metavar="N", type=_count, help="attempts in flight at once (default 64)")
    pace.add_argument(
        "--max-documents",
        metavar="N",
        type=_count,
        help="documents in flight at once (default four times the capacity)",
    )
    pace.add_argument("--timeout", metavar="S", type=_seconds, help="seconds for the whole run")
    return pace


def _add_budget(parser: _Parser) -> None:
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
