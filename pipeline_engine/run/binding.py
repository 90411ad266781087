"""From roles to models that can be called: a plan with nothing left open."""

from __future__ import annotations

import logging
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

from pipeline_engine.declare import Breaker, Budget, Limits, Model, ModelChain, Price, Role, Timeout
from pipeline_engine.errors import PlanError
from pipeline_engine.journal import digest_of
from pipeline_engine.plan import FallbackStep, FallbackValue, Plan, PlannedStep
from pipeline_engine.resilience.governor import Credential, Governor
from pipeline_engine.resilience.ledger import Ledger
from pipeline_engine.schedule import BoundBudget, BoundModel, Candidate, PlanEstimates, PlanKeys
from pipeline_engine.text import sentence_list
from pipeline_engine.values import (
    CompletionModel,
    Cost,
    EmbeddingModel,
    Outline,
    OutlineModel,
    Problem,
    StreamingModel,
    Usage,
)

__all__ = ["BoundPlan", "ModelPool", "Models"]

_log = logging.getLogger("pipeline_engine")
_REMEMBERED_GOVERNORS = 1024

Models = Mapping[str, ModelChain]
"""For each role a model, or several that are tried in order."""


class ModelPool:
    """Open each model once for all runs of an engine, so that they share its connections.

    Args:
        capacity: How many calls may be in flight: what the limit of open files is compared with.
        transport: Carries all calls, instead of the pool's own connections; whoever gives it closes it.
        dice: The source of the jitter with which calls come back after a cool-down.
    """

    def __init__(self, capacity: int, transport: Any = None, dice: random.Random | None = None) -> None:
        self._open: dict[Model, BoundModel] = {}
        self._credentials: dict[Hashable, Credential] = {}
        self._governors: OrderedDict[Hashable, tuple[Governor, object]] = OrderedDict()
        self._dice = dice if dice is not None else random.Random()
        self._capacity = capacity
        self._given_transport = transport
        self._own_transport: Any = None

    def take(self, model: str | Model | CompletionModel | EmbeddingModel) -> BoundModel:
        """Return the model, opened. Nothing is sent yet.

        Raises:
            ValueError: If it is unknown, its key is missing, or it is no model at all.
        """
        if isinstance(model, str):
            model = Model(model)
        if isinstance(model, Model):
            bound = self._open.get(model)
            if bound is None:
                bound = self._open[model] = self._opened(model)
            return bound
        if not isinstance(model, type) and isinstance(model, CompletionModel | EmbeddingModel):
            name = str(getattr(model, "name", type(model).__name__))
            timeout = getattr(model, "timeout", None)
            return BoundModel(
                name,
                model,
                timeout if isinstance(timeout, Timeout) else None,
                price=_own_price(model),
                can_stream=isinstance(model, StreamingModel),
                governor=self._govern_object(name, model),
                max_tokens=getattr(model, "max_tokens", None),
                identity=_identity_of(name, model),
            )
        raise ValueError(
            f'{model!r} is no model. Give "provider:model", Model(…), or an object with complete(request).'
        )

    @property
    def governors(self) -> dict[str, Governor]:
        """The governors of all models, by the models' names; a number tells those apart that have the same one."""
        named: dict[str, Governor] = {}
        for governor, _model in self._governors.values():
            name, number = governor.model, 1
            while name in named:
                number += 1
                name = f"{governor.model} ({number})"
            named[name] = governor
        return named

    def _govern_object(self, name: str, model: Any) -> Governor:
        """Return the governor of a model object, which may say its own limits and breaker."""
        limits, breaker = getattr(model, "limits", None), getattr(model, "breaker", None)
        if not isinstance(limits, Limits | None) or not isinstance(breaker, Breaker | None):
            _log.warning(
                "model %r: its attributes limits and breaker are no Limits(…) and Breaker(…), and are not used", name
            )
        known = self._governors.get(id(model))
        if known is not None:
            return known[0]
        governor = Governor(
            name,
            self._capacity,
            self._dice,
            limits=limits if isinstance(limits, Limits) else None,
            breaker=breaker if isinstance(breaker, Breaker) else None,
        )
        # The model is kept, too: its id must not become another's.
        self._remember(id(model), governor, model)
        return governor

    def _govern(self, model: Model, opened: Any) -> Governor:
        """Return the governor of an endpoint's model: one, however it is parametrised otherwise.

        Raises:
            ValueError: If its limits or its breaker are given twice, and differ.
        """
        provider = model.name.partition(":")[0]
        # What tells two keys apart, and is none.
        key = None if model.api_key is None else sha256(model.api_key.encode()).hexdigest()
        account = (provider, getattr(opened, "base_url", None) or model.base_url, key)
        place = (account, model.name)
        known = self._governors.get(place)
        if known is None:
            credential = self._credentials.setdefault(account, Credential())
            governor = Governor(
                model.name,
                self._capacity,
                self._dice,
                limits=model.limits,
                breaker=model.breaker,
                credential=credential,
            )
            self._remember(place, governor, model)
            return governor
        governor = known[0]
        for said, here in ((governor.limits, model.limits), (governor.breaker, model.breaker)):
            if said is not None and here is not None and said != here:
                raise ValueError(
                    f"{model.name!r} is bound twice, with {said!r} and with {here!r}. "
                    "They belong to the model at its provider: give the same ones everywhere, or only once."
                )
        governor.adopt(model.limits, model.breaker)
        return governor

    def _remember(self, place: Hashable, governor: Governor, model: object) -> None:
        self._governors[place] = governor, model
        if len(self._governors) > _REMEMBERED_GOVERNORS:  # some programs make a model object for each request
            for old, (idle, kept) in list(self._governors.items()):
                if not isinstance(kept, Model) and not idle.in_flight:
                    del self._governors[old]
                    break

    async def aclose(self) -> None:
        """Close the connections of all models."""
        models = [bound.model for bound in self._open.values()]
        self._open.clear()
        for model in models:
            close: Callable[[], Any] | None = getattr(model, "aclose", None)
            if close is not None:
                await close()
        transport, self._own_transport = self._own_transport, None
        if transport is not None:
            await transport.aclose()

    def _opened(self, model: Model) -> BoundModel:
        from pipeline_engine.providers import open_model

        opened = open_model(
            model.name,
            base_url=model.base_url,
            api_key=model.api_key,
            temperature=model.temperature,
            max_tokens=model.max_tokens,
            seed=model.seed,
            structured_output=model.structured_output,
            extra_body=model.extra_body or {},
            extra_headers=model.extra_headers or {},
            transport=model.transport or self._given_transport or self._transport,
        )
        return BoundModel(
            model.name,
            opened,
            model.timeout if isinstance(model.timeout, Timeout) else None,
            _price_of(model, opened),
            can_stream=isinstance(opened, StreamingModel),
            governor=self._govern(model, opened),
            max_tokens=model.max_tokens,
            identity=_identity_of(model.name, opened),
        )

    def _transport(self) -> Any:
        """Return the connections that the engine's models share; opened with the first call."""
        if self._own_transport is None:
            from pipeline_engine.providers.transport import PoolTransport, ensure_descriptors

            # Each call in flight is a connection, and each connection an open file.
            room = ensure_descriptors(self._capacity)
            if room < self._capacity:
                _log.warning(
                    "capacity=%d, but this process may open %d connections: calls beyond that wait for one. "
                    "Lower capacity=, or raise the limit of open files (ulimit -n).",
                    self._capacity,
                    room,
                )
            self._own_transport = PoolTransport()
        return self._own_transport


