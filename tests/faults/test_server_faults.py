"""What a server can do to a call, from the engine down to the socket: faults 1 to 35 of the catalogue."""

import gzip
import json
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import trio
from pydantic import BaseModel, ConfigDict

from pipeline_engine import Cache, OutputError, Price, RateLimitError, RejectedError, Retry, StepTimeoutError, Timeout
from pipeline_engine.errors import StreamTruncatedError, UnavailableError
from tests.faults.catalogue import fault
from tests.faults.rig import SOON, asking
from tests.faults.servers import (
    DONE,
    STREAM,
    chat,
    completion,
    delta,
    error,
    event,
    raw,
    reply,
    spoken,
    streamed,
)

ONCE = Retry(attempts=1, base_delay=0.001, jitter="none")
NOW = "Sat, 21 Nov 2026 06:00:00 GMT"
LATER = "Sat, 21 Nov 2026 06:00:07 GMT"
EARLIER = "Sat, 21 Nov 2026 05:59:00 GMT"


def told(found, *, kind, billed, is_transient, status=200, retry_after=None):
    """Assert what a retry, a breaker and a bill need to know of an error."""
    known = (found.kind, found.billed, found.is_transient, found.status, found.retry_after)
    assert known == (kind, billed, is_transient, status, retry_after)


# Refusals for rate


@fault(1, {"retry-after": "0.1"}, {"retry-after-ms": "100"}, ids=["seconds", "milliseconds"])
async def test_a_hint_in_seconds_is_waited_out_and_spends_no_attempt(rig, case):
    """The provider knows when it will answer; a step that gave up before would fail for nothing."""
    server = await rig.serve(error(429, "Slow down", case), chat())
    ran = await rig.run(server, asking(retry=ONCE))

    assert (ran.status, ran.value, len(server.requests), ran.attempts) == ("completed", "Hello", 2, 2)
    assert ran.waits[0] >= 0.1
    assert ran.faults[0] == (
        "rate_limited",
        "model 'openai:m' is rate limited (HTTP 429): “Slow down”. Its next call may start in 0.1 s. (request req_1)",
        True,
        429,
    )


@fault(2, LATER)
async def test_a_hint_as_a_date_is_read_by_the_servers_own_clock(rig, case):
    """Our clock may be wrong by hours: only the difference of the server's two readings counts."""
    server = await rig.serve(error(429, headers={"retry-after": case, "date": NOW}))
    ran = await rig.run(server, asking(timeout=Timeout(step=1.0)))

    assert (type(ran.error), len(server.requests), ran.attempts) == (RateLimitError, 1, 1)
    told(ran.error, kind="rate_limited", billed="no", is_transient=True, status=429, retry_after=7.0)


@fault(2, EARLIER)
async def test_a_date_in_the_past_is_no_hint(rig, case):
    """It says "now", to everybody who was refused at the same instant."""
    server = await rig.serve(error(429, headers={"retry-after": case, "date": NOW}), chat())
    ran = await rig.run(server, asking(retry=Retry(attempts=1, base_delay=0.05, jitter="none")))

    assert (ran.status, len(server.requests)) == ("completed", 2)
    assert ran.waits[0] >= 0.05


@fault(3)
async def test_without_a_hint_refusals_are_met_with_our_own_delays_and_are_bounded(rig, case):
    """A provider that refuses for ever must not be asked for ever."""
    server = await rig.serve(error(429))
    ran = await rig.run(server, asking(retry=Retry(attempts=1, base_delay=0.01, jitter="none", max_throttled=2)))

    assert (ran.status, type(ran.error), len(server.requests), ran.attempts) == ("failed", RateLimitError, 3, 3)
    assert [wait >= delay for wait, delay in zip(ran.waits, [0.01, 0.02], strict=True)] == [True, True]
    told(ran.error, kind="rate_limited", billed="no", is_transient=True, status=429)
    assert str(ran.error) == (
        "model 'openai:m' is rate limited (HTTP 429): “It went wrong”. "
        "Try again later, with fewer calls at once. (request req_3)"
    )


@fault(4)
async def test_a_spent_quota_is_permanent_and_names_billing(rig, case):
    """It looks like a rate limit, and no wait ever ends it."""
    said = "You exceeded your current quota"
    server = await rig.serve(error(429, said, type="insufficient_quota", code="insufficient_quota"))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests), ran.attempts) == ("failed", RejectedError, 1, 1)
    told(ran.error, kind="quota", billed="no", is_transient=False, status=429)
    assert str(ran.error) == (
        f"model 'openai:m' has no quota left for this account (HTTP 429): “{said}”. "
        "Check plan and billing of the account behind api_key=. (request req_1)"
    )


