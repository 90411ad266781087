"""Recorded answers of real servers: each becomes the completion or the error that it is."""

import json
import os
from pathlib import Path

import pytest

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, UnavailableError
from pipeline_engine.providers.adapter import Endpoint
from pipeline_engine.providers.openai_chat import decode
from pipeline_engine.values import Usage

ENDPOINT = Endpoint("openai:recorded", "https://api.openai.com/v1", "OPENAI_API_KEY")
FINISHES = {"stop": "stop", "length": "length", "tool_calls": "tool", "function_call": "tool"}
KINDS_OF_STATUS = {
    400: {"invalid", "context_length", "bad_output"},
    401: {"auth"},
    404: {"not_found"},
    429: {"rate_limited"},
}


@pytest.fixture(scope="module")
def data():
    """The folder of recorded traffic, where there is one."""
    folder = os.environ.get("PIPELINE_ENGINE_DATA")
    if not folder:
        pytest.skip("PIPELINE_ENGINE_DATA is not set: no recorded traffic to replay")
    return Path(folder)


def lines_of(file):
    # Not splitlines(): it also splits where a recorded text holds a line separator of Unicode.
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def recordings(data):
    """Every answer to a chat completion that is not a stream; an error is none, whatever was asked for."""
    lines = [line for file in sorted((data / "recordings").glob("*.jsonl")) for line in lines_of(file)]
    calls = [call for call in lines if call["endpoint"] == "chat"]
    return [call for call in calls if call["status"] >= 400 or "stream.sse" not in call["tags"]]


def replay(call):
    return decode(call["status"], call["response_headers"], call["response_body"].encode(), ENDPOINT)


def outcome(call):
    try:
        return replay(call)
    except ProviderError as error:
        return error


def first_choice(call):
    return json.loads(call["response_body"])["choices"][0]


def is_answered(call):
    return call["status"] == 200 and not {"refusal", "content_filter"} & set(call["tags"])


def test_every_answer_is_read_to_the_letter(recordings):
    """Text, reason to finish, usage and model are what steps, retries and budgets go by."""
    answered = [call for call in recordings if is_answered(call)]
    assert answered

    for call in answered:
        body, choice, found = json.loads(call["response_body"]), first_choice(call), replay(call)
        tokens = body["usage"]
        assert found.text == (choice["message"].get("content") or ""), call["id"]
        assert found.finish == FINISHES[choice["finish_reason"]], call["id"]
        assert found.usage == Usage(tokens["prompt_tokens"], tokens["completion_tokens"]), call["id"]
        assert found.model == body["model"], call["id"]


@pytest.mark.parametrize("kind", ["refusal", "filter"])
def test_every_answer_that_was_withheld_is_a_permanent_error(recordings, kind):
    """It must reach the fallback, not the next step."""
    tag = "content_filter" if kind == "filter" else kind
    withheld = [outcome(call) for call in recordings if tag in call["tags"]]
    assert withheld

    for error in withheld:
        assert (type(error), error.kind, error.billed) == (RejectedError, kind, "yes")


def test_every_error_becomes_a_typed_one(recordings):
    """Which it is decides between waiting, giving up and trying another model."""
    refused = [call for call in recordings if call["status"] >= 400]
    assert refused

    for call in refused:
        error = outcome(call)
        assert isinstance(error, UnavailableError | RateLimitError | RejectedError), call["id"]
        assert error.kind in KINDS_OF_STATUS[call["status"]], call["id"]
        assert error.is_transient == (error.kind in {"rate_limited", "bad_output"}), call["id"]
        assert error.status == call["status"], call["id"]


def test_the_hint_of_each_429_is_found(recordings):
    """One has two hints that conflict, one has none at all."""
    hints = {call["id"]: outcome(call).retry_after for call in recordings if call["status"] == 429}

    assert hints == {"c0060": 1.0, "c0318": None}


def test_every_context_overflow_is_known_as_one(recordings):
    """Each server words it anew, and none of these would fit on another try."""
    found = {call["id"] for call in recordings if getattr(outcome(call), "kind", None) == "context_length"}

    assert found == {"c0097", "c0216", "c0316"}


def test_a_recorded_answer_that_was_cut_anywhere_is_a_typed_error(recordings):
    """Connections break anywhere, and half an answer must not pass for a whole one."""
    for call in filter(is_answered, recordings):
        body = call["response_body"].rstrip().encode()
        for end in range(0, len(body), 97):
            with pytest.raises(UnavailableError) as caught:
                decode(200, call["response_headers"], body[:end], ENDPOINT)
            assert caught.value.kind == "bad_response", (call["id"], end)


def test_quoted_errors_get_the_verdict_of_those_who_met_them(data):
    """The same status, type and code may mean "in 644 ms" or "never"."""
    whole = [error for error in lines_of(data / "quoted_errors.jsonl") if not error["is_stream"]]
    assert whole

    for error in whole:
        with pytest.raises(ProviderError) as caught:
            decode(error["status"], {}, error["response_body"].encode(), ENDPOINT)
        assert caught.value.is_transient == (error["verdict"] == "transient"), error["id"]
        assert caught.value.retry_after == error["wait_s"], error["id"]