Pricing = Callable[[Usage, str | None], Cost]
"""Returns what tokens cost, of the model that says it has answered."""


def _identity_of(name: str, model: object) -> str:
    """Return the hash of all that makes a difference to a model's answers.

    An object may say it in an attribute `identity`, in JSON's types; else its name stands for it.
    """
    told = getattr(model, "identity", None)
    try:
        return digest_of([name, told])
    except (TypeError, ValueError):
        _log.warning("model %r: its attribute identity is not in JSON's types, and is not used", name)
        return digest_of([name, None])


def _own_price(model: object) -> Pricing | None:
    """Return how to price the calls of an object that says its price, or how it is priced, as any model may do."""
    price = getattr(model, "price", None)
    if isinstance(price, Price):
        return lambda usage, _model: price.cost(usage)
    pricing: Pricing | None = getattr(model, "pricing", None)
    return pricing if callable(pricing) else None


def _price_of(model: Model, opened: object) -> Pricing | None:
    """Return how to price a model's calls; None where nobody can know."""
    own = _own_price(model) or _own_price(opened)
    if own is not None:
        return own
    base_url: str | None = getattr(opened, "base_url", None)
    if model.base_url is None and not model.name.startswith("ollama:"):
        _load_price_lists()

    def listed(usage: Usage, answered: str | None) -> Cost:
        from pipeline_engine.providers.prices import list_price

        found = list_price(model.name, answered, base_url=base_url)
        return Cost(unpriced_calls=1) if found is None else found(usage)

    return listed


