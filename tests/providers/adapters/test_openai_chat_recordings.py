"""Recorded chat completions, read to the letter: what they say is computed here once more, on its own."""

import json
import os
import re
from pathlib import Path

import pytest

from pipeline_engine.errors import ProviderError, UnavailableError
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply
from pipeline_engine.providers.adapters.openai_chat import decode, open_stream

ENDPOINT = Endpoint("openai:recorded", "https://api.openai.com/v1", "OPENAI_API_KEY")
FINISHES = {"stop": "stop", "length": "length", "tool_calls": "tool", "function_call": "tool"}


def lines_of(file):
    # Not splitlines(): it also splits where a recorded text holds a line separator of Unicode.
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def calls():
    folder = os.environ.get("PIPELINE_ENGINE_DATA")
    if not folder:
        pytest.skip("PIPELINE_ENGINE_DATA is not set: no recorded traffic to replay")
    files = sorted((Path(folder) / "recordings").glob("*.jsonl"))
    return [call for file in files for call in lines_of(file) if call["endpoint"] == "chat" and call["response_body"]]


def is_stream(call):
    return "stream.sse" in call["tags"]


def is_answered(call):
    return call["status"] == 200 and not {"refusal", "content_filter", "error.midstream"} & set(call["tags"])


def text_of(content):
    """Return the text of a delta: some servers send parts, of which thinking is one."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def read(call, body):
    reader = open_stream(Reply(200, call["response_headers"]), ENDPOINT)
    reader.feed(body)
    return reader.close()


def test_every_answer_is_read_to_the_letter(calls):
    """Text, reason to finish, usage and model are what steps, retries and budgets go by."""
    answered = [call for call in calls if is_answered(call) and not is_stream(call)]
    assert answered

    for call in answered:
        body = json.loads(call["response_body"])
        choice, tokens = body["choices"][0], body["usage"]
        found = decode(Reply(200, call["response_headers"], call["response_body"].encode()), ENDPOINT)
        assert found.text == (choice["message"].get("content") or ""), call["id"]
        assert found.finish == FINISHES[choice["finish_reason"]], call["id"]
        assert found.raw_finish == choice["finish_reason"], call["id"]
        assert (found.usage.input_tokens, found.usage.output_tokens) == (
            tokens["prompt_tokens"],
            tokens["completion_tokens"],
        ), call["id"]
        assert found.model == body["model"], call["id"]


def test_every_stream_is_read_to_the_letter(calls):
    """The pieces that a reader saw are the text that the step gets."""
    streams = [call for call in calls if is_answered(call) and is_stream(call)]
    assert streams

    for call in streams:
        lines = call["response_body"].replace("\r\n", "\n").split("\n")
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]
        choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
        text = "".join(text_of((choice.get("delta") or {}).get("content")) for choice in choices)
        finishes = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
        reader = open_stream(Reply(200, call["response_headers"]), ENDPOINT)
        pieces = reader.feed(call["response_body"].encode())
        found = reader.close()
        assert "".join(pieces) == found.text == text, call["id"]
        assert found.finish == (FINISHES[finishes[-1]] if finishes else "other"), call["id"]
        usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        if usages:
            assert found.usage.input_tokens == usages[-1]["prompt_tokens"], call["id"]
            assert found.usage.output_tokens == usages[-1]["completion_tokens"], call["id"]


@pytest.mark.parametrize("finish", ["refusal", "filter"])
def test_every_answer_that_was_withheld_says_so(calls, finish):
    """It must reach the fallback, not the next step; and its tokens are billed."""
    tag = "content_filter" if finish == "filter" else finish
    withheld = [call for call in calls if tag in call["tags"] and call["status"] == 200]
    assert withheld

    for call in withheld:
        found = decode(Reply(200, call["response_headers"], call["response_body"].encode()), ENDPOINT)
        assert found.finish == finish, call["id"]
        assert finish == "filter" or found.refusal, call["id"]


def test_a_recorded_answer_that_was_cut_anywhere_is_a_typed_error(calls):
    """Connections break anywhere, and half an answer must not pass for a whole one."""
    for call in calls:
        if not is_answered(call) or is_stream(call):
            continue
        body = call["response_body"].rstrip().encode()
        for end in range(0, len(body), 97):
            with pytest.raises(UnavailableError) as caught:
                decode(Reply(200, call["response_headers"], body[:end]), ENDPOINT)
            assert caught.value.kind == "bad_response", (call["id"], end)


def test_a_recorded_stream_that_was_cut_anywhere_is_a_typed_error_or_whole(calls):
    """Only behind the finish reason a clean end may stand for the marker that some servers never send."""
    for call in calls:
        if not is_answered(call) or not is_stream(call):
            continue
        body = call["response_body"].encode()
        finish = re.search(rb'"finish_reason": ?"|data: \[DONE\]', body)
        for end in range(0, finish.start(), 61):
            with pytest.raises(ProviderError) as caught:
                read(call, body[:end])
            assert caught.value.kind in {"stream_truncated", "bad_response"}, (call["id"], end)