@fault(5, "-1", "soon", "nan", "0")
async def test_a_hint_that_makes_no_sense_is_ignored(rig, case):
    """A step must neither wait for ever nor come back at once because a server cannot count."""
    server = await rig.serve(error(429, headers={"retry-after": case}), chat())
    ran = await rig.run(server, asking(retry=Retry(attempts=1, base_delay=0.02, jitter="none")))

    assert (ran.status, len(server.requests)) == ("completed", 2)
    assert ran.waits[0] >= 0.02


@fault(5, "-1", "soon", "1e9")
async def test_a_hint_that_makes_no_sense_is_told(rig, case, caplog):
    """Whoever runs the proxy that writes it can mend it, once somebody says so; once is enough."""
    refused = error(429, headers={"retry-after": case})
    server = await rig.serve(refused, refused, chat())
    ran = await rig.run(server, asking(timeout=Timeout(step=2.0)))

    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert ran.status == ("failed" if case == "1e9" else "completed")
    assert [record.name for record in warnings] == ["pipeline_engine"]
    assert repr(case) in warnings[0].getMessage()
    assert "openai:m" in warnings[0].getMessage()


@fault(5, "1e9")
async def test_a_hint_beyond_the_deadline_goes_to_the_next_model_at_once(rig, case):
    """Waiting for what cannot help any more would spend the time that the next model has."""
    server, other = await rig.serve(error(429, headers={"retry-after": case})), await rig.serve()
    pipeline = asking(timeout=Timeout(step=2.0))
    failed = await rig.run(server, pipeline)
    ran = await rig.run([rig.model(server), rig.model(other, "openai:n")], pipeline)

    told(failed.error, kind="rate_limited", billed="no", is_transient=True, status=429, retry_after=86_400.0)
    assert (failed.attempts, failed.waits) == (1, [])
    assert (ran.status, ran.value, ran.via, ran.waits) == ("completed", "Hello", "fallback:openai:n", [])
    assert (len(server.requests), len(other.requests)) == (2, 1)


# Statuses


@fault(6, (500, "server", "maybe"), (502, "server", "maybe"), (503, "overloaded", "no"), (504, "server", "maybe"))
async def test_a_server_error_is_tried_again(rig, case):
    """Most of them are gone a second later."""
    status, kind, billed = case
    server = await rig.serve(error(status), chat(), error(status))
    first = await rig.run(server)
    second = await rig.run(server)

    assert (first.status, first.attempts, first.kinds) == ("completed", 2, [kind, None])
    assert (second.status, type(second.error), second.attempts) == ("failed", UnavailableError, 2)
    assert len(server.requests) == 4
    told(second.error, kind=kind, billed=billed, is_transient=True, status=status)
    what = "is overloaded" if kind == "overloaded" else "failed"
    advice = {
        "overloaded": "Try again later, with fewer calls at once.",
        "server": "The fault is on its side; try again later.",
    }
    assert str(second.error) == (
        f"model 'openai:m' {what} (HTTP {status}): “It went wrong”. {advice[kind]} (request req_4)"
    )


@fault(6, (529, {}), (503, {"retry-after": "0.05"}), ids=["529", "503 with a hint"])
async def test_a_refusal_for_overload_spends_no_attempt(rig, case):
    """It is a refusal before any work, like a 429."""
    status, headers = case
    server = await rig.serve(error(status, headers=headers), chat())
    ran = await rig.run(server, asking(retry=ONCE))

    assert (ran.status, ran.kinds, len(server.requests)) == ("completed", ["overloaded", None], 2)
    assert ran.waits[0] >= float(headers.get("retry-after", 0.001))
    assert ran.faults[0].is_transient


@fault(
    7,
    (401, "Incorrect API key provided: @KEY@", "refused the key", "Check api_key="),
    (403, "Key @KEY@ may not do this", "denied access", "Check what the key in api_key= may use"),
    ids=["401", "403"],
)
async def test_a_bad_key_is_one_call(rig, case):
    """Whoever tries a bad key again and again is locked out."""
    status, said, what, advice = case
    server = await rig.serve(error(status, said))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests), ran.attempts) == ("failed", RejectedError, 1, 1)
    told(ran.error, kind="auth", billed="no", is_transient=False, status=status)
    quoted = said.replace("@KEY@", "[secret]")
    assert str(ran.error) == f"model 'openai:m' {what} (HTTP {status}): “{quoted}”. {advice}. (request req_1)"


