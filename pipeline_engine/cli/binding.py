"""What a command line gives to a plan: a model for each role, a value for each input."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline_engine.cli.failing import CommandError
from pipeline_engine.declare import Model
from pipeline_engine.plan import Plan, PlannedInput, PlannedStep, reasons_of
from pipeline_engine.text import sentence_list

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.run.binding import Models

__all__ = ["OFFLINE", "chains_of", "document_input", "offline_chains", "shared_inputs", "without_network"]

OFFLINE = "offline:extractive"


# Models


def chains_of(bindings: Sequence[tuple[str, str]]) -> Models:
    """Return for each role its models, in the order in which they were given.

    Example:
        >>> chains_of([("fast", "openai:a"), ("strong", "openai:b"), ("fast", "openai:c")])
        {'fast': ['openai:a', 'openai:c'], 'strong': ['openai:b']}
    """
    chains: dict[str, list[str]] = {}
    for role, model in bindings:
        chains.setdefault(role, []).append(model)
    return chains


def offline_chains(plan: Plan) -> Models:
    """Return the offline model for every role."""
    return dict.fromkeys(plan.roles, OFFLINE)


def without_network(plan: Plan) -> Plan:
    """Return the plan with the offline model for every model that it names itself, as a fallback.

    `--offline` promises that nothing is sent, also when a step fails.
    """
    return replace(plan, steps=tuple(_without_network(step) for step in plan.steps))


def _without_network(step: PlannedStep) -> PlannedStep:
    offline = tuple(Model(OFFLINE) if isinstance(fallback, Model) else fallback for fallback in step.fallbacks)
    return step if offline == step.fallbacks else replace(step, fallbacks=offline)


# Inputs


def document_input(plan: Plan, given: Sequence[tuple[str, str]]) -> str:
    """Return the name of the input that gets each file's text.

    It is the only input, or the one called "document", or the one that is left when all others are given.

    Raises:
        CommandError: If that is none or not clear, or other inputs are missing or unknown.
    """
    names = [declared.name for declared in plan.inputs]
    named = [name for name, _ in given]
    for name in named:
        if name not in names:
            raise CommandError(_unknown_input(plan, name, names))
        if named.count(name) > 1:
            raise CommandError(f"--input gives {name!r} {named.count(name)} values. Give it one.")
    left = [name for name in names if name not in named]
    if not left:
        taken = "has no input" if not names else f"gets {sentence_list(names)} from --input"
        raise CommandError(f"pipeline {plan.name!r} {taken}, so there is none for the documents. Leave one to them.")
    chosen = left[0] if len(left) == 1 else "document"
    if chosen not in left:
        raise CommandError(
            f"pipeline {plan.name!r} has {len(left)} inputs that documents could go to: {sentence_list(left)}. "
            f"Give all but one of them, such as --input {left[-1]}=VALUE."
        )
    missing = [name for name in left if name != chosen]
    if missing:
        raise CommandError(
            f"pipeline {plan.name!r} also needs {sentence_list(missing)}. "
            f"Give {'it' if len(missing) == 1 else 'each'}: --input {missing[0]}=VALUE."
        )
    return chosen


def _unknown_input(plan: Plan, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    known = (
        f"Its {'input is' if len(names) == 1 else 'inputs are'} {sentence_list(names)}." if names else "It has none."
    )
    return f"pipeline {plan.name!r} has no input {name!r}. {known}{meant}"


def shared_inputs(plan: Plan, given: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
    """Return the values that `--input` gives, the same for all documents.

    Raises:
        CommandError: If one does not fit its declared type.
    """
    declared = {known.name: known for known in plan.inputs}
    return {name: _value(declared[name], text) for name, text in given}


def _value(declared: PlannedInput, text: str) -> Any:
    if declared.output.type is str:
        return text
    # JSON first; what is no JSON may still be a plain word of a Literal, a date, or a path.
    reasons: list[str] = []
    for value in (*_as_json(text), text):
        if declared.output.validate is None:
            return value
        try:
            declared.output.validate(value)
        except ValidationError as error:
            reasons.append(reasons_of(error)[0])
        else:
            return value
    raise CommandError(f"--input {declared.name}={text} is no {declared.output.name}: {reasons[0]}.")


def _as_json(text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except ValueError:
        return []
