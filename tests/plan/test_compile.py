"""From a declaration to a plan: edges, defaults, conditions, fallbacks and the names of annotations."""

import dataclasses
import gc
import weakref
from importlib.util import module_from_spec, spec_from_file_location
from typing import Literal

import pytest
from pydantic import BaseModel

from pipeline_engine import Drop, Model, Pipeline, Plan, Role, compile_pipeline, use
from pipeline_engine.declare import NO_DEFAULT
from pipeline_engine.plan import FallbackStep, FallbackValue, Need
from pipelines.document import pipeline as document


class Category(BaseModel):
    label: str


def step_of(pipeline, name):
    plan = compile_pipeline(pipeline)
    return plan.steps[plan.index_of[name]]


def test_a_parameter_named_like_a_step_or_an_input_is_the_edge():
    """The one rule that a user has to know."""
    plan = compile_pipeline(document)

    assert {step.name: step.needs for step in plan.outline.steps} == {
        "title": ("document",),
        "keywords": ("document",),
        "category": ("document",),
        "summary": ("document", "title", "keywords"),
        "quality": ("document", "title", "category"),
    }


def test_every_step_stands_after_its_needs_whatever_the_order_of_declaration():
    """Modules may declare their steps in any order."""
    pipeline = Pipeline("p", inputs={"text": str})
    pipeline.step(name="last")(lambda middle, first: 0)
    pipeline.step(name="middle")(lambda first: 0)
    pipeline.step(name="first")(lambda text: 0)
    pipeline.step(name="alone")(lambda text: 0)
    plan = compile_pipeline(pipeline)

    assert [step.name for step in plan.steps] == ["first", "middle", "last", "alone"]
    assert [step.remaining for step in plan.steps] == [3, 2, 1, 1]
    assert [step.layer for step in plan.outline.steps] == [0, 1, 2, 0]
    assert [plan.steps[index].name for index in plan.leaves] == ["last", "alone"]


def test_the_arrays_count_each_need_once():
    """The scheduler counts down: a need that is counted twice would never be met."""
    pipeline = Pipeline("p", inputs={"text": str})

    @pipeline.step
    def first(text: str) -> str: ...

    @pipeline.step(when=lambda first: True, check=lambda output, first: True)
    def second(first: str, again: str = use(first), text: str = "") -> str: ...

    plan = compile_pipeline(pipeline)

    assert (plan.missing, plan.when_missing) == ((0, 1), (0, 1))
    assert (plan.followers, plan.when_followers, plan.is_plain) == (((1,), ()), ((1,), ()), (True, False))


def test_a_parameter_with_an_ordinary_default_is_an_optional_need_or_a_constant():
    """Branches join by defaults; constants keep prompts configurable."""
    pipeline = Pipeline("p", inputs={"text": str})
    pipeline.step(name="invoice", when=lambda text: "invoice" in text)(lambda text: text)

    @pipeline.step
    def reply(text: str, invoice: str | None = None, tone: str = "kind") -> str: ...

    assert step_of(pipeline, "reply").needs == (
        Need("text", 0),
        Need("invoice", 1, default=None),
    )


def test_use_renames_and_may_make_optional():
    """A default of its own, beside the step that gives the value."""
    pipeline = Pipeline("p", inputs={"text": str})

    @pipeline.step
    def title(text: str) -> str: ...

    @pipeline.step
    def reply(one: str = use(title), two: str = use("title", default="none"), *, three: str = use("text")) -> str: ...

    assert step_of(pipeline, "reply").needs == (
        Need("one", 1),
        Need("two", 1, default="none"),
        Need("three", 0, is_keyword=True),
    )
    assert Need("one", 1).default is NO_DEFAULT


def test_arguments_are_collected_the_quick_way_where_all_are_simply_there():
    """Half of a run's overhead would be calls of functions."""
    plan = compile_pipeline(document)
    values = ["the text", "T", "K", "C", "S", "Q"]

    assert [step.collect(values) for step in plan.steps if step.name in ("title", "summary")] == [
        ("the text",),
        ("the text", "T", "K"),
    ]


def test_the_first_parameter_of_a_mapped_step_is_the_item_whatever_its_name():
    """Even if a step of that name exists: an item is what the author sees there."""
    pipeline = Pipeline("p", inputs={"texts": list[str], "chunk": int})

    @pipeline.step(each="texts")
    def note(chunk: str, texts: list[str]) -> str: ...

    @pipeline.step
    def other(chunk: int) -> int: ...

    assert step_of(pipeline, "note").needs == (Need("chunk", 0, is_item=True), Need("texts", 0))


