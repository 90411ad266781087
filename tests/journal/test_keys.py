"""Keys of documents, calls and steps: equal for what is equal, everywhere, and never equal by accident."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.journal import call_key, canonical, message_parts, request_key, step_key
from pipeline_engine.journal.text import from_name, to_name, to_prose
from pipeline_engine.values import File, Image, Message, Text
from tests.journal.golden import GOLDEN, REQUEST, STEP, keys

ROOT = Path(__file__).parents[2]
TEXTS = st.text(st.characters())  # all characters, also lone surrogates
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)

# Canonical bytes


def test_keys_are_what_they_have_always_been():
    """A key that changes with the engine, or with Python, makes everybody pay for everything again.

    If this fails on purpose, raise the version in `keys.py`, so that nobody takes an old key for a new one.
    """
    assert keys() == GOLDEN


@pytest.mark.parametrize("seed", ["0", "1"])
def test_keys_are_the_same_in_every_process(seed):
    """Hashes of strings, and with them the order of sets, differ from process to process."""
    script = "import json; from tests.journal.golden import keys; print(json.dumps(keys()))"
    environment = {**os.environ, "PYTHONHASHSEED": seed}

    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
        timeout=60,
    )

    assert json.loads(told.stdout) == keys()


@given(VALUES)
def test_the_order_of_a_mapping_makes_no_difference(value):
    """Two people write the same parameters in two orders, and mean the same call."""

    def turned(part):
        if isinstance(part, dict):
            return {key: turned(part[key]) for key in reversed(part)}
        return [turned(inner) for inner in part] if isinstance(part, list) else part

    assert canonical(turned(value)) == canonical(value)


@given(VALUES)
def test_the_bytes_are_json_that_gives_the_value_back(value):
    """So nothing is left out and nothing is rounded: what differs has other bytes, and so another key."""
    text = canonical(value).decode("utf-8", "surrogatepass")

    again = json.loads(text)

    assert again == value
    assert repr(again) == repr(_sorted(value))  # also 1, 1.0 and True are told apart, and 0.0 and -0.0


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(inner) for inner in value] if isinstance(value, list) else value


@given(VALUES, VALUES)
def test_values_that_differ_have_bytes_that_differ(one, other):
    """Two calls with one key: the second is answered with the first one's reply."""
    assert (canonical(one) == canonical(other)) == (repr(_sorted(one)) == repr(_sorted(other)))


@given(VALUES)
def test_a_part_has_the_same_bytes_wherever_it_stands(value):
    """Prompts are written by a quicker writer than the rest: nobody may see by the bytes which one it was."""
    assert canonical({"part": value, "": None}) == b'{"":null,"part":' + canonical(value) + b"}"


