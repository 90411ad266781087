"""What a status and a body mean: typed errors that say what happened and what to do."""

import json

import pytest

from pipeline_engine.errors import RateLimitError, RejectedError, UnavailableError
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters.adapter import Endpoint
from pipeline_engine.providers.wire.classification import error_in_reply, error_of_response

KEY = "sk-canary-5f1d"
ENDPOINT = Endpoint("openai:gpt-4o", "https://api.openai.com/v1", "OPENAI_API_KEY", Secret(KEY))


def openai(message="", kind=None, code=None):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error(status, body, headers=None, endpoint=ENDPOINT):
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return error_of_response(status, headers or {}, data, endpoint)


OVERFLOWS = [
    openai("This model's maximum context length is 8192 tokens. However, you requested 9000."),
    openai("x", code="context_length_exceeded"),
    openai("the request exceeds the available context size", "exceed_context_size_error", 400),
    openai("Your input exceeds the context window of this model."),
    openai("prompt is too long: 210000 tokens > 200000 maximum"),
    [{"error": {"code": 400, "message": "The input token count (9) exceeds the maximum number of tokens"}}],
    {"error": "input length exceeds the context length"},
]
TOO_LARGE = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 31538."


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected", "kind", "billed", "retry_after"),
    [
        (401, openai("Incorrect API key provided"), {}, RejectedError, "auth", "no", None),
        (403, openai("Country not supported"), {}, RejectedError, "auth", "no", None),
        (400, openai("API key not valid."), {}, RejectedError, "auth", "no", None),
        (400, {"code": "bad", "error": "Incorrect API key provided."}, {}, RejectedError, "auth", "no", None),
        (404, openai("x", code="model_not_found"), {}, RejectedError, "not_found", "no", None),
        (403, openai("x", code="model_not_found"), {}, RejectedError, "not_found", "no", None),
        (404, "404 page not found", {}, RejectedError, "not_found", "no", None),
        (400, openai("Unsupported value: 'temperature'"), {}, RejectedError, "invalid", "no", None),
        (418, "", {}, RejectedError, "invalid", "no", None),
        (
            422,
            {"detail": [{"msg": "Field required", "input": "text"}]},
            {},
            RejectedError,
            "invalid",
            "no",
            None,
        ),
        (413, "too big", {}, RejectedError, "invalid", "no", None),
        (501, "", {}, RejectedError, "invalid", "no", None),
        (429, openai(TOO_LARGE, "tokens", "rate_limit_exceeded"), {}, RejectedError, "invalid", "no", None),
        (429, openai("x", "tokens", "rate_limit_exceeded"), {}, RateLimitError, "rate_limited", "no", None),
        (429, openai("Try again in 644ms."), {}, RateLimitError, "rate_limited", "no", 0.644),
        (429, openai("x", code="429"), {"retry-after": "3"}, RateLimitError, "rate_limited", "no", 3.0),
        (429, "", {}, RateLimitError, "rate_limited", "no", None),
        (429, openai("x", "insufficient_quota"), {"retry-after": "3"}, RejectedError, "quota", "no", None),
        (429, openai("x", code="insufficient_quota"), {}, RejectedError, "quota", "no", None),
        (400, openai("Your credit balance is too low"), {}, RejectedError, "quota", "no", None),
        (402, openai("Insufficient Balance"), {}, RejectedError, "quota", "no", None),
        (429, openai("You exceeded your current quota."), {}, RejectedError, "quota", "no", None),
        (
            429,
            openai("You exceeded your current quota. Please retry in 48s."),
            {},
            RateLimitError,
            "rate_limited",
            "no",
            48.0,
        ),
        (
            429,
            {"error": {"details": [{"violations": [{"quotaId": "RequestsPerDayPerProject"}]}]}},
            {"retry-after": "3"},
            RejectedError,
            "quota",
            "no",
            None,
        ),
        (400, openai("x", code="content_filter"), {}, RejectedError, "filter", "maybe", None),
        (400, openai("x", code="json_validate_failed"), {}, UnavailableError, "bad_output", "maybe", None),
        (500, openai("boom"), {}, UnavailableError, "server", "maybe", None),
        (500, openai("boom"), {"retry-after": "7"}, UnavailableError, "server", "maybe", 7.0),
        (502, "<html><body>Bad gateway</body></html>", {}, UnavailableError, "server", "maybe", None),
        (504, "", {}, UnavailableError, "server", "maybe", None),
        (599, "", {}, UnavailableError, "server", "maybe", None),
        (408, "", {}, UnavailableError, "server", "maybe", None),
        (503, "upstream connect error", {}, UnavailableError, "overloaded", "no", None),
        (503, "", {"retry-after": "9"}, RateLimitError, "overloaded", "no", 9.0),
        (
            529,
            {"type": "error", "error": {"type": "overloaded_error"}},
            {},
            RateLimitError,
            "overloaded",
            "no",
            None,
        ),
        (409, "", {}, UnavailableError, "conflict", "no", None),
        (425, "", {}, UnavailableError, "conflict", "no", None),
        (301, "", {}, RejectedError, "redirect", "no", None),
        (308, "", {}, RejectedError, "redirect", "no", None),
        (500, "", {"x-should-retry": "false"}, RejectedError, "server", "maybe", None),
        (400, "", {"x-should-retry": "true"}, UnavailableError, "invalid", "no", None),
        (401, "", {"x-should-retry": "true"}, RejectedError, "auth", "no", None),
    ],
)
def test_each_refusal_has_its_class_and_kind(status, body, headers, expected, kind, billed, retry_after):
    """A retry asks the class, a breaker the kind, a budget whether it was billed."""
    found = error(status, body, headers)

    assert type(found) is expected
    assert (found.kind, found.billed, found.retry_after, found.status) == (kind, billed, retry_after, status)
    assert found.is_transient is (expected is not RejectedError)


