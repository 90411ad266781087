"""Pipelines: declaring steps, and taking over those of another pipeline."""

import pytest

from pipeline_engine.declare import Drop, Model, Pipeline, Role, use
from pipeline_engine.plan import compile_pipeline


def translation(**options):
    """Two steps that others include: `draft(text)` and `final(text, draft)`."""
    pipeline = Pipeline("translation", inputs={"text": str, "language": str}, **options)

    @pipeline.llm("fast", str)
    def draft(text: str, language: str) -> str:
        return text + language

    @pipeline.step
    def final(text: str, first: str = use(draft)) -> str:
        return first

    return pipeline, draft, final


def sources(plan):
    """Return what each step needs, by name: `[item]` where it is one item."""
    names = [*(given.name for given in plan.inputs), *(step.name for step in plan.steps)]
    return {
        step.name: [names[need.source] + ("[item]" if need.is_item else "") for need in step.needs]
        for step in plan.steps
    }


def test_a_pipeline_needs_a_name():
    """Together with a document's key it identifies results in a journal."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Pipeline("", inputs={})

    assert str(caught.value) == "a pipeline needs a name: with a document's key it identifies a run's results."


def test_declaring_checks_nothing():
    """Problems are told together when the pipeline is compiled, not one by one at import."""
    pipeline = Pipeline("p", inputs={"document": str})

    @pipeline.step
    def title(documemt: int) -> str: ...

    assert pipeline.steps == (title,)


def test_a_repr_shows_what_the_pipeline_consists_of():
    """What one wants to see in a notebook."""
    assert repr(translation()[0]) == ("Pipeline('translation', inputs=['language', 'text'], steps=['draft', 'final'])")


def test_options_arrive_at_the_step():
    """Whatever is written at the decorator is what the plan is made from."""
    pipeline = Pipeline("p", inputs={"chunks": list[str]})
    spare = Model("openai:gpt-4o")

    @pipeline.step(each="chunks")
    def plain(chunk: str) -> str: ...

    @pipeline.llm(
        Role("fast"),
        str,
        name="note",
        each="chunks",
        when=bool,
        check=str.isprintable,
        fallback=(plain, spare, "none"),
        on_error=Drop(at_most=1),
        truncated="keep",
    )
    def function(chunk: str) -> str: ...

    assert (function.name, function.role, function.each) == ("note", "fast", "chunks")
    assert (function.when, function.check, function.truncated) == (bool, str.isprintable, "keep")
    assert (function.fallbacks, function.on_error) == ((plain, spare, "none"), Drop(at_most=1))


@pytest.mark.parametrize(
    ("fallback", "kept"),
    [(None, (None,)), ("a", ("a",)), (["a", "b"], (["a", "b"],)), (("a", "b"), ("a", "b")), ((), ())],
)
def test_only_a_tuple_is_several_fallbacks(fallback, kept):
    """A list is a value that a step may well return, and None is one, too."""
    step = Pipeline("p", inputs={}).step(fallback=fallback)(lambda: None)

    assert step.fallbacks == kept


def test_included_steps_get_the_prefix():
    """Two pipelines with a step `title` can stand side by side."""
    inner, *_ = translation()
    outer = Pipeline("outer", inputs={"text": str, "language": str})

    outer.include(inner, prefix="de")

    assert [step.name for step in outer.steps] == ["de_draft", "de_final"]
    assert [step.name for step in inner.steps] == ["draft", "final"]


def test_inputs_that_are_not_bound_come_from_the_same_name_outside():
    """The usual case: both pipelines work on `text`."""
    outer = Pipeline("outer", inputs={"text": str, "language": str})
    outer.include(translation()[0], prefix="de")

    assert sources(compile_pipeline(outer)) == {"de_draft": ["text", "language"], "de_final": ["text", "de_draft"]}


def test_inputs_are_bound_by_step_or_by_name():
    """A step that was declared is at hand; an input has only its name."""
    outer = Pipeline("outer", inputs={"document": str, "target": str})

    @outer.step
    def cleaned(document: str) -> str: ...

    outer.include(translation()[0], prefix="de", inputs={"text": cleaned, "language": "target"})

    assert sources(compile_pipeline(outer)) == {
        "cleaned": ["document"],
        "de_draft": ["cleaned", "target"],
        "de_final": ["cleaned", "de_draft"],
    }


def test_a_pipeline_can_be_included_twice():
    """Translate, then translate back: the second takes the first one's output."""
    inner, draft, final = translation()
    outer = Pipeline("outer", inputs={"text": str, "language": str})
    there = outer.include(inner, prefix="there")
    back = outer.include(inner, prefix="back", inputs={"text": there[final]})

    @outer.step
    def compared(text: str, one: str = use(there[draft]), other: str = use(back[final])) -> str: ...

    assert sources(compile_pipeline(outer)) == {
        "there_draft": ["text", "language"],
        "there_final": ["text", "there_draft"],
        "back_draft": ["there_final", "language"],
        "back_final": ["there_final", "back_draft"],
        "compared": ["text", "there_draft", "back_final"],
    }


