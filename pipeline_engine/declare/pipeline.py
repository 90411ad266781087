"""The declaration of a pipeline: named inputs, and steps whose parameters are the edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypedDict, TypeVar, overload

from pipeline_engine.declare.policies import (
    INHERIT,
    Cache,
    Drop,
    Hedge,
    Inherit,
    Policy,
    Retry,
    Timeout,
    Warm,
    WhenOpen,
)
from pipeline_engine.declare.roles import Role
from pipeline_engine.declare.steps import NO_DEFAULT, Executor, PromptStep, Scope, Step, declared_names
from pipeline_engine.values.painting import painted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from typing_extensions import TypeForm, Unpack

    from pipeline_engine.values import Message

__all__ = ["Included", "IncludedEach", "Pipeline"]

P = ParamSpec("P")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - the item's type, beside P and T
T_co = TypeVar("T_co", covariant=True)
I_contra = TypeVar("I_contra", contravariant=True)

_TimeoutArgument = Timeout | float | Inherit | None
_RetryArgument = Retry | Inherit | None
_CacheArgument = Cache | Inherit | None
_WarmArgument = Warm | Inherit | None
_HedgeArgument = Hedge | Inherit | None
_WhenOpenArgument = WhenOpen | Inherit | None


class _LlmOptions(TypedDict, total=False):
    """What every overload of `Pipeline.llm` takes; the method itself says what each means."""

    name: str | None
    when: Callable[..., bool] | None
    fallback: object
    retry: _RetryArgument
    timeout: _TimeoutArgument
    cache: _CacheArgument
    warm: _WarmArgument
    hedge: _HedgeArgument
    when_open: _WhenOpenArgument
    policy: Policy | None
    truncated: Literal["fail", "keep"]
    stream: bool
    reasoning: bool
    version: str | None


class _LlmDecorator(Protocol[T_co]):
    def __call__(self, function: Callable[P, str | Sequence[Message | str]], /) -> PromptStep[P, T_co]: ...


class _LlmEachDecorator(Protocol[I, T]):
    def __call__(
        self, function: Callable[Concatenate[I, P], str | Sequence[Message | str]], /
    ) -> PromptStep[Concatenate[I, P], list[T]]: ...


class _EmbedDecorator(Protocol):
    def __call__(self, function: Callable[P, Sequence[str]], /) -> Step[P, list[list[float]]]: ...


class _StepDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> Step[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Step[P, T]: ...


class _StepEachDecorator(Protocol[I]):
    @overload
    def __call__(
        self, function: Callable[Concatenate[I, P], Coroutine[Any, Any, T]], /
    ) -> Step[Concatenate[I, P], list[T]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[I, P], T], /) -> Step[Concatenate[I, P], list[T]]: ...


def _as_fallbacks(fallback: object) -> tuple[Any, ...]:
    if fallback is NO_DEFAULT:
        return ()
    return fallback if isinstance(fallback, tuple) else (fallback,)


class Pipeline:
    """Declare a DAG of steps: a parameter named like a step or an input is the edge.

    Declaring checks nothing beyond single arguments; compiling reports all problems at once.

    Args:
        name: The pipeline's name; with a document's key it identifies a run's results.
        inputs: The type of each value that a run is given.
        policy: The default of all steps.

    Example:
        >>> pipeline = Pipeline("greeting", inputs={"name": str})
        >>> @pipeline.llm("fast", str)
        ... def greeting(name: str) -> str:
        ...     return f"Greet {name} in one line."
        >>> greeting.render(name="Ada")[0].text
        'Greet Ada in one line.'
        >>> pipeline
        Pipeline('greeting', inputs=['name'], steps=['greeting'])
    """

    def __init__(self, name: str, *, inputs: Mapping[str, TypeForm[Any]], policy: Policy | None = None) -> None:
        if not name:
            raise ValueError("a pipeline needs a name: with a document's key it identifies a run's results.")
        self.name = name
        self.inputs: Mapping[str, Any] = dict(inputs)
        self.policy = policy if policy is not None else Policy()
        self._steps: list[Step[..., Any]] = []
        self.compiled: object = None
        """What compiling has made of the pipeline, as long as no step is added. It lives and dies with it."""

    def _add(self, step: Step[..., Any]) -> None:
        self._steps.append(step)
        self.compiled = None

    @property
    def steps(self) -> tuple[Step[..., Any], ...]:
        """The steps in the order of their declaration."""
        return tuple(self._steps)

    def __repr__(self) -> str:
        names = [step.name for step in self._steps]
        return f"Pipeline({self.name!r}, inputs={sorted(self.inputs)}, steps={names})"

    def _repr_html_(self) -> str:
        return painted(self, "pipeline_engine.report.notebook:pipeline_html")

    @overload
    def llm(
        self,
        role: str | Role,
        output: TypeForm[T],
        *,
        each: Step[..., list[I]],
        check: Callable[[T], bool | str] | Callable[Concatenate[T, ...], bool | str] | None = None,
        on_error: Drop | None = None,
        **options: Unpack[_LlmOptions],
    ) -> _LlmEachDecorator[I, T]: ...
    @overload
    def llm(
        self,
        role: str | Role,
        output: TypeForm[T],
        *,
        each: str,
        check: Callable[[T], bool | str] | Callable[Concatenate[T, ...], bool | str] | None = None,
        on_error: Drop | None = None,
        **options: Unpack[_LlmOptions],
    ) -> _LlmEachDecorator[Any, T]: ...
    @overload
    def llm(
        self,
        role: str | Role,
        output: TypeForm[T],
        *,
        each: None = None,
        check: Callable[[T], bool | str] | Callable[Concatenate[T, ...], bool | str] | None = None,
        **options: Unpack[_LlmOptions],
    ) -> _LlmDecorator[T]: ...
    @overload
    def llm(
        self,
        *,
        output: TypeForm[T],
        cascade: Sequence[str | Role],
        accept: Callable[[T], bool],
        each: Step[..., list[I]],
        check: Callable[[T], bool | str] | Callable[Concatenate[T, ...], bool | str] | None = None,
        on_error: Drop | None = None,
        **options: Unpack[_LlmOptions],
    ) -> _LlmEachDecorator[I, T]: ...
    @overload
    def llm(
        self,
        *,
        output: TypeForm[T],
        cascade: Sequence[str | Role],
        accept: Callable[[T], bool],
        each: None = None,
        check: Callable[[T], bool | str] | Callable[Concatenate[T, ...], bool | str] | None = None,
        **options: Unpack[_LlmOptions],
    ) -> _LlmDecorator[T]: ...
    def llm(
        self,
        role: str | Role | None = None,
        output: Any = NO_DEFAULT,
        *,
        name: str | None = None,
        each: Step[..., Any] | str | None = None,
        when: Callable[..., bool] | None = None,
        check: Callable[..., bool | str] | None = None,
        fallback: object = NO_DEFAULT,
        cascade: Sequence[str | Role] | None = None,
        accept: Callable[[Any], bool] | None = None,
        on_error: Drop | None = None,
        retry: _RetryArgument = INHERIT,
        timeout: _TimeoutArgument = INHERIT,
        cache: _CacheArgument = INHERIT,
        warm: _WarmArgument = INHERIT,
        hedge: _HedgeArgument = INHERIT,
        when_open: _WhenOpenArgument = INHERIT,
        policy: Policy | None = None,
        truncated: Literal["fail", "keep"] = "fail",
        stream: bool = False,
        reasoning: bool = False,
        version: str | None = None,
    ) -> Any:
        """Declare a step that asks a model: the function returns the prompt.

        The prompt is a `str`, or a list of `Message` and `str`; the function's docstring, if there is one, is
        the system message. It runs once per document (or item), before the first attempt.

        Args:
            role: The role that a caller binds to a model.
            output: The type of the output (of one item, with `each=`): a pydantic model, a list, a
                `Literal`, a union, or `str` for plain text.
            name: The step's name, if it is not the function's.
            each: A step or input whose list is mapped: the first parameter receives one item.
            when: A predicate over needs of its own; if it is false the step is skipped by choice.
            check: Looks at an output (and further needs): True is good, False or a reason is told to
                the model, which is then asked again.
            fallback: A value, a step, `Model(…)`, `Role(…)` or a tuple of them, tried in order.
            cascade: Instead of `role`, several roles, the cheapest first: each next one is asked only if
                the one before failed, or `accept` did not take its output. The last one's is taken as it is.
            accept: Looks at an output and returns whether it is good enough, so that no stronger model of
                the cascade need be asked.
            on_error: `Drop(…)` lets a mapped step go on without some items.
            retry: Overrides the pipeline's.
            timeout: Overrides the pipeline's, field by field; a number is the attempt's seconds.
            cache: `Cache(…)` lets equal calls in flight share one reply.
            warm: "first" lets one call that begins with a shared document go ahead of the others.
            hedge: `Hedge(…)` sends a second call when the first takes unusually long.
            when_open: What becomes of a call to a model whose breaker is open.
            policy: All of them at once.
            truncated: "keep" accepts a reply that was cut at its token cap.
            stream: Asks for the reply piece by piece: `Timeout(first_token=, idle=)` apply then, and
                `engine.stream(…)` can follow it.
            reasoning: Asks the model to reason in a field of its own before it answers; the field is not
                part of the output.
            version: Stands for the prompt in a journal: outputs are reused as long as it and the inputs are the
                same, whatever the prompt says.

        Raises:
            TypeError: If neither `role` and `output` nor `cascade`, `accept` and `output` are given.
        """
        settings = _policy(
            policy,
            Policy(retry=retry, timeout=timeout, cache=cache, warm=warm, hedge=hedge, when_open=when_open),
        )
        roles = _roles(role, cascade, accept)
        if output is NO_DEFAULT:
            raise TypeError("llm(…) needs the type of its output, such as str or a pydantic model.")

        def declare(function: Callable[..., Any]) -> PromptStep[..., Any]:
            step: PromptStep[..., Any] = PromptStep(
                name or function.__name__,
                function,
                "llm",
                output,
                settings,
                role=roles[0],
                cascade=roles[1:],
                accept=accept,
                each=each,
                when=when,
                check=check,
                fallbacks=_as_fallbacks(fallback),
                on_error=on_error,
                truncated=truncated,
                stream=stream,
                reasoning=reasoning,
                version=version,
                local_names=declared_names(function, depth=1),
            )
            self._add(step)
            return step

        return declare

    def embed(
        self,
        role: str | Role,
        *,
        name: str | None = None,
        when: Callable[..., bool] | None = None,
        retry: _RetryArgument = INHERIT,
        timeout: _TimeoutArgument = INHERIT,
        policy: Policy | None = None,
    ) -> _EmbedDecorator:
        """Declare a step that turns texts into vectors: the function returns the texts.

        The output is a `list[list[float]]`, a vector for each text in their order. The texts are sent in
        batches as large as the provider takes; each batch is one call with a slot, retries and
        timeouts of its own. The role is bound to one model: vectors of two models cannot be compared.

        Args:
            role: The role that a caller binds to an embedding model.
            name: The step's name, if it is not the function's.
            when: A predicate over needs of its own; if it is false the step is skipped by choice.
            retry: Overrides the pipeline's.
            timeout: Overrides the pipeline's, field by field; a number is the attempt's seconds.
            policy: Both at once, instead of `retry` and `timeout`.

        Example:
            >>> pipeline = Pipeline("vectors", inputs={"chunks": list[str]})
            >>> @pipeline.embed("embedder")
            ... def vectors(chunks: list[str]) -> list[str]:
            ...     return [chunk.lower() for chunk in chunks]
        """
        settings = _policy(policy, Policy(retry=retry, timeout=timeout))

        def declare(function: Callable[P, Sequence[str]], /) -> Step[P, list[list[float]]]:
            step: Step[P, list[list[float]]] = Step(
                name or function.__name__,
                function,
                "embed",
                list[list[float]],
                settings,
                role=role.name if isinstance(role, Role) else role,
                when=when,
                local_names=declared_names(function, depth=1),
            )
            self._add(step)
            return step

        return declare

    @overload
    def step(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> Step[P, T]: ...
    @overload
    def step(self, function: Callable[P, T], /) -> Step[P, T]: ...
    @overload
    def step(
        self,
        *,
        name: str | None = None,
        each: Step[..., list[I]],
        when: Callable[..., bool] | None = None,
        check: Callable[..., bool | str] | None = None,
        fallback: object = NO_DEFAULT,
        on_error: Drop | None = None,
        retry: _RetryArgument = INHERIT,
        timeout: _TimeoutArgument = INHERIT,
        policy: Policy | None = None,
        executor: Executor | None = None,
        version: str | None = None,
    ) -> _StepEachDecorator[I]: ...
    @overload
    def step(
        self,
        *,
        name: str | None = None,
        each: str,
        when: Callable[..., bool] | None = None,
        check: Callable[..., bool | str] | None = None,
        fallback: object = NO_DEFAULT,
        on_error: Drop | None = None,
        retry: _RetryArgument = INHERIT,
        timeout: _TimeoutArgument = INHERIT,
        policy: Policy | None = None,
        executor: Executor | None = None,
        version: str | None = None,
    ) -> _StepEachDecorator[Any]: ...
    @overload
    def step(
        self,
        *,
        name: str | None = None,
        each: None = None,
        when: Callable[..., bool] | None = None,
        check: Callable[..., bool | str] | None = None,
        fallback: object = NO_DEFAULT,
        retry: _RetryArgument = INHERIT,
        timeout: _TimeoutArgument = INHERIT,
        policy: Policy | None = None,
        executor: Executor | None = None,
        version: str | None = None,
    ) -> _StepDecorator: ...
    def step(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        each: Step[..., Any] | str | None = None,
        when: Callable[..., bool] | None = None,
        check: Callable[..., bool | str] | None = None,
        fallback: object = NO_DEFAULT,
        on_error: Drop | None = None,
        retry: _RetryArgument = INHERIT,
        timeout: _TimeoutArgument = INHERIT,
        policy: Policy | None = None,
        executor: Executor | None = None,
        version: str | None = None,
    ) -> Any:
        """Declare a step that does its own work: async functions run on trio, others in a thread.

        A function step has one attempt and no timeout unless it says more; a pipeline's `retry`
        does not reach it, because the engine cannot know whether it may be repeated.

        Args:
            function: The function, when the decorator is used without brackets.
            name: The step's name, if it is not the function's.
            each: A step or input whose list is mapped: the first parameter receives one item.
            when: A predicate over needs of its own; if it is false the step is skipped by choice.
            check: Looks at an output (and further needs); anything but True fails the step.
            fallback: A value, a step, or a tuple of them, tried in order once the attempts are spent.
            on_error: `Drop(…)` lets a mapped step go on without some items.
            retry: The function may be repeated like this.
            timeout: Overrides the pipeline's, field by field; a number is the attempt's seconds.
            policy: Both at once, instead of `retry` and `timeout`.
            executor: "process" for CPU-heavy importable functions, whose arguments and result cross
                as JSON and which are killed on timeout; "asyncio" for coroutines written for asyncio
                libraries; "thread" is the default of functions that are not async.
            version: Stands for the function's source in a journal: outputs are reused as long as it and the
                inputs are the same. Give one where what the function does depends on code that it calls in
                other packages.
        """
        settings = _policy(policy, Policy(retry=retry, timeout=timeout))

        def declare(declared: Callable[..., Any], /, depth: int = 1) -> Step[..., Any]:
            step: Step[..., Any] = Step(
                name or declared.__name__,
                declared,
                "function",
                NO_DEFAULT,  # the function's return annotation, resolved when the pipeline is compiled
                settings,
                each=each,
                when=when,
                check=check,
                fallbacks=_as_fallbacks(fallback),
                on_error=on_error,
                executor=executor,
                version=version,
                local_names=declared_names(declared, depth=depth),
            )
            self._add(step)
            return step

        return declare if function is None else declare(function, depth=2)

    @overload
    def include(
        self,
        other: Pipeline,
        *,
        prefix: str,
        inputs: Mapping[str, Step[..., Any] | str] | None = None,
        each: None = None,
    ) -> Included: ...
    @overload
    def include(
        self,
        other: Pipeline,
        *,
        prefix: str,
        inputs: Mapping[str, Step[..., Any] | str] | None = None,
        each: Step[..., list[Any]] | str,
    ) -> IncludedEach: ...
    def include(
        self,
        other: Pipeline,
        *,
        prefix: str,
        inputs: Mapping[str, Step[..., Any] | str] | None = None,
        each: Step[..., Any] | str | None = None,
    ) -> Included | IncludedEach:
        """Take over all steps of another pipeline, as `<prefix>_<name>`.

        Inputs of the other pipeline that `inputs` does not bind are taken from the input or step of
        the same name here. With `each`, the whole of it is mapped: its first input that `inputs`
        does not bind receives one item, and every step of it gives a list. Steps that the other
        pipeline gets later are not taken over.

        Args:
            other: The pipeline to take over.
            prefix: Put before each name.
            inputs: For inputs of `other`: the step, or the name of a step or input, here.
            each: A step or input whose list is mapped.

        Raises:
            ValueError: If `inputs` names an input that `other` does not have, or `each` finds none free.
        """
        bound = {inner: _name_of(outer) for inner, outer in (inputs or {}).items()}
        unknown = sorted(set(bound) - set(other.inputs))
        if unknown:
            raise ValueError(f"pipeline {other.name!r} has no input {unknown[0]!r}; it has {sorted(other.inputs)}.")
        free = [name for name in other.inputs if name not in bound]
        if each is not None and not free:
            raise ValueError(
                f"each= needs an input of pipeline {other.name!r} that receives one item, but all are bound."
            )
        each_name = None if each is None else _name_of(each)
        outer = _Outer(
            {name: name for name in free} | bound | {step.name: f"{prefix}_{step.name}" for step in other.steps},
            frozenset(step.name for step in other.steps),
            other.policy,
            each_name,
            None if each is None else free[0],
        )
        taken: dict[int, Step[..., Any]] = {}
        for step in other.steps:
            renamed = step.renamed(f"{prefix}_{step.name}", outer.scope_of(step.scope))
            taken[id(step)] = renamed
            self._add(renamed)
        return (Included if each is None else IncludedEach)(other, taken)


@dataclass(frozen=True, slots=True)
class _Outer:
    """What the names of an included pipeline mean outside, for the steps it declares and those it included."""

    names: Mapping[str, str]
    step_names: frozenset[str]
    policy: Policy
    each: str | None
    item_input: str | None

    def scope_of(self, inner: Scope | None) -> Scope:
        if inner is None:
            items = frozenset({self.item_input} if self.item_input else ())
            return Scope(self._with_item(), self.step_names, (self.policy,), self.each, items)
        names = self._with_item()
        middle = inner.names
        inner_each = names.get(inner.each, inner.each) if inner.each else None
        return Scope(
            {key: names.get(name, name) for key, name in middle.items()},
            inner.step_names | {key for key, name in middle.items() if name in self.step_names},
            (self.policy, *inner.policies),
            self.each or inner_each,
            inner.item_names | {key for key, name in middle.items() if name == self.item_input},
            is_nested=inner.is_nested or bool(self.each and inner.each),
        )

    def _with_item(self) -> Mapping[str, str]:
        if self.item_input is None or self.each is None:
            return self.names
        return {**self.names, self.item_input: self.each}


def _name_of(step: Step[..., Any] | str) -> str:
    return step if isinstance(step, str) else step.name


def _policy(policy: Policy | None, own: Policy) -> Policy:
    return own if policy is None else own.over(policy)


def _roles(
    role: str | Role | None, cascade: Sequence[str | Role] | None, accept: Callable[[Any], bool] | None
) -> tuple[str, ...]:
    """Return the roles of an llm step, those of a cascade in order."""
    if cascade is None:
        if role is None or accept is not None:
            raise TypeError("llm(…) takes a role, or cascade=[…] together with accept=.")
        roles: Sequence[str | Role] = [role]
    else:
        if role is not None:
            raise TypeError(f"llm(…): cascade={cascade!r} and the role {role!r} were given; give one of them.")
        if accept is None or not callable(accept):
            raise TypeError("llm(…): cascade=[…] needs accept=, a function that says whether an output is good enough.")
        if isinstance(cascade, str) or not all(isinstance(given, str | Role) for given in cascade):
            raise TypeError(f"llm(…): cascade={cascade!r} is no list of roles, such as ['fast', 'strong'].")
        if len(set(cascade)) < max(2, len(cascade)):
            raise TypeError(f"llm(…): cascade={cascade!r} does not name two different roles or more.")
        roles = cascade
    return tuple(given.name if isinstance(given, Role) else given for given in roles)


@dataclass(frozen=True, slots=True)
class _Taken:
    pipeline: Pipeline
    """The pipeline that was included."""
    steps: Mapping[int, Step[..., Any]]

    def _find(self, step: Step[..., Any]) -> Any:
        found = self.steps.get(id(step))
        if found is None:
            raise KeyError(f"step {step.name!r} is not a step of the included pipeline {self.pipeline.name!r}.")
        return found


class Included(_Taken):
    """Find the steps of an included pipeline: `sub[title]` is the typed step in the outer one."""

    __slots__ = ()

    def __getitem__(self, step: Step[P, T]) -> Step[P, T]:
        found: Step[P, T] = self._find(step)
        return found


class IncludedEach(_Taken):
    """Find the steps of a pipeline that was included once per item: each gives a list."""

    __slots__ = ()

    def __getitem__(self, step: Step[P, T]) -> Step[P, list[T]]:
        found: Step[P, list[T]] = self._find(step)
        return found
