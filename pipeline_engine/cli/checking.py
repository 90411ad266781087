"""The commands that look at a pipeline and run nothing: `check` and `graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from pipeline_engine.cli.binding import chains_of
from pipeline_engine.cli.failing import COMPLETED
from pipeline_engine.cli.loading import load_pipeline
from pipeline_engine.plan import Plan, compile_pipeline
from pipeline_engine.report.numbers import counted
from pipeline_engine.run.engine import Engine
from pipeline_engine.text import one_line, safe_text

if TYPE_CHECKING:
    from argparse import Namespace

    from pipeline_engine.run.binding import Models

__all__ = ["check", "graph"]


def check(arguments: Namespace) -> int:
    """Compile a pipeline, bind it if models are given, and say that it is fine.

    Raises:
        PlanError: If it has problems: all of them.
    """
    plan = compile_pipeline(load_pipeline(arguments.pipeline))
    if arguments.models:
        trio.run(_bind, plan, chains_of(arguments.models))
    roles = f"roles {', '.join(plan.roles)}" if len(plan.roles) > 1 else f"role {''.join(plan.roles)}"
    size = f"{counted(len(plan.steps), 'step')}, {counted(len(plan.inputs), 'input')}"
    bound = ", every role has its model" if arguments.models else ""
    said = f"pipeline {plan.name!r}: {size}, {roles if plan.roles else 'no roles'}{bound}"
    print(f"ok: {one_line(said)}")
    return COMPLETED


async def _bind(plan: Plan, models: Models) -> None:
    # Opened and closed again: nothing is sent, but keys and addresses are looked at.
    async with Engine() as engine:
        engine.bind(plan, models)


def graph(arguments: Namespace) -> int:
    """Draw a pipeline.

    Raises:
        PlanError: If it cannot be compiled.
    """
    plan = compile_pipeline(load_pipeline(arguments.pipeline))
    draw = {"text": plan.to_text, "mermaid": plan.to_mermaid, "dot": plan.to_dot}[arguments.format]
    print(safe_text(draw()))
    return COMPLETED
