"""The commands that look at a journal and look after it, and their options."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["JOURNAL_COMMANDS", "JOURNAL_VARIABLE", "MAX_SPANS", "add_journal_commands", "add_place"]

JOURNAL_VARIABLE = "PIPELINE_ENGINE_JOURNAL"
"""The environment variable that names the journal where no argument does."""
JOURNAL_COMMANDS = ("batches", "show", "doctor", "prune", "diff", "compare", "report")

_BATCHES_ABOUT = """\
List the batches of a journal, latest first. A journal can be looked at while a run writes it."""

_BATCHES_EXAMPLES = """\
examples:
  pipeline-engine batches --journal runs.db
  pipeline-engine batches --journal runs.db --json | jq -r 'select(.state == "done") | .batch'"""

_SHOW_ABOUT = """\
Show what a journal has kept: the documents of a batch, all that has happened to one of them, or the
exact prompts and raw replies of one step of it.

BATCH is an id, the beginning of one, or "last". A document is named by its key or a part of it that
only it has. It belongs to the last batch that has asked for it."""

_SHOW_EXAMPLES = """\
examples:
  pipeline-engine show --journal runs.db
  pipeline-engine show last --journal runs.db --status failed --status partial
  pipeline-engine show last --journal runs.db --document report.md
  pipeline-engine show last --journal runs.db --document report.md --step summary
  pipeline-engine show last --journal runs.db --document report.md --step notes --item 3
  pipeline-engine show last --journal runs.db --json | jq -s 'map(.cost_usd) | add'

With --json each document is a line of JSON, and so is whatever else is shown."""

_DOCTOR_ABOUT = """\
Examine a journal: its structure, the hash of every body in it, work that nobody goes on with,
attempts that may have been billed, and what takes how much room. Nothing is changed without --repair."""

_DOCTOR_EXAMPLES = """\
examples:
  pipeline-engine doctor --journal runs.db
  pipeline-engine doctor --journal runs.db --repair

With --repair entries that are damaged are removed, and only what they held is made again by the next
run; documents of processes that have ended are given back; results that lie beside the journal are
taken in; an older journal is brought up to date, after a copy was made.

exit codes:
  0  nothing is wrong        1  something is, or was; it is said what
  2  the journal cannot be read, or is in use"""

_PRUNE_ABOUT = """\
Forget documents that have ended, with all that was kept of them. A pipeline whose last batch has not
ended is left alone. Without --yes it is only said what would be forgotten."""

_PRUNE_EXAMPLES = """\
examples:
  what would be forgotten, and then do it:
    pipeline-engine prune --journal runs.db --older-than 30d
    pipeline-engine prune --journal runs.db --older-than 30d --yes

  keep documents and outputs, so that nothing is run again; prompts, replies, attempts and inputs go:
    pipeline-engine prune --journal runs.db --older-than 7d --keep-results --yes

  one batch:
    pipeline-engine prune --journal runs.db --batch 20261121-1240 --yes

Exit code 0, also if there is nothing to forget; 2 if the journal cannot be used."""

_DIFF_ABOUT = """\
Say what a pipeline, as it is now, would run again of the documents in a journal, and what that would
cost. Each document goes through the pipeline as in a run, but nothing is called and nothing is
written: prompts, conditions and checks are evaluated, functions of steps are not.

What depends on something that would be run again is kept if that comes out as it was."""

_DIFF_EXAMPLES = """\
examples:
  with the models of the pipeline's last batch:
    pipeline-engine diff pipelines/document.py --journal runs.db

  what would another model cost?
    pipeline-engine diff pipelines/document.py --journal runs.db \\
      --model fast=openai:gpt-4o-mini --model strong=openai:gpt-4o

