"""Stand-ins for all that a pipeline calls: its functions, its conditions, its models. They take time and cost nothing.

The plan stays what it is: steps, needs, policies, roles. What a user wrote in Python is replaced, because it
would be run on data that does not exist.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline_engine.declare import Breaker, Constant, Limits, Model, Price, Role, Timeout
from pipeline_engine.errors import OutputError, RejectedError, UnavailableError
from pipeline_engine.plan import Condition, Output, Plan, PlannedInput, PlannedStep
from pipeline_engine.schedule import BoundModel, StepRun
from pipeline_engine.simulation.assumptions import MAX_TEXTS
from pipeline_engine.values import RUNNING_STEP, Completion, Embeddings, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline_engine.declare import Budget, Distribution, ModelChain
    from pipeline_engine.run.binding import BoundPlan, Models
    from pipeline_engine.run.engine import Engine
    from pipeline_engine.simulation.assumptions import Assumed, StepAssumptions
    from pipeline_engine.simulation.clock import VirtualClock
    from pipeline_engine.values import Cost, Request

__all__ = ["Cast", "SimulatedModel", "SimulatedModels", "bind_stand_ins", "callees_of", "stand_in_plan"]

_CHARACTERS_PER_TOKEN = 4


class Cast:
    """Play whatever is called: take as long as is assumed, and fail as often.

    What happens to a call depends on the seed, its document, step, item and attempt, and on nothing else: the same
    calls are as long and fail alike whatever the capacity, so that two simulations differ by what was changed alone.

    Args:
        clock: Where the time passes.
        seed: Makes other calls of the same kind.
    """

    def __init__(self, clock: VirtualClock, seed: int) -> None:
        self._clock = clock
        self._seed = seed
        self._dice = random.Random()
        self._under_way: set[tuple[int, ...]] = set()
        self._assumed: Assumed = {}
        self._widths: dict[int, Distribution] = {}
        """For each step or input that something is mapped over, how many items it has; inputs count from below 0."""

    def learn(self, plan: Plan, assumed: Assumed) -> None:
        """Take over what is assumed of the steps of a plan."""
        self._assumed = assumed
        self._widths = {}
        for (index, _model), assumptions in assumed.items():
            each = plan.steps[index].each
            if each is not None:  # of several steps that are mapped over one list, the first one says how long it is
                self._widths.setdefault(each - len(plan.inputs), assumptions.items)

    # What the engine calls

    async def work(self, *_arguments: Any, **_named: Any) -> Any:
        """Stand for a function step."""
        await self.take_time(None)
        return self._value(_running())

    def prompt(self, *_arguments: Any, **_named: Any) -> str:
        """Stand for a prompt function: a text with as many tokens as is assumed."""
        step_run = _running()
        tokens = self._of(step_run).input_tokens
        return "" if tokens is None else _text(round(self._draw(step_run, "request", tokens)))

    def texts(self, *_arguments: Any, **_named: Any) -> list[str]:
        """Stand for the function of a step that makes vectors."""
        step_run = _running()
        assumptions = self._of(step_run)
        count = round(self._draw(step_run, "texts", assumptions.items))
        if assumptions.input_tokens is None or not count:
            return [""] * count
        of_a_request = self._draw(step_run, "request", assumptions.input_tokens)
        return [_text(round(of_a_request / min(count, MAX_TEXTS)))] * count

    def is_wanted(self, *_arguments: Any, **_named: Any) -> bool:
        """Stand for a `when=`."""
        step_run = _running()
        return self._happens(step_run, "when", self._of(step_run).branch)

    def is_accepted(self, _output: Any) -> bool:
        """Stand for the `accept=` of a cascade."""
        step_run = _running()
        return self._happens(step_run, "accept", self._of(step_run).accepted)

    def parse(self, _reply: str) -> Any:
        """Stand for the validation of a reply.

        Raises:
            OutputError: As often as is assumed.
        """
        step_run = _running()
        if self._happens(step_run, "validate", self._of(step_run).invalid):
            raise OutputError(step_run.step.name, ["a simulated reply that does not validate"])
        return self._value(step_run)

    # What models call

    async def take_time(self, model: str | None) -> int | None:
        """Let an attempt take its time, and return the tokens of its reply.

        Raises:
            UnavailableError: As often as is assumed of a call to a model, …
            RejectedError: … and where another attempt is of no use.
            ConnectionError: Where a function fails, …
            RuntimeError: … and where another attempt is of no use.
        """
        step_run = _running()
        assumptions = self._assumed[step_run.step.index, model]
        call: tuple[int, ...] = (*_place(step_run), step_run.attempt)
        if call in self._under_way:
            call = (*call, 1)  # the second call of an attempt
        dice = self._dice
        dice.seed(f"{self._seed} {call}")
        has_failed = assumptions.failures > 0 and dice.random() < assumptions.failures
        is_permanent = has_failed and dice.random() < assumptions.permanent
        latency = (assumptions.failed_latency if has_failed else None) or assumptions.latency
        seconds = latency.sample(dice)
        tokens = None if assumptions.output_tokens is None else round(assumptions.output_tokens.sample(dice))
        self._under_way.add(call)
        try:
            deadline = min(step_run.scope_deadline, step_run.execution.deadline)
            await self._clock.sleep(seconds, call, deadline)
        finally:
            self._under_way.discard(call)
        if has_failed:
            raise _failure(model, is_permanent=is_permanent)
        return tokens

    # Documents

    def inputs(self, plan: Plan, document: int) -> dict[str, Any]:
        """Return a document's inputs: lists of items where something is mapped over them, else nothing."""
        values: dict[str, Any] = {}
        for place, declared in enumerate(plan.inputs):
            items = self._widths.get(place - len(plan.inputs))
            if items is not None:
                self._dice.seed(f"{self._seed} {document} input {place}")
                values[declared.name] = [None] * round(items.sample(self._dice))
            else:
                values[declared.name] = None
        return values

    # Drawing

    def _of(self, step_run: StepRun) -> StepAssumptions:
        return self._assumed[step_run.step.index, step_run.model_name]

    def _value(self, step_run: StepRun) -> Any:
        """Return a step's output: a list of items where something is mapped over it, else nothing."""
        items = self._widths.get(step_run.step.index)
        return None if items is None else [None] * round(self._draw(step_run, "items", items))

    def _draw(self, step_run: StepRun, what: str, distribution: Distribution) -> float:
        if isinstance(distribution, Constant):
            return distribution.value
        self._dice.seed(f"{self._seed} {_place(step_run)} {what}")
        return distribution.sample(self._dice)

    def _happens(self, step_run: StepRun, what: str, share: float) -> bool:
        if share in (0, 1):
            return bool(share)
        self._dice.seed(f"{self._seed} {_place(step_run)} {step_run.attempt} {what}")
        return self._dice.random() < share