@pytest.mark.parametrize("status", [400, 413, 429, 500])
@pytest.mark.parametrize("body", OVERFLOWS)
def test_a_context_overflow_is_permanent_under_any_status(status, body):
    """Sent again it is as long as before; Gemini and Azure answer it with 429."""
    found = error(status, body, {"retry-after": "1"})

    assert (type(found), found.kind) == (RejectedError, "context_length")


@pytest.mark.parametrize(
    ("fields", "expected", "kind"),
    [
        ({"message": "slow down", "type": "rate_limit_exceeded"}, RateLimitError, "rate_limited"),
        ({"message": "slow down", "code": 429}, RateLimitError, "rate_limited"),
        ({"message": "slow down", "code": "429"}, RateLimitError, "rate_limited"),
        ({"message": "x", "code": "server_is_overloaded"}, RateLimitError, "overloaded"),
        ({"message": "x", "type": "invalid_request_error"}, RejectedError, "invalid"),
        ({"message": "x", "code": 401}, RejectedError, "auth"),
        ({"message": "x"}, UnavailableError, "server"),
        ({"message": "x", "code": 7}, UnavailableError, "server"),
    ],
)
def test_an_error_inside_a_success_is_judged_by_its_words(fields, expected, kind):
    """Its status says 200, so there is nothing else to go by."""
    found = error_in_reply(200, {"retry-after": "59"}, {"error": fields}, ENDPOINT)

    assert (type(found), found.kind, found.status) == (expected, kind, 200)
    assert found.retry_after is None
    assert found.billed == ("maybe" if found.is_transient else "no")


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        (
            401,
            openai("Incorrect API key provided."),
            {"x-request-id": "req_1"},
            (
                "model 'openai:gpt-4o' refused the key (HTTP 401): “Incorrect API key provided”. "
                "Check OPENAI_API_KEY. (request req_1)"
            ),
        ),
        (
            404,
            openai("The model `gpt-4o` does not exist."),
            {},
            (
                "model 'openai:gpt-4o' was not found (HTTP 404): “The model `gpt-4o` does not exist”. "
                "Check the model's name and the base URL https://api.openai.com/v1."
            ),
        ),
        (
            429,
            openai(""),
            {"retry-after": "17"},
            "model 'openai:gpt-4o' is rate limited (HTTP 429). Its next call may start in 17 s.",
        ),
        (
            429,
            openai("x", "insufficient_quota"),
            {},
            (
                "model 'openai:gpt-4o' has no quota left for this account (HTTP 429): “x”. "
                "Check plan and billing of the account behind OPENAI_API_KEY."
            ),
        ),
        (
            500,
            {"error": "boom"},
            {},
            "model 'openai:gpt-4o' failed (HTTP 500): “boom”. The fault is on its side; try again later.",
        ),
        (
            307,
            "",
            {"location": "https://elsewhere.example/"},
            (
                "model 'openai:gpt-4o' redirected the call (HTTP 307). Redirects are not followed, because "
                "the key would travel along. "
                "Give the final address as base_url instead of https://api.openai.com/v1."
            ),
        ),
        (
            400,
            openai("This model's maximum context length is 8192 tokens."),
            {},
            (
                "model 'openai:gpt-4o' was given more than fits its context (HTTP 400): "
                "“This model's maximum context length is 8192 tokens”. "
                "Shorten the prompt, split the document, or use a model with a larger context."
            ),
        ),
    ],
)
def test_messages_say_what_happened_and_what_to_do(status, body, headers, message):
    """The reader of the message did not write the pipeline and does not know HTTP."""
    assert str(error(status, body, headers)) == message