def test_a_step_mapped_over_a_mapped_step_follows_it_item_by_item():
    """Item i must not wait for item j."""
    pipeline = Pipeline("p", inputs={"texts": list[str]})

    @pipeline.step(each="texts")
    def note(text: str) -> int: ...

    @pipeline.step(each=note, on_error=Drop(at_most=1))
    def doubled(number: int) -> int: ...

    @pipeline.step
    def total(note: list[int], doubled: list[int]) -> int: ...

    plan = compile_pipeline(pipeline)

    assert [step.item_sources for step in plan.steps] == [(), (1,), ()]
    assert (plan.item_followers, plan.followers) == (((1,), (), ()), ((2,), (2,), ()))
    assert plan.missing == (0, 0, 2)


def test_conditions_and_checks_have_needs_of_their_own():
    """A check may compare an output with the document; its first parameter is the output."""
    pipeline = Pipeline("p", inputs={"text": str, "limit": int})

    def is_long(text: str, limit: int = 3) -> bool: ...

    def is_new(output: str, text: str, /, *, limit: int) -> bool: ...

    @pipeline.step(when=is_long, check=is_new)
    def title(text: str) -> str: ...

    step = step_of(pipeline, "title")

    assert (step.when.function, step.when.needs) == (is_long, (Need("text", 0), Need("limit", 1, default=3)))
    assert (step.check.function, step.check.needs) == (is_new, (Need("text", 0), Need("limit", 1, is_keyword=True)))


def test_fallbacks_become_what_the_scheduler_tries_next():
    """In their order, values validated, steps as places."""
    pipeline = Pipeline("p", inputs={"text": str})

    @pipeline.step
    def spare(text: str) -> Category: ...

    model = Model("openai:gpt-4o")

    @pipeline.llm("fast", Category, fallback=(Role("strong"), model, spare, Category(label="other")))
    def category(text: str) -> str: ...

    plan = compile_pipeline(pipeline)
    step = plan.steps[plan.index_of["category"]]

    assert step.fallbacks == (
        Role("strong"),
        model,
        FallbackStep(plan.index_of["spare"], "spare"),
        FallbackValue(Category(label="other")),
    )
    assert plan.roles == ("fast", "strong")
    assert plan.on_demand == (plan.index_of["spare"],)


def test_a_fallback_step_that_somebody_needs_runs_anyway():
    """It is on demand only if nothing else asks for it."""
    pipeline = Pipeline("p", inputs={"text": str})

    @pipeline.step
    def spare(text: str) -> str: ...

    @pipeline.step(fallback=spare)
    def title(text: str) -> str: ...

    @pipeline.step
    def both(title: str, spare: str) -> str: ...

    plan = compile_pipeline(pipeline)

    assert plan.on_demand == ()
    assert [step.is_on_demand for step in plan.steps] == [False, False, False]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Category, Category(label="other")),
        (str, ""),
        (str | None, None),
        (float, 1),
        (Literal["yes", "no"], "no"),
        (list[str], []),
        (list[Category], [Category(label="other")]),
        (dict[str, int], {"a": 1}),
    ],
)
def test_a_fallback_value_fits_as_it_stands(kind, value):
    """It is handed on like an output, so it must be one."""
    pipeline = Pipeline("p", inputs={"text": str})
    pipeline.llm("fast", kind, name="answer", fallback=value)(lambda text: text)

    assert step_of(pipeline, "answer").fallbacks == (FallbackValue(value),)


def test_executors_follow_the_kind_of_function():
    """Async functions run on trio, others in a thread; prompts run nowhere else."""
    pipeline = Pipeline("p", inputs={"text": str})

    @pipeline.step
    async def on_trio(text: str) -> str: ...

    @pipeline.step
    def in_thread(text: str) -> str: ...

    @pipeline.step(executor="asyncio")
    async def on_asyncio(text: str) -> str: ...

    @pipeline.llm("fast", str)
    def prompt(text: str) -> str: ...

    assert [step.executor for step in compile_pipeline(pipeline).steps] == ["trio", "thread", "asyncio", None]


def test_the_system_message_is_an_llm_steps_docstring_only():
    """A function step's docstring is for its readers."""
    pipeline = Pipeline("p", inputs={"text": str})

    @pipeline.llm("fast", str)
    def prompt(text: str) -> str:
        """Be brief."""

    @pipeline.step
    def work(text: str) -> str:
        """Work."""

    assert [step.system for step in compile_pipeline(pipeline).steps] == ["Be brief.", None]


