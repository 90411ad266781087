"""What must not get into a shared file does not, and what is no secret stays as it is."""

import json
from base64 import b64encode
from functools import partial
from urllib.parse import quote

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
        ("Authorization: ApiKey CANARY-4711", f"Authorization: {SCRUBBED}"),
        ("authorization: AWS4-HMAC-SHA256 Credential=C/s3, Signature=CANARY\nnext", f"authorization: {SCRUBBED}\nnext"),
        ("Cookie: theme=dark; session=CANARY4711", f"Cookie: {SCRUBBED}"),
        ('{\\"api_key\\": \\"CANARY-4711\\"}', f'{{\\"api_key\\": \\"{SCRUBBED}\\"}}'),
        ('{"clientSecret": "CANARY-4711"}', f'{{"clientSecret": "{SCRUBBED}"}}'),
        ("Ocp-Apim-Subscription-Key: CANARY-4711", f"Ocp-Apim-Subscription-Key: {SCRUBBED}"),
        ("https://ada:CAN@RY@db/x", f"https://ada:{SCRUBBED}@db/x"),
        ("https://CANARY-4711@db/x", f"https://{SCRUBBED}@db/x"),
        ("https://h/v1?alt=sse&token=CANARY", f"https://h/v1?alt=sse&token={SCRUBBED}"),
        ("github_pat_11CANARY0123456789", SCRUBBED),
        ("-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----\nnext", f"{SCRUBBED}\nnext"),
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
        "Basic research, a basic structure, bearer certificates.",
        "the column pk_customer_address, the package sk-learn-ensembles",
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


def test_lists_of_texts_under_such_a_name_are_taken_out():
    """Headers may be given more than once."""
    assert Scrubber().value({"x-api-key": ["CANARY", "word"]}) == {"x-api-key": [SCRUBBED, SCRUBBED]}


@pytest.mark.parametrize("form", [json.dumps, partial(quote, safe=""), lambda key: b64encode(key.encode()).decode()])
def test_a_known_secret_is_found_in_other_forms(form):
    """An error quotes a request as JSON, an address with escapes, or a header in base64."""
    key = 'CANARY"4711/+'

    assert SCRUBBED in Scrubber([key]).text(f"It said {form(key)}.")


@pytest.mark.parametrize(
    "part", ["a-", "-api_key-", "token:a,", "://a:", "?key", "sk-", "eyJ-", "bearer ", "authorization ", "api_key: "]
)
def test_long_texts_take_no_longer_for_each_character(part):
    """A document may be a megabyte of anything: with a search that goes back at each hyphen this would not end."""
    text = part * (500_000 // len(part))

    assert Scrubber().text(text)


def test_a_secret_that_is_no_text_of_unicode_is_known_as_well():
    """Variables of the environment may hold any bytes."""
    assert Scrubber(["CANARY\udcff4711"]).text("it is CANARY\udcff4711") == f"it is {SCRUBBED}"


def test_own_rules_must_return_texts():
    """A function that forgets to return would make a file that cannot be read."""
    with pytest.raises(TypeError, match="scrub= must return a text for each text, and returned a NoneType"):
        Scrubber([], lambda _text: None).text("The sea rises.")


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