def _running() -> StepRun:
    step_run = RUNNING_STEP.get()
    if not isinstance(step_run, StepRun):
        raise AssertionError("stand-ins are called by the engine alone")
    return step_run


def _place(step_run: StepRun) -> tuple[int, int, int]:
    item = -1 if step_run.item is None else step_run.item
    return int(step_run.execution.document), step_run.step.index, item


def _failure(model: str | None, *, is_permanent: bool) -> Exception:
    if model is None:
        return RuntimeError("a simulated failure") if is_permanent else ConnectionError("a simulated failure")
    if is_permanent:
        return RejectedError("has refused a simulated call.", model=model, kind="simulated")
    return UnavailableError("has failed, as simulated.", model=model, kind="server", status=500)


@lru_cache(maxsize=1024)
def _text(tokens: int) -> str:
    return "x" * (_CHARACTERS_PER_TOKEN * tokens)


# Models


class SimulatedModel:
    """Stand for a model: its name, its limits, its price; whoever calls it waits and gets nothing."""

    def __init__(self, name: str, cast: Cast) -> None:
        self.name = name
        self.limits: Limits | None = None
        self.breaker: Breaker | None = None
        self.max_tokens: int | None = None
        self.max_texts = MAX_TEXTS
        self.timeout: Timeout | None = None
        self.pricing: Callable[[Usage, str | None], Cost] | None = None
        """Returns what tokens cost; None if nobody knows."""
        self._cast = cast

    async def complete(self, request: Request) -> Completion:
        """Answer after a while.

        Raises:
            ProviderError: If the call is one of those that fail.
        """
        replied = await self._cast.take_time(self.name)
        asked = sum(len(message.text) for message in request.messages) // _CHARACTERS_PER_TOKEN
        usage = Usage() if replied is None else Usage(asked, replied)
        return Completion("", usage=usage, model=self.name)

    async def embed(self, texts: Sequence[str], *, connect_timeout: float | None = None) -> Embeddings:
        """Answer after a while.

        Raises:
            ProviderError: If the call is one of those that fail.
        """
        replied = await self._cast.take_time(self.name)
        usage = Usage() if replied is None else Usage(sum(map(len, texts)) // _CHARACTERS_PER_TOKEN)
        return Embeddings(([],) * len(texts), usage, self.name)


class SimulatedModels:
    """Make one stand-in for each model that is bound, so that its roles share its limits.

    Args:
        cast: Who plays them.
        limits: What they bear, by roles or models; "*" for all of them. It goes before what is declared.
    """

    def __init__(self, cast: Cast, limits: Mapping[str, Limits]) -> None:
        self._cast = cast
        self._limits = limits
        self._models: dict[tuple[str, str | None], SimulatedModel] = {}

    def bind(self, plan: Plan, models: Models | None) -> dict[str, list[SimulatedModel]]:
        """Return stand-ins for the models of all roles; a role that is bound to nothing gets a model of its own.

        Raises:
            ValueError: If limits are given for something that is no role or model here.
        """
        given: dict[str, ModelChain] = {role: Model(f"simulated:{role}") for role in plan.roles}
        given |= {model.name: model for model in _fallback_models(plan)}
        given |= models or {}
        bound = {
            role: [self.take(model, role) for model in (chain if isinstance(chain, list | tuple) else [chain])]
            for role, chain in given.items()
        }
        known = {*bound, *(model.name for chain in bound.values() for model in chain), "*"}
        unknown = sorted(set(self._limits) - known)
        if unknown:
            raise ValueError(
                f"limits= names {unknown[0]!r}, which is no role or model here. There are {sorted(known)}."
            )
        return bound

    def take(self, model: Any, role: str | None = None) -> SimulatedModel:
        """Return the stand-in of a model."""
        if isinstance(model, str):
            model = Model(model)
        name = str(getattr(model, "name", type(model).__name__))
        key = name, getattr(model, "base_url", None)
        stand_in = self._models.get(key)
        if stand_in is None:
            stand_in = self._models[key] = SimulatedModel(name, self._cast)
            stand_in.pricing = _pricing(model)
        limits, breaker, timeout = (getattr(model, part, None) for part in ("limits", "breaker", "timeout"))
        if isinstance(limits, Limits):
            stand_in.limits = limits
        for said in ("*", role or "*", name):
            stand_in.limits = self._limits.get(said, stand_in.limits)
        if isinstance(breaker, Breaker):
            stand_in.breaker = replace(breaker, on_state_change=None)
        if isinstance(timeout, Timeout):
            stand_in.timeout = timeout
        stand_in.max_tokens = getattr(model, "max_tokens", None)
        return stand_in

    def budget(self, budget: Budget | None) -> Budget | None:
        """Return a budget that asks a stand-in when it is spent."""
        if budget is None or isinstance(budget.on_exhausted, str):
            return budget
        return replace(budget, on_exhausted=self.take(budget.on_exhausted))


def _pricing(model: Any) -> Callable[[Usage, str | None], Cost] | None:
    price = getattr(model, "price", None)
    if isinstance(price, Price):
        return lambda usage, _answered: price.cost(usage)
    if not isinstance(model, Model):
        return None
    from pipeline_engine.providers.prices import list_price

    listed = list_price(model.name, base_url=model.base_url)
    return None if listed is None else lambda usage, _answered: listed(usage)


def _fallback_models(plan: Plan) -> list[Model]:
    return [fallback for step in plan.steps for fallback in step.fallbacks if isinstance(fallback, Model)]


# Plans

_ANYTHING = Output(Any, None, None)


def stand_in_plan(plan: Plan, cast: Cast) -> Plan:
    """Return the same plan with stand-ins for all that it calls.

    Equal calls are not shared, no call warms a cache for others, and nothing is streamed: all prompts are alike here.
    """
    named = dict.fromkeys([*plan.roles, *(model.name for model in _fallback_models(plan))])
    return replace(
        plan,
        inputs=tuple(PlannedInput(declared.name, _ANYTHING) for declared in plan.inputs),
        steps=tuple(_stand_in(step, cast) for step in plan.steps),
        roles=tuple(named),
        has_linked_calls=False,
    )


def _stand_in(step: PlannedStep, cast: Cast) -> PlannedStep:
    play = {"function": cast.work, "llm": cast.prompt, "embed": cast.texts}
    return replace(
        step,
        function=play[step.kind],
        system=None,
        when=None if step.when is None else Condition(cast.is_wanted, step.when.needs),
        check=None if step.check is None else Condition(_is_good, step.check.needs),
        output=Output(Any, None, None, parse=cast.parse) if step.kind == "llm" else _ANYTHING,
        accept=None if step.accept is None else cast.is_accepted,
        fallbacks=tuple(Role(model.name) if isinstance(model, Model) else model for model in step.fallbacks),
        retry=replace(step.retry, on=None, on_retry=None),
        cache=None,
        warm=None,
        executor="trio" if step.kind == "function" else None,
        is_streamed=False,
        collect=None if step.collect is None else _no_arguments,
        collect_item=None if step.collect_item is None else _no_item_arguments,
    )


def _is_good(*_arguments: Any, **_named: Any) -> bool:
    return True


def _no_arguments(_values: list[Any]) -> tuple[Any, ...]:
    return ()


def _no_item_arguments(_values: list[Any], _item: int) -> tuple[Any, ...]:
    return ()


def bind_stand_ins(engine: Engine, plan: Plan, models: Mapping[str, list[SimulatedModel]]) -> BoundPlan:
    """Bind a stand-in plan to stand-in models, with the prices and timeouts of those that they stand for.

    Raises:
        PlanError: If models are given for roles that the plan does not have.
    """
    bound = engine.bind(plan, models)
    return replace(
        bound,
        candidates=tuple(
            tuple(_equipped(candidate, step) if isinstance(candidate, BoundModel) else candidate for candidate in chain)
            for step, chain in zip(plan.steps, bound.candidates, strict=True)
        ),
    )


def _equipped(candidate: BoundModel, step: PlannedStep) -> BoundModel:
    model = candidate.model
    if not isinstance(model, SimulatedModel):
        raise AssertionError(f"{candidate.name!r} is no stand-in")
    timeout = None if model.timeout is None else step.timeout_said.over(model.timeout.over(step.timeout))
    return replace(candidate, price=model.pricing, timeout=timeout)


def callees_of(bound: BoundPlan, budget: Budget | None) -> list[list[tuple[str, str | None]]]:
    """Return for each step the models that it may call, each with the role that it is bound to.

    Args:
        bound: The plan, bound to stand-ins.
        budget: What caps the spending; if it names a model that is asked when it is spent, every step may call that.
    """
    instead: list[tuple[str, str | None]] = []
    if budget is not None and isinstance(budget.on_exhausted, SimulatedModel):
        instead.append((budget.on_exhausted.name, None))
    callees = []
    for step, chain in zip(bound.plan.steps, bound.candidates, strict=True):
        roles = dict(enumerate((step.role, *step.cascade)))
        own = [(model.name, roles.get(model.stage)) for model in chain if isinstance(model, BoundModel)]
        callees.append([*own, *instead])
    return callees
