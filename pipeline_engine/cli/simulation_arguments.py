"""The command `simulate` and its options. Only argparse is loaded here, so that `--help` answers at once."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ALL", "add_simulate_command"]

ALL = "*"
"""Stands for all steps that are not named."""

_ABOUT = """\
Say what a batch would take: the real scheduler runs it on a virtual clock, in seconds instead of hours.

Nothing of the pipeline's own code is run and nothing is sent. Calls take as long, have as many
tokens and fail as often as you say, or as they did in a journal. Unnamed figures hold for all steps
that call a model; a step, a role or a model can be named. A function step takes no time unless it
is named."""

_EXAMPLES = """\
examples:
  how long 100,000 documents take, if calls take 2 seconds each:
    pipeline-engine simulate pipelines/document.py --documents 100000 --latency 2s

  a median of 2 s and a 95th percentile of 8 s; one step is slower; one call in a hundred fails:
    pipeline-engine simulate pipelines/document.py --latency lognormal:2,8 \\
      --latency summary=lognormal:6,20 --failures 0.01

  what it costs, and how many slots are of use within the provider's limits:
    pipeline-engine simulate pipelines/document.py --tokens 800,200 --rpm 500 --tpm 200000 \\
      --model fast=openai:gpt-4o-mini --model strong=openai:gpt-4o \\
      --capacity 8,16,32,64 --plot sweep.svg

  as calls were in the journal's last batch, with ten times the documents:
    pipeline-engine simulate pipelines/document.py --learn runs.db --documents 20000

Durations: 2, 2s, 250ms, uniform:1..4, or lognormal:2,8 for a median and a 95th percentile.
Exit code 0, or 2 if it cannot be simulated as given."""


def add_simulate_command(
    add_command: Callable[..., Any], add_model: Callable[[Any], None], add_budget: Callable[[Any], None]
) -> Any:
    """Add the command, and return its parser.

    Args:
        add_command: Adds a command to the program.
        add_model: Adds `--model` to it.
        add_budget: Adds the options of budgets to it.
    """
    parser = add_command("simulate", "say what a batch would take, in virtual time", _ABOUT, _EXAMPLES)
    parser.add_argument("--documents", metavar="N", type=_count, default=1000, help="how many there are (default 1000)")
    parser.add_argument(
        "--arrivals",
        metavar="N",
        type=_positive,
        help="documents per second, at random; all are there at once if not given",
    )
    calls = parser.add_argument_group("what calls are like, for all of them or with NAME= for a step, role or model")
    _add_named(calls, "--latency", "DURATION", "seconds of an attempt (default lognormal:2,8)")
    _add_named(
        calls, "--tokens", "IN,OUT", "tokens of a request and of its reply; IN/OUT where these are distributions"
    )
    _add_named(calls, "--failures", "SHARE", "the share of attempts that fail, such as 0.02")
    _add_named(calls, "--items", "COUNT", "items of a mapped step (default 5)")
    _add_named(calls, "--branches", "SHARE", "the share of documents in which a step's when= says yes (default 1)")
    calls.add_argument("--learn", metavar="PATH|ADDRESS", help="as they were in a journal")
    calls.add_argument("--batch", metavar="BATCH", help="in which of its batches (default: the last)")
    calls.add_argument(
        "--seed", metavar="N", type=int, default=0, help="another one makes other calls of the same kind"
    )
    models = parser.add_argument_group("models")
    add_model(models)
    _add_named(models, "--rpm", "N", "requests per minute of each model")
    _add_named(models, "--tpm", "N", "tokens per minute of each model")
    _add_named(models, "--max-concurrency", "N", "requests in flight at once to each model")
    pace = parser.add_argument_group("pace")
    pace.add_argument(
        "--capacity",
        metavar="N[,N…]",
        type=_counts,
        default=[64],
        help="attempts in flight at once (default 64); several numbers make a sweep",
    )
    pace.add_argument(
        "--max-documents",
        metavar="N",
        type=_count,
        help="documents in flight at once (default four times the capacity)",
    )
    add_budget(parser)
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--plot", metavar="FILE", help="write the makespan over the capacity as an SVG picture")
    outputs.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def _add_named(parser: Any, option: str, value: str, text: str) -> None:
    parser.add_argument(option, metavar=f"[NAME=]{value}", type=_named, action="append", default=[], help=text)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not value or (equals and not name):
        raise ArgumentTypeError(f"{text!r} has no value. Write VALUE, or NAME=VALUE for one step, role or model.")
    return (name, value) if equals else (ALL, value)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of 1 or more.")
    return count


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number above 0.")
    return number
