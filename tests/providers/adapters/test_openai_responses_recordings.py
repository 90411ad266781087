"""Recorded responses, read to the letter: what they say is computed here once more, on its own."""

import json

import pytest

from pipeline_engine.errors import ProviderError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply
from pipeline_engine.providers.adapters.openai_responses import decode, open_stream

ENDPOINT = Endpoint("openai-responses:recorded", "https://api.openai.com/v1", "OPENAI_API_KEY")
KINDS_OF_STATUS = {400: {"invalid", "context_length", "not_found", "auth"}, 401: {"auth"}}


def lines_of(file):
    # Not splitlines(): it also splits where a recorded text holds a line separator of Unicode.
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def calls(data):
    lines = [line for file in sorted((data / "recordings").glob("*.jsonl")) for line in lines_of(file)]
    return [call for call in lines if call["endpoint"] == "responses"]


@pytest.fixture(scope="module")
def streams(calls):
    found = [call for call in calls if "stream.sse" in call["tags"]]
    assert found
    return found


@pytest.fixture(scope="module")
def answers(calls):
    """Those that are no streams, and not promises of a response to come."""
    whole = [call for call in calls if call["status"] == 200 and "stream.sse" not in call["tags"]]
    found = [call for call in whole if json.loads(call["response_body"])["status"] not in ("queued", "in_progress")]
    assert found
    return found


def replay(call, body=None):
    data = call["response_body"].encode() if body is None else body
    return decode(Reply(call["status"], call["response_headers"], data), ENDPOINT)


def followed(call, size, end=None):
    """Return the pieces and the completion of a recorded stream that comes in chunks of this size."""
    data = call["response_body"].encode()[:end]
    reader = open_stream(Reply(call["status"], call["response_headers"]), ENDPOINT)
    pieces = []
    for start in range(0, len(data), size):
        if reader.is_complete:
            break
        pieces += reader.feed(data[start : start + size])
    return pieces, reader.close()


def events_of(call):
    lines = call["response_body"].replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and "[DONE]" not in line]


def check(call, found, body):
    items = body["output"]
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    has_called = any(item["type"] == "function_call" for item in items)
    usage = body["usage"]
    assert found.text == "".join(part["text"] for part in parts if part["type"] == "output_text"), call["id"]
    # One server has a word of its own for it, which is kept.
    finish = "other" if body["status"] != "completed" else "tool" if has_called else "stop"
    assert (found.finish, found.raw_finish) == (finish, body["status"]), call["id"]
    assert found.usage.input_tokens == usage["input_tokens"], call["id"]
    assert found.usage.output_tokens == usage["output_tokens"], call["id"]
    assert found.usage.cache_read_tokens == usage["input_tokens_details"]["cached_tokens"], call["id"]
    assert found.usage.reasoning_tokens == usage["output_tokens_details"]["reasoning_tokens"], call["id"]
    assert found.model == body["model"], call["id"]


def test_every_answer_is_read_to_the_letter(answers):
    """Text, reason to finish, usage and model are what steps, retries and budgets go by."""
    for call in answers:
        check(call, replay(call), json.loads(call["response_body"]))


def test_every_stream_is_read_to_the_letter_whatever_its_chunks(streams):
    """The pieces that a reader saw are the text that the step gets."""
    for call in streams:
        events = events_of(call)
        pieces, found = followed(call, 1 << 20)
        check(call, found, events[-1]["response"])
        assert [piece for piece in pieces if piece] == [
            event["delta"] for event in events if event["type"] == "response.output_text.delta" and event["delta"]
        ], call["id"]
        assert followed(call, 7) == followed(call, 1) == (pieces, found), call["id"]


def test_a_promise_of_a_response_is_no_answer(calls):
    """An empty text must not pass for what the model has yet to say."""
    whole = [call for call in calls if call["status"] == 200 and "stream.sse" not in call["tags"]]
    promises = [call for call in whole if json.loads(call["response_body"])["status"] == "queued"]

    for call in promises:
        with pytest.raises(UnavailableError) as caught:
            replay(call)
        assert caught.value.kind == "bad_response", call["id"]


def test_every_error_becomes_a_typed_one(calls):
    """Which it is decides between waiting, giving up and trying another model."""
    refused = [call for call in calls if call["status"] >= 400]
    assert refused

    for call in refused:
        with pytest.raises(RejectedError) as caught:
            replay(call)
        assert caught.value.kind in KINDS_OF_STATUS[call["status"]], call["id"]
        assert caught.value.status == call["status"], call["id"]


def test_a_recorded_answer_that_was_cut_anywhere_is_a_typed_error(answers):
    """Connections break anywhere, and half an answer must not pass for a whole one."""
    for call in answers:
        body = call["response_body"].rstrip().encode()
        for end in range(0, len(body), 397):
            with pytest.raises(UnavailableError) as caught:
                replay(call, body[:end])
            assert caught.value.kind == "bad_response", (call["id"], end)


def test_every_stream_that_breaks_off_is_truncated(streams):
    """Before its terminal event no response is whole, however finished it looks."""
    for call in streams:
        data = call["response_body"].encode()
        last = data.rindex(b'"response.completed"')
        for end in range(0, last, 997):
            with pytest.raises(ProviderError) as caught:
                followed(call, 1 << 20, end)
            assert type(caught.value) is StreamTruncatedError, (call["id"], end)
