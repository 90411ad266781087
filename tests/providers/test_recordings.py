"""Recorded answers of real servers, all of them: each becomes the completion or the error that it is.

The tests of each adapter look closer at their own provider's recordings; here nobody is left out.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.providers.adapters import anthropic, gemini, ollama, openai_chat, openai_responses
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply

ENDPOINT = Endpoint("recorded:model", "https://api.example.com/v1", "EXAMPLE_API_KEY")
ADAPTERS = {
    "chat": openai_chat.ADAPTER,
    "responses": openai_responses.ADAPTER,
    "messages": anthropic.ADAPTER,
    "generateContent": gemini.ADAPTER,
    "generateContent.stream": gemini.ADAPTER,
    "ollama.chat": ollama.ADAPTER,
}
WITHOUT_ADAPTER = {
    "ollama.generate": "the older interface of Ollama, which its chat one has replaced",
    "converse": "Bedrock signs its requests; its SDK is wrapped as a model",
    "cohere.chat": "Cohere's own interface; it has a compatible one",
    "assistants.messages": "threads of OpenAI's assistants, no completion",
}
KINDS_OF_STATUS = {
    400: {"invalid", "context_length", "bad_output", "auth", "filter", "not_found"},
    401: {"auth"},
    403: {"auth"},
    404: {"not_found"},
    429: {"rate_limited", "quota", "context_length", "invalid"},
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
    return [line for file in sorted((data / "recordings").glob("*.jsonl")) for line in lines_of(file)]


@pytest.fixture(scope="module")
def readable(recordings):
    """The recordings that an adapter is there for, and whose body was recorded as text."""
    return [call for call in recordings if call["endpoint"] in ADAPTERS and call["response_body"] is not None]


def is_streamed(call):
    return call["status"] == 200 and bool({"stream.sse", "stream.ndjson"} & set(call["tags"]))


def read(call, chunk_size=None):
    """Return what the adapter makes of a recording, cut into chunks if it is a stream."""
    adapter, body = ADAPTERS[call["endpoint"]], call["response_body"].encode()
    head = Reply(call["status"], call["response_headers"])
    reader = adapter.open_stream(head, ENDPOINT) if is_streamed(call) else None
    try:
        if reader is None:
            return "", adapter.decode(head._replace(body=body), ENDPOINT)
        size = chunk_size or len(body)
        pieces = []
        for start in range(0, len(body), size):
            pieces += reader.feed(body[start : start + size])
            if reader.is_complete:
                break
        return "".join(pieces), reader.close()
    except ProviderError as error:
        return "", error


def test_every_endpoint_has_an_adapter_or_a_reason_why_it_has_none(recordings):
    """A provider that is left out is left out on purpose."""
    assert {call["endpoint"] for call in recordings} <= {*ADAPTERS, *WITHOUT_ADAPTER}


def test_every_recording_is_read_without_a_crash(readable):
    """Whatever servers have sent, it is an answer or a typed error, and no surprise."""
    outcomes = Counter(type(read(call)[1]).__name__ for call in readable)

    assert outcomes.total() == len(readable)
    assert set(outcomes) <= {"Completion", "RateLimitError", "RejectedError", "UnavailableError"}


def test_every_success_is_read_as_one(readable):
    """What was paid for must not be thrown away as an error; only what failed inside its 200 is one."""
    lost = {
        call["id"]
        for call in readable
        if call["status"] == 200 and "error.midstream" not in call["tags"] and isinstance(read(call)[1], ProviderError)
    }

    # One was asked for in the background: it had only been queued, and holds no answer.
    assert lost == {"c0279"}


def test_every_success_knows_its_tokens(readable):
    """Budgets and bills go by them; a stream that was not asked for its usage has none."""
    unknown = [
        call["id"]
        for call in readable
        if call["status"] == 200
        and not isinstance(read(call)[1], ProviderError)
        and (read(call)[1].usage.total_tokens is None)
        and '"usage' in call["response_body"]
        and '"usage":null' not in call["response_body"].replace(" ", "")
    ]

    assert unknown == []


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_every_stream_reads_the_same_however_it_is_cut(readable, chunk_size):
    """Chunks end where a network pleases, in the middle of a letter if need be."""
    streams = [call for call in readable if is_streamed(call)]
    assert streams

    for call in streams:
        whole, cut = read(call), read(call, chunk_size)
        if isinstance(whole[1], ProviderError):
            assert (type(cut[1]), str(cut[1])) == (type(whole[1]), str(whole[1])), call["id"]
        else:
            assert cut == whole, call["id"]
            assert whole[0] == whole[1].text or not whole[0], call["id"]


def test_every_stream_that_is_cut_in_its_middle_is_an_error(readable):
    """Half an answer must not pass for a whole one."""
    for call in readable:
        if is_streamed(call) and ADAPTERS[call["endpoint"]].open_stream(Reply(200, call["response_headers"]), ENDPOINT):
            half = {**call, "response_body": call["response_body"][: len(call["response_body"]) // 3]}
            assert isinstance(read(half)[1], StreamTruncatedError | UnavailableError), call["id"]


def test_every_error_becomes_a_typed_one(readable):
    """Which it is decides between waiting, giving up and trying another model."""
    refused = [call for call in readable if call["status"] >= 400]
    assert refused

    for call in refused:
        error = read(call)[1]
        assert isinstance(error, UnavailableError | RateLimitError | RejectedError), call["id"]
        assert error.kind in KINDS_OF_STATUS[call["status"]], call["id"]
        assert error.is_transient == (error.kind in {"rate_limited", "bad_output"}), call["id"]
        assert error.status == call["status"], call["id"]


def test_every_failure_inside_a_stream_is_an_error(readable):
    """A 200 is no promise: what comes after it may say that nothing was done."""
    failed = {call["id"]: read(call)[1] for call in readable if "error.midstream" in call["tags"]}

    assert failed
    assert all(isinstance(error, ProviderError) for error in failed.values()), failed


def test_the_hint_of_each_429_is_found(readable):
    """One has two hints that conflict, one has it in its body, and one has none at all."""
    hints = {call["id"]: read(call)[1].retry_after for call in readable if call["status"] == 429}

    assert hints == {"c0060": 1.0, "c0132": pytest.approx(48.94, abs=0.01), "c0318": None}


def test_every_context_overflow_is_known_as_one(readable):
    """Each server words it anew, and none of these would fit on another try."""
    found = {call["id"] for call in readable if getattr(read(call)[1], "kind", None) == "context_length"}

    assert found == {"c0097", "c0216", "c0301", "c0316", "c0331"}


def test_every_quoted_refusal_is_judged_as_its_thread_did(data):
    """Same status, type and code: one may succeed later, and the other never will."""
    from pipeline_engine.providers.wire.classification import error_in_reply, error_of_response
    from pipeline_engine.providers.wire.replies import parse_json

    for quoted in lines_of(data / "quoted_errors.jsonl"):
        body = quoted["response_body"]
        if quoted["is_stream"]:
            document = parse_json(body.partition("data: ")[2].encode())
            error = error_in_reply(quoted["status"], {}, document, ENDPOINT)
        else:
            error = error_of_response(quoted["status"], {}, body.encode(), ENDPOINT)
        assert error.is_transient == (quoted["verdict"] == "transient"), quoted["id"]
        if quoted["wait_s"] is not None and error.is_transient:
            assert error.retry_after == pytest.approx(quoted["wait_s"]), quoted["id"]