def test_two_surrogates_are_not_the_character_that_they_stand_for():
    """A text cut in the middle of an emoji is another text, however rare."""
    assert canonical(["\ud800", "\ud83d\ude00"]) != canonical(["\ud800", "😀"])


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"a": object()}, [lambda: None], 1j])
def test_what_json_cannot_hold_has_no_key(value):
    """A repr with an address in it would be a key that nothing ever finds again."""
    with pytest.raises(TypeError):
        canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_a_number_that_is_not_finite_has_no_key(value):
    """It is no JSON, and not even equal to itself."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(value)


def test_an_integer_of_thousands_of_digits_has_no_key():
    """Python refuses to write it: the time would grow with the square of its length."""
    with pytest.raises(ValueError, match="4300 digits"):
        canonical(10**5000)


def test_what_is_nested_without_end_has_no_key():
    """Both are errors of the value, and told as such; the depth at which it ends differs between Pythons."""
    deep = []
    for _ in range(200_000):
        deep = [deep]
    circle = []
    circle.append(circle)

    with pytest.raises(ValueError, match="nested too deeply"):
        canonical(deep)
    with pytest.raises(ValueError, match=r"nested too deeply|Circular reference"):
        canonical(circle)
    while deep:  # taken apart by hand: to forget it at once would be as deep
        deep = deep.pop()


# Keys


@pytest.mark.parametrize(
    "change",
    [
        {"model": "1f"},
        {"asked": [["user", "Give it a title!", {"image": "ab", "type": "image/png"}]]},
        {"asked": [["system", "Give it a title.", {"image": "ab", "type": "image/png"}]]},
        {"asked": [["user", "Give it a title."], ["user", {"image": "ab", "type": "image/png"}]]},
        {"schema": b'{"type":"array"}'},
        {"schema_name": "Titel"},
        {"schema": b"", "schema_name": ""},
    ],
)
def test_whatever_changes_in_a_request_changes_its_key(change):
    """A call that another prompt, model or schema has paid for is no answer to this one."""
    assert request_key(**{**REQUEST, **change}) != request_key(**REQUEST)


def test_a_name_of_no_schema_makes_no_difference():
    """Plain text is asked for without a schema: its name does not reach the wire."""
    plain = {**REQUEST, "schema": b""}

    assert request_key(**{**plain, "schema_name": "Anything"}) == request_key(**plain)


@pytest.mark.parametrize(
    "change",
    [
        {"made_by": ["source", "ab"]},
        {"made_by": ["prompt", "ac"]},
        {"schema": b""},
        {"models": ["1e", "0f"]},
        {"models": ["0f"]},
        {"models": ["0f1e"]},
        {"inputs": {"title": "aa"}},
        {"inputs": {"title": "bb", "keywords": "aa"}},
        {"inputs": {"titel": "aa", "keywords": "bb"}},
    ],
)
def test_whatever_changes_about_a_step_changes_its_key(change):
    """An output that was made in another way, or of other inputs, must not be taken for this one."""
    assert step_key(**{**STEP, **change}) != step_key(**STEP)


def test_a_step_and_a_request_never_have_the_same_key():
    """They lie in different tables today; nothing may hang on that."""
    assert step_key([], b"", [], {}) != request_key("", [], b"", "")


def test_equal_requests_are_told_apart_by_their_number():
    """Five samples of one prompt are five calls, and all of them were paid for."""
    assert len({call_key("0f", ordinal) for ordinal in range(5)}) == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((Message("user", "a b"),), (Message("user", Text("a "), Text("b")),)),
        ((Message("user", "a"), Message("user", "b")), (Message("user", "b"), Message("user", "a"))),
        ((Message("user", "a"),), (Message("assistant", "a"),)),
        (
            (Message("user", Image(data=b"1", media_type="image/png")),),
            (Message("user", Image(data=b"2", media_type="image/png")),),
        ),
        (
            (Message("user", Image(data=b"1", media_type="image/png")),),
            (Message("user", Image(data=b"1", media_type="image/jpeg")),),
        ),
        (
            (Message("user", File(b"1", "application/pdf", "a.pdf")),),
            (Message("user", File(b"1", "application/pdf", "b.pdf")),),
        ),
    ],
)
def test_conversations_that_differ_on_the_wire_differ_in_their_parts(one, other):
    """Each of these pairs may be answered differently."""
    assert message_parts(one) != message_parts(other)


# Names


@given(st.text(st.characters(), max_size=100))
def test_a_name_comes_back_as_it_was(name):
    """A document that is found under another key than it was given is another document."""
    assert from_name(to_name(name)) == name


@given(TEXTS, TEXTS)
def test_names_that_differ_stay_different(one, other):
    """Two documents under one key: the second would be given the first one's result."""
    assert (to_name(one) == to_name(other)) == (one == other)


@given(TEXTS)
def test_what_a_database_is_given_is_clean(text):
    """PostgreSQL refuses a NUL, and both a lone surrogate: one such name would end the run."""
    for given_text in (to_name(text), to_prose(text)):
        assert "\0" not in given_text
        given_text.encode()
