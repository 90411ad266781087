"""What must not get into a shared file does not, and what is no secret stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.testing.scrubbing import SCRUBBED, Scrubber

KEY = "sk-proj-CANARY0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"the key {KEY}!", f"the key {SCRUBBED}!"),
        ("Authorization: Bearer CANARY-4711", f"Authorization: Bearer {SCRUBBED}"),
        ("authorization: Basic Q0FOQVJZOjQ3MTE=", f"authorization: Basic {SCRUBBED}"),
        ("x-api-key: CANARY-4711\nnext", f"x-api-key: {SCRUBBED}\nnext"),
        ('{"api_key": "CANARY-4711", "n": 1}', f'{{"api_key": "{SCRUBBED}", "n": 1}}'),
        ("OPENAI_API_KEY=CANARY4711", f"OPENAI_API_KEY={SCRUBBED}"),
        ("https://h/v1?key=CANARY&alt=sse", f"https://h/v1?key={SCRUBBED}&alt=sse"),
        ("https://h/v1?alt=sse&access_token=CANARY-4711-x", f"https://h/v1?alt=sse&access_token={SCRUBBED}"),
        ("postgresql://ada:CANARY@db/x", f"postgresql://ada:{SCRUBBED}@db/x"),
        ("AIzaSyCANARY0123456789abcdefghijk", SCRUBBED),
        ("AKIACANARY0123456789", SCRUBBED),
        ("Cookie: session=CANARY4711", f"Cookie: {SCRUBBED}"),
        ("password: CANARY4711", f"password: {SCRUBBED}"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text, scrubbed):
    """A recording is committed with the test, and a repository is read by many."""
    assert Scrubber().text(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "The secret: pineapple. A token: something that stands for something else.",
        "Each token costs; the password is asked for twice.",
        "The basic idea, and the bearer of the letter.",
        "https://example.com/a?page=2&keyword=tides",
        "risk-averse, task-oriented, sk-short",
        '{"input_tokens": 12, "key": "3f2a"}',
    ],
)
def test_words_about_secrets_stay(text):
    """A document on security must be replayed as it was answered."""
    assert Scrubber().text(text) == text


def test_members_that_are_named_like_secrets_are_taken_out_whatever_they_hold():
    """A proxy's password may be a word."""
    assert Scrubber().value({"a": [{"api_key": "word"}], "max_tokens": 5, "token": {"type": "string"}}) == {
        "a": [{"api_key": SCRUBBED}],
        "max_tokens": 5,
        "token": {"type": "string"},
    }


def test_own_rules_come_last():
    """Names of customers are nobody else's business either."""
    assert Scrubber([], lambda text: text.replace("Ada", "…")).text(f"Ada has {KEY}") == f"… has {SCRUBBED}"


@given(st.text(), st.text(alphabet="abcdefghij-XYZ0123456789", min_size=6), st.text())
def test_a_known_secret_is_in_no_text(before, secret, after):
    """Whatever stands around it."""
    assert secret not in Scrubber([secret, "other-secret"]).text(before + secret + after).replace(SCRUBBED, "")


@given(st.text())
def test_scrubbing_twice_changes_nothing_more(text):
    """A recording is read, compared with what is asked, and written again."""
    once = Scrubber().text(text)

    assert Scrubber().text(once) == once