@lru_cache(maxsize=1)
def _load_price_lists() -> None:
    """Load the price lists beside the first calls, once: on the engine's thread it would hold up all of them."""

    def load() -> None:
        from pipeline_engine.providers.prices import list_price

        list_price("openai:gpt-4o-mini")

    threading.Thread(target=load, name="pipeline_engine price lists", daemon=True).start()


@dataclass(frozen=True, slots=True, eq=False)
class BoundPlan:
    """Hold a plan and, for each step, what it is tried with."""

    plan: Plan
    candidates: tuple[tuple[Candidate | None, ...], ...] = field(repr=False)
    estimates: PlanEstimates = field(repr=False)
    """What the steps have taken so far, over all runs."""
    pool: ModelPool = field(repr=False)
    outline: Outline = field(repr=False)
    """The plan's outline, with the models that its steps are bound to."""
    _keys: list[PlanKeys] = field(default_factory=list, repr=False)

    @property
    def keys(self) -> PlanKeys:
        """What its steps are known by in a journal; made when the first journal asks for it."""
        if not self._keys:
            self._keys.append(PlanKeys(self.plan, self.candidates))
        return self._keys[0]

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
        return cls(plan, candidates, PlanEstimates(plan), pool, _outline(plan, candidates))

    def budget(self, budget: Budget | None, of: str) -> BoundBudget | None:
        """Open the books of a budget for runs of this plan.

        Raises:
            PlanError: If dollars are to be counted and the price of a model is unknown, or the model that
                is asked when the budget is spent cannot be opened.
        """
        if budget is None:
            return None
        if not isinstance(budget, Budget):
            raise TypeError(f"a budget is a Budget(…), not {budget!r}. Say Budget(usd=…) or Budget(tokens=…).")
        problems: list[Problem] = []
        instead: tuple[BoundModel, ...] = ()
        if not isinstance(budget.on_exhausted, str):
            instead = _chain(budget.on_exhausted, self.pool, problems, "Budget(on_exhausted=…)")
        if budget.usd is not None:
            bound = [candidate for candidates in self.candidates for candidate in candidates]
            models = {model.name: model for model in (*bound, *instead) if isinstance(model, BoundModel)}
            problems += [_unpriced(model.name) for model in models.values() if not _is_priced(model)]
        if problems:
            raise PlanError(self.plan.name, problems)
        return BoundBudget(Ledger(budget, of), instead[0] if instead else None)


