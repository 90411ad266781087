"""The command `simulate`: what a batch would take, at one capacity or several."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pipeline_engine.cli.binding import chains_of
from pipeline_engine.cli.failing import COMPLETED, CommandError
from pipeline_engine.cli.loading import load_pipeline
from pipeline_engine.cli.simulation_arguments import ALL
from pipeline_engine.declare import Budget, Limits, parse_distribution
from pipeline_engine.plan import compile_pipeline
from pipeline_engine.report.numbers import count_text
from pipeline_engine.simulation import learn, simulate
from pipeline_engine.text import safe_text

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence

    from pipeline_engine.declare import Distribution
    from pipeline_engine.simulation import StepAssumptions

__all__ = ["perform"]

_TOLD = 100
"""How often progress is told, over all documents."""


def perform(arguments: Namespace) -> int:
    """Simulate a batch, or a sweep over capacities, and show what came of it.

    Raises:
        CommandError: If a figure makes no sense, or names nothing in the pipeline.
        PlanError: If the pipeline cannot be compiled.
        JournalError: If the journal that is learnt from cannot be read.
    """
    plan = compile_pipeline(load_pipeline(arguments.pipeline))
    if arguments.batch is not None and arguments.learn is None:
        raise CommandError("--batch names a batch of a journal. Say which one: --learn PATH.")
    learnt = None if arguments.learn is None else _learnt(arguments.learn, arguments.batch or "last")
    capacities = arguments.capacity
    if arguments.plot and len(capacities) == 1:
        raise CommandError("--plot draws a sweep. Give several capacities, such as --capacity 8,16,32,64.")
    progress = _Progress(arguments.documents * len(set(capacities)))
    try:
        found = simulate(
            plan,
            arguments.documents,
            latency=_table(arguments.latency, "--latency", parse_distribution) or None,
            tokens=_table(arguments.tokens, "--tokens", _pair) or None,
            failures=_table(arguments.failures, "--failures", _number),
            items=_table(arguments.items, "--items", parse_distribution) or 5,
            branches=_table(arguments.branches, "--branches", _number),
            like=learnt,
            models=chains_of(arguments.models) or None,
            limits=_limits(arguments),
            capacity=capacities,
            max_documents=arguments.max_documents,
            arrivals=arguments.arrivals,
            budget=_budget(arguments),
            seed=arguments.seed,
            progress=progress.tell,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    finally:
        progress.clear()
    shown = found if len(found.simulations) > 1 else found.simulations[0]
    print(json.dumps(shown.to_dict()) if arguments.json else safe_text(str(shown)))
    if arguments.plot:
        found.to_svg(arguments.plot)
    return COMPLETED


def _learnt(journal: str, batch: str) -> dict[str, StepAssumptions]:
    try:
        return learn(journal, batch=batch)
    except LookupError as error:
        raise CommandError(f"--learn {journal}: {error.args[0]}") from error


def _table(given: Sequence[tuple[str, str]], option: str, read: Callable[[str], Any]) -> dict[str, Any]:
    """Return what is said of each name, read."""
    table = {}
    for name, text in given:
        try:
            table[name] = read(text)
        except ValueError as error:
            raise CommandError(f"{option}: {error}") from error
    return table


def _pair(text: str) -> tuple[Distribution, Distribution]:
    parts = text.split("/" if "/" in text else ",")
    if len(parts) != 2:
        raise ValueError(f"{text!r} is no pair. Write the tokens of the request and of the reply: 800,200.")
    return parse_distribution(parts[0]), parse_distribution(parts[1])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number, such as 0.02 or 500.") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number, such as 20.") from None


def _limits(arguments: Namespace) -> dict[str, Limits]:
    rpm, tpm = _table(arguments.rpm, "--rpm", _number), _table(arguments.tpm, "--tpm", _number)
    at_once = _table(arguments.max_concurrency, "--max-concurrency", _whole)
    return {
        name: Limits(
            rpm=rpm.get(name, rpm.get(ALL)),
            tpm=tpm.get(name, tpm.get(ALL)),
            max_concurrency=at_once.get(name, at_once.get(ALL)),
        )
        for name in {**rpm, **tpm, **at_once}
    }


def _budget(arguments: Namespace) -> Budget | None:
    if arguments.budget_usd is None and arguments.budget_tokens is None:
        return None
    return Budget(usd=arguments.budget_usd, tokens=arguments.budget_tokens)


class _Progress:
    """Tell on a terminal how far a long simulation has come."""

    def __init__(self, documents: int) -> None:
        self._documents = documents
        self._done = 0
        self._is_shown = sys.stderr.isatty()

    def tell(self, _of_this_capacity: int) -> None:
        """Count a document."""
        self._done += 1
        if self._is_shown and self._done % max(1, self._documents // _TOLD) == 0:
            done = f"{count_text(self._done)} of {count_text(self._documents)} documents simulated"
            print(f"\r{done}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave nothing of it on the screen."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