@fault(8)
async def test_an_unknown_model_is_named(rig, case):
    """A slip of the pen in a model's name is the commonest mistake of all."""
    server = await rig.serve(error(404, "The model `m` does not exist", code="model_not_found"))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests), ran.attempts) == ("failed", RejectedError, 1, 1)
    told(ran.error, kind="not_found", billed="no", is_transient=False, status=404)
    assert str(ran.error) == (
        "model 'openai:m' was not found (HTTP 404): “The model `m` does not exist”. "
        f"Check the model's name and the base URL {server.base_url}. (request req_1)"
    )


@fault(9)
async def test_a_prompt_beyond_the_context_is_permanent_and_says_so(rig, case):
    """Sent again it is as long as before; shortened, or to another model, it may pass."""
    said = "This model's maximum context length is 8192 tokens"
    server = await rig.serve(error(400, said, code="context_length_exceeded"))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests), ran.attempts) == ("failed", RejectedError, 1, 1)
    told(ran.error, kind="context_length", billed="no", is_transient=False, status=400)
    assert str(ran.error) == (
        f"model 'openai:m' was given more than fits its context (HTTP 400): “{said}”. "
        "Shorten the prompt, split the document, or use a model with a larger context. (request req_1)"
    )


@fault(
    10,
    (b"<html>413 Request Entity Too Large</html>", "invalid"),
    (completion(error={"message": "prompt is too long: 9 tokens"}), "context_length"),
    ids=["a proxy's page", "the provider's words"],
)
async def test_a_request_that_is_too_large_is_permanent(rig, case):
    """It has the same length the next time."""
    body, kind = case
    server = await rig.serve(reply(body, 413))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests), ran.attempts) == ("failed", RejectedError, 1, 1)
    told(ran.error, kind=kind, billed="no", is_transient=False, status=413)


@fault(11, (408, "server", "maybe"), (409, "conflict", "no"))
async def test_a_timeout_or_a_conflict_of_the_server_is_tried_again(rig, case):
    """They are the two errors among the four hundreds that pass by themselves."""
    status, kind, billed = case
    server = await rig.serve(error(status), chat(), error(status))
    first = await rig.run(server)
    second = await rig.run(server)

    assert (first.status, first.kinds) == ("completed", [kind, None])
    assert (second.status, type(second.error), len(server.requests)) == ("failed", UnavailableError, 4)
    told(second.error, kind=kind, billed=billed, is_transient=True, status=status)


# Bodies


@fault(
    12,
    ({"message": "Overloaded", "type": "overloaded_error"}, RateLimitError, "overloaded", "maybe"),
    ({"message": "Slow down", "code": "rate_limit_exceeded"}, RateLimitError, "rate_limited", "maybe"),
    ({"message": "Internal error", "code": 500}, UnavailableError, "server", "maybe"),
    ({"message": "Bad key @KEY@", "type": "authentication_error"}, RejectedError, "auth", "no"),
    ids=["overloaded", "rate", "server", "key"],
)
async def test_an_error_inside_a_success_is_an_error(rig, case):
    """Otherwise the error's text is summarised as if it were the document's."""
    body, expected, kind, billed = case
    server = await rig.serve(reply(json.dumps({"error": body}).encode()))
    ran = await rig.run(server, asking(retry=Retry(attempts=2, base_delay=0.001, max_throttled=1)))

    tries = 2 if expected.is_transient else 1
    assert (ran.status, type(ran.error), len(server.requests)) == ("failed", expected, tries)
    told(ran.error, kind=kind, billed=billed, is_transient=expected.is_transient)
    assert "(an error inside HTTP 200)" in str(ran.error)


@fault(13)
async def test_a_login_page_is_quoted_in_short_and_harmless(rig, case):
    """A proxy between us and the provider answers in its place; one look at the page says so."""
    page = "<html>\x1b[31m<title>Log in</title>" + "x" * 500
    server = await rig.serve(reply(page.encode(), headers={"content-type": "text/html; charset=utf-8"}))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests)) == ("failed", UnavailableError, 2)
    told(ran.error, kind="bad_response", billed="maybe", is_transient=True)
    before, quoted = str(ran.error).removesuffix(" (request req_2)").split(" that begins “")
    quoted, advice = quoted.split("”. ")
    assert before == "model 'openai:m' answered HTTP 200 with something that is not JSON (text/html)"
    assert quoted.startswith("<html>")
    assert "<title>Log in</title>xxx" in quoted
    assert (len(quoted) <= 200, "\x1b" in quoted) == (True, False)
    assert advice == (
        f"If it happens again, check that {server.base_url} is the base URL of this provider's interface."
    )


