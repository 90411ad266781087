"""What is left of a provider's limits, as far as its headers tell."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.providers.wire.hints import MAX_HINT
from pipeline_engine.providers.wire.rate_limits import rate_limit_state
from pipeline_engine.values import RateLimitState, RateLimitWindow

DATE = "Sat, 21 Nov 2026 10:00:00 GMT"
NAMES = [
    *(f"x-ratelimit-{field}-{what}" for field in ("limit", "remaining", "reset") for what in ("requests", "tokens")),
    *(
        f"anthropic-ratelimit-{what}-{field}"
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
        for field in ("limit", "remaining", "reset")
    ),
    "x-ratelimit-remaining-tokens_usage_based",
    "x-ratelimit-reset-tokens_usage_based",
    "date",
]


def openai(what="requests", **fields):
    return {f"x-ratelimit-{field}-{what}": value for field, value in fields.items()}


def anthropic(what="requests", **fields):
    return {f"anthropic-ratelimit-{what}-{field}": value for field, value in fields.items()}


def test_openais_headers_are_read():
    """Every compatible server that tells anything tells it in these names."""
    headers = {
        **openai(limit="14400", remaining="14399", reset="6m0.5s"),
        **openai("tokens", limit="30000", remaining="0", reset="250ms"),
    }

    assert rate_limit_state(headers) == RateLimitState(
        requests=RateLimitWindow(14400, 14399, 360.5), tokens=RateLimitWindow(30000, 0, 0.25)
    )


def test_anthropics_headers_are_read():
    """Input and output are limited apart there, and the output's limit is the one that is met first."""
    headers = {
        "date": DATE,
        **anthropic(limit="1000", remaining="999", reset="2026-11-21T10:00:01Z"),
        **anthropic("tokens", limit="96000", remaining="95000", reset="2026-11-21T10:00:30.5Z"),
        **anthropic("input-tokens", limit="80000", remaining="79000", reset="2026-11-21T11:00:30+01:00"),
        **anthropic("output-tokens", limit="16000", remaining="15000", reset="2026-11-21T10:01:00Z"),
    }

    assert rate_limit_state(headers) == RateLimitState(
        requests=RateLimitWindow(1000, 999, 1.0),
        tokens=RateLimitWindow(96000, 95000, 30.5),
        input_tokens=RateLimitWindow(80000, 79000, 30.0),
        output_tokens=RateLimitWindow(16000, 15000, 60.0),
    )


@pytest.mark.parametrize(
    ("reset", "date", "seconds"),
    [
        ("6ms", None, 0.006),
        ("1h0m1s", None, 3601.0),
        ("0s", None, 0.0),
        ("0", None, 0.0),
        ("17", None, 17.0),
        ("1e9", None, MAX_HINT),
        ("2026-11-21T10:00:05Z", DATE, 5.0),
        ("2026-11-21T09:59:59Z", DATE, 0.0),
        ("2026-11-21T10:00:05Z", None, None),
        ("2026-11-21T10:00:05Z", "soon", None),
        ("-1", None, None),
        ("nan", None, None),
        ("6 parsecs", None, None),
        ("", None, None),
    ],
)
def test_a_reset_is_seconds_by_the_servers_own_clock(reset, date, seconds):
    """Our clock may be minutes off, and a wait that is guessed stops a batch or is refused again."""
    headers = openai(remaining="5", reset=reset) | ({} if date is None else {"date": date})

    assert rate_limit_state(headers) == RateLimitState(requests=RateLimitWindow(None, 5, seconds))


@pytest.mark.parametrize("value", ["-1", "", "many", "1.5", "nan", "inf", "1_000", "9" * 13, "0x10"])
def test_counts_that_are_none_are_not_told(value):
    """Azure sends -1 for "not told"; taken as a number it would stop every call."""
    assert rate_limit_state(openai(limit=value, remaining=value)) is None
    assert rate_limit_state(openai(limit="10", remaining=value)) == RateLimitState(requests=RateLimitWindow(10))


def test_a_limit_of_zero_is_a_placeholder_and_zero_remaining_is_none_left():
    """The first would divide a pace by zero, and the second is what a pace must know."""
    assert rate_limit_state(openai(limit="0", remaining="0")) == RateLimitState(requests=RateLimitWindow(None, 0))


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(("usage_based", "left"), [("7", 7), ("90", 50), ("-1", 50)])
def test_of_two_limits_of_one_thing_the_one_with_less_left_counts(usage_based, left, is_reversed):
    """OpenAI limits tokens by request and by usage, and whichever is met first refuses the call."""
    headers = openai("tokens", remaining="50") | openai("tokens_usage_based", remaining=usage_based)
    headers = dict(reversed(headers.items())) if is_reversed else headers

    assert rate_limit_state(headers) == RateLimitState(tokens=RateLimitWindow(None, left))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json", "retry-after": "59"},
        {"x-ratelimit-limit-input-images": "50000", "x-ratelimit-renewalperiod-tokens": "60"},
        {"anthropic-ratelimit-unified-reset": "1763719200", "anthropic-ratelimit-tokens": "5"},
        {"x-ratelimit-limit-requests-x": "5", "ax-ratelimit-limit-requests": "5"},
    ],
)
def test_headers_about_something_else_tell_nothing(headers):
    """A limit of images or of a subscription says nothing about the next call."""
    assert rate_limit_state(headers) is None


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), st.text() | st.sampled_from(["-1", "0", "5", "6m0s", DATE])))
def test_no_header_raises_and_nothing_told_is_negative(headers):
    """The headers are a stranger's, and this runs on every reply that was paid for."""
    state = rate_limit_state(headers)

    windows = [] if state is None else [state.requests, state.tokens, state.input_tokens, state.output_tokens]
    for window in windows:
        numbers = [] if window is None else [window.limit, window.remaining, window.reset_after]
        assert all(value is None or value >= 0 for value in numbers)


def test_recorded_headers_are_read_whole(data):
    """Every count that a real server told must reach the pace, exactly."""
    lines = [
        line for file in sorted((data / "recordings").glob("*.jsonl")) for line in file.read_text("utf-8").split("\n")
    ]
    told = 0

    for line in filter(None, lines):
        call = json.loads(line)
        headers = call["response_headers"]
        for what in ("requests", "tokens", "input-tokens", "output-tokens"):
            limit, remaining = (headers.get(f"anthropic-ratelimit-{what}-{field}") for field in ("limit", "remaining"))
            if limit is not None:
                told += 1
                window = getattr(rate_limit_state(headers), what.replace("-", "_"))
                assert (window.limit, window.remaining) == (int(limit), int(remaining)), call["id"]
                assert (window.reset_after is None) == ("date" not in headers), call["id"]

    assert told
