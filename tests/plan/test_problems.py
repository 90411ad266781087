"""Each problem code: what is said, where it points, and what is suggested."""

import pytest
from pydantic import BaseModel

from pipeline_engine import Drop, Model, Pipeline, PlanError, Role, compile_pipeline, use


class Title(BaseModel):
    text: str


def problems(source):
    """Compile what `broken.py` declares; return its problems as they are told, line 1 being the first line below."""
    names = {
        "Drop": Drop,
        "Model": Model,
        "Pipeline": Pipeline,
        "Role": Role,
        "Title": Title,
        "use": use,
        "__name__": "broken",
    }
    exec(compile(source.lstrip("\n"), "broken.py", "exec"), names)
    with pytest.raises(PlanError) as caught:
        compile_pipeline(names["pipeline"])
    return [str(problem) for problem in caught.value.problems]


BROKEN = {
    "PE101 a misspelt parameter": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(document: str) -> str: ...
@pipeline.step
def summary(document: str, titel: str) -> str: ...
""",
        "PE101 step 'summary' needs 'titel', but no step or input has that name. Did you mean 'title'? (broken.py:4)",
    ),
    "PE101 a parameter that is like nothing": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(document: str, zzz: int) -> str: ...
@pipeline.step
def keywords(document: str) -> str: ...
""",
        (
            "PE101 step 'title' needs 'zzz', but no step or input has that name. There are: document, keywords. "
            "(broken.py:2)"
        ),
    ),
    "PE101 a misspelt name in use()": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(text: str = use("documnt")) -> str: ...
""",
        "PE101 step 'title' uses 'documnt', but no step or input has that name. Did you mean 'document'? (broken.py:2)",
    ),
    "PE101 a misspelt name in each=": (
        """
pipeline = Pipeline("p", inputs={"documents": list})
@pipeline.step(each="document")
def title(document: str) -> str: ...
""",
        (
            "PE101 step 'title' is mapped over 'document', but no step or input has that name. "
            "Did you mean 'documents'? (broken.py:2)"
        ),
    ),
    "PE101 a misspelt name in a condition": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(when=lambda documen: True)
def title(document: str) -> str: ...
""",
        (
            "PE101 step 'title' needs 'documen', but no step or input has that name. "
            "Did you mean 'document'? (broken.py:2)"
        ),
    ),
    "PE102 two steps that need each other": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(document: str, summary: str) -> str: ...
@pipeline.step
def summary(title: str) -> str: ...
""",
        "PE102 steps form a cycle: summary -> title -> summary. Remove one of these needs. (broken.py:4)",
    ),
    "PE102 a step that needs itself": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(document: str, title: str) -> str: ...
""",
        "PE102 steps form a cycle: title -> title. Remove one of these needs. (broken.py:2)",
    ),
    "PE102 a cycle through a condition and a fallback": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(when=lambda draft: draft)
def spare(document: str) -> str: ...
@pipeline.step(fallback=spare)
def draft(document: str) -> str: ...
""",
        "PE102 steps form a cycle: draft -> spare -> draft. Remove one of these needs. (broken.py:4)",
    ),
    "PE103 a step named like an input": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def document(document: str) -> str: ...
""",
        "PE103 step 'document' has the name of an input. Rename one of the two. (broken.py:2)",
    ),
    "PE103 two steps of one name": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(document: str) -> str: ...
