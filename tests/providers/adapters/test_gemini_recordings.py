"""Recorded answers of Gemini and Vertex: each becomes the completion or the error that it is."""

import json

import pytest

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply
from pipeline_engine.providers.adapters.gemini import decode, open_stream
from pipeline_engine.values import Usage

ENDPOINT = Endpoint("gemini:recorded", "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY")
FINISHES = {"STOP": "stop", 1: "stop", "MAX_TOKENS": "length", 2: "length", "SAFETY": "filter", 3: "filter"}
KINDS = {400: {"invalid", "auth", "context_length"}, 401: {"auth"}, 403: {"auth"}, 404: {"not_found"}}


def lines_of(file):
    # Not splitlines(): it also splits where a recorded text holds a line separator of Unicode.
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def recordings(data):
    calls = [call for name in ("gemini", "vertex") for call in lines_of(data / "recordings" / f"{name}.jsonl")]
    return [call for call in calls if call["endpoint"].startswith("generateContent")]


@pytest.fixture(scope="module")
def answered(recordings):
    calls = [call for call in recordings if call["status"] == 200]
    assert calls
    return calls


@pytest.fixture(scope="module")
def streams(answered):
    calls = [call for call in answered if is_stream(call)]
    assert calls
    return calls


def is_stream(call):
    return call["response_headers"]["content-type"].startswith("text/event-stream")


def replay(call, end=None):
    """Return the completion in a call's body, or in its beginning."""
    data = call["response_body"].encode()[:end]
    return decode(Reply(call["status"], call["response_headers"], data), ENDPOINT)


def followed(call, size, end=None):
    """Return the pieces and the completion of a stream that comes in chunks of this size, and breaks off at `end`."""
    data = call["response_body"].encode()[:end]
    reader = open_stream(Reply(200, call["response_headers"]), ENDPOINT)
    pieces = [piece for start in range(0, len(data), size) for piece in reader.feed(data[start : start + size])]
    return pieces, reader.close()


def chunks_of(call):
    body = call["response_body"]
    if is_stream(call):
        lines = body.replace("\r\n", "\n").split("\n")
        return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
    document = json.loads(body)
    return document if isinstance(document, list) else [document]


def usage_in(told):
    return Usage(
        told["promptTokenCount"] + told.get("toolUsePromptTokenCount", 0),
        told.get("candidatesTokenCount", 0) + told.get("thoughtsTokenCount", 0),
        told.get("cachedContentTokenCount"),
        None,
        told.get("thoughtsTokenCount"),
    )


def finish_in(chunks, candidates, parts):
    told = [candidate["finishReason"] for candidate in candidates if "finishReason" in candidate]
    if not told:
        return chunks[0]["promptFeedback"]["blockReason"], "filter"
    is_call = any("functionCall" in part for part in parts)
    return str(told[-1]), "tool" if is_call else FINISHES.get(told[-1], "other")


def test_every_answer_is_read_to_the_letter(answered):
    """Text, reason to finish, usage and model are what steps, retries and budgets go by."""
    for call in answered:
        chunks = chunks_of(call)
        found = followed(call, 1 << 20)[1] if is_stream(call) else replay(call)
        candidates = [chunk["candidates"][0] for chunk in chunks if chunk.get("candidates")]
        parts = [part for candidate in candidates for part in candidate.get("content", {}).get("parts", ())]
        usage = {name: count for chunk in chunks for name, count in chunk["usageMetadata"].items()}
        assert found.text == "".join(part.get("text", "") for part in parts if not part.get("thought")), call["id"]
        assert (found.raw_finish, found.finish) == finish_in(chunks, candidates, parts), call["id"]
        assert found.usage == usage_in(usage), call["id"]
        assert found.model == chunks[-1]["modelVersion"], call["id"]


@pytest.mark.parametrize("size", [1, 7])
def test_every_stream_is_the_same_however_it_is_cut(streams, size):
    """Networks cut anywhere, and these end their lines in CRLF."""
    for call in streams:
        pieces, completion = followed(call, size)
        assert (pieces, completion) == followed(call, 1 << 20), call["id"]
        assert "".join(pieces) == completion.text, call["id"]


def test_every_answer_that_breaks_off_is_a_typed_error(answered):
    """Connections break anywhere, and half an answer must not pass for a whole one."""
    for call in answered:
        whole = call["response_body"].rstrip().encode()
        # What comes after the reason to finish is not text any more: a stream may break off there.
        last = whole.rindex(b'"finishReason"') if is_stream(call) else len(whole)
        for end in range(0, last, 97):
            with pytest.raises((StreamTruncatedError, UnavailableError)) as caught:
                followed(call, 1 << 20, end) if is_stream(call) else replay(call, end)
            assert caught.value.kind in {"stream_truncated", "bad_response"}, (call["id"], end)


def test_every_error_becomes_a_typed_one(recordings):
    """Which it is decides between waiting, giving up and trying another model."""
    refused = [call for call in recordings if call["status"] >= 400]
    assert refused

    for call in refused:
        with pytest.raises(ProviderError) as caught:
            replay(call)
        error = caught.value
        assert isinstance(error, RateLimitError if call["status"] == 429 else RejectedError | UnavailableError), call[
            "id"
        ]
        assert error.kind in KINDS.get(call["status"], {error.kind}), call["id"]
        assert error.is_transient == (call["status"] == 429 or call["status"] >= 500), call["id"]
        assert error.status == call["status"], call["id"]


def test_a_wait_that_only_the_body_names_is_found(recordings):
    """Gemini sends no header for it, and calling too early costs another refusal."""
    limited = [call for call in recordings if call["status"] == 429]
    assert limited

    for call in limited:
        with pytest.raises(RateLimitError) as caught:
            replay(call)
        details = json.loads(call["response_body"])["error"]["details"]
        delays = [float(detail["retryDelay"].removesuffix("s")) for detail in details if "retryDelay" in detail]
        assert caught.value.retry_after >= max(delays), call["id"]
