"""A compiled pipeline: checked, ordered, and laid out in flat arrays for the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline_engine.declare import (
    NO_DEFAULT,
    Cache,
    Drop,
    Executor,
    Hedge,
    Kind,
    Model,
    Retry,
    Role,
    Step,
    Timeout,
    Warm,
    WhenOpen,
)
from pipeline_engine.values.painting import painted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline_engine.plan.outputs import Output
    from pipeline_engine.values import Outline

__all__ = ["Condition", "FallbackStep", "FallbackValue", "Need", "Plan", "PlannedInput", "PlannedStep"]


@dataclass(frozen=True, slots=True)
class Need:
    """Say where a parameter's value comes from."""

    parameter: str
    source: int
    """The place in the run's values: inputs first, then steps."""
    default: Any = NO_DEFAULT
    """What to take if the source was skipped by choice; NO_DEFAULT if it is required."""
    is_item: bool = False
    """Whether one item is meant, not the whole list."""
    is_keyword: bool = False
    """Whether the parameter can only be given by name."""

    @property
    def is_optional(self) -> bool:
        """Whether the consumer can do without it."""
        return self.default is not NO_DEFAULT


@dataclass(frozen=True, slots=True)
class Condition:
    """Hold a `when=` or `check=` function and its needs."""

    function: Callable[..., Any]
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class FallbackValue:
    """Fall back to a value that was declared."""

    value: Any


@dataclass(frozen=True, slots=True)
class FallbackStep:
    """Fall back to the output of another step."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """Hold a declared input."""

    name: str
    output: Output


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """Hold one step as the scheduler needs it."""

    index: int
    """Its place among the steps, in topological order."""
    name: str
    kind: Kind
    function: Callable[..., Any]
    system: str | None
    """The system message of an llm step: its function's docstring."""
    needs: tuple[Need, ...]
    """One for each parameter that gets a value, in the order of the signature."""
    when: Condition | None
    check: Condition | None
    each: int | None
    """The source of its items; None if it is not mapped."""
    item_sources: tuple[int, ...]
    """The mapped steps, as places in the values, whose item i its own item i needs."""
    output: Output
    role: str | None
    cascade: tuple[str, ...]
    """Further roles that are asked in order, as long as `accept` does not take an output."""
    accept: Callable[[Any], bool] | None
    fallbacks: tuple[FallbackValue | FallbackStep | Model | Role, ...]
    retry: Retry
    timeout: Timeout
    timeout_said: Timeout
    """Without what is only the engine's default: a model's own timeouts stand between the two."""
    cache: Cache | None
    warm: Warm | None
    hedge: Hedge | None
    when_open: WhenOpen | None
    attempt_seconds: float | None
    """The timeout of an attempt, looked up once."""
    step_seconds: float | None
    """The timeout of the step, looked up once."""
    is_timed: bool
    """Whether anything may bound it."""
    on_error: Drop | None
    executor: Executor | Literal["trio"] | None
    """Where a function runs; None for a step that calls a model."""
    version: str | None
    """Stands for its function in a journal."""
    truncated: Literal["fail", "keep"]
    is_streamed: bool
    """Whether the reply is asked for piece by piece."""
    is_on_demand: bool
    """Whether it is named only as a fallback."""
    remaining: int
    """The number of steps on the longest path from here to a leaf, itself included."""
    collect: Callable[[list[Any]], tuple[Any, ...]] | None = field(repr=False)
    """Returns the arguments from the run's values, if all needs are required and given by place."""
    collect_item: Callable[[list[Any], int], tuple[Any, ...]] | None = field(repr=False)
    """The same for an item, if the list that it is taken from is there as a whole."""
    declaration: Step[..., Any] = field(repr=False)

    @property
    def is_mapped(self) -> bool:
        """Whether it runs once for each item of a list."""
        return self.each is not None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Hold a compiled pipeline. It never changes, and many runs may share it.

    Example:
        >>> from pipeline_engine import Pipeline, compile_pipeline
        >>> pipeline = Pipeline("count", inputs={"text": str})
        >>> @pipeline.step
        ... def words(text: str) -> list[str]:
        ...     return text.split()
        >>> @pipeline.step
        ... def count(words: list[str]) -> int:
        ...     return len(words)
        >>> plan = compile_pipeline(pipeline)
        >>> [step.name for step in plan.steps]
        ['words', 'count']
        >>> print(plan.to_mermaid())
        flowchart LR
          text([text])
          words[words]
          count[count]
          text --> words
          words --> count
    """

    name: str
    """The pipeline's name."""
    inputs: tuple[PlannedInput, ...]
    steps: tuple[PlannedStep, ...]
    """Each stands after its needs."""
    outline: Outline
    """The plan as far as drawing needs it; it travels in the records."""
    index_of: Mapping[str, int] = field(repr=False)
    """From a step's name to its place."""
    followers: tuple[tuple[int, ...], ...] = field(repr=False)
    """For each step, the steps that need its whole output."""
    when_followers: tuple[tuple[int, ...], ...] = field(repr=False)
    """For each step, the steps whose condition needs it."""
    item_followers: tuple[tuple[int, ...], ...] = field(repr=False)
    """For each mapped step, the steps that are mapped over it item by item."""
    missing: tuple[int, ...] = field(repr=False)
    """For each step, how many steps it needs as a whole."""
    when_missing: tuple[int, ...] = field(repr=False)
    """For each step, how many steps its condition needs."""
    is_plain: tuple[bool, ...] = field(repr=False)
    """For each step, whether it starts as soon as nothing is missing: no condition, map or demand."""
    leaves: tuple[int, ...] = field(repr=False)
    """The steps that nobody needs: a run is judged by them."""
    on_demand: tuple[int, ...] = field(repr=False)
    """The steps that are named only as a fallback."""
    roles: tuple[str, ...]
    """The roles that must be bound to models."""
    has_linked_calls: bool = field(repr=False)
    """Whether calls may wait for other calls: to share a reply, or to find a warm cache."""

    def __repr__(self) -> str:
        return f"Plan({self.name!r}, inputs={len(self.inputs)}, steps={len(self.steps)})"

    def _repr_html_(self) -> str:
        return painted(self, "pipeline_engine.report.notebook:plan_html")

    def to_mermaid(self) -> str:
        """Draw the plan as a Mermaid flowchart, which many Markdown viewers show as a picture."""
        from pipeline_engine.plan.draw import draw_mermaid

        return draw_mermaid(self.outline)

    def to_dot(self) -> str:
        """Draw the plan in Graphviz' language."""
        from pipeline_engine.plan.draw import draw_dot

        return draw_dot(self.outline)

    def to_text(self) -> str:
        """Draw the plan for a terminal."""
        from pipeline_engine.plan.draw import draw_text

        return draw_text(self.outline)