@pipeline.step(name="title")
def other(document: str) -> str: ...
""",
        (
            "PE103 two steps are named 'title'; the other one is at broken.py:2. Rename one, or give it name=. "
            "(broken.py:4)"
        ),
    ),
    "PE104 a parameter over another type": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.llm("fast", Title)
def title(document: str) -> str: ...
@pipeline.step
def summary(title: str) -> str: ...
""",
        (
            "PE104 step 'summary' takes title: str, but step 'title' returns Title. "
            "Change one of the two annotations. (broken.py:4)"
        ),
    ),
    "PE104 an input of another type": (
        """
pipeline = Pipeline("p", inputs={"document": str | None})
@pipeline.step
def title(document: str) -> str: ...
""",
        (
            "PE104 step 'title' takes document: str, but input 'document' is str | None. "
            "Change one of the two annotations. (broken.py:2)"
        ),
    ),
    "PE104 a mapped step's whole output is a list": (
        """
pipeline = Pipeline("p", inputs={"chunks": list[str]})
@pipeline.llm("fast", Title, each="chunks")
def note(chunk: str) -> str: ...
@pipeline.step
def summary(note: Title) -> str: ...
""",
        (
            "PE104 step 'summary' takes note: Title, but step 'note' returns list[Title]. "
            "Change one of the two annotations. (broken.py:4)"
        ),
    ),
    "PE104 an item of another type": (
        """
pipeline = Pipeline("p", inputs={"chunks": list[str]})
@pipeline.step(each="chunks")
def note(chunk: int) -> str: ...
""",
        (
            "PE104 step 'note' takes chunk: int, but an item of input 'chunks' is str. "
            "Change one of the two annotations. (broken.py:2)"
        ),
    ),
    "PE104 a condition over another type": (
        """
def is_long(document: int) -> bool: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(when=is_long)
def title(document: str) -> str: ...
""",
        (
            "PE104 step 'title' takes document: int, but input 'document' is str. "
            "Change one of the two annotations. (broken.py:3)"
        ),
    ),
    "PE104 a check over another type": (
        """
def is_short(output: str) -> bool: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.llm("fast", Title, check=is_short)
def title(document: str) -> str: ...
""",
        (
            "PE104 the check= of step 'title' takes str, but the output is Title. "
            "Change one of the two annotations. (broken.py:3)"
        ),
    ),
    "PE105 a value of another type": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.llm("fast", Title, fallback="none")
def title(document: str) -> str: ...
""",
        (
            "PE105 the fallback of step 'title' is a str, but its output is Title "
            "(Input should be a valid dictionary or instance of Title). Give a value of that type. (broken.py:2)"
        ),
    ),
    "PE105 a fallback step of another type": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def spare(document: str) -> str: ...
@pipeline.llm("fast", Title, fallback=spare)
def title(document: str) -> str: ...
""",
        (
            "PE105 step 'title' gives Title, but its fallback step 'spare' gives str. "
            "Let both give the same type. (broken.py:4)"
        ),
    ),
    "PE105 a model for a function": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(fallback=Role("strong"))
def title(document: str) -> str: ...
""",
        (
            "PE105 step 'title' is a function step and cannot fall back to Role(name='strong'). "
            "Fall back to a value or a step. (broken.py:2)"
        ),
    ),
    "PE106 an input that nobody needs": (
        """
pipeline = Pipeline("p", inputs={"document": str, "language": str})
@pipeline.step
def title(document: str) -> str: ...
""",
        "PE106 input 'language' is declared, but no step needs it. Remove it, or use it.",
    ),
    "PE107 mapped over a text": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(each="document")
def note(chunk: str) -> str: ...
""",
        (
            "PE107 step 'note' is mapped over 'document', which is str and no list. "
            "Map over a list, or drop each=. (broken.py:2)"
        ),
    ),
    "PE108 an included pipeline's input is not bound": (
        """
inner = Pipeline("inner", inputs={"text": str})
@inner.step
def title(text: str) -> str: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def length(document: str) -> int: ...
pipeline.include(inner, prefix="in")
""",
        (
            "PE108 step 'in_title' needs the input 'text' of its included pipeline, but 'text' is no step or "
            "input here. "
            "Bind it: include(…, inputs={'text': …}). (broken.py:2)"
        ),
    ),
    "PE108 an included pipeline's input is bound to nothing": (
        """
inner = Pipeline("inner", inputs={"text": str})
@inner.step
def title(text: str) -> str: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def length(document: str) -> int: ...
pipeline.include(inner, prefix="in", inputs={"text": "documents"})
""",
        (
            "PE108 step 'in_title' needs the input 'text' of its included pipeline, but 'documents' is no step "
            "or input here. "
            "Bind it: include(…, inputs={'text': …}). (broken.py:2)"
        ),
    ),
    "PE109 an annotation that is not defined": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(document: "Dokument") -> str: ...
""",
        (
            "PE109 an annotation of step 'title' (its function) names 'Dokument', which is not defined there. "
            "Import or define it before the step; not under TYPE_CHECKING. (broken.py:2)"
        ),
    ),
    "PE109 an annotation of a condition": (
        """
def is_long(document: "Dokument") -> bool: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(when=is_long)
def title(document: str) -> str: ...
""",
        (
            "PE109 an annotation of step 'title' (when=) names 'Dokument', which is not defined there. "
            "Import or define it before the step; not under TYPE_CHECKING. (broken.py:3)"
        ),
    ),
    "PE110 any number of parameters": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def title(document: str, *rest: str) -> str: ...
""",
        (
            "PE110 step 'title' (its function) takes *rest: str, but edges are named parameters. "
            "Name each need. (broken.py:2)"
        ),
    ),
    "PE110 any named parameters of a check": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(check=lambda output, **rest: True)