@fault(14, b"", b"  \r\n", ids=["nothing", "blank"])
async def test_an_empty_body_is_no_empty_answer(rig, case):
    """The empty string would go down the pipeline as if a model had said it."""
    server = await rig.serve(reply(case), chat())
    ran = await rig.run(server)

    assert (ran.status, ran.kinds, len(server.requests)) == ("completed", ["bad_response", None], 2)
    assert "answered HTTP 200 with an empty body. " in ran.faults[0].message


@fault(15, b'{"choices":[{"mess', b"{'choices': []}", b'{"choices": NaN}', b"\xff\xfe\x00", b"[" * 100_000)
async def test_invalid_json_is_a_bad_response(rig, case):
    """Cut, quoted wrongly, not numbers, not text, or nested until a parser's stack is gone."""
    server = await rig.serve(reply(case))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests)) == ("failed", UnavailableError, 2)
    told(ran.error, kind="bad_response", billed="maybe", is_transient=True)
    assert "answered HTTP 200 with something that is not JSON" in str(ran.error)


@fault(16, b"{}", b'{"choices": []}', b'{"choices": null}', b'{"choices": [null]}', b"null", b"7", b'"Hello"')
async def test_json_without_choices_is_a_bad_response(rig, case):
    """Something answers there, and it is no model."""
    server = await rig.serve(reply(case))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests)) == ("failed", UnavailableError, 2)
    told(ran.error, kind="bad_response", billed="maybe", is_transient=True)
    assert "answered HTTP 200 with JSON without any choice" in str(ran.error)


REFUSALS = {
    "refusal": (chat(None, message={"refusal": "I cannot help with that."}), "refusal"),
    "refusal in parts": (
        chat(None, message={"content": [{"type": "refusal", "refusal": "I cannot help with that."}]}),
        "refusal",
    ),
    "filter": (chat(None, "content_filter"), "filter"),
    "filter without a message": (reply(b'{"choices":[{"finish_reason":null}]}'), "filter"),
    "streamed refusal": (
        streamed(delta(delta={"refusal": "I cannot help with that."}), delta(finish="stop"), DONE),
        "refusal",
    ),
    "streamed filter": (streamed(delta("The first"), delta(finish="content_filter"), DONE), "filter"),
}


@fault(17, *REFUSALS)
async def test_a_reply_that_was_withheld_is_a_paid_refusal_and_falls_back(rig, case):
    """Asked again, the model refuses again and is paid again; half of a filtered reply is no answer."""
    answer, kind = REFUSALS[case]
    server, other = await rig.serve(answer), await rig.serve(chat(), spoken())
    options = {"stream": "streamed" in case}
    failed = await rig.run(server, asking(**options))
    ran = await rig.run([rig.model(server), rig.model(other, "openai:n")], asking(**options))

    assert (failed.status, type(failed.error), failed.attempts) == ("failed", RejectedError, 1)
    assert (failed.error.kind, failed.error.billed, failed.error.is_transient) == (kind, "yes", False)
    words = {
        "refusal": "refused to answer: “I cannot help with that”",
        "filter": "was stopped by its provider's content filter",
    }
    assert str(failed.error) == (
        f"model 'openai:m' {words[kind]}. "
        "Give the step a fallback= for documents that this model does not take. (request req_1)"
    )
    assert (ran.status, ran.value, ran.via, len(server.requests)) == ("completed", "Hello", "fallback:openai:n", 2)


@fault(18, "whole", "streamed")
async def test_a_reply_cut_at_its_cap_is_neither_repaired_nor_shared(rig, case):
    """A cut reply often looks complete; asked again it is cut at the same place."""
    answer = chat("Half of", "length") if case == "whole" else streamed(delta("Half of"), delta(finish="length"), DONE)
    server, other = await rig.serve(answer), await rig.serve(chat(), spoken())
    options = {"stream": case == "streamed", "cache": Cache()}
    failed = await rig.run(server, asking(**options))
    ran = await rig.run([rig.model(server), rig.model(other, "openai:n")], asking(**options))
    kept = await rig.run(server, asking(truncated="keep", **options))

    assert (failed.status, type(failed.error), failed.attempts, failed.repairs) == ("failed", OutputError, 1, [])
    assert (failed.error.is_truncated, failed.error.is_transient) == (True, False)
    assert str(failed.error) == (
        "the output of step 'answer' is not what was declared: the reply was cut at its token cap. "
        'Raise Model(max_tokens=…), ask for less, or accept it with truncated="keep".'
    )
    assert (ran.value, ran.via) == ("Hello", "fallback:openai:n")
    assert (kept.value, len(server.requests)) == ("Half of", 3)