def test_a_parameter_without_an_annotation_is_not_checked():
    """What says nothing is not contradicted: notebooks and lambdas."""
    pipeline = Pipeline("p", inputs={"text": str})
    pipeline.step(name="length")(lambda text: 3)
    pipeline.step(name="shout")(lambda length: "A")

    assert [step.name for step in compile_pipeline(pipeline).steps] == ["length", "shout"]


POSTPONED = """
from __future__ import annotations

from pydantic import BaseModel

from pipeline_engine import Pipeline


def make(top):
    class Local(BaseModel):
        text: str

    pipeline = Pipeline("local", inputs={"document": top})

    @pipeline.step
    def title(document: top) -> Local: ...

    @pipeline.step(name="shout", when=lambda title: True)
    def shouted(title: Local) -> list[Local]: ...

    @pipeline.llm("fast", Local, each=shouted)
    def note(item: Local, title: Local) -> str: ...

    return pipeline, Local
"""


def test_postponed_annotations_see_the_names_around_the_step(tmp_path):
    """`from __future__ import annotations` in a module of factories is common, and its names are local."""
    (tmp_path / "postponed.py").write_text(POSTPONED, encoding="utf-8")
    spec = spec_from_file_location("postponed", tmp_path / "postponed.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    pipeline, local = module.make(str)
    plan = compile_pipeline(pipeline)

    assert [step.output.type for step in plan.steps] == [local, list[local], local]
    assert [given.output.type for given in plan.inputs] == [str]


def test_a_string_annotation_may_name_what_is_defined_later():
    """Annotations are read when the pipeline is compiled, not when the step is declared."""
    pipeline = Pipeline("p", inputs={"text": str})

    @pipeline.step
    def title(text: str) -> "Later": ...

    assert step_of(pipeline, "title").output.type is Later


class Later(BaseModel):
    text: str


def test_compiling_twice_gives_the_same_plan():
    """A service that runs one pipeline a million times compiles it once."""
    pipeline = Pipeline("p", inputs={"text": str})
    pipeline.step(name="title")(lambda text: text)
    plan = compile_pipeline(pipeline)

    assert compile_pipeline(pipeline) is plan
    assert compile_pipeline(plan) is plan


def test_a_step_that_is_added_makes_a_new_plan():
    """Notebooks declare, run, and declare on; runs under way keep the plan they began with."""
    pipeline = Pipeline("p", inputs={"text": str})
    pipeline.step(name="title")(lambda text: text)
    before = compile_pipeline(pipeline)
    pipeline.step(name="summary")(lambda title: title)
    after = compile_pipeline(pipeline)

    assert ([step.name for step in before.steps], [step.name for step in after.steps]) == (
        ["title"],
        ["title", "summary"],
    )


def test_a_pipeline_that_nobody_holds_is_freed_with_its_plan():
    """A service that builds a pipeline for each request must not keep them all."""

    def declare():
        pipeline = Pipeline("p", inputs={"text": str})

        @pipeline.step
        def title(text: str) -> str: ...

        compile_pipeline(pipeline)
        return weakref.ref(pipeline)

    left = declare()
    gc.collect()

    assert left() is None


def test_a_plan_cannot_be_changed():
    """Many runs share it, on several threads."""
    plan = compile_pipeline(document)

    for part in (plan, plan.steps[0], plan.steps[0].needs[0], plan.inputs[0]):
        field = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field, "other")
    assert isinstance(plan, Plan)
    assert all(isinstance(part, tuple) for part in (plan.steps, plan.inputs, plan.leaves, plan.roles, plan.missing))


def test_a_repr_of_a_plan_is_short():
    """A thousand steps in a traceback help nobody."""
    assert repr(compile_pipeline(document)) == "Plan('document', inputs=1, steps=5)"


def test_a_thousand_steps_of_one_type_share_one_validator():
    """Building a validator costs more than anything else in compiling; a run should not need a thousand."""
    pipeline = Pipeline("wide", inputs={"text": str})
    for number in range(1000):

        @pipeline.llm("fast", Category, name=f"step_{number}")
        def prompt(text: str) -> str: ...

    plan = compile_pipeline(pipeline)

    assert len({id(step.output) for step in plan.steps}) == 1


def test_a_long_line_of_steps_compiles():
    """Three thousand steps in a row are beyond Python's usual recursion limit."""
    pipeline = Pipeline("line", inputs={"step_0": int})
    for number in range(3000):
        pipeline.step(name=f"step_{number + 1}")(line_of(number))
    plan = compile_pipeline(pipeline)

    assert len(plan.steps) == 3000
    assert (plan.steps[0].remaining, plan.steps[-1].remaining) == (3000, 1)
    assert sum(plan.missing) == 2999


def line_of(number):
    def work(before: int = use(f"step_{number}")) -> int: ...

    return work