def test_without_a_key_a_401_says_where_to_put_one():
    """A server behind base_url= may want a key after all."""
    endpoint = Endpoint("openai:tiny", "http://127.0.0.1:8080/v1", "OPENAI_API_KEY")

    assert str(error(401, openai("Invalid API Key"), endpoint=endpoint)) == (
        "model 'openai:tiny' asked for a key (HTTP 401): “Invalid API Key”. Set OPENAI_API_KEY."
    )


@pytest.mark.parametrize(
    ("body", "quoted"),
    [
        ({"error": {"message": "a\nb\x1b[31mc"}}, "a b\\x1b[31mc"),
        ({"error": "text"}, "text"),
        ({"message": "bedrock"}, "bedrock"),
        ({"detail": "mistral"}, "mistral"),
        ({"detail": [{"loc": ["body"], "msg": "Field required", "input": "the document"}]}, "Field required"),
        ({"title": "Bad Request"}, "Bad Request"),
        ({"code": "c", "error": "xai"}, "xai"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": "the real reason"}}},
            "the real reason",
        ),
        ([{"error": {"message": "in a list"}}], "in a list"),
        ("plain text", "plain text"),
    ],
)
def test_the_providers_words_are_found_in_every_envelope_and_made_safe(body, quoted):
    """They are the most useful part of the message, and written by a stranger."""
    assert f"(HTTP 400): “{quoted}”. " in str(error(400, body))


def test_the_providers_words_are_cut():
    """Some servers answer with a page or quote the whole prompt."""
    found = str(error(400, openai("w" * 100_000)))

    assert f"“{'w' * 299}…”" in found


@pytest.mark.parametrize("body", [openai(f"Bad key {KEY}"), f"Bad key {KEY}", {"detail": [{"msg": KEY}]}])
def test_a_key_that_the_server_echoes_is_taken_out(body):
    """An error travels to logs, journals and pages."""
    found = error(401, body, {"x-request-id": KEY})

    assert KEY not in str(found)
    assert "[secret]" in str(found)
    assert found.request_id == "[secret]"


def test_a_cut_never_leaves_part_of_the_key():
    """Cutting first and redacting afterwards would show its beginning."""
    found = str(error(401, openai("w" * 295 + KEY)))

    assert KEY[:4] not in found


@pytest.mark.parametrize("value", ["x" * 200, "a b", "<script>", "\x1b[31m", ""])
def test_what_does_not_look_like_a_request_id_is_none(value):
    """It is printed at the end of the message, unquoted."""
    assert error(500, "", {"x-request-id": value}).request_id is None


@pytest.mark.parametrize(
    "body",
    ["[" * 100_000, '{"error":' + "9" * 5000 + "}", "null", "[]", '{"error":[1]}', "true", '"text"', "\x00"],
)
def test_hostile_bodies_are_only_server_errors(body):
    """Whatever a broken server sends, a run goes on."""
    assert error(500, body).kind == "server"