USAGES = {
    "missing": (None, (None, None)),
    "negative": ({"prompt_tokens": -7, "completion_tokens": -1}, (None, None)),
    "huge": ({"prompt_tokens": 10**30, "completion_tokens": 3}, (None, 3)),
    "words": ({"prompt_tokens": "many", "completion_tokens": True}, (None, None)),
}


@fault(19, *USAGES)
async def test_usage_that_nobody_can_know_is_unknown_and_not_free(rig, case):
    """A missing count that is taken for zero makes every budget look good."""
    sent, expected = USAGES[case]
    server = await rig.serve(reply(completion(usage=sent)))
    ran = await rig.run(rig.model(server, price=Price(input_usd=1, output_usd=1)))

    usage = ran.result.usage
    assert (ran.status, ran.value) == ("completed", "Hello")
    assert (usage.input_tokens, usage.output_tokens) == expected
    assert (ran.result.cost.unpriced_calls, ran.result.cost.usd, ran.result.cost.is_known) == (1, 0.0, False)


@fault(20, "whole", "streamed")
async def test_the_model_that_answered_is_recorded(rig, case):
    """A provider that serves another model than the one asked for explains a day of odd results."""
    named = {"model": "m-2026-11-01"}
    whole, parts = reply(completion(**named)), streamed(delta("Hello", **named), delta(finish="stop", **named), DONE)
    server = await rig.serve(whole if case == "whole" else parts)
    ran = await rig.run(server, asking(stream=case == "streamed"))

    (call,) = ran.result.calls("answer")
    assert (ran.value, call.model, call.completion.model) == ("Hello", "openai:m", "m-2026-11-01")


# Streams


@fault(21, "chunked", "close")
async def test_a_stream_without_its_marker_is_whole_only_after_a_finish_reason(rig, case):
    """Many servers never send the marker; a stream without either is half an answer."""
    whole = await rig.serve(streamed(delta("Hello"), delta(finish="stop"), framing=case))
    half = await rig.serve(streamed(delta("Hello"), framing=case))
    ran = await rig.run(whole, asking(stream=True))
    failed = await rig.run(half, asking(stream=True))

    assert (ran.status, ran.value, len(whole.requests)) == ("completed", "Hello", 1)
    assert (failed.status, type(failed.error), len(half.requests)) == ("failed", StreamTruncatedError, 2)
    told(failed.error, kind="stream_truncated", billed="maybe", is_transient=True)
    assert str(failed.error) == (
        "model 'openai:m' broke off its streamed reply before the end. "
        "What came is not used; try again. (request req_2)"
    )


@fault(22, "chunked, no last chunk", "chunked, in a chunk", "close", "reset")
async def test_a_stream_cut_in_an_event_is_truncated(rig, case):
    """Half of an event is not read as a whole one, and half of a reply is not used."""
    half = delta("lo")[:-9]
    cuts = {
        "chunked, no last chunk": streamed(delta("Hel"), half, then="close"),
        "chunked, in a chunk": raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nff\r\n",
            half,
            then="close",
        ),
        "close": streamed(delta("Hel"), half, framing="close"),
        "reset": streamed(delta("Hel"), half, then="reset"),
    }
    server = await rig.serve(cuts[case], spoken(), cuts[case])
    ran = await rig.run(server, asking(stream=True))
    failed = await rig.run(server, asking(stream=True))

    assert (ran.status, ran.value, ran.kinds) == ("completed", "Hello", ["stream_truncated", None])
    assert (failed.status, type(failed.error), len(server.requests)) == ("failed", StreamTruncatedError, 4)
    told(failed.error, kind="stream_truncated", billed="maybe", is_transient=True)


BROKEN = {
    "overloaded": (event({"error": {"message": "Overloaded", "type": "overloaded_error"}}), "overloaded", "maybe"),
    "rate": (event({"error": {"message": "Slow down", "code": "rate_limit_exceeded"}}), "rate_limited", "maybe"),
    "unknown": (event({"error": {"message": "It went wrong"}}), "stream_error", "maybe"),
    "unknown, named": (event({"message": "It went wrong"}, "error"), "stream_error", "maybe"),
}


