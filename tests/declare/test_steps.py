"""Steps as values: what they know, `use`, and prompts as messages."""

import functools
import inspect

import pytest

from pipeline_engine.declare import NO_DEFAULT, Pipeline, PromptStep, Reference, Step, as_messages, use
from pipeline_engine.values import Image, Message, Text

pipeline = Pipeline("steps", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    """Answer in one line.

    Never in two.
    """
    return f"Title of: {document}"


@pipeline.step
def words(document: str) -> list[str]:
    """Split at blanks."""
    return document.split()


def traced(function):
    @functools.wraps(function)
    def inner(*arguments, **keywords):
        return function(*arguments, **keywords)

    return inner


@pipeline.step
@traced
def wrapped(document: str) -> str:
    return document


def test_a_decorator_leaves_a_step_behind():
    """It is what `use`, `each=` and results are given, so that a name is never misspelt."""
    assert (type(title), title.name, title.kind, title.role) == (PromptStep, "title", "llm", "fast")
    assert (type(words), words.name, words.kind, words.role) == (Step, "words", "function", None)
    assert repr(title) == "PromptStep(name='title', kind='llm')"


def test_a_step_keeps_the_function_as_it_was_written():
    """Unit tests and notebooks call it without an engine."""
    assert words.function("one two") == ["one", "two"]


def test_a_step_knows_where_it_was_written():
    """Problems are told with a place that an editor can jump to."""
    lines, first = inspect.getsourcelines(title.function)

    assert (title.file, title.line) == (__file__, first)
    assert lines[0] == '@pipeline.llm("fast", str)\n'


def test_a_wrapped_function_is_placed_where_it_was_written():
    """Another decorator's helper file would be the wrong place to look."""
    assert (wrapped.file, wrapped.line) == (__file__, inspect.getsourcelines(wrapped.function)[1])


def test_a_function_without_code_has_no_place():
    """Builtins can be steps; they have no line to show."""
    step = Pipeline("p", inputs={}).step(name="size")(len)

    assert (step.file, step.line) == ("<unknown>", 0)


def test_the_docstring_is_the_system_message():
    """The prompt stands in one place, in Python, without the source's indentation."""
    assert title.render(document="the text") == (
        Message("system", "Answer in one line.\n\nNever in two."),
        Message("user", "Title of: the text"),
    )


def test_without_a_docstring_there_is_no_system_message():
    """An empty one would cost tokens and change some models' behaviour."""
    assert as_messages("Hello.", None) == as_messages("Hello.", "") == (Message("user", "Hello."),)


def test_a_prompt_may_be_a_conversation():
    """Few-shot examples and pictures need more than one text."""
    shots = [
        Message("user", "2+2"),
        Message("assistant", "4"),
        Message("user", "3+3", Image(url="https://x.org/a.png")),
    ]

    assert as_messages(shots, "Add.") == (Message("system", "Add."), *shots)
    assert as_messages(tuple(shots), None) == tuple(shots)


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        (None, "nothing (is a `return` missing?)"),
        (3, "a int"),
        ([], "a list"),
        (["text", 3], "a list"),
        ([Message("user", "a"), Text("b")], "a list"),
        ({"role": "user"}, "a dict"),
        (b"bytes", "a bytes"),
        (Text("a"), "a Text"),
        (Message("user", "a"), "a Message"),
    ],
)
def test_a_prompt_of_another_kind_is_refused(prompt, shown):
    """Sending `None` or a dict's repr to a paid model would be worse than stopping."""
    with pytest.raises(TypeError) as caught:
        as_messages(prompt, None)

    assert str(caught.value) == f"returned {shown}. A prompt is a str, or a list of Message and str that is not empty."


def test_a_text_in_a_list_is_what_the_user_says():
    """A document between boundaries and one line of instruction is the shape of most prompts."""
    assert as_messages([Message("user", "a"), "b"], None) == (Message("user", "a"), Message("user", "b"))


def test_use_names_a_step_or_an_input():
    """A parameter with a name of its own needs a way to say where its value comes from."""
    assert use(title) == Reference("title", title, NO_DEFAULT)
    assert use("document") == Reference("document", None, NO_DEFAULT)


def test_uses_default_may_be_none():
    """None is the most usual value of a step that was skipped: it is not "no default"."""
    assert use(title, default=None) == Reference("title", title, None)
    assert use("document", default=0).default == 0
    assert use(title).default is NO_DEFAULT
    assert repr(NO_DEFAULT) == "NO_DEFAULT"


def test_use_refuses_a_value():
    """`use("text".strip())` in a hurry, or a step's function in place of the step."""
    with pytest.raises(TypeError) as caught:
        use(3)

    assert str(caught.value) == "use(…) takes a step or a name, not 3. Name the step itself, not its output."


def test_steps_are_told_apart_by_identity():
    """Two pipelines may have equal steps; a result must know which one is asked for."""
    other = Pipeline("steps", inputs={"document": str}).llm("fast", str)(title.function)

    assert title == title  # noqa: PLR0124 - a step is itself
    assert title != other
    assert len({title, other}) == 2


def test_a_step_inside_a_function_keeps_the_names_around_it():
    """Postponed annotations of such a step can be resolved in no other way."""

    class Local: ...

    inner = Pipeline("local", inputs={"document": str})

    @inner.step
    def bare(document: str) -> Local: ...

    @inner.step(name="called")
    def with_brackets(document: str) -> Local: ...

    @inner.llm("fast", str)
    def prompt(document: str) -> str: ...

    assert [step.local_names["Local"] for step in inner.steps] == [Local, Local, Local]
    assert title.local_names == {}
