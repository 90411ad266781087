"""What a request that is not recorded is compared with, and what is said of it."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.testing.cassette import Recording
from pipeline_engine.testing.nearest import differences, nearest


def recording(step="title", model="openai:a", **request):
    return Recording(step=step, item=None, call=1, key="…", model=model, request=request)


def asked(text):
    return {"messages": [["user", text]]}


def test_the_nearest_is_of_the_same_step_first():
    """A prompt that was edited is still that step's."""
    other = recording("summary", messages=[["user", "Name the tide!"]])
    own = recording("title", messages=[["user", "Something else."]])

    assert nearest([other, own], "title", "openai:a", asked("Name the tide.")) is own


def test_of_one_step_the_most_alike_is_the_nearest():
    """A batch has a request of each step for every document."""
    far, near = (recording(messages=[["user", f"Name it.\n\n{text}"]]) for text in ("The moon.", "The seas rise."))

    assert nearest([far, near], "title", "openai:a", asked("Name it.\n\nThe sea rises.")) is near
    assert nearest([], "title", "openai:a", asked("x")) is None


def test_every_difference_is_named():
    """Model, parameters, schema, messages: any of them asks for another answer."""
    old = recording(
        settings={"temperature": 0}, messages=[["user", "a"]], schema={"properties": {"text": {"type": "string"}}}
    )
    new = {"messages": [["system", "s"], ["user", "a"]], "schema": {"properties": {"text": {"type": "null"}, "n": {}}}}

    assert differences(old, "openai:b", new) == [
        "'openai:a' was asked, and now 'openai:b' is",
        "settings was recorded, and is not asked any more",
        "messages were 1, and are 2",
        "schema.properties.text.type differs from character 0 on: “string” was recorded, “null” is asked",
        "schema.properties.n was not recorded, and is asked",
    ]


def test_long_texts_are_quoted_where_they_part():
    """A page of equal text before the difference helps nobody."""
    [told] = differences(recording(**asked("x" * 5000 + "the sea\x1b[2J" + "y" * 5000)), "openai:a", asked("x" * 5000))

    assert told == (
        f"messages[0][1] differs from character 5000 on: “…{'x' * 20}the sea\\x1b[2J{'y' * 29}…” was recorded, "
        f"“…{'x' * 20}” is asked"
    )


@given(st.text(), st.text())
def test_texts_differ_exactly_if_there_is_a_difference(old, new):
    """A difference without words would leave its reader alone."""
    assert bool(differences(recording(**asked(old)), "openai:a", asked(new))) == (old != new)
