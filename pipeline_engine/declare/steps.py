"""What a decorator leaves behind: steps as values that name a function and how to run it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

from pipeline_engine.values import Message

if TYPE_CHECKING:
    from pipeline_engine.declare.policies import Drop, Kind, Policy

__all__ = ["NO_DEFAULT", "Executor", "PromptStep", "Reference", "Scope", "Step", "declared_names", "use"]

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")
T_co = TypeVar("T_co", covariant=True)

Executor = Literal["thread", "process", "asyncio"]


class _NoDefault:
    """The type of `NO_DEFAULT`."""

    def __repr__(self) -> str:
        return "NO_DEFAULT"


NO_DEFAULT = _NoDefault()
"""Stands for a default that was not given, because None is a default like any other."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Say what the names of an included pipeline mean in the one that includes it."""

    names: Mapping[str, str]
    """From a name inside to the name outside."""
    step_names: frozenset[str]
    """The names inside that stand for steps which came in together."""
    policies: tuple[Policy, ...]
    """The included pipelines' defaults, outermost first."""
    each: str | None = None
    """The outer name over which the whole included pipeline is mapped."""
    item_names: frozenset[str] = frozenset()
    """The names inside that stand for one item."""
    is_nested: bool = False
    """Whether a mapped pipeline was itself included mapped, which cannot be compiled."""


@dataclass(frozen=True, slots=True, eq=False)
class Step(Generic[P, T_co]):
    """Stand for a declared step: pass it to `use`, `each=`, `fallback=`, or ask a result for it.

    Steps are made by the decorators of a `Pipeline`, never by hand.
    """

    name: str
    """The step's name: its function's, unless `name=` says another."""
    function: Callable[..., Any] = field(repr=False)
    """The function as it was written."""
    kind: Kind
    """Whether the function returns a prompt, texts to embed, or does the work itself."""
    output: Any = field(repr=False)
    """The declared type of the output, of one item if the step is mapped; NO_DEFAULT if not declared."""
    policy: Policy = field(repr=False)
    """The step's own policy."""
    role: str | None = field(default=None, repr=False)
    """The model role of a step that calls one."""
    cascade: tuple[str, ...] = field(default=(), repr=False)
    """Further roles that are asked in order, as long as `accept` does not take an output."""
    accept: Callable[[Any], bool] | None = field(default=None, repr=False)
    """Whether an output is good enough, so that the cascade ends with it."""
    each: Step[..., Any] | str | None = field(default=None, repr=False)
    """What the step is mapped over."""
    when: Callable[..., bool] | None = field(default=None, repr=False)
    """The condition under which it runs."""
    check: Callable[..., bool | str] | None = field(default=None, repr=False)
    """What an output must pass."""
    fallbacks: tuple[Any, ...] = field(default=(), repr=False)
    """What is tried in order once the attempts are spent."""
    on_error: Drop | None = field(default=None, repr=False)
    """Whether a mapped step goes on without failed items."""
    executor: Executor | None = field(default=None, repr=False)
    """Where a function runs; None for trio if it is async, else a thread."""
    truncated: Literal["fail", "keep"] = field(default="fail", repr=False)
    """What to do with a reply that was cut at its token cap."""
    stream: bool = field(default=False, repr=False)
    """Whether the reply is asked for piece by piece."""
    reasoning: bool = field(default=False, repr=False)
    """Whether the model is asked to reason before it answers."""
    version: str | None = field(default=None, repr=False)
    """Stands for the function in a journal."""
    scope: Scope | None = field(default=None, repr=False)
    """What names mean, where the step came in with an included pipeline."""
    local_names: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Names around a step declared inside a function: postponed annotations need them."""

    @property
    def file(self) -> str:
        """The file in which the function is written."""
        return self._code_place()[0]

    @property
    def line(self) -> int:
        """The line at which the function is written."""
        return self._code_place()[1]

    def _code_place(self) -> tuple[str, int]:
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return (code.co_filename, code.co_firstlineno) if code else ("<unknown>", 0)

    def renamed(self, name: str, scope: Scope) -> Step[P, T_co]:
        """Return the step as a member of an including pipeline."""
        return replace(self, name=name, scope=scope)


@dataclass(frozen=True, slots=True, eq=False)
class PromptStep(Step[P, T_co]):
    """Stand for a declared llm step, whose function returns its prompt."""

    def render(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Message, ...]:
        """Return the messages that the step would send for these arguments.

        The function's docstring, if there is one, is the system message.

        Raises:
            TypeError: If the function returns neither a `str` nor messages.
        """
        return as_messages(self.function(*args, **kwargs), self.function.__doc__)


def as_messages(prompt: object, system: str | None) -> tuple[Message, ...]:
    """Return a prompt function's result as messages, its docstring as the system message before them.

    Raises:
        TypeError: If `prompt` is neither a `str` nor a list of messages and texts.
    """
    before = (Message("system", inspect.cleandoc(system)),) if system else ()
    if isinstance(prompt, str):
        return (*before, Message("user", prompt))
    if isinstance(prompt, Sequence) and len(prompt) and all(isinstance(part, Message | str) for part in prompt):
        return (*before, *(Message("user", part) if isinstance(part, str) else part for part in prompt))
    shown = "nothing (is a `return` missing?)" if prompt is None else f"a {type(prompt).__name__}"
    raise TypeError(f"returned {shown}. A prompt is a str, or a list of Message and str that is not empty.")


@dataclass(frozen=True, slots=True)
class Reference:
    """Stand, as a parameter's default value, for the output of a step that has another name."""

    name: str
    """The step's or the input's name."""
    step: Step[..., Any] | None = None
    """The step, if it was given as one."""
    default: Any = NO_DEFAULT
    """What to take if the step was skipped by choice."""


@overload
def use(step: Step[..., T]) -> T: ...
@overload
def use(step: Step[..., T], *, default: D) -> T | D: ...
@overload
def use(step: str) -> Any: ...
@overload
def use(step: str, *, default: Any) -> Any: ...
def use(step: Step[..., Any] | str, *, default: Any = NO_DEFAULT) -> Any:
    """Take the output of a step (or an input, by name) under the parameter's own name.

    Type checkers see the step's output type, so a wrongly typed parameter is an error.

    Args:
        step: The step, or the name of a step or input.
        default: Makes the need optional: the value if the step was skipped by choice.

    Raises:
        TypeError: If `step` is neither a step nor a name.

    Example:
        >>> from pipeline_engine import Pipeline
        >>> pipeline = Pipeline("shout", inputs={"text": str})
        >>> @pipeline.step
        ... def trimmed(text: str) -> str:
        ...     return text.strip()
        >>> @pipeline.step
        ... def shouted(words: str = use(trimmed)) -> str:
        ...     return words.upper()
    """
    if isinstance(step, str):
        return Reference(step, default=default)
    if isinstance(step, Step):
        return Reference(step.name, step, default)
    raise TypeError(f"use(…) takes a step or a name, not {step!r}. Name the step itself, not its output.")


def declared_names(function: Callable[..., Any], depth: int) -> Mapping[str, Any]:
    """Return the local names around `function`, if it is declared inside another one.

    Args:
        function: The function that is being decorated.
        depth: How many frames above this one the declaration stands.
    """
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return {}
    return dict(sys._getframe(depth + 1).f_locals)  # noqa: SLF001 - the only way to a function's names
