"""From a declared pipeline to a plan: every problem is found before anything runs."""

from __future__ import annotations

import difflib
import functools
import inspect
import typing
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from pydantic_core import ValidationError

from pipeline_engine.declare import (
    INHERIT,
    NO_DEFAULT,
    Model,
    Pipeline,
    Reference,
    Role,
    Scope,
    Step,
    Timeout,
    effective_policy,
)
from pipeline_engine.errors import PlanError
from pipeline_engine.plan.outputs import Output, OutputTypes, UnusableTypeError, reasons_of
from pipeline_engine.plan.plan import (
    Condition,
    FallbackStep,
    FallbackValue,
    Need,
    Plan,
    PlannedInput,
    PlannedStep,
)
from pipeline_engine.plan.types import is_assignable, item_type, type_name
from pipeline_engine.values import Outline, OutlineStep, Problem

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["compile_pipeline"]


def compile_pipeline(pipeline: Pipeline | Plan) -> Plan:
    """Check a pipeline and lay it out for the scheduler; takes time linear in its size.

    The plan is remembered as long as the pipeline lives and gets no further steps.

    Raises:
        PlanError: If anything is wrong; it names all problems at once, each with its place.

    Example:
        >>> pipeline = Pipeline("typo", inputs={"document": str})
        >>> @pipeline.step
        ... def title(document: str) -> str:
        ...     return document[:10]
        >>> @pipeline.step
        ... def shout(titel: str) -> str:
        ...     return titel.upper()
        >>> try:
        ...     compile_pipeline(pipeline)
        ... except PlanError as error:
        ...     error.problems[0].message
        "step 'shout' needs 'titel', but no step or input has that name. Did you mean 'title'?"
    """
    if isinstance(pipeline, Plan):
        return pipeline
    known = pipeline.compiled
    if isinstance(known, Plan):
        return known
    plan = _Compiler(pipeline).compile()
    pipeline.compiled = plan
    return plan


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what carries the annotations: under decorators, in a partial, of an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    is_plain = inspect.isroutine(function) or inspect.isclass(function)
    return function if is_plain else type(function).__call__


@dataclass(slots=True)
class _Parameter:
    """A parameter of a step's function, of its `when=` or of its `check=`, resolved to a source."""

    name: str
    annotation: Any
    source: str
    """The name of a step or an input."""
    default: Any
    is_item: bool
    is_keyword: bool


@dataclass(slots=True)
class _Draft:
    """What is known of a step while it is being compiled."""

    step: Step[..., Any]
    output: Output
    """Of one item, if the step is mapped."""
    each: str | None = None
    needs: list[_Parameter] = field(default_factory=list)
    when: list[_Parameter] = field(default_factory=list)
    check: list[_Parameter] = field(default_factory=list)
    first_check_annotation: Any = Any
    fallbacks: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def handed_on(self) -> Any:
        """The type that consumers of the whole output get."""
        return list[self.output.type] if self.each is not None else self.output.type  # type: ignore[name-defined]  # built from a value

    def parameters(self) -> Iterable[_Parameter]:
        yield from self.needs
        yield from self.when
        yield from self.check


_ANYTHING = Output(Any, None, None)


