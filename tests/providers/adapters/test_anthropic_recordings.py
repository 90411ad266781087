"""Recorded answers of Anthropic: each becomes the completion or the error that it is."""

import json

import pytest

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply
from pipeline_engine.providers.adapters.anthropic import decode, open_stream
from pipeline_engine.values import Usage

ENDPOINT = Endpoint("anthropic:recorded", "https://api.anthropic.com", "ANTHROPIC_API_KEY")
FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool",
    "pause_turn": "pause",
    "refusal": "refusal",
}
KINDS = {400: {"invalid", "context_length", "quota"}, 401: {"auth"}, 403: {"auth"}, 404: {"not_found"}}


def lines_of(file):
    # Not splitlines(): it also splits where a recorded text holds a line separator of Unicode.
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def recordings(data):
    calls = lines_of(data / "recordings" / "anthropic.jsonl")
    return [call for call in calls if call["endpoint"] == "messages"]


@pytest.fixture(scope="module")
def replies(recordings):
    calls = [call for call in recordings if call["status"] == 200 and not is_stream(call)]
    assert calls
    return calls


@pytest.fixture(scope="module")
def streams(recordings):
    calls = [call for call in recordings if call["status"] == 200 and is_stream(call)]
    assert calls
    return calls


def is_stream(call):
    return call["response_headers"].get("content-type", "").startswith("text/event-stream")


def replay(call):
    return decode(Reply(call["status"], call["response_headers"], call["response_body"].encode()), ENDPOINT)


def followed(call, size, end=None):
    """Return the pieces and the completion of a stream that comes in chunks of this size, and breaks off at `end`."""
    data = call["response_body"].encode()[:end]
    reader = open_stream(Reply(200, call["response_headers"]), ENDPOINT)
    pieces = [piece for start in range(0, len(data), size) for piece in reader.feed(data[start : start + size])]
    return pieces, reader.close()


def usage_in(told):
    parts = [told.get(name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")]
    thinking = (told.get("output_tokens_details") or {}).get("thinking_tokens")
    return Usage(sum(part or 0 for part in parts), told["output_tokens"], parts[1], parts[2], thinking)


def events_of(call):
    blocks = call["response_body"].replace("\r\n", "\n").split("\n\n")
    lines = [line for block in blocks for line in block.split("\n")]
    return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]


def test_every_reply_is_read_to_the_letter(replies):
    """Text, reason to stop, usage and model are what steps, retries and budgets go by."""
    for call in replies:
        body, found = json.loads(call["response_body"]), replay(call)
        assert found.text == "".join(part["text"] for part in body["content"] if part["type"] == "text"), call["id"]
        assert (found.raw_finish, found.finish) == (body["stop_reason"], FINISHES.get(body["stop_reason"], "other")), (
            call["id"]
        )
        assert found.usage == usage_in(body["usage"]), call["id"]
        assert found.model == body["model"], call["id"]


def test_every_stream_is_read_to_the_letter(streams):
    """The pieces are the text, and the counts are those of the whole call."""
    for call in streams:
        events, (pieces, found) = events_of(call), followed(call, 1 << 20)
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        usage: dict = {}
        for event in events:
            told = event.get("usage") or event.get("message", {}).get("usage") or {}
            usage |= {name: count for name, count in told.items() if count is not None}
        stop = next(event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta")
        assert [piece for piece in pieces if piece] == [delta["text"] for delta in deltas if delta.get("text")], call[
            "id"
        ]
        assert found.text == "".join(pieces), call["id"]
        assert found.finish == FINISHES.get(stop, "other"), call["id"]
        assert found.usage == usage_in(usage), call["id"]
        assert found.model == events[0]["message"]["model"], call["id"]


@pytest.mark.parametrize("size", [1, 7])
def test_every_stream_is_the_same_however_it_is_cut(streams, size):
    """Networks cut anywhere."""
    for call in streams:
        assert followed(call, size) == followed(call, 1 << 20), call["id"]


def test_every_stream_that_breaks_off_is_truncated(streams):
    """Half an answer must not pass for a whole one."""
    for call in streams:
        last = call["response_body"].encode().rindex(b"message_stop")
        for end in range(0, last, 97):
            with pytest.raises((StreamTruncatedError, UnavailableError)) as caught:
                followed(call, 1 << 20, end)
            assert caught.value.kind in {"stream_truncated", "bad_response"}, (call["id"], end)


def test_every_error_becomes_a_typed_one(recordings):
    """Which it is decides between waiting, giving up and trying another model."""
    refused = [call for call in recordings if call["status"] >= 400]
    assert refused

    for call in refused:
        with pytest.raises(ProviderError) as caught:
            replay(call)
        error = caught.value
        is_waited_out = call["status"] in {429, 529}
        assert isinstance(error, RateLimitError if is_waited_out else RejectedError | UnavailableError), call["id"]
        assert error.kind in KINDS.get(call["status"], {error.kind}), call["id"]
        assert error.is_transient == (call["status"] in {408, 409, 429} or call["status"] >= 500), call["id"]
        assert error.status == call["status"], call["id"]


def test_quoted_errors_get_the_verdict_of_those_who_met_them(data):
    """No complete recording of an overload is known; these bodies are quoted in bug reports."""
    quoted = [error for error in lines_of(data / "quoted_errors.jsonl") if error["provider"] == "anthropic"]
    assert quoted

    for error in quoted:
        headers = {"content-type": "text/event-stream" if error["is_stream"] else "application/json"}
        call = {"status": error["status"], "response_headers": headers, "response_body": error["response_body"]}
        with pytest.raises(ProviderError) as caught:
            followed(call, 7) if error["is_stream"] else replay(call)
        assert caught.value.is_transient == (error["verdict"] == "transient"), error["id"]
        assert caught.value.retry_after == error["wait_s"], error["id"]
