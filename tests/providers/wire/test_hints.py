"""How long a provider asks to be left alone, wherever it says so."""

import pytest

from pipeline_engine.providers.wire.hints import MAX_HINT, retry_hint

DATE = "Sat, 21 Nov 2026 10:00:00 GMT"
RESETS = {
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "1m30.5s",
    "x-ratelimit-remaining-tokens": "29000",
    "x-ratelimit-reset-tokens": "6m0s",
}


def hint(headers=None, document=None, message="", status=429):
    return retry_hint(status, headers or {}, document, message)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:42 GMT", "date": DATE}, 42.0),
        ({"llm_provider-retry-after": "8"}, 8.0),
        (RESETS, 90.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6ms"}, 0.006),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12"}, 12.0),
        ({"x-ratelimit-reset-tokens_usage_based": "2s"}, 2.0),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-11-21T10:00:05Z",
                "date": DATE,
            },
            5.0,
        ),
    ],
)
def test_every_header_that_names_a_wait_is_read(headers, seconds):
    """Each provider has a spelling of its own, and guessing costs refusals."""
    assert hint(headers) == seconds


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "-1"},
        {"retry-after": "0"},
        {"retry-after": "soon"},
        {"retry-after": "nan"},
        {"retry-after": "inf"},
        {"retry-after": "1_0"},
        {"retry-after": ""},
        {"retry-after": "Sat, 21 Nov 2026 09:59:00 GMT", "date": DATE},
        {"retry-after": "Sat, 21 Nov 2026 10:00:42 GMT"},
        {"retry-after": "Sat, 99 Nov 99999 10:00:42 GMT", "date": DATE},
        {"retry-after-ms": "0"},
        {"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "-1"},
        {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"},
        {"x-ratelimit-reset-requests": "6 parsecs"},
    ],
)
def test_what_is_no_hint_is_ignored(headers):
    """A placeholder or a typing error must not stop a batch, nor make it hammer the server."""
    assert hint(headers) is None


@pytest.mark.parametrize(
    ("headers", "document", "message", "seconds"),
    [
        ({"retry-after": "1", "retry-after-ms": "0"}, None, "", 1.0),
        ({"retry-after": "2", "retry-after-ms": "3500"}, None, "", 3.5),
        ({"retry-after": "5"}, None, "Please try again in 41.724s.", 41.724),
        ({"retry-after": "5", **RESETS}, None, "", 5.0),
    ],
    ids=["zero-is-none", "larger-header", "larger-message", "header-before-reset"],
)
def test_of_hints_that_conflict_the_larger_one_counts(headers, document, message, seconds):
    """Too long a wait costs a little; too short a one costs another refusal."""
    assert hint(headers, document, message) == seconds


def test_a_hint_beyond_a_day_is_cut_to_a_day():
    """One server's `1e9` must not park a model for thirty years."""
    assert hint({"retry-after": "1e9"}) == MAX_HINT == 86_400


@pytest.mark.parametrize("status", [200, 400, 401, 404])
def test_a_hint_with_any_other_status_asks_for_nothing(status):
    """Anthropic and Hugging Face send `retry-after` with every success."""
    assert hint({"retry-after": "59"}, status=status) is None


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_a_hint_counts_with_refusals_and_server_errors(status):
    """A server that is down knows best when it is back."""
    assert hint({"retry-after": "59"}, status=status) == 59.0


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_googles_retry_info_is_read_from_the_body(is_wrapped):
    """Gemini sends no header at all, and sometimes wraps the body in a list."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48.5s"}
    document = {"error": {"code": 429, "details": [{"@type": "other"}, "odd", info]}}

    assert hint(document=[document] if is_wrapped else document) == 48.5


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Limit 30000. Please try again in 41.724s. Visit us.", 41.724),
        ("Please try again in 644ms.", 0.644),
        ("Please try again in 6m0s.", 360.0),
        ("please retry after 10 seconds.", 10.0),
        ("Try again in 2 minutes", 120.0),
        ("Try again in 250 milliseconds", 0.25),
        ("Please retry in 1 hour", 3600.0),
        ("Please try again later.", None),
        ("Please try again in 5 moons.", None),
    ],
)
def test_a_wait_in_the_message_is_read(message, seconds):
    """OpenAI says how long only in words."""
    assert hint(message=message) == seconds
