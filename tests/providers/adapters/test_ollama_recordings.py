"""Recorded chats with Ollama, read to the letter: what they say is computed here once more, on its own."""

import json

import pytest

from pipeline_engine.errors import StreamTruncatedError, UnavailableError
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply
from pipeline_engine.providers.adapters.ollama import decode, open_stream

ENDPOINT = Endpoint("ollama:recorded", "http://127.0.0.1:11434", "OLLAMA_API_KEY")
FINISHES = {"stop": "stop", "length": "length"}


def lines_of(text):
    # Not splitlines(): it also splits where a recorded text holds a line separator of Unicode.
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.fixture(scope="module")
def calls(data):
    files = sorted((data / "recordings").glob("*.jsonl"))
    lines = [call for file in files for call in lines_of(file.read_text("utf-8"))]
    found = [call for call in lines if call["endpoint"] == "ollama.chat" and call["status"] == 200]
    assert found
    return found


def is_stream(call):
    return "stream.ndjson" in call["tags"]


def followed(call, size, end=None):
    """Return the pieces and the completion of a recorded stream that comes in chunks of this size."""
    data = call["response_body"].encode()[:end]
    reader = open_stream(Reply(call["status"], call["response_headers"]), ENDPOINT)
    pieces = [piece for start in range(0, len(data), size) for piece in reader.feed(data[start : start + size])]
    return pieces, reader.close()


def check(call, found, last):
    assert (found.finish, found.raw_finish) == (FINISHES[last["done_reason"]], last["done_reason"]), call["id"]
    assert found.usage.input_tokens == last.get("prompt_eval_count"), call["id"]
    assert found.usage.output_tokens == last["eval_count"], call["id"]
    assert found.model == last["model"], call["id"]


def test_every_answer_is_read_to_the_letter(calls):
    """Text, reason to finish, usage and model are what steps, retries and budgets go by."""
    answers = [call for call in calls if not is_stream(call)]
    assert answers

    for call in answers:
        body = json.loads(call["response_body"])
        data = call["response_body"].encode()
        found = decode(Reply(200, call["response_headers"], data), ENDPOINT)
        assert open_stream(Reply(200, call["response_headers"]), ENDPOINT) is None, call["id"]
        assert found.text == body["message"]["content"], call["id"]
        check(call, found, body)
        for end in range(0, len(data.rstrip()), 97):
            with pytest.raises(UnavailableError) as caught:
                decode(Reply(200, call["response_headers"], data[:end]), ENDPOINT)
            assert caught.value.kind == "bad_response", (call["id"], end)


def test_every_stream_is_read_to_the_letter_whatever_its_chunks(calls):
    """The pieces that a reader saw are the text that the step gets."""
    streams = [call for call in calls if is_stream(call)]
    assert streams

    for call in streams:
        lines = lines_of(call["response_body"])
        pieces, found = followed(call, 1 << 20)
        assert pieces == [line["message"]["content"] for line in lines if line["message"]["content"]], call["id"]
        assert found.text == "".join(pieces), call["id"]
        check(call, found, lines[-1])
        assert followed(call, 7) == followed(call, 1) == (pieces, found), call["id"]


def test_every_stream_that_breaks_off_is_truncated(calls):
    """Before the line that says `done` no reply is whole."""
    for call in filter(is_stream, calls):
        last = call["response_body"].encode().rindex(b'"done":true')
        for end in range(0, last, 61):
            with pytest.raises(StreamTruncatedError):
                followed(call, 1 << 20, end)
