"""Random pipelines, how to run them, and a naive sequential evaluator that says what must come out."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import trio
from hypothesis import strategies as st

from pipeline_engine import Drop, Pipeline, Retry, compile_pipeline, current_step
from pipeline_engine.values import Completed, Dropped, Failed, Skipped

WIDTHS = st.integers(0, 4)
DURATIONS = st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0])


@dataclass
class StepSpec:
    """One step of a random pipeline."""

    name: str
    needs: list[tuple[str, bool]]
    """Names of steps, and whether the need is optional."""
    each: str | None = None
    when: tuple[str, bool] | None = None
    """The step that the condition needs, and its answer."""
    width: int | None = None
    """For a step that returns a list: its length."""
    duration: float = 1.0
    failures: int = 0
    """How many first attempts fail."""
    failing_items: frozenset[int] = frozenset()
    attempts: int = 1
    fallback: str | None = None
    """ "value", or the name of a step."""
    drop: int | None = None


@dataclass
class DagSpec:
    """A random pipeline."""

    steps: list[StepSpec]
    capacity: int
    on_demand: set[str] = field(default_factory=set)

    def step(self, name: str) -> StepSpec:
        return next(step for step in self.steps if step.name == name)


@st.composite
def dags(draw: st.DrawFn) -> DagSpec:
    """Draw a pipeline with maps, branches, optional needs, failures, retries and fallbacks."""
    count = draw(st.integers(1, 8))
    steps: list[StepSpec] = []
    on_demand: set[str] = set()
    for number in range(count):
        name = f"s{number}"
        usable = [step for step in steps if step.name not in on_demand]
        names = [step.name for step in usable]
        needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        spec = StepSpec(name, [(need, draw(st.booleans())) for need in needs], duration=draw(DURATIONS))
        kind = draw(st.sampled_from(["plain", "plain", "plain", "list", "mapped", "mapped"]))
        lists = [step.name for step in usable if step.width is not None or step.each is not None]
        if kind == "list":
            spec.width = draw(WIDTHS)
        elif kind == "mapped" and lists:
            spec.each = draw(st.sampled_from(lists))
            spec.needs = [(need, optional) for need, optional in spec.needs if need != spec.each]
            spec.failing_items = draw(st.frozensets(st.integers(0, 3), max_size=2))
            spec.drop = draw(st.sampled_from([None, None, 1, 2]))
        if spec.each is None and draw(st.integers(0, 3)) == 0:
            spec.failures = draw(st.integers(1, 3))
        spec.attempts = draw(st.integers(1, 3))
        if names and draw(st.integers(0, 3)) == 0:
            spec.when = (draw(st.sampled_from(names)), draw(st.booleans()))
        if spec.each is None and spec.width is None:
            spec.fallback = draw(st.sampled_from([None, None, "value", "step"]))
            if spec.fallback == "step":
                backup = StepSpec(f"b{number}", list(spec.needs), duration=draw(DURATIONS))
                backup.failures = draw(st.sampled_from([0, 0, 9]))
                steps.append(backup)
                on_demand.add(backup.name)
                spec.fallback = backup.name
        elif spec.each is not None:
            spec.fallback = draw(st.sampled_from([None, None, "value"]))
        steps.append(spec)
    return DagSpec(steps, draw(st.sampled_from([1, 2, 3, 100])), on_demand)


def value_of(spec: StepSpec, arguments: list[Any]) -> Any:
    """What a step returns: a text that shows all that went into it."""
    text = f"{spec.name}({', '.join(map(str, arguments))})"
    return [f"{text}[{number}]" for number in range(spec.width)] if spec.width is not None else text


class FlakyError(ConnectionError):
    """A transient failure."""


def build(dag: DagSpec) -> Pipeline:
    """Declare the pipeline; its steps sleep on trio's clock and fail as the spec says."""
    pipeline = Pipeline("random", inputs={"start": str})
    declared: dict[str, Any] = {}
    for spec in dag.steps:
        declared[spec.name] = _declare(pipeline, spec, declared, is_first=not declared)
    return pipeline