def _outline(plan: Plan, candidates: Sequence[Sequence[Candidate | None]]) -> Outline:
    chains = [[bound for bound in chain if isinstance(bound, BoundModel)] for chain in candidates]
    steps = tuple(
        step._replace(models=tuple(dict.fromkeys(bound.name for bound in chain)))
        for step, chain in zip(plan.outline.steps, chains, strict=True)
    )
    # Of two models with one name, which differ in their keys or addresses, the first one speaks for both.
    models = {bound.name: _outline_model(bound) for chain in reversed(chains) for bound in reversed(chain)}
    return plan.outline._replace(steps=steps, models=tuple(models[name] for name in sorted(models)))


def _outline_model(bound: BoundModel) -> OutlineModel:
    limits = (bound.governor.limits if bound.governor is not None else None) or Limits()
    return OutlineModel(
        bound.name,
        limits.rpm,
        limits.tpm,
        limits.max_concurrency,
        limits.requests_at_once,
        limits.tokens_at_once,
        limits.adaptive,
    )


def _is_priced(model: BoundModel) -> bool:
    return model.price is not None and model.price(Usage(1, 1), None).is_known


def _unpriced(name: str) -> Problem:
    message = f"a budget in US dollars cannot count the calls of model {name!r}, whose price is unknown. "
    message += f"Say it: Model({name!r}, price=Price(input_usd=…, output_usd=…)), per million tokens."
    return Problem("PE204", message)


def _unbound(plan: Plan, models: Models) -> list[Problem]:
    problems = []
    for role in plan.roles:
        if role in models:
            continue
        users = [step for step in plan.steps if role in (step.role, *step.cascade) or Role(role) in step.fallbacks]
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
    if step.kind == "embed":
        return _embedder(step, chains.get(step.role or "", ()), problems)
    candidates: list[Candidate | None] = list(chains.get(step.role, ())) if step.role else [None]
    for stage, role in enumerate(step.cascade, start=1):
        candidates += [replace(bound, stage=stage) for bound in chains.get(role, ())]
    after = len(step.cascade) + 1 if step.cascade else 0
    for fallback in step.fallbacks:
        if isinstance(fallback, FallbackValue | FallbackStep):
            candidates.append(fallback)
            continue
        if isinstance(fallback, Role):
            models = chains.get(fallback.name, ())
        else:
            models = _chain(fallback, pool, problems, f"the fallback of step {step.name!r}")
        candidates += [replace(bound, stage=after) for bound in models]
    for candidate in candidates:
        if isinstance(candidate, BoundModel) and not isinstance(candidate.model, CompletionModel):
            message = (
                f"step {step.name!r} is bound to {candidate.name!r}, which only makes vectors. Bind another model."
            )
            problems.append(Problem("PE202", message, step.declaration.file, step.declaration.line, step.name))
    return tuple(_timed(candidate, step) for candidate in candidates)


def _embedder(
    step: PlannedStep, chain: tuple[BoundModel, ...], problems: list[Problem]
) -> tuple[Candidate | None, ...]:
    """Return the one model of an embed step: vectors of two models cannot be compared."""
    place = step.declaration.file, step.declaration.line, step.name
    if len(chain) > 1:
        names = sentence_list([bound.name for bound in chain])
        message = f"step {step.name!r} makes vectors, but its role {step.role!r} is bound to {names}. Bind one of them."
        problems.append(Problem("PE202", message, *place))
    for bound in chain:
        if not isinstance(bound.model, EmbeddingModel) or bound.model.max_texts < 1:
            message = f"step {step.name!r} makes vectors, which {bound.name!r} does not. Bind an embedding model."
            problems.append(Problem("PE202", message, *place))
    return tuple(_timed(bound, step) for bound in chain)


def _timed(candidate: Candidate | None, step: PlannedStep) -> Candidate | None:
    """Return a model with the timeouts that this step has with it: the model's own stand above the engine's."""
    if not isinstance(candidate, BoundModel) or candidate.timeout is None:
        return candidate
    return replace(candidate, timeout=step.timeout_said.over(candidate.timeout.over(step.timeout)))