@fault(23, *BROKEN)
async def test_an_error_after_tokens_discards_them(rig, case):
    """The status was 200 and the text begins well: only the event says that it is worth nothing."""
    sent, kind, billed = BROKEN[case]
    broken = streamed(delta("Hel"), sent, delta("lo"), delta(finish="stop"), DONE)
    server = await rig.serve(broken, spoken("Again"), broken)
    retry = Retry(attempts=2, base_delay=0.001, max_throttled=1)
    ran = await rig.run(server, asking(stream=True, retry=retry))
    failed = await rig.run(server, asking(stream=True, retry=retry))

    assert (ran.status, ran.value, ran.kinds) == ("completed", "Again", [kind, None])
    assert (failed.status, len(server.requests)) == ("failed", 4)
    told(failed.error, kind=kind, billed=billed, is_transient=True)
    assert "(an error inside HTTP 200)" in str(failed.error)


PINGS = b": keep-alive\n\n"
EMPTY = delta("", delta={"role": "assistant"})


@fault(24, PINGS, EMPTY, ids=["comments", "empty deltas"])
async def test_keep_alives_are_no_sign_of_progress(rig, case):
    """A provider whose model has died goes on sending them for ever."""
    after = await rig.serve(streamed(delta("Hel"), *[case] * 10_000, gap=0.01))
    never = await rig.serve(streamed(*[case] * 10_000, gap=0.01))
    idle = await rig.run(after, asking(stream=True, timeout=Timeout(first_token=SOON, idle=0.1)))
    silent = await rig.run(never, asking(stream=True, timeout=Timeout(first_token=0.15, idle=SOON)))

    for ran, server, which, seconds in ((idle, after, "idle", 0.1), (silent, never, "first_token", 0.15)):
        assert (ran.status, type(ran.error), ran.error.which) == ("failed", StepTimeoutError, which)
        assert (ran.error.is_transient, len(server.requests), ran.attempts) == (True, 2, 2)
        assert 2 * seconds <= ran.took < 2 * seconds + 1
        assert str(ran.error) == (
            f"step 'answer' ran into its {which} timeout of {seconds} s. "
            f"Raise Timeout({which}=…) or use a faster model."
        )


@fault(25, "whole", "streamed")
async def test_a_byte_now_and_then_runs_into_the_attempts_timeout(rig, case):
    """Each byte resets the timeout of a socket, so that one alone would never fire."""
    answer = chat("x" * 2000) if case == "whole" else streamed(delta("x" * 2000), DONE)
    pieces = answer.pieces
    slow = answer.with_(
        pieces=lambda received: (bytes([byte]) for part in pieces(received) for byte in part), gap=0.005
    )
    server = await rig.serve(slow)
    ran = await rig.run(server, asking(stream=case == "streamed", timeout=Timeout(attempt=0.15)))

    assert (ran.status, type(ran.error), ran.error.which) == ("failed", StepTimeoutError, "attempt")
    assert (ran.error.is_transient, len(server.requests), ran.attempts) == (True, 2, 2)


@fault(26, b"\n", b"\r\n", b"\r", ids=["LF", "CRLF", "CR"])
async def test_characters_and_line_ends_may_be_split_anywhere(rig, case):
    """The network cuts where it likes, and a model may write any character."""
    text = "Grüße 👋🏽 \u2028 \u0085 日本"
    events = [event(json.loads(delta(part).removeprefix(b"data: ")), end=case) for part in (text[:7], text[7:])]
    body = b"".join([b"\xef\xbb\xbf", *events, delta(finish="stop").replace(b"\n", case), DONE.replace(b"\n", case)])
    cut = streamed(*(body[at : at + 1] for at in range(len(body))))
    server = await rig.serve(cut)
    ran = await rig.run(server, asking(stream=True))

    assert (ran.status, ran.value, len(server.requests)) == ("completed", text, 1)