def _declare(pipeline: Pipeline, spec: StepSpec, declared: dict[str, Any], *, is_first: bool) -> Any:
    async def function(*arguments: Any) -> Any:
        context = current_step()
        if spec.duration:
            await trio.sleep(spec.duration)
        fails = context.attempt <= spec.failures if context.item is None else context.item in spec.failing_items
        if fails:
            raise FlakyError(f"{spec.name} attempt {context.attempt}")
        return value_of(spec, list(arguments))

    parameters = [inspect.Parameter("item", inspect.Parameter.POSITIONAL_OR_KEYWORD)] if spec.each else []
    if is_first:
        parameters.append(inspect.Parameter("start", inspect.Parameter.POSITIONAL_OR_KEYWORD))
    parameters += sorted(
        (
            inspect.Parameter(
                need,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default="default" if optional else inspect.Parameter.empty,
            )
            for need, optional in spec.needs
        ),
        key=lambda parameter: parameter.default is not inspect.Parameter.empty,
    )
    function.__signature__ = inspect.Signature(parameters)
    kind = list[str] if spec.width is not None else str
    function.__annotations__ = {"return": kind}
    when = None
    if spec.when is not None:
        source, answer = spec.when

        def condition(value: Any) -> bool:
            return answer

        condition.__signature__ = inspect.Signature(
            [inspect.Parameter(source, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        )
        when = condition
    options: dict[str, Any] = {}
    if spec.fallback == "value":
        options["fallback"] = "fallback value"
    elif spec.fallback is not None:
        options["fallback"] = declared[spec.fallback]
    if spec.drop is not None:
        options["on_error"] = Drop(at_most=spec.drop)
    return pipeline.step(
        name=spec.name,
        each=declared[spec.each] if spec.each else None,
        when=when,
        retry=Retry(attempts=spec.attempts, base_delay=1, jitter="none"),
        **options,
    )(function)


# What must come out


class Naive:
    """Evaluate a random pipeline one step after the other, in the plainest way."""

    def __init__(self, dag: DagSpec) -> None:
        self.dag = dag
        self.outcomes: dict[str, Any] = {}
        self.items: dict[str, list[Any]] = {}
        for spec in dag.steps:
            if spec.name not in dag.on_demand:
                self.outcomes[spec.name] = self.evaluate(spec)

    def evaluate(self, spec: StepSpec) -> Any:
        lack = self.lack(spec)
        if lack is not None:
            return lack
        if spec.each is not None:
            return self.evaluate_items(spec)
        arguments = (["start"] if spec is self.dag.steps[0] else []) + self.arguments(spec)
        if spec.failures < spec.attempts:
            return ("completed", value_of(spec, arguments), None)
        if spec.fallback == "value":
            return ("completed", "fallback value", "fallback:value")
        if spec.fallback is not None:
            backup = self.outcomes.setdefault(spec.fallback, self.evaluate(self.dag.step(spec.fallback)))
            if backup[0] == "completed":
                return ("completed", backup[1], f"fallback:{spec.fallback}")
        return ("failed",)

    def lack(self, spec: StepSpec) -> Any:
        """By choice wins over failure."""
        failed = False
        needs = [(need, optional) for need, optional in spec.needs]
        if spec.each is not None:
            needs.append((spec.each, False))
        if spec.when is not None:
            needs.append((spec.when[0], False))
        for need, optional in needs:
            outcome = self.outcomes[need]
            if outcome == ("skipped", True):
                if not optional:
                    return ("skipped", True)
            elif outcome[0] != "completed":
                failed = True
        condition_failed = spec.when is not None and self.outcomes[spec.when[0]][0] != "completed"
        if spec.when is not None and not spec.when[1] and not condition_failed:
            return ("skipped", True)
        return ("skipped", False) if failed else None

    def arguments(self, spec: StepSpec) -> list[Any]:
        ordered = sorted(spec.needs, key=lambda need: need[1])
        return [self.outcomes[n][1] if self.outcomes[n][0] == "completed" else "default" for n, _ in ordered]

    def evaluate_items(self, spec: StepSpec) -> Any:
        source = self.dag.step(spec.each)
        if source.each is not None:
            given = self.items[source.name]
        else:
            given = [("completed", value, None) for value in self.outcomes[source.name][1]]
        items: list[Any] = []
        dropped = 0
        first = ["start"] if spec is self.dag.steps[0] else []
        for number, item in enumerate(given):
            if item[0] != "completed":
                items.append(("skipped", False))
            elif number in spec.failing_items and spec.fallback == "value":
                items.append(("completed", "fallback value", "fallback:value"))
            elif number in spec.failing_items:
                if spec.drop is not None and dropped < spec.drop:
                    dropped += 1
                    items.append(("dropped",))
                else:
                    return ("failed",)
            else:
                items.append(("completed", value_of(spec, [item[1], *first, *self.arguments(spec)]), None))
        self.items[spec.name] = items
        return ("completed", [item[1] for item in items if item[0] == "completed"], None)


def plain(outcome: Any) -> Any:
    """Return an outcome in the naive evaluator's words."""
    if isinstance(outcome, Completed):
        return ("completed", outcome.value, outcome.via)
    if isinstance(outcome, Skipped):
        return ("skipped", outcome.is_by_choice)
    if isinstance(outcome, Failed):
        return ("failed",)
    if isinstance(outcome, Dropped):
        return ("dropped",)
    return ("stopped",)


def compiled(dag: DagSpec) -> Any:
    """Return the plan of a random pipeline."""
    return compile_pipeline(build(dag))