exit codes:
  0  nothing would be run again        1  something would
  2  the pipeline or the journal cannot be used"""

_REPORT_ABOUT = """\
Write a batch as one HTML page: what bounded it, where the time and the money went, and what happened
when, of each document, step and attempt. The page loads nothing, so that it can be sent and kept."""

_REPORT_EXAMPLES = """\
examples:
  pipeline-engine report runs.db
  pipeline-engine report runs.db --batch 20261121-1240 --out batch.html --open
  pipeline-engine report runs.db --document report.md --out document.html
  pipeline-engine report runs.db --against previous

Of very large batches the page shows the slowest documents, the first that failed and others taken at
random; its figures count all of them.

Exit code 0; 2 if there is no such batch or document, or the journal cannot be read."""

_COMPARE_ABOUT = """\
Compare two batches on the documents that both have run: outputs, how documents end, cost, tokens and
time, per document and per step; and, with --labels, which of the two is right more often.

A and B are batches of a journal: an id, the beginning of one, "last", or "previous", the batch before
the other one of the same pipeline; or files that `run --out` or `run --rows` has written. If neither
is given, the last batch is compared with the previous one; with two journals, the last ones of both."""

_COMPARE_EXAMPLES = """\
examples:
  what has the change of a prompt brought?
    pipeline-engine compare --journal runs.db
    pipeline-engine compare 20261121-1240 last --journal runs.db --html comparison.html

  two models, each with a journal of its own, against a file that says what is right:
    pipeline-engine compare --journal small.db --journal large.db --labels labels.csv

  files of results, or of rows, which have cost and time, too:
    pipeline-engine compare before.jsonl after.jsonl --out different.jsonl

Labels are lines of JSON such as {"document": "a.md", "category": "news"}, or a CSV file with the
column `document`; a label is named like a step, or like a field of its output, such as quality.score.

exit codes:
  0  no document differs        1  some do
  2  a batch or a file cannot be used"""

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
MAX_SPANS = 100_000
"""Of so many steps and items a page draws every bar: less than five megabytes, and about a second to open."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add_journal_commands(
    command: Callable[..., Any], add_journal: Callable[[Any], None], add_models: Callable[[Any], None]
) -> list[Any]:
    """Add the commands, and return their parsers.

    Args:
        command: Makes a command's parser.
        add_journal: Adds `--journal`.
        add_models: Adds what binds roles to models.
    """
    batches = command("batches", "list the batches of a journal", _BATCHES_ABOUT, _BATCHES_EXAMPLES, about="journal")
    batches.add_argument("--all", action="store_true", help="all batches, and also each single run")
    _add_limit(batches, "batches", 20)
    show = command("show", "show documents, prompts and replies", _SHOW_ABOUT, _SHOW_EXAMPLES, about="batch")
    show.add_argument("--document", metavar="KEY", help="one document: its steps, calls and attempts")
    show.add_argument("--step", metavar="STEP", help="one step of it: prompts, raw replies, every attempt")
    show.add_argument("--item", metavar="N", type=_item, help="one item of a mapped step, counted from 0")
    show.add_argument(
        "--status",
        dest="statuses",
        metavar="STATUS",
        action="append",
        default=[],
        choices=["queued", "processing", "completed", "partial", "failed", "parked"],
        help="only documents with this status; may be given again",
    )
    _add_limit(show, "documents", 50)
    doctor = command("doctor", "examine a journal, and repair it", _DOCTOR_ABOUT, _DOCTOR_EXAMPLES, about="journal")
    doctor.add_argument("--repair", action="store_true", help="remove what is damaged, so that only this is made again")
    prune = command("prune", "forget what has ended", _PRUNE_ABOUT, _PRUNE_EXAMPLES, about="journal")
    what = prune.add_mutually_exclusive_group(required=True)
    what.add_argument("--older-than", metavar="AGE", type=_age, help="what ended longer ago, such as 12h, 30d or 8w")
    what.add_argument("--batch", metavar="BATCH", help="the documents of this batch")
    prune.add_argument(
        "--keep-results", action="store_true", help="keep documents and outputs, so that nothing is run again"
    )
    prune.add_argument(
        "--unfinished", action="store_true", help="also what an unfinished batch would go on with, and pay again for"
    )
    prune.add_argument("--yes", action="store_true", help="do it")
    diff = command("diff", "say what a changed pipeline would run again", _DIFF_ABOUT, _DIFF_EXAMPLES)
    add_models(diff)
    diff.add_argument(
        "--sample", metavar="N", type=_count, default=1000, help="documents to look at, evenly spread (default 1000)"
    )
    report = _add_report(command)
    parsers = [batches, show, doctor, prune, diff]
    for parser in parsers:
        add_journal(parser)
        parser.add_argument("--json", action="store_true", help="lines of JSON, for programs")
    return [*parsers, report, _add_compare(command)]


