"""The command `diff`: what a pipeline, as it is now, would run again of a journal's documents, and what it costs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import trio
from rich.text import Text

from pipeline_engine.cli.binding import chains_of, offline_chains, without_network
from pipeline_engine.cli.failing import COMPLETED, NOT_COMPLETED, CommandError
from pipeline_engine.cli.journals import cost_text, opened, print_json, print_lines, table_of
from pipeline_engine.cli.loading import load_pipeline
from pipeline_engine.cli.progress import console_for
from pipeline_engine.plan import compile_pipeline
from pipeline_engine.report.numbers import counted
from pipeline_engine.run.engine import Engine
from pipeline_engine.run.rehearsal import Rehearsal
from pipeline_engine.text import one_line
from pipeline_engine.values import Cost

if TYPE_CHECKING:
    from argparse import Namespace

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.reading import StoredBatch
    from pipeline_engine.plan import Plan

__all__ = ["diff"]


def diff(arguments: Namespace) -> int:
    """Say what would be run again, and return the exit code: 1 if anything would.

    Raises:
        PlanError: If the pipeline cannot be compiled, or its roles cannot be bound.
        CommandError: If the journal has no batch of the pipeline.
        JournalError: If the journal cannot be read, or what was saved is damaged.
    """
    plan = compile_pipeline(load_pipeline(arguments.pipeline))
    with opened(arguments) as reader:
        batch = _last_batch(reader, plan.name)
        models, is_offline = _models(arguments, batch)
        if is_offline:
            plan = without_network(plan)
        chains = offline_chains(plan) if is_offline else chains_of(models)
        told = trio.run(_look, plan, chains, reader, batch, arguments.sample)
    if arguments.json:
        print_json(told)
    else:
        _print(told, arguments.journal)
    return NOT_COMPLETED if told["touched"] else COMPLETED


def _last_batch(reader: JournalReader, pipeline: str) -> StoredBatch:
    found = [batch for batch in reader.batches() if batch.pipeline == pipeline]
    if not found:
        raise CommandError(
            f"the journal has no documents of pipeline {pipeline!r}. Run it with --journal first; `batches` lists "
            "what is there."
        )
    return next((batch for batch in found if not batch.is_single), found[0])


def _models(arguments: Namespace, batch: StoredBatch) -> tuple[list[tuple[str, str]], bool]:
    """Return the models that were given, or else those of the pipeline's last batch, as far as its command tells."""
    if arguments.models or arguments.offline:
        return arguments.models, arguments.offline
    from pipeline_engine.cli.arguments import parse_arguments

    words = batch.command.get("argv")
    if isinstance(words, list):
        try:
            earlier = parse_arguments([str(word) for word in words])
        except (CommandError, SystemExit):
            return [], False
        return list(getattr(earlier, "models", [])), bool(getattr(earlier, "offline", False))
    return [], False


async def _look(plan: Plan, models: Any, reader: JournalReader, batch: StoredBatch, sample: int) -> dict[str, Any]:
    async with Engine() as engine:
        bound = engine.bind(plan, models)
        rehearsal = Rehearsal(engine, bound, reader)
        total = reader.count_documents(plan.name)
        left_alone = 0
        for document in reader.sample(plan.name, sample):
            # With the same pipeline, `run` leaves a document alone that has failed.
            is_left_alone = document.status in ("partial", "failed") and document.plan == bound.keys.plan
            left_alone += is_left_alone
            await rehearsal.look_at(document, is_left_alone=is_left_alone)
        return _told(rehearsal, batch, total, left_alone)


def _told(rehearsal: Rehearsal, batch: StoredBatch, total: int, left_alone: int) -> dict[str, Any]:
    steps = []
    for name, tally in rehearsal.steps.items():
        usd, unpriced = rehearsal.price(name)
        one = rehearsal.price_of_one(name)
        steps.append(
            {
                "step": name,
                "kept": tally.kept,
                "again": tally.again,
                "depends": tally.depends,
                "calls": sum(tally.calls.values()),
                "models": tally.calls,
                "cost_usd": round(usd, 6),
                "unpriced_calls": unpriced,
                "calls_of_model": rehearsal.is_call(name),
                "call_usd": None if one is None else round(one, 6),
            }
        )
    return {
        "pipeline": batch.pipeline,
        "batch": batch.batch,
        "changes": rehearsal.changes(batch.parts),
        "documents": total,
        "looked_at": rehearsal.documents,
        "left_alone": left_alone,
        "not_stored": len(rehearsal.not_stored),
        "touched": rehearsal.touched,
        "steps": steps,
    }


def _print(told: dict[str, Any], journal: str) -> None:
    console = console_for(sys.stdout)
    looked = told["looked_at"] + told["not_stored"]
    of = "" if looked == told["documents"] else f" of {told['documents']:,}"
    first = f"pipeline {told['pipeline']!r} and journal {journal!r}: {looked:,}{of} documents looked at"
    changes = [f"  {one_line(change)}" for change in told["changes"]]
    print_lines(console, [first, *(["changed since its last batch:", *changes] if changes else []), ""])
    table = table_of(
        [
            ("step", "fold"),
            ("kept", "right"),
            ("run again", "right"),
            ("depends", "right"),
            ("calls", "right"),
            ("about $", "right"),
        ]
    )
    for step in told["steps"]:
        cost = Cost(step["cost_usd"], unpriced_calls=step["unpriced_calls"])
        table.add_row(
            Text(one_line(step["step"])),
            Text(f"{step['kept']:,}"),
            Text(f"{step['again']:,}", style="yellow" if step["again"] else ""),
            Text(f"{step['depends']:,}"),
            Text(f"{step['calls']:,}" if step["calls_of_model"] else "–"),
            Text(cost_text(cost) if step["calls"] else "–"),
        )
    console.print(table)
    print_lines(console, ["", *_closing(told, looked)])


def _closing(told: dict[str, Any], looked: int) -> list[str]:
    lines = []
    if not told["touched"]:
        lines.append("Nothing would be run again.")
    else:
        scale = told["documents"] / looked
        calls = round(sum(step["calls"] for step in told["steps"]) * scale)
        cost = _sum((step["cost_usd"], step["unpriced_calls"]) for step in told["steps"])
        about = "about " if scale > 1 else ""
        documents = f"{about}{round(told['touched'] * scale):,} of {counted(told['documents'], 'document')}"
        lines.append(
            f"{documents} would have something run again: {about}{counted(calls, 'call')}, {_about(cost, scale)}."
        )
        depending = [step for step in told["steps"] if step["depends"] and step["calls_of_model"]]
        if depending:
            most = cost + _sum(
                (0.0 if step["call_usd"] is None else step["call_usd"] * step["depends"], int(step["call_usd"] is None))
                for step in depending
            )
            lines.append(
                f"If all that comes out differently, what depends on it is run again, too: {_about(most, scale)} in "
                "all, or more where a list becomes longer."
            )
    if told["left_alone"]:
        lines.append(f"{counted(told['left_alone'], 'document')} failed and left alone; `retry` runs them again.")
    if told["not_stored"]:
        lines.append(
            f"{counted(told['not_stored'], 'document')} could not be looked at: their inputs are not in the journal, "
            "or do not fit the pipeline any more."
        )
    return lines


def _sum(costs: Any) -> Cost:
    return sum((Cost(usd, unpriced_calls=unknown) for usd, unknown in costs), Cost())


def _about(cost: Cost, scale: float) -> str:
    if cost.unpriced_calls and not cost.usd:
        return "of unknown price"
    known = f"about {Cost(cost.usd * scale)}"
    return f"{known}, and calls of unknown price" if cost.unpriced_calls else known
