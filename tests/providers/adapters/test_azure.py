"""Azure OpenAI: its addresses and its key, and the shapes in which its filter speaks."""

import json

import pytest

from pipeline_engine.errors import RateLimitError, RejectedError
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply, Settings
from pipeline_engine.providers.adapters.azure import chat_adapter, embedding_adapter
from pipeline_engine.values import Completion, Message, Request, Usage

ENDPOINT = Endpoint("azure:gpt", "https://example.openai.azure.com", "AZURE_OPENAI_API_KEY", Secret("canary"))
SETTINGS = Settings("my gpt/4", max_tokens=9)
HEAD = Reply(200, {"content-type": "text/event-stream"})
SAFE = {"hate": {"filtered": False, "severity": "safe"}}
HATE = {"hate": {"filtered": True, "severity": "high"}}
USAGE = {"prompt_tokens": 15, "completion_tokens": 19, "total_tokens": 34}


def read(body, status=200, headers=None):
    return chat_adapter("2024-10-21").decode(Reply(status, headers or {}, json.dumps(body).encode()), ENDPOINT)


def followed(*chunks):
    reader = chat_adapter("2024-10-21").open_stream(HEAD, ENDPOINT)
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    pieces = reader.feed("".join([*lines, "data: [DONE]\n\n"]).encode())
    return pieces, reader.close()


def chunk(content=None, finish=None, **fields):
    choice = {"index": 0, "finish_reason": finish, "content_filter_results": SAFE, **fields}
    return {"choices": [choice if content is None else {**choice, "delta": {"content": content}}], "model": "gpt-4o"}


def test_a_deployment_is_named_in_the_address():
    """And cannot change it: a name comes from configuration."""
    path = "/openai/deployments/my%20gpt%2F4"

    assert chat_adapter("2024-10-21").path(SETTINGS, True) == f"{path}/chat/completions?api-version=2024-10-21"
    assert embedding_adapter("2024-10-21").path(SETTINGS) == f"{path}/embeddings?api-version=2024-10-21"


def test_the_interface_without_versions_names_the_model_in_the_body():
    """It is OpenAI's own, at another address."""
    assert chat_adapter(None).path(SETTINGS, False) == "/chat/completions"
    assert embedding_adapter(None).path(SETTINGS) == "/embeddings"
    assert embedding_adapter(None).max_texts == 2048


@pytest.mark.parametrize("adapter", [chat_adapter(None), chat_adapter("2024-10-21"), embedding_adapter(None)])
def test_the_key_goes_into_its_own_header(adapter):
    """`authorization` is for tokens of Entra."""
    assert (adapter.headers(Secret("k")), adapter.headers(None)) == ({"api-key": "k"}, {})


@pytest.mark.parametrize(
    ("version", "cap"),
    [
        (None, "max_completion_tokens"),
        ("2024-10-21", "max_completion_tokens"),
        ("2024-09-01-preview", "max_completion_tokens"),
        ("preview", "max_completion_tokens"),
        ("2024-06-01", "max_tokens"),
        ("2023-05-15", "max_tokens"),
    ],
)
def test_the_token_cap_has_the_name_that_the_version_knows(version, cap):
    """An unknown field is refused, and the newest models refuse the old name."""
    assert chat_adapter(version).encode(Request((Message("user", "Hi"),)), Settings("gpt", max_tokens=9), False) == (
        f'{{"model":"gpt","messages":[{{"role":"user","content":"Hi"}}],"{cap}":9}}'.encode()
    )


def test_a_prompt_that_was_filtered_is_an_error_of_its_own_kind():
    """It is a 400, which must reach the fallback and be known for what it is."""
    error = {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": HATE},
    }
    with pytest.raises(RejectedError) as caught:
        read({"error": error}, status=400)

    assert (caught.value.kind, caught.value.status, caught.value.billed) == ("filter", 400, "maybe")


def test_a_reply_that_was_filtered_has_no_message_and_was_billed():
    """There is nothing to read, and the choice does not even hold an empty text."""
    choice = {"content_filter_results": HATE, "finish_reason": "content_filter", "index": 0}

    assert read({"choices": [choice], "model": "gpt-4o", "usage": USAGE}) == Completion(
        "", "filter", Usage(15, 19), "gpt-4o", raw_finish="content_filter"
    )


def test_a_filter_that_has_failed_withholds_nothing():
    """Its own error stands within a choice that is whole."""
    broken = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop", "content_filter_result": broken}

    assert read({"choices": [choice], "content_filter_results": broken}).text == "Hi"
    assert followed(chunk("Hi", content_filter_result=broken), chunk(finish="stop"))[1].text == "Hi"


def test_what_the_filter_has_to_say_about_a_stream_is_no_piece():
    """The first chunk judges the prompt, and later ones text that has come already: neither is a sign of life."""
    prompt = {"choices": [], "id": "", "model": "", "prompt_filter_results": [{"content_filter_results": SAFE}]}
    offsets = chunk(content_filter_offsets={"check_offset": 44, "start_offset": 44, "end_offset": 198})
    usage = {"choices": [], "usage": USAGE}

    assert followed(prompt, chunk(""), chunk("Hel"), offsets, chunk("lo"), chunk(finish="stop"), usage) == (
        ["Hel", "lo"],
        Completion("Hello", "stop", Usage(15, 19), "gpt-4o", raw_finish="stop"),
    )


def test_a_stream_that_the_filter_has_cut_says_so():
    """Half a text must not flow on as if it were whole."""
    cut = chunk(finish="content_filter", content_filter_results=HATE)

    assert followed(chunk("Hel"), cut)[1] == Completion("Hel", "filter", model="gpt-4o", raw_finish="content_filter")


def test_of_its_two_hints_the_larger_counts():
    """It sends one second and zero milliseconds at once."""
    with pytest.raises(RateLimitError) as caught:
        read({"error": {"code": "RateLimitReached"}}, 429, {"retry-after": "1", "retry-after-ms": "0"})

    assert caught.value.retry_after == 1.0


def test_every_recorded_answer_is_read_as_openais_are(data):
    """Grok at Azure, a filtered reply, a stream, and three errors."""
    lines = (data / "recordings" / "azure.jsonl").read_text("utf-8").split("\n")
    calls = [call for call in map(json.loads, filter(None, lines)) if call["endpoint"] == "chat"]
    adapter = chat_adapter("2024-10-21")
    assert calls

    for call in calls:
        body = call["response_body"].encode()
        reply = Reply(call["status"], call["response_headers"], body)
        if call["status"] >= 400:
            with pytest.raises((RejectedError, RateLimitError)) as caught:
                adapter.decode(reply, ENDPOINT)
            assert caught.value.status == call["status"], call["id"]
            assert caught.value.request_id == call["response_headers"]["apim-request-id"], call["id"]
        elif "stream.sse" in call["tags"]:
            reader = adapter.open_stream(reply._replace(body=b""), ENDPOINT)
            pieces = [piece for start in range(len(body)) for piece in reader.feed(body[start : start + 1])]
            assert ("".join(pieces), reader.is_complete) == (reader.close().text, True), call["id"]
        else:
            document = json.loads(body)
            message = document["choices"][0].get("message", {})
            found = adapter.decode(reply, ENDPOINT)
            assert found.text == message.get("content", ""), call["id"]
            assert found.usage.input_tokens == document["usage"]["prompt_tokens"], call["id"]
            assert (found.finish == "filter") == ("content_filter" in call["tags"]), call["id"]