def add_place(parser: Any) -> None:
    """Add the journal as a word of its own, to a command that is about a journal and about nothing else."""
    address = os.environ.get(JOURNAL_VARIABLE)
    parser.add_argument(
        "journal",
        metavar="JOURNAL",
        nargs="?" if address else None,
        default=address or None,
        help=f"the journal: a file, or a postgresql:// address (default: ${JOURNAL_VARIABLE})",
    )


def _add_report(command: Callable[..., Any]) -> Any:
    report = command("report", "write a batch as an HTML page", _REPORT_ABOUT, _REPORT_EXAMPLES, about="journal")
    add_place(report)
    report.add_argument("--batch", metavar="BATCH", default="last", help="a batch's id (default: the last)")
    report.add_argument("--document", metavar="KEY", help="one document: its latest run")
    report.add_argument("--against", metavar="BATCH", help="compare with another batch: its id, or previous")
    report.add_argument("--out", metavar="FILE", help="the page (default report.html)")
    report.add_argument(
        "--max-spans",
        metavar="N",
        type=_count,
        default=MAX_SPANS,
        help=f"the most steps and items whose bars are drawn (default {MAX_SPANS:,})",
    )
    report.add_argument(
        "--what-if",
        action=argparse.BooleanOptionalAction,
        help="reckon what other settings would have brought (default for 2,000 steps and items or fewer)",
    )
    report.add_argument("--open", action="store_true", help="show it in the browser")
    return report


def _add_compare(command: Callable[..., Any]) -> Any:
    compare = command("compare", "compare two batches", _COMPARE_ABOUT, _COMPARE_EXAMPLES, about="two batches")
    compare.add_argument("a", metavar="A", nargs="?", help="a batch, or a file (default: previous)")
    compare.add_argument("b", metavar="B", nargs="?", help="a batch, or a file (default: last)")
    compare.add_argument(
        "--journal",
        dest="journals",
        metavar="PATH|ADDRESS",
        action="append",
        default=[],
        help="the journal: a file, or a postgresql:// address; given twice, that of A and that of B "
        f"(default: ${JOURNAL_VARIABLE})",
    )
    compare.add_argument("--labels", metavar="FILE", help="what is right, as lines of JSON or as CSV")
    compare.add_argument("--out", metavar="FILE", help="write each document that differs as a line of JSON, in full")
    compare.add_argument("--html", metavar="FILE", help="write the comparison as one HTML page")
    compare.add_argument("--json", action="store_true", help="one object of JSON, for programs")
    return compare


def _add_limit(parser: Any, what: str, count: int) -> None:
    parser.add_argument(
        "--limit", metavar="N", type=_count, help=f"the most {what} to show (default {count}; all with --json)"
    )


def _count(text: str) -> int:
    return _number(text, 1)


def _item(text: str) -> int:
    return _number(text, 0)


def _number(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more.")
    return int(text)


def _age(text: str) -> float:
    found = _AGE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age. Write a number with s, m, h, d or w, such as 30d.")
    return float(found[1]) * _SECONDS[found[2]]