class _Compiler:
    """Compile one pipeline, pass by pass; each pass reports what it finds and goes on."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.types = OutputTypes()
        self.problems: list[Problem] = []
        self.drafts: dict[str, _Draft] = {}
        self.inputs: dict[str, PlannedInput] = {}
        self.identities = {id(step) for step in pipeline.steps}

    def compile(self) -> Plan:
        self.take_inputs()
        self.take_steps()
        for draft in self.drafts.values():
            self.resolve(draft)
        self.check_cycles()
        for draft in self.drafts.values():
            self.check_types(draft)
            self.check_placement(draft)
        self.check_unused_inputs()
        if self.problems:
            raise PlanError(self.pipeline.name, sorted(self.problems, key=lambda problem: problem.code))
        return self.lay_out()

    def report(self, code: str, message: str, step: Step[..., Any] | None = None) -> None:
        problem = Problem(code, message)
        if step is not None:
            problem = Problem(code, message, step.file, step.line, step.name)
        if problem not in self.problems:  # two passes may come upon the same thing
            self.problems.append(problem)

    # Passes

    def take_inputs(self) -> None:
        for name, kind in self.pipeline.inputs.items():
            if not name.isidentifier():
                self.report("PE111", f"input {name!r} is no Python name, so no parameter can ask for it. Rename it.")
            try:
                self.inputs[name] = PlannedInput(name, self.types.of_function(kind))
            except UnusableTypeError as error:
                self.report("PE116", f"the type {type_name(kind)} of input {name!r} {error}. Use another type.")
                self.inputs[name] = PlannedInput(name, _ANYTHING)

    def take_steps(self) -> None:
        if not self.pipeline.steps:
            self.report(
                "PE119",
                f"pipeline {self.pipeline.name!r} has no steps. Declare one with @pipeline.llm or @pipeline.step.",
            )
        for step in self.pipeline.steps:
            if step.name in self.inputs:
                self.report("PE103", f"step {step.name!r} has the name of an input. Rename one of the two.", step)
            elif step.name in self.drafts:
                other = self.drafts[step.name].step
                self.report(
                    "PE103",
                    f"two steps are named {step.name!r}; the other one is at {other.file}:{other.line}. "
                    "Rename one, or give it name=.",
                    step,
                )
            else:
                self.drafts[step.name] = _Draft(step, self.output_of(step))

    def output_of(self, step: Step[..., Any]) -> Output:
        kind = step.output
        if kind is NO_DEFAULT:
            kind = self.annotations(step, step.function, "its function").get("return", Any)
        try:
            if step.kind == "llm":
                return self.types.of_model(kind, reasoning=step.reasoning)
            return self.types.of_function(kind)
        except UnusableTypeError as error:
            self.report(
                "PE116",
                f"the output type {type_name(kind)} of step {step.name!r} {error}. Use another type.",
                step,
            )
            return _ANYTHING

    def annotations(self, step: Step[..., Any], function: Callable[..., Any], what: str) -> dict[str, Any]:
        try:
            return typing.get_type_hints(_annotated(function), localns=dict(step.local_names), include_extras=True)
        except NameError as error:
            self.report(
                "PE109",
                f"an annotation of step {step.name!r} ({what}) names {error.name!r}, which is not defined there. "
                "Import or define it before the step; not under TYPE_CHECKING.",
                step,
            )
        except (TypeError, SyntaxError, AttributeError) as error:
            self.report(
                "PE109",
                f"an annotation of step {step.name!r} ({what}) does not resolve: {str(error).rstrip('.')}. Correct it.",
                step,
            )
        return {}

    def resolve(self, draft: _Draft) -> None:
        step, scope = draft.step, draft.step.scope
        draft.each = self.resolve_each(draft)
        has_own_each = step.each is not None
        item_names = scope.item_names if scope else frozenset[str]()
        draft.needs = self.resolve_parameters(step, step.function, "its function", item_names=item_names)
        if has_own_each:
            self.take_item(draft)
        if step.when is not None:
            draft.when = self.resolve_parameters(step, step.when, "when=", item_names=item_names)
        if step.check is not None:
            parameters, annotations = self.signature(step, step.check, "check=")
            if not parameters:
                self.report(
                    "PE114",
                    f"the check= of step {step.name!r} takes no parameter; its first one gets the output.",
                    step,
                )
            else:
                draft.first_check_annotation = annotations.get(parameters[0].name, Any)
            draft.check = self.resolve_parameters(step, step.check, "check=", item_names=item_names, skip=1)
        for fallback in step.fallbacks:
            self.resolve_fallback(draft, fallback)
        self.check_executor(step)
        self.check_streaming(step)
        if step.on_error is not None and draft.each is None:
            self.report("PE117", f"step {step.name!r} has on_error=, but no each=: there are no items to drop.", step)
        if scope is not None and step.kind == "embed" and draft.each is not None:
            self.report(
                "PE118",
                f"step {step.name!r} makes vectors inside a pipeline that is mapped with each=. "
                "Collect the texts in a step outside, and embed them all at once.",
                step,
            )
        elif scope is not None and (scope.is_nested or (scope.each is not None and has_own_each)):
            self.report(
                "PE118",
                f"step {step.name!r} is mapped with each= inside a pipeline that is itself mapped with each=. "
                "Map only one of the two, or flatten the lists first.",
                step,
            )

    def resolve_each(self, draft: _Draft) -> str | None:
        step = draft.step
        if step.each is None:
            return step.scope.each if step.scope else None
        name = self.name_outside(step.each if isinstance(step.each, str) else step.each.name, step.scope)
        if not isinstance(step.each, str):
            self.check_membership(step, step.each, "each=")
        if not self.is_known(name):
            own = step.each if isinstance(step.each, str) else step.each.name
            self.report("PE101", self.unknown(step, own, "is mapped over"), step)
            return None
        return name

    def signature(
        self, step: Step[..., Any], function: Callable[..., Any], what: str
    ) -> tuple[list[inspect.Parameter], dict[str, Any]]:
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            self.report(
                "PE110",
                f"the parameters of {what} of step {step.name!r} cannot be read. Wrap it in a plain function.",
                step,
            )
            return [], {}
        variadic = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for parameter in variadic:
            self.report(
                "PE110",
                f"step {step.name!r} ({what}) takes {parameter}, but edges are named parameters. Name each need.",
                step,
            )
        return [p for p in parameters if p not in variadic], self.annotations(step, function, what)

    def resolve_parameters(
        self,
        step: Step[..., Any],
        function: Callable[..., Any],
        what: str,
        *,
        item_names: frozenset[str],
        skip: int = 0,
    ) -> list[_Parameter]:
        parameters, annotations = self.signature(step, function, what)
        is_item_by_place = step.each is not None and function is step.function
        resolved = []
        for place, parameter in enumerate(parameters[skip:]):
            if is_item_by_place and place == 0:
                # The first parameter of a mapped step receives an item; take_item gives it its source.
                source, default = parameter.name, NO_DEFAULT
            else:
                found = self.source_of(step, parameter, what)
                if found is None:
                    continue
                source, default = found
            outer = source if is_item_by_place and place == 0 else self.name_outside(source, step.scope)
            resolved.append(
                _Parameter(
                    parameter.name,
                    annotations.get(parameter.name, Any),
                    outer,
                    default,
                    is_item=self.is_item_need(step, source, item_names),
                    is_keyword=parameter.kind is parameter.KEYWORD_ONLY,
                )
            )
        return resolved

    def source_of(self, step: Step[..., Any], parameter: inspect.Parameter, what: str) -> tuple[str, Any] | None:
        """Return the name (as the step's own pipeline knows it) and the default; None if it is a constant."""
        reference = parameter.default
        if isinstance(reference, Reference):
            if reference.step is not None and not self.is_member(step, reference.step):
                self.check_membership(step, reference.step, f"use({reference.name}) in {what}")
                return None
            if self.is_known(self.name_outside(reference.name, step.scope)):
                return reference.name, reference.default
            self.report("PE101", self.unknown(step, reference.name, "uses"), step)
            return None
        outer = self.name_outside(parameter.name, step.scope)
        if self.is_known(outer) and outer != step.name:
            default = NO_DEFAULT if reference is parameter.empty else reference
            return parameter.name, default
        if reference is not parameter.empty:
            return None  # an ordinary default and no such name: a constant
        if outer == step.name:
            return parameter.name, NO_DEFAULT  # needs itself: reported as a cycle
        if step.scope is not None and parameter.name in step.scope.names:
            self.report(
                "PE108",
                f"step {step.name!r} needs the input {parameter.name!r} of its included pipeline, "
                f"but {outer!r} is no step or input here. Bind it: include(…, inputs={{{parameter.name!r}: …}}).",
                step,
            )
        else:
            self.report("PE101", self.unknown(step, parameter.name, "needs"), step)
        return None

    def take_item(self, draft: _Draft) -> None:
        step = draft.step
        if not draft.needs:
            self.report(
                "PE114",
                f"step {step.name!r} is mapped with each=, but takes no parameter for the item.",
                step,
            )
        elif draft.each is None:
            draft.needs = draft.needs[1:]
        else:
            first = draft.needs[0]
            draft.needs[0] = _Parameter(first.name, first.annotation, draft.each, NO_DEFAULT, True, first.is_keyword)  # noqa: FBT003

    def is_item_need(self, step: Step[..., Any], source: str, item_names: frozenset[str]) -> bool:
        """Inside a mapped pipeline its item, and its other steps, are meant item by item."""
        if step.scope is None or step.scope.each is None:
            return False
        return source in item_names or source in step.scope.step_names

    def resolve_fallback(self, draft: _Draft, fallback: object) -> None:
        step = draft.step
        if isinstance(fallback, Step):
            name = self.name_outside(fallback.name, step.scope)
            other = self.drafts.get(name)
            if other is not None and other.step.kind == "embed":
                self.report(
                    "PE105",
                    f"step {step.name!r} falls back to the embed step {other.name!r}, whose vectors cannot stand in "
                    "for another model's. Fall back to another step.",
                    step,
                )
            elif other is None or not self.is_member(step, fallback):
                self.report(
                    "PE113",
                    f"step {step.name!r} falls back to step {fallback.name!r} of another pipeline. "
                    "Include that pipeline first.",
                    step,
                )
            else:
                draft.fallbacks.append(other)
        elif isinstance(fallback, Model | Role):
            if step.kind == "llm":
                draft.fallbacks.append(fallback)
            else:
                self.report(
                    "PE105",
                    f"step {step.name!r} is a function step and cannot fall back to {fallback!r}. "
                    "Fall back to a value or a step.",
                    step,
                )
        elif draft.output.validate_strictly is None:
            draft.fallbacks.append(FallbackValue(fallback))
        else:
            try:
                draft.fallbacks.append(FallbackValue(draft.output.validate_strictly(fallback)))
            except ValidationError as error:
                self.report(
                    "PE105",
                    f"the fallback of step {step.name!r} is a {type(fallback).__name__}, but its output is "
                    f"{draft.output.name} ({reasons_of(error)[0]}). Give a value of that type.",
                    step,
                )

    # Checks

    def check_cycles(self) -> None:
        from pipeline_engine.plan.graph import find_cycles

        for cycle in find_cycles(self.edges()):
            path = " -> ".join(cycle)
            self.report("PE102", f"steps form a cycle: {path}. Remove one of these needs.", self.drafts[cycle[0]].step)

    def check_types(self, draft: _Draft) -> None:
        step = draft.step
        if draft.each is not None:
            is_list, _ = item_type(self.type_of(draft.each))
            if not is_list:
                self.report(
                    "PE107",
                    f"step {step.name!r} is mapped over {draft.each!r}, which is {type_name(self.type_of(draft.each))} "
                    "and no list. Map over a list, or drop each=.",
                    step,
                )
        for parameter in draft.parameters():
            if not self.is_known(parameter.source):
                continue
            produced = self.type_of(parameter.source)
            if parameter.is_item:
                is_list, produced = item_type(produced)
                is_nested = step.scope is not None and step.scope.each is not None and step.each is not None
                if not is_list or is_nested or (step.scope is not None and step.scope.is_nested):
                    continue  # told already, as what it is
            if not is_assignable(produced, parameter.annotation):
                kind = "step" if parameter.source in self.drafts else "input"
                item = "an item of " if parameter.is_item else ""
                verb = "returns" if kind == "step" and not parameter.is_item else "is"
                self.report(
                    "PE104",
                    f"step {step.name!r} takes {parameter.name}: {type_name(parameter.annotation)}, but {item}{kind} "
                    f"{parameter.source!r} {verb} {type_name(produced)}. Change one of the two annotations.",
                    step,
                )
        if step.check is not None and not is_assignable(draft.output.type, draft.first_check_annotation):
            self.report(
                "PE104",
                f"the check= of step {step.name!r} takes {type_name(draft.first_check_annotation)}, but the output is "
                f"{draft.output.name}. Change one of the two annotations.",
                step,
            )
        for fallback in draft.fallbacks:
            if isinstance(fallback, _Draft):
                self.check_fallback_step(draft, fallback)

    def check_fallback_step(self, draft: _Draft, fallback: _Draft) -> None:
        step = draft.step
        if draft.each != fallback.each:
            self.report(
                "PE112",
                f"step {step.name!r} and its fallback step {fallback.name!r} are not mapped alike. "
                "Give both the same each=, or neither.",
                step,
            )
        elif not is_assignable(fallback.output.type, draft.output.type):
            self.report(
                "PE105",
                f"step {step.name!r} gives {draft.output.name}, but its fallback step {fallback.name!r} gives "
                f"{fallback.output.name}. Let both give the same type.",
                step,
            )

    def check_executor(self, step: Step[..., Any]) -> None:
        if step.kind != "function":
            if inspect.iscoroutinefunction(step.function):
                what, result = ("prompt ", "prompt") if step.kind == "llm" else ("", "texts")
                self.report(
                    "PE115",
                    f"the {what}function of step {step.name!r} is async. Return the {result} from a plain function.",
                    step,
                )
            return
        is_async = inspect.iscoroutinefunction(step.function)
        if step.executor not in (None, "thread", "process", "asyncio"):
            self.report(
                "PE115",
                f"step {step.name!r} has executor={step.executor!r}. Use 'thread', 'process' or 'asyncio'.",
                step,
            )
        elif step.executor == "asyncio" and not is_async:
            self.report(
                "PE115",
                f"step {step.name!r} has executor='asyncio', but its function is not async. Drop executor=.",
                step,
            )
        elif step.executor in ("thread", "process") and is_async:
            self.report(
                "PE115",
                f"step {step.name!r} is async and cannot run in a {step.executor}. Drop executor=, or def it plainly.",
                step,
            )
        elif step.executor == "process" and ("<" in step.function.__qualname__):
            self.report(
                "PE115",
                f"step {step.name!r} runs in a process, which must import its function. Declare it at module level.",
                step,
            )

    def check_streaming(self, step: Step[..., Any]) -> None:
        """A timeout between pieces means nothing for a reply that comes whole."""
        own = step.policy.timeout
        if step.stream or not isinstance(own, Timeout):
            return
        for which in ("first_token", "idle"):
            if getattr(own, which) in (INHERIT, None):
                continue
            if step.kind == "llm":
                reason = "but its reply comes whole. Give it stream=True, or use Timeout(attempt=…)."
            else:
                reason = "which is about replies that come piece by piece. Use Timeout(attempt=…)."
            self.report("PE120", f"step {step.name!r} has Timeout({which}=…), {reason}", step)

    def check_placement(self, draft: _Draft) -> None:
        if not draft.name.isidentifier():
            self.report(
                "PE111",
                f"step {draft.name!r} is no Python name, so no parameter can ask for it. Give it name=.",
                draft.step,
            )

    def check_unused_inputs(self) -> None:
        used = {parameter.source for draft in self.drafts.values() for parameter in draft.parameters()}
        used |= {draft.each for draft in self.drafts.values() if draft.each}
        if any(problem.code not in ("PE104", "PE105") for problem in self.problems):
            return  # a misspelt need would be told twice
        for name in self.inputs:
            if name not in used:
                self.report("PE106", f"input {name!r} is declared, but no step needs it. Remove it, or use it.")

    def check_membership(self, step: Step[..., Any], other: Step[..., Any], where: str) -> None:
        if not self.is_member(step, other):
            self.report(
                "PE113",
                f"step {step.name!r} names step {other.name!r} ({where}), which belongs to another pipeline. "
                "Include that pipeline, and take its steps from what include() returns.",
                step,
            )

    # Look-ups

    def is_member(self, step: Step[..., Any], other: Step[..., Any]) -> bool:
        # Inside an included pipeline, references are to its own steps, which were renamed on the way in.
        return id(other) in self.identities or (step.scope is not None and other.name in step.scope.names)

    def is_known(self, name: str) -> bool:
        return name in self.inputs or name in self.drafts

    @staticmethod
    def name_outside(name: str, scope: Scope | None) -> str:
        """Return what a name means here; a name that an included pipeline does not have means nothing."""
        return scope.names.get(name, f"{name} of the included pipeline") if scope else name

    def type_of(self, name: str) -> Any:
        return self.inputs[name].output.type if name in self.inputs else self.drafts[name].handed_on

    def unknown(self, step: Step[..., Any], name: str, verb: str) -> str:
        near = difflib.get_close_matches(name, [*self.inputs, *self.drafts], n=1)
        names = ", ".join(sorted([*self.inputs, *(other for other in self.drafts if other != step.name)]))
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {names}."
        return f"step {step.name!r} {verb} {name!r}, but no step or input has that name. {hint}"

    def edges(self) -> dict[str, list[str]]:
        """For each step the steps before it: needs, conditions, items and fallbacks."""
        edges: dict[str, list[str]] = {}
        for draft in self.drafts.values():
            names = [parameter.source for parameter in draft.parameters()]
            names += [draft.each] if draft.each else []
            names += [fallback.name for fallback in draft.fallbacks if isinstance(fallback, _Draft)]
            edges[draft.name] = list(dict.fromkeys(name for name in names if name in self.drafts))
        return edges

    # The plan

    def lay_out(self) -> Plan:
        from pipeline_engine.plan.graph import put_in_order

        edges = self.edges()
        order = put_in_order(edges)
        sources = {name: place for place, name in enumerate([*self.inputs, *order.names])}
        index_of = {name: place for place, name in enumerate(order.names)}
        on_demand = self.on_demand()
        steps = tuple(
            self.planned(self.drafts[name], sources, index_of, order.remaining[name], name in on_demand)
            for name in order.names
        )
        outline = Outline(
            self.pipeline.name,
            tuple(self.inputs),
            tuple(
                OutlineStep(
                    step.name,
                    step.kind,
                    self.named_needs(self.drafts[step.name]),
                    order.layer[step.name],
                    self.drafts[step.name].each,
                    step.is_on_demand,
                )
                for step in steps
            ),
        )
        return _with_arrays(self.pipeline.name, tuple(self.inputs.values()), steps, outline, index_of, edges)

    def on_demand(self) -> set[str]:
        named = {f.name for draft in self.drafts.values() for f in draft.fallbacks if isinstance(f, _Draft)}
        needed = {parameter.source for draft in self.drafts.values() for parameter in draft.parameters()}
        return named - needed - {draft.each for draft in self.drafts.values() if draft.each}

    @staticmethod
    def named_needs(draft: _Draft) -> tuple[str, ...]:
        names = [parameter.source for parameter in draft.parameters()]
        names += [draft.each] if draft.each else []
        names += [fallback.name for fallback in draft.fallbacks if isinstance(fallback, _Draft)]
        return tuple(dict.fromkeys(names))

    def planned(
        self,
        draft: _Draft,
        sources: dict[str, int],
        index_of: dict[str, int],
        remaining: int,
        is_on_demand: bool,  # noqa: FBT001 - private, one caller
    ) -> PlannedStep:
        step = draft.step

        def needs(parameters: Sequence[_Parameter]) -> tuple[Need, ...]:
            return tuple(Need(p.name, sources[p.source], p.default, p.is_item, p.is_keyword) for p in parameters)

        layers = [self.pipeline.policy, *(step.scope.policies if step.scope else ()), step.policy]
        policy = effective_policy(step.kind, layers)
        attempt_seconds, step_seconds = policy.timeout.seconds("attempt"), policy.timeout.seconds("step")
        own, when, check = needs(draft.needs), needs(draft.when), needs(draft.check)
        item_sources = {
            sources[p.source]
            for p in draft.parameters()
            if p.is_item and p.source in self.drafts and self.drafts[p.source].each is not None
        }
        return PlannedStep(
            index=index_of[step.name],
            name=step.name,
            kind=step.kind,
            function=step.function,
            system=step.function.__doc__ if step.kind == "llm" else None,
            needs=own,
            when=Condition(step.when, when) if step.when is not None else None,
            check=Condition(step.check, check) if step.check is not None else None,
            each=sources[draft.each] if draft.each is not None else None,
            item_sources=tuple(sorted(item_sources)),
            output=draft.output,
            role=step.role,
            cascade=step.cascade,
            accept=step.accept,
            fallbacks=tuple(
                FallbackStep(index_of[f.name], f.name) if isinstance(f, _Draft) else f for f in draft.fallbacks
            ),
            retry=policy.retry,
            timeout=policy.timeout,
            timeout_said=policy.timeout_said,
            cache=policy.cache,
            warm=policy.warm,
            hedge=policy.hedge,
            when_open=policy.when_open,
            attempt_seconds=attempt_seconds,
            step_seconds=step_seconds,
            # A model may bring timeouts of its own.
            is_timed=attempt_seconds is not None or step_seconds is not None or step.kind != "function",
            on_error=step.on_error,
            executor=_executor(step),
            version=step.version,
            truncated=step.truncated,
            is_streamed=step.stream,
            is_on_demand=is_on_demand,
            remaining=remaining,
            collect=_collector(own),
            collect_item=None if item_sources else _item_collector(own),
            declaration=step,
        )


def _executor(step: Step[..., Any]) -> Literal["trio", "thread", "process", "asyncio"] | None:
    if step.kind != "function":
        return None
    return step.executor or ("trio" if inspect.iscoroutinefunction(step.function) else "thread")


def _collector(needs: tuple[Need, ...]) -> Callable[[list[Any]], tuple[Any, ...]] | None:
    """Return the quick way to a step's arguments, where every one of them is simply there."""
    if any(need.is_optional or need.is_item or need.is_keyword for need in needs):
        return None
    if not needs:
        return lambda _values: ()
    if len(needs) == 1:
        source = needs[0].source
        return lambda values: (values[source],)
    return itemgetter(*(need.source for need in needs))


def _item_collector(needs: tuple[Need, ...]) -> Callable[[list[Any], int], tuple[Any, ...]] | None:
    """Return the quick way to an item's arguments: the item first, then what is simply there."""
    if not needs or not needs[0].is_item or any(need.is_item for need in needs[1:]):
        return None
    rest = _collector(needs[1:])
    if rest is None or needs[0].is_keyword:
        return None
    source = needs[0].source
    if len(needs) == 1:
        return lambda values, item: (values[source][item],)
    return lambda values, item: (values[source][item], *rest(values))


def _with_arrays(
    name: str,
    inputs: tuple[PlannedInput, ...],
    steps: tuple[PlannedStep, ...],
    outline: Outline,
    index_of: dict[str, int],
    edges: dict[str, list[str]],
) -> Plan:
    offset = len(inputs)
    followers: list[list[int]] = [[] for _ in steps]
    when_followers: list[list[int]] = [[] for _ in steps]
    item_followers: list[list[int]] = [[] for _ in steps]
    missing, when_missing, is_plain = [], [], []
    for step in steps:
        whole = {n.source - offset for n in step.needs if not _is_by_item(n, step)}
        whole |= {n.source - offset for n in (step.check.needs if step.check else ()) if not _is_by_item(n, step)}
        if step.each is not None and step.each not in step.item_sources:
            whole.add(step.each - offset)
        whole = {source for source in whole if source >= 0}
        conditions = {n.source - offset for n in (step.when.needs if step.when else ()) if not _is_by_item(n, step)}
        conditions = {source for source in conditions if source >= 0}
        for source in sorted(whole):
            followers[source].append(step.index)
        for source in sorted(conditions):
            when_followers[source].append(step.index)
        for source in step.item_sources:
            item_followers[source - offset].append(step.index)
        missing.append(len(whole))
        when_missing.append(len(conditions))
        is_plain.append(step.when is None and step.each is None and not step.is_on_demand)
    needed = {index_of[need] for needs in edges.values() for need in needs}
    roles = [role for step in steps if step.role for role in (step.role, *step.cascade)] + [
        fallback.name for step in steps for fallback in step.fallbacks if isinstance(fallback, Role)
    ]
    return Plan(
        name=name,
        inputs=inputs,
        steps=steps,
        outline=outline,
        index_of=index_of,
        followers=tuple(map(tuple, followers)),
        when_followers=tuple(map(tuple, when_followers)),
        item_followers=tuple(map(tuple, item_followers)),
        missing=tuple(missing),
        when_missing=tuple(when_missing),
        is_plain=tuple(is_plain),
        leaves=tuple(step.index for step in steps if step.index not in needed),
        on_demand=tuple(step.index for step in steps if step.is_on_demand),
        roles=tuple(dict.fromkeys(roles)),
        has_linked_calls=any(step.cache is not None or step.warm is not None for step in steps),
    )


def _is_by_item(need: Need, step: PlannedStep) -> bool:
    """Whether the need is met item by item, so that the step does not wait for the whole source."""
    return need.is_item and need.source in step.item_sources
