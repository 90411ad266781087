"""What a simulation takes for granted: how long calls take, how many tokens they have, how often they fail. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, TypeAlias

from pipeline_engine.declare import Constant, Distribution, LogNormal, as_distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.plan import Plan, PlannedStep

__all__ = ["ALL", "MAX_TEXTS", "Assumed", "Assumptions", "Chances", "Durations", "StepAssumptions", "Tokens", "assume"]

ALL = "*"
"""Stands for every step that calls a model and is not named."""

Durations: TypeAlias = Distribution | float | str | Mapping[str, Distribution | float | str]
"""One distribution for all calls of models, or one for each step, role or model."""
Tokens: TypeAlias = (
    tuple[Distribution | float | str, Distribution | float | str]
    | Mapping[str, tuple[Distribution | float | str, Distribution | float | str]]
)
"""Tokens of requests and of replies: for all calls of models, or for each step, role or model."""
Chances: TypeAlias = float | Mapping[str, float]
"""A share from 0 to 1: for all calls of models, or for each step, role or model."""

MAX_TEXTS = 100
"""How many texts one simulated call for vectors holds."""
_ITEMS = Constant(5)
_AT_ONCE = Constant(0)


@dataclass(frozen=True, slots=True)
class StepAssumptions:
    """Say what one step's attempts are like.

    Example:
        >>> StepAssumptions(latency=LogNormal(2, 8), failures=0.02).failures
        0.02
    """

    latency: Distribution = _AT_ONCE
    """Seconds of an attempt."""
    failed_latency: Distribution | None = None
    """Seconds of an attempt that fails; as those of others if not given."""
    input_tokens: Distribution | None = None
    """Tokens of a request; None if unknown."""
    output_tokens: Distribution | None = None
    """Tokens of a reply; None if unknown."""
    failures: float = 0.0
    """The share of attempts that fail, …"""
    permanent: float = 0.0
    """… and which of these are not worth another attempt."""
    invalid: float = 0.0
    """The share of replies that do not validate, so that the model is asked again."""
    items: Distribution = _ITEMS
    """The number of items, if it is mapped, or of texts, if it makes vectors."""
    branch: float = 1.0
    """The share of documents in which its `when=` says yes."""
    accepted: float = 1.0
    """The share of outputs that the `accept=` of its cascade takes."""

    def __post_init__(self) -> None:
        for name in ("failures", "permanent", "invalid", "branch", "accepted"):
            _require_share(name, getattr(self, name))


Assumed: TypeAlias = Mapping[tuple[int, str | None], StepAssumptions]
"""For each step, by its index, and each model that it may call (None for a function) what its attempts are like."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Hold what is assumed of all steps, as a caller has said it: by steps, roles, models, or for all."""

    latency: Durations | None = None
    tokens: Tokens | None = None
    failures: Chances = 0.0
    items: Durations = _ITEMS
    branches: Chances = 1.0
    accepted: Chances = 1.0
    learnt: Mapping[str, StepAssumptions] = field(default_factory=dict)
    """By steps' names; what is said elsewhere by a name goes before it."""


def assume(plan: Plan, callees: Sequence[Sequence[tuple[str, str | None]]], said: Assumptions) -> Assumed:
    """Return what is assumed of each step with each of its models.

    A name is looked for as that of the step, of the model, and of its role; "*", or a value without a name, stands
    for the steps that call models. A function takes no time unless its step is named.

    Args:
        plan: The plan.
        callees: For each step the models that it may call, each with the role that it is bound to.
        said: What the caller has said.

    Raises:
        ValueError: If a name is that of nothing here, or a figure makes no sense: all of them at once.
    """
    tables = {
        "latency": {ALL: LogNormal(2, 8), **_table(said.latency)},
        "tokens": _table(said.tokens),
        "failures": _table(said.failures),
        "items": {ALL: _ITEMS, **_table(said.items)},
        "branches": _table(said.branches),
        "accepted": _table(said.accepted),
    }
    steps = {step.name for step in plan.steps}
    roles = {role for step in plan.steps for role in (step.role, *step.cascade) if role is not None}
    known = {*steps, *roles, *(name for chain in callees for name, _role in chain), ALL}
    problems = [
        f"{argument}= names {name!r}, which is no step, role or model here.{_near(name, known)}"
        for argument, table in tables.items()
        for name in table
        if name not in known
    ]
    if problems:
        raise ValueError(" ".join(problems))
    return {
        (step.index, model): _for(step, model, role, tables, said.learnt.get(step.name))
        for step, chain in zip(plan.steps, callees, strict=True)
        for model, role in ([(None, None)] if step.kind == "function" else chain)
    }


def _for(
    step: PlannedStep,
    model: str | None,
    role: str | None,
    tables: Mapping[str, Mapping[str, object]],
    learnt: StepAssumptions | None,
) -> StepAssumptions:
    names = [name for name in (step.name, model, role) if name is not None]

    def said(argument: str, *, of_all: bool) -> object:
        table = tables[argument]
        for name in names:
            if name in table:
                return table[name]
        # What was learnt of a step is nearer to it than what is said of all.
        return table.get(ALL) if of_all and learnt is None else None

    calls = step.kind != "function"
    changes: dict[str, object] = {}
    for argument, of_all in (("latency", calls), ("items", True)):
        value = said(argument, of_all=of_all)
        if value is not None:
            changes[argument] = as_distribution(value)  # type: ignore[arg-type]  # what is no distribution raises
    for argument, share, of_all in (
        ("failures", "failures", calls),
        ("branches", "branch", True),
        ("accepted", "accepted", True),
    ):
        value = said(argument, of_all=of_all)
        if value is not None:
            changes[share] = value
    tokens = said("tokens", of_all=calls)
    if tokens is not None:
        asked, replied = _pair(tokens)
        changes |= {"input_tokens": asked, "output_tokens": replied}
    if "latency" in changes:
        changes["failed_latency"] = None
    return replace(learnt or StepAssumptions(), **changes)  # type: ignore[arg-type]  # names and values were paired above


def _table(said: object) -> Mapping[str, object]:
    return said if isinstance(said, Mapping) else {} if said is None else {ALL: said}


def _pair(tokens: object) -> tuple[Distribution, Distribution]:
    if not isinstance(tokens, tuple) or len(tokens) != 2:
        raise ValueError(f"tokens={tokens!r}: give a pair, those of the request and of the reply, such as (800, 200).")
    return as_distribution(tokens[0]), as_distribution(tokens[1])


def _near(name: object, known: set[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _require_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: it is a share from 0 to 1, such as 0.02.")