def flood(head, size=100 * 2**20):
    """Answer with a head and then with far more than anybody wants."""
    piece = b"x" * 2**18
    return raw().with_(pieces=lambda _: (head, *[piece] * (size // len(piece))), then="close")


ENDLESS = {
    "an event": (True, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: ", 17),
    "a body": (False, b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"', 33),
    "an error": (False, b"HTTP/1.1 500 No\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n", 33),
}


@fault(27, *ENDLESS)
async def test_a_reply_without_end_is_read_up_to_a_cap(rig, case):
    """One broken server must not fill the memory that a thousand other documents need."""
    is_streamed, head, cap = ENDLESS[case]
    server = await rig.serve(flood(head))
    with memory() as peak:
        ran = await rig.run(server, asking(stream=is_streamed, retry=ONCE))

    assert (ran.status, type(ran.error), len(server.requests)) == ("failed", UnavailableError, 1)
    assert (ran.error.kind, ran.error.is_transient) == ("bad_response", True)
    # What the sockets' buffers hold comes on top.
    assert server.sent < (cap + 16) * 2**20
    assert peak() < 2 * 33 * 2**20


class memory:  # noqa: N801 - reads like a statement
    """Measure by how many bytes the process grows at most within a block."""

    def __enter__(self):
        if not sys.platform.startswith("linux"):
            return lambda: 0
        Path("/proc/self/clear_refs").write_text("5")
        before = self.of("VmRSS")
        return lambda: self.of("VmHWM") - before

    def __exit__(self, *_):
        return None

    @staticmethod
    def of(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


ODD = {
    "in the order of arrival": ([delta("b"), delta("a"), delta("b"), delta(finish="stop")], "bab"),
    "two ends": ([delta("a"), delta(finish="stop"), delta(finish="stop")], "a"),
    "an end with text": ([delta("a"), delta("b", "stop")], "ab"),
    "no choices": ([delta("a"), event({"choices": []}), event({"object": "x"}), delta(finish="stop")], "a"),
    "nulls": ([delta("a"), event({"choices": [{"delta": None}]}), event({"choices": None}), delta(finish="stop")], "a"),
    "after the marker": ([delta("a"), delta(finish="stop"), DONE, delta("b")], "a"),
}


@fault(28, *ODD)
async def test_deltas_are_joined_as_they_come_until_the_marker(rig, case):
    """There is no number in them to sort by: the order of arrival is the rule, and nothing is dropped as a copy."""
    events, text = ODD[case]
    server = await rig.serve(streamed(*events, DONE))
    ran = await rig.run(server, asking(stream=True))

    assert (ran.status, ran.value, len(server.requests)) == ("completed", text, 1)


ENCODED = {
    "bomb": (gzip.compress(bytes(200 * 2**20)), "gzip", False),
    "bomb in a stream": (gzip.compress(bytes(200 * 2**20)), "gzip", True),
    "not compressed": (completion(), "gzip", False),
    "cut": (gzip.compress(completion())[:-9], "gzip", False),
    "unknown": (completion(), "br", False),
}


@fault(29, *ENCODED)
async def test_an_encoding_that_was_not_asked_for_blows_nothing_up(rig, case):
    """194 KB of gzip become 200 MB, and with them the process of a thousand other documents."""
    body, encoding, is_streamed = ENCODED[case]
    headers = {"content-encoding": encoding, **(STREAM if is_streamed else {})}
    server = await rig.serve(reply(body, headers=headers))
    with memory() as peak:
        ran = await rig.run(server, asking(stream=is_streamed))

    assert (ran.status, type(ran.error), len(server.requests)) == ("failed", UnavailableError, 2)
    told(ran.error, kind="bad_response", billed="maybe", is_transient=True)
    assert "in an encoding that was not asked for" in str(ran.error)
    assert peak() < 2 * 32 * 2**20


@fault(29, "gzip")
async def test_a_compressed_reply_is_read_all_the_same(rig, case):
    """Some proxies compress whatever the request says, and the reply was paid for."""
    server = await rig.serve(reply(gzip.compress(completion()), headers={"content-encoding": case}))
    ran = await rig.run(server)

    assert (ran.status, ran.value) == ("completed", "Hello")
    assert server.requests[0].headers["accept-encoding"] == "identity"


HEADS = {
    "many": b"".join(b"x-%d: %s\r\n" % (number, b"y" * 100) for number in range(20_000)),
    "long": b"x-long: " + b"y" * 2**20 + b"\r\n",
    "endless": b"x-endless: " + b"y" * 2**24,
}


@fault(30, *HEADS)
async def test_a_flood_of_headers_is_a_typed_error(rig, case):
    """Headers are read before anybody can say how many there may be."""
    head = b"HTTP/1.1 200 OK\r\n" + HEADS[case]
    server = await rig.serve(raw(head, b"\r\n", then="close"))
    ran = await rig.run(server, asking(timeout=Timeout(attempt=2.0)))

    assert (ran.status, type(ran.error), len(server.requests)) == ("failed", UnavailableError, 2)
    told(ran.error, kind="bad_response", billed="maybe", is_transient=True, status=None)


@fault(31, "yesterday", "Sat, 99 Nov 2026 99:99:99 GMT", "Mon, 01 Jan 99999 00:00:00 GMT", "\x80\xff")
async def test_a_nonsense_date_is_ignored(rig, case):
    """A header that nobody needs must not cost a reply; without it a date says nothing about how long to wait."""
    refused = error(429, headers={"date": case, "retry-after": LATER})
    server = await rig.serve(refused, reply(completion(), headers={"date": case}))
    ran = await rig.run(server, asking(timeout=Timeout(step=2.0)))

    assert (ran.status, ran.value, ran.kinds) == ("completed", "Hello", ["rate_limited", None])
    assert "Its next call may start" not in ran.faults[0].message


# What the model wrote


class Label(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label: Literal["report", "news"]


@fault(32, '{"label": 7}', '{"label": "news", "why": "x"}', '{"label": "News"}', "It is news.", '{"label": "ne', "")
async def test_a_reply_that_does_not_fit_is_repaired_twice_and_then_failed(rig, case):
    """A model that is told what is wrong often gets it right; one that never does must not be paid for ever."""
    mended = await rig.serve(chat(case), chat(case), chat('{"label": "news"}'))
    hopeless = await rig.serve(chat(case))
    ran = await rig.run(mended, asking(Label))
    failed = await rig.run(hopeless, asking(Label))

    assert (ran.status, ran.value.label, len(ran.repairs), len(mended.requests)) == ("completed", "news", 2, 3)
    assert (failed.status, type(failed.error), len(failed.repairs)) == ("failed", OutputError, 2)
    assert (len(hopeless.requests), failed.attempts, failed.error.is_transient) == (3, 3, False)
    assert mended.requests[1].messages[1] == case
    assert all(reason in mended.requests[1].messages[2] for reason in ran.repairs[0])


@fault(33, "", "   ", '{"label": ""}')
async def test_an_empty_text_is_valid_until_a_check_says_otherwise(rig, case):
    """Only the pipeline's author knows whether an empty summary is an answer."""
    server = await rig.serve(chat(case))

    def is_long_enough(text):
        return text.strip() not in {"", '{"label": ""}'} or "it is empty"

    accepted = await rig.run(server, asking())
    refused = await rig.run(server, asking(check=is_long_enough))

    assert (accepted.status, accepted.value) == ("completed", case)
    assert (refused.status, type(refused.error), len(refused.repairs)) == ("failed", OutputError, 2)
    assert refused.error.reasons == ("it is empty",)
    assert len(server.requests) == 4


# Local servers


@fault(34, "before the head", "after the head")
async def test_loading_a_model_has_a_timeout_of_its_own(rig, case):
    """A local server reads 40 GB from disk before its first token, and is quick from then on."""
    loading = streamed(delta("Hi") + delta(finish="stop") + DONE, gap=0.2)
    if case == "before the head":
        loading = loading.with_(gap=0.0, before=partial(trio.sleep, 0.2))
    server = await rig.serve(loading, streamed(then="hang"))
    patient = await rig.run(server, asking(stream=True, timeout=Timeout(first_token=SOON, idle=0.1)))
    hasty = await rig.run(server, asking(stream=True, timeout=Timeout(first_token=0.1, idle=SOON)))

    assert (patient.status, patient.value, patient.attempts) == ("completed", "Hi", 1)
    assert (hasty.status, type(hasty.error), hasty.error.which) == ("failed", StepTimeoutError, "first_token")
    assert (hasty.error.is_transient, hasty.attempts, len(server.requests)) == (True, 2, 3)


@fault(35)
async def test_a_local_server_that_is_not_running_is_said_so(rig, case):
    """The commonest failure of all has the shortest way out."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        ran = await rig.run(address)

    assert (ran.status, type(ran.error), ran.attempts) == ("failed", UnavailableError, 2)
    told(ran.error, kind="connect", billed="no", is_transient=True, status=None)
    assert str(ran.error) == (
        f"model 'openai:m' cannot be reached at {address}: the connection was refused. Is the server running?"
    )


def test_every_server_fault_of_the_catalogue_is_played():
    """A number that is dropped in silence is a promise that nobody keeps."""
    import tests.faults.test_server_faults as here

    marks = [mark for test in vars(here).values() for mark in getattr(test, "pytestmark", ())]
    numbers = {int(name[:2]) for mark in marks if mark.name == "parametrize" for name in mark.kwargs["ids"]}
    assert numbers == set(range(1, 36))