def test_each_maps_the_whole_of_the_included_pipeline():
    """Item i of `final` needs item i of `draft`, not all of them; what is bound is shared by all items."""
    outer = Pipeline("outer", inputs={"language": str, "chapters": list[str]})
    each = outer.include(translation()[0], prefix="ch", each="chapters")
    plan = compile_pipeline(outer)

    assert sources(plan) == {
        "ch_draft": ["chapters[item]", "language"],
        "ch_final": ["chapters[item]", "ch_draft[item]"],
    }
    assert [step.is_mapped for step in plan.steps] == [True, True]
    assert [step.item_sources for step in plan.steps] == [(), (2,)]
    assert each.pipeline.name == "translation"


def test_consumers_outside_get_the_list_of_a_mapped_inclusion():
    """Map, then reduce: one outer step that takes all of them."""
    inner, _, final = translation()
    outer = Pipeline("outer", inputs={"language": str, "chapters": list[str]})
    sub = outer.include(inner, prefix="ch", each="chapters")

    @outer.step
    def book(texts: list[str] = use(sub[final])) -> str: ...

    assert sources(compile_pipeline(outer))["book"] == ["ch_final"]


def test_inclusions_can_be_nested():
    """A pipeline that includes others can be included itself, and its inner names stay its own."""
    inner, draft, final = translation()
    middle = Pipeline("middle", inputs={"letter": str, "language": str})
    sub = middle.include(inner, prefix="tr", inputs={"text": "letter"})

    @middle.step
    def signed(text: str = use(sub[final])) -> str: ...

    outer = Pipeline("outer", inputs={"letters": list[str], "language": str})
    mapped = outer.include(middle, prefix="all", each="letters")

    assert sources(compile_pipeline(outer)) == {
        "all_tr_draft": ["letters[item]", "language"],
        "all_tr_final": ["letters[item]", "all_tr_draft[item]"],
        "all_signed": ["all_tr_final[item]"],
    }
    assert mapped[sub[draft]].name == "all_tr_draft"


def test_conditions_checks_and_fallbacks_come_along_with_their_names():
    """They are wired like any other need, also where names have changed."""
    inner = Pipeline("inner", inputs={"text": str})

    @inner.step
    def size(text: str) -> int: ...

    @inner.step
    def spare(text: str) -> str: ...

    @inner.llm("fast", str, when=lambda size: size > 3, check=lambda output, text: output in text, fallback=spare)
    def title(text: str) -> str: ...

    outer = Pipeline("outer", inputs={"letter": str})
    outer.include(inner, prefix="in", inputs={"text": "letter"})
    plan = compile_pipeline(outer)
    step = plan.steps[plan.index_of["in_title"]]

    assert [need.source for need in step.when.needs] == [1 + plan.index_of["in_size"]]
    assert [need.source for need in step.check.needs] == [0]
    assert [fallback.name for fallback in step.fallbacks] == ["in_spare"]


def test_steps_declared_later_are_not_taken_over():
    """What is included is what was there; a later declaration elsewhere changes nothing here."""
    inner, *_ = translation()
    outer = Pipeline("outer", inputs={"text": str, "language": str})
    outer.include(inner, prefix="de")

    inner.step(name="late")(lambda text: text)

    assert [step.name for step in outer.steps] == ["de_draft", "de_final"]


def test_a_binding_of_an_unknown_input_is_refused():
    """A misspelt binding would leave the input to chance."""
    outer = Pipeline("outer", inputs={"document": str})

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        outer.include(translation()[0], prefix="de", inputs={"txt": "document"})

    assert str(caught.value) == "pipeline 'translation' has no input 'txt'; it has ['language', 'text']."


def test_each_needs_an_input_that_is_free():
    """If all inputs are bound, nothing would receive the items."""
    outer = Pipeline("outer", inputs={"a": str, "b": list[str]})

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        outer.include(translation()[0], prefix="de", inputs={"text": "a", "language": "a"}, each="b")

    assert str(caught.value) == (
        "each= needs an input of pipeline 'translation' that receives one item, but all are bound."
    )


def test_an_inclusion_knows_only_its_own_steps():
    """The same function included twice is two steps: the right one must be asked for."""
    inner, draft, _ = translation()
    outer = Pipeline("outer", inputs={"text": str, "language": str})
    sub = outer.include(inner, prefix="de")

    with pytest.raises(KeyError) as caught:
        sub[sub[draft]]

    assert caught.value.args == ("step 'de_draft' is not a step of the included pipeline 'translation'.",)
