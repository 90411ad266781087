"""From roles to models that can be called: a plan with nothing left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline_engine.declare import Model, ModelChain, Role
from pipeline_engine.errors import PlanError
from pipeline_engine.plan import FallbackStep, FallbackValue, Plan, PlannedStep
from pipeline_engine.schedule import BoundModel, Candidate
from pipeline_engine.text import sentence_list
from pipeline_engine.values import CompletionModel, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BoundPlan", "ModelPool", "Models"]

Models = Mapping[str, ModelChain]
"""For each role a model, or several that are tried in order."""


class ModelPool:
    """Open each model once for all runs of an engine, so that they share its connections."""

    def __init__(self) -> None:
        self._open: dict[Model, BoundModel] = {}

    def take(self, model: str | Model | CompletionModel) -> BoundModel:
        """Return the model, opened. Nothing is sent yet.

        Raises:
            ValueError: If it is unknown, its key is missing, or it is no model at all.
        """
        if isinstance(model, str):
            model = Model(model)
        if isinstance(model, Model):
            bound = self._open.get(model)
            if bound is None:
                bound = self._open[model] = BoundModel(model.name, _opened(model))
            return bound
        if not isinstance(model, type) and isinstance(model, CompletionModel):
            return BoundModel(str(getattr(model, "name", type(model).__name__)), model)
        raise ValueError(
            f'{model!r} is no model. Give "provider:model", Model(…), or an object with complete(request).'
        )

    async def aclose(self) -> None:
        """Close the connections of all models."""
        models = [bound.model for bound in self._open.values()]
        self._open.clear()
        for model in models:
            close: Callable[[], Any] | None = getattr(model, "aclose", None)
            if close is not None:
                await close()


def _opened(model: Model) -> CompletionModel:
    from pipeline_engine.providers import open_model

    wanted = {"temperature": model.temperature, "max_tokens": model.max_tokens, "seed": model.seed}
    parameters = {name: value for name, value in wanted.items() if value is not None}
    return open_model(model.name, base_url=model.base_url, api_key=model.api_key, parameters=parameters)


@dataclass(frozen=True, slots=True, eq=False)
class BoundPlan:
    """Hold a plan and, for each step, what it is tried with."""

    plan: Plan
    candidates: tuple[tuple[Candidate | None, ...], ...] = field(repr=False)

    @classmethod
    def bind(cls, plan: Plan, models: Models | None, pool: ModelPool) -> BoundPlan:
        """Bind every role of a plan to its models.

        Raises:
            PlanError: If roles have no model, or models cannot be opened: all problems at once.
        """
        if models is not None and not isinstance(models, Mapping):
            example = ", ".join(f"{role!r}: …" for role in plan.roles) or "'role': …"
            raise TypeError(f"models= maps roles to models, such as {{{example}}}; it is a {type(models).__name__}.")
        given = dict(models or {})
        problems = _unbound(plan, given)
        chains: dict[str, tuple[BoundModel, ...]] = {}
        for role in plan.roles:
            if role in given:
                chains[role] = _chain(given[role], pool, problems, f"role {role!r}")
        candidates = tuple(_candidates(step, chains, pool, problems) for step in plan.steps)
        if problems:
            raise PlanError(plan.name, sorted(problems, key=lambda problem: problem.code))
        return cls(plan, candidates)


def _unbound(plan: Plan, models: Models) -> list[Problem]:
    problems = []
    for role in plan.roles:
        if role in models:
            continue
        users = [step for step in plan.steps if step.role == role or Role(role) in step.fallbacks]
        names = sentence_list([step.name for step in users[:4]]) + (" …" if len(users) > 4 else "")
        message = f"role {role!r} has no model, but is used by {names}. "
        declared = users[0].declaration
        message += f'Bind it: models={{{role!r}: "provider:model"}}, or --model {role}=provider:model.'
        problems.append(Problem("PE201", message, declared.file, declared.line, users[0].name))
    unused = sorted(set(models) - set(plan.roles))
    if unused:
        known = f"Its roles are {sentence_list(sorted(plan.roles))}." if plan.roles else "It uses no models."
        problems.append(
            Problem("PE203", f"{sentence_list(unused)} is bound to a model, but no step uses such a role. {known}")
        )
    return problems


def _chain(chain: ModelChain, pool: ModelPool, problems: list[Problem], where: str) -> tuple[BoundModel, ...]:
    models: Sequence[Any] = chain if isinstance(chain, Sequence) and not isinstance(chain, str) else [chain]
    if not models:
        problems.append(Problem("PE202", f"{where} is bound to an empty list. Give it at least one model."))
    bound = []
    for model in models:
        try:
            bound.append(pool.take(model))
        except ValueError as error:
            problem = Problem("PE202", f"{where}: {error}")
            if problem not in problems:
                problems.append(problem)
    return tuple(bound)


def _candidates(
    step: PlannedStep, chains: Mapping[str, tuple[BoundModel, ...]], pool: ModelPool, problems: list[Problem]
) -> tuple[Candidate | None, ...]:
    candidates: list[Candidate | None] = list(chains.get(step.role, ())) if step.role else [None]
    for fallback in step.fallbacks:
        if isinstance(fallback, FallbackValue | FallbackStep):
            candidates.append(fallback)
        elif isinstance(fallback, Role):
            candidates.extend(chains.get(fallback.name, ()))
        else:
            candidates.extend(_chain(fallback, pool, problems, f"the fallback of step {step.name!r}"))
    return tuple(candidates)