def title(document: str) -> str: ...
""",
        "PE110 step 'title' (check=) takes **rest, but edges are named parameters. Name each need. (broken.py:2)",
    ),
    "PE110 parameters that cannot be read": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(when=max)
def title(document: str) -> str: ...
""",
        "PE110 the parameters of when= of step 'title' cannot be read. Wrap it in a plain function. (broken.py:2)",
    ),
    "PE111 a step that no parameter can name": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(name="my-title")
def title(document: str) -> str: ...
""",
        "PE111 step 'my-title' is no Python name, so no parameter can ask for it. Give it name=. (broken.py:2)",
    ),
    "PE111 an input that no parameter can name": (
        """
pipeline = Pipeline("p", inputs={"the text": str})
@pipeline.step
def title(text: str = use("the text")) -> str: ...
""",
        "PE111 input 'the text' is no Python name, so no parameter can ask for it. Rename it.",
    ),
    "PE112 a fallback step that is not mapped": (
        """
pipeline = Pipeline("p", inputs={"chunks": list[str]})
@pipeline.step
def spare(chunks: list[str]) -> str: ...
@pipeline.step(each="chunks", fallback=spare)
def note(chunk: str) -> str: ...
""",
        (
            "PE112 step 'note' and its fallback step 'spare' are not mapped alike. "
            "Give both the same each=, or neither. (broken.py:4)"
        ),
    ),
    "PE113 use() of a step of another pipeline": (
        """
other = Pipeline("other", inputs={"document": str})
@other.step
def title(document: str) -> str: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step
def summary(document: str, heading: str = use(title)) -> str: ...
""",
        (
            "PE113 step 'summary' names step 'title' (use(title) in its function), which belongs to another pipeline. "
            "Include that pipeline, and take its steps from what include() returns. (broken.py:5)"
        ),
    ),
    "PE113 a fallback step of another pipeline": (
        """
other = Pipeline("other", inputs={"document": str})
@other.step
def title(document: str) -> str: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(fallback=title)
def summary(document: str) -> str: ...
""",
        (
            "PE113 step 'summary' falls back to step 'title' of another pipeline. Include that pipeline first. "
            "(broken.py:5)"
        ),
    ),
    "PE114 no parameter for the item": (
        """
pipeline = Pipeline("p", inputs={"chunks": list[str]})
@pipeline.step(each="chunks")
def note() -> str: ...
""",
        "PE114 step 'note' is mapped with each=, but takes no parameter for the item. (broken.py:2)",
    ),
    "PE114 no parameter for the output": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(check=lambda: True)
def title(document: str) -> str: ...
""",
        "PE114 the check= of step 'title' takes no parameter; its first one gets the output. (broken.py:2)",
    ),
    "PE115 an async prompt function": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.llm("fast", str)
async def title(document: str) -> str: ...
""",
        "PE115 the prompt function of step 'title' is async. Return the prompt from a plain function. (broken.py:2)",
    ),
    "PE115 an executor that does not exist": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(executor="gpu")
def title(document: str) -> str: ...
""",
        "PE115 step 'title' has executor='gpu'. Use 'thread', 'process' or 'asyncio'. (broken.py:2)",
    ),
    "PE115 a plain function for asyncio": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(executor="asyncio")
def title(document: str) -> str: ...
""",
        "PE115 step 'title' has executor='asyncio', but its function is not async. Drop executor=. (broken.py:2)",
    ),
    "PE115 an async function for a thread": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(executor="thread")
async def title(document: str) -> str: ...
""",
        "PE115 step 'title' is async and cannot run in a thread. Drop executor=, or def it plainly. (broken.py:2)",
    ),
    "PE115 a function that a process cannot import": (
        """
pipeline = Pipeline("p", inputs={"document": str})
def declare():
    @pipeline.step(executor="process")
    def title(document: str) -> str: ...
declare()
""",
        (
            "PE115 step 'title' runs in a process, which must import its function. "
            "Declare it at module level. (broken.py:3)"
        ),
    ),
    "PE116 an output that has no schema": (
        """
class Opaque: ...
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.llm("fast", Opaque)
def title(document: str) -> str: ...
""",
        (
            "PE116 the output type Opaque of step 'title' cannot be described to a model: "
            "Cannot generate a JsonSchema for core_schema.IsInstanceSchema (<class 'broken.Opaque'>). "
            "Use another type. (broken.py:3)"
        ),
    ),
    "PE117 dropping where nothing is mapped": (
        """
pipeline = Pipeline("p", inputs={"document": str})
@pipeline.step(on_error=Drop(at_most=1))
def title(document: str) -> str: ...
""",
        "PE117 step 'title' has on_error=, but no each=: there are no items to drop. (broken.py:2)",
    ),
    "PE118 mapped inside a mapped pipeline": (
        """
inner = Pipeline("inner", inputs={"text": str})
@inner.step
def chunks(text: str) -> list[str]: ...
@inner.step(each=chunks)
def note(chunk) -> str: ...
pipeline = Pipeline("p", inputs={"texts": list[str]})
pipeline.include(inner, prefix="all", each="texts")
""",
        (
            "PE118 step 'all_note' is mapped with each= inside a pipeline that is itself mapped with each=. "
            "Map only one of the two, or flatten the lists first. (broken.py:4)"
        ),
    ),
    "PE118 a mapped inclusion inside a mapped inclusion": (
        """
inner = Pipeline("inner", inputs={"text": str})
@inner.step
def note(text: str) -> str: ...
middle = Pipeline("middle", inputs={"texts": list[str]})
middle.include(inner, prefix="each", each="texts")
pipeline = Pipeline("p", inputs={"groups": list[list[str]]})
pipeline.include(middle, prefix="all", each="groups")
""",
        (
            "PE118 step 'all_each_note' is mapped with each= inside a pipeline that is itself mapped with each=. "
            "Map only one of the two, or flatten the lists first. (broken.py:2)"
        ),
    ),
    "PE119 no steps": (
        """
pipeline = Pipeline("p", inputs={})
""",
        "PE119 pipeline 'p' has no steps. Declare one with @pipeline.llm or @pipeline.step.",
    ),
}


@pytest.mark.parametrize(("source", "told"), BROKEN.values(), ids=BROKEN)
def test_a_problem_says_what_is_wrong_where_and_what_to_do(source, told):
    """One mistake gives one problem; nothing that merely follows from it is told beside it."""
    assert problems(source) == [told]


def test_every_code_of_the_compiler_is_tried_here():
    """A code without a test could say anything."""
    assert {name[:5] for name in BROKEN} == {f"PE{code}" for code in range(101, 120)}


def test_all_problems_are_told_at_once_and_most_basic_first():
    """One round of corrections; a clash of types may vanish with the misspelt name above it."""
    told = problems(
        """
pipeline = Pipeline("p", inputs={"document": str, "language": str})
@pipeline.llm("fast", Title, fallback="none")
def category(document: str, language: str) -> str: ...
@pipeline.step
def one(two: str) -> str: ...
@pipeline.step
def two(one: str) -> str: ...
@pipeline.step
def title(document: int) -> str: ...
@pipeline.step
def summary(titel: str) -> str: ...
"""
    )

    assert [problem[:5] for problem in told] == ["PE101", "PE102", "PE104", "PE105"]


def test_the_error_lists_every_problem_on_a_line_of_its_own():
    """What a terminal shows is the whole message."""
    pipeline = Pipeline("two", inputs={"document": str, "language": str, "tone": str})
    pipeline.step(name="title")(lambda document: document)

    with pytest.raises(PlanError) as caught:
        compile_pipeline(pipeline)

    assert str(caught.value) == (
        "pipeline 'two' has 2 problems:\n"
        "  PE106 input 'language' is declared, but no step needs it. Remove it, or use it.\n"
        "  PE106 input 'tone' is declared, but no step needs it. Remove it, or use it."
    )
    assert caught.value.pipeline == "two"


def test_a_single_problem_is_one_problem():
    """Singular and plural are right."""
    with pytest.raises(PlanError) as caught:
        compile_pipeline(Pipeline("none", inputs={}))

    assert str(caught.value).splitlines()[0] == "pipeline 'none' has 1 problem:"


def test_each_knot_of_steps_is_told_once():
    """Two separate cycles are two mistakes; the ways round one knot are one."""
    told = problems(
        """
pipeline = Pipeline("p", inputs={})
@pipeline.step
def d(c: int) -> int: ...
@pipeline.step
def c(d: int, b: int) -> int: ...
@pipeline.step
def b(a: int) -> int: ...
@pipeline.step
def a(b: int) -> int: ...
"""
    )

    assert told == [
        "PE102 steps form a cycle: a -> b -> a. Remove one of these needs. (broken.py:8)",
        "PE102 steps form a cycle: c -> d -> c. Remove one of these needs. (broken.py:4)",
    ]
