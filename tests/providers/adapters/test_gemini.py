"""Gemini's `generateContent`: the exact bytes sent, and every shape of reply and stream."""

import copy
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipeline_engine.errors import (
    ProviderError,
    RateLimitError,
    RejectedError,
    StreamTruncatedError,
    UnavailableError,
)
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply, Settings
from pipeline_engine.providers.adapters.gemini import ADAPTER, decode, encode, open_stream
from pipeline_engine.providers.adapters.writing import UnsupportedPartError
from pipeline_engine.values import Completion, File, Image, Message, Request, Text, Usage

KEY = "AIza-canary-5f1d"
BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
ENDPOINT = Endpoint("gemini:flash", BASE_URL, "GEMINI_API_KEY", Secret(KEY))
SETTINGS = Settings("flash")
HEAD = Reply(200, {"content-type": "text/event-stream"})
TITLE = {"title": "Title", "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 80,
    "toolUsePromptTokenCount": 7,
    "candidatesTokenCount": 10,
    "thoughtsTokenCount": 30,
    "totalTokenCount": 147,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
}


def candidate(*parts, **fields):
    return {"content": {"parts": list(parts), "role": "model"}, "index": 0, **fields}


def chunk(*parts, usage=USAGE, **fields):
    return {
        "candidates": [candidate(*parts, **fields)],
        "usageMetadata": usage,
        "modelVersion": "flash-001",
        "responseId": "r1",
    }


REPLY = chunk(
    {"text": "Hm.", "thought": True},
    {"text": "Hel"},
    {"text": "lo", "thoughtSignature": "x"},
    finishReason="STOP",
    safetyRatings=[{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}],
)
WHOLE = Completion("Hello", "stop", Usage(107, 40, 80, None, 30), "flash-001", None, None, "STOP")
CHUNKS = [
    chunk({"text": "Hm.", "thought": True}, usage={"promptTokenCount": 100, "totalTokenCount": 100}),
    chunk({"text": "Hel"}, usage=None),
    chunk({"text": "lo"}, usage={"promptTokenCount": 100, "candidatesTokenCount": 3}),
    chunk({"text": "", "thoughtSignature": "x"}, finishReason="STOP"),
]
BLOCKED = {
    "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
    "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    "modelVersion": "flash-001",
}


def asked(*messages, **fields):
    return Request(messages or (Message("user", "Hi"),), **fields)


def sent(*messages, settings=SETTINGS, **fields):
    return json.loads(encode(asked(*messages, **fields), settings, False))


def read(body, status=200, headers=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode(Reply(status, headers or {}, data), ENDPOINT)


def refused(body, **kwargs):
    with pytest.raises(ProviderError) as caught:
        read(body, **kwargs)
    return caught.value


def streamed(chunks):
    return "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n" for chunk in chunks).encode()


def followed(data, sizes=(1 << 20,)):
    """Return the pieces and the completion of a stream that comes in chunks of these sizes, again and again."""
    reader = open_stream(HEAD, ENDPOINT)
    pieces, start, turn = [], 0, 0
    while start < len(data) and not reader.is_complete:
        size = sizes[turn % len(sizes)]
        pieces += reader.feed(data[start : start + size])
        start, turn = start + size, turn + 1
    return pieces, reader.close()


def failure_of(data):
    with pytest.raises(ProviderError) as caught:
        followed(data)
    return caught.value


def test_a_request_is_written_to_the_byte():
    """Roles, parameters and system messages all have names and places of their own here."""
    request = asked(
        Message("system", Text("Be brief.", is_shared=True)),
        Message("user", "One é"),
        Message("user", "Two\u2028"),
        Message("assistant", "Yes?"),
        Message("system", "Be kind."),
        Message("user", "Three"),
        sources=("canary",),
    )
    settings = Settings("flash", temperature=0, max_tokens=9, seed=7)
    expected = (
        '{"contents":[{"role":"user","parts":[{"text":"One é\\n\\nTwo\u2028"}]},'
        '{"role":"model","parts":[{"text":"Yes?"}]},{"role":"user","parts":[{"text":"Three"}]}],'
        '"systemInstruction":{"parts":[{"text":"Be brief.\\n\\nBe kind."}]},'
        '"generationConfig":{"temperature":0,"maxOutputTokens":9,"seed":7}}'
    ).encode()

    assert encode(request, settings, False) == encode(request, settings, True) == expected


def test_a_plain_request_holds_nothing_else():
    """An explicit null is an error at some servers."""
    assert encode(asked(), SETTINGS, False) == b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}'


def test_a_schema_is_asked_for_and_extra_fields_are_merged():
    """What this library has no name for, such as how much to think, can be asked for all the same."""
    extra = {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}, "safetySettings": []}

    assert encode(asked(schema=TITLE), Settings("flash", extra_body=extra), False) == (
        b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}],"generationConfig":{'
        b'"responseMimeType":"application/json","responseJsonSchema":{"title":"Title","type":"object",'
        b'"properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false},'
        b'"thinkingConfig":{"thinkingBudget":0}},"safetySettings":[]}'
    )


def test_images_and_files_are_sent_as_parts():
    """Scanned documents reach the model as they are, and an address is left to the provider to open."""
    parts = (
        "Look",
        "here",
        Image(b"GIF89a", media_type="image/gif"),
        Image(url="https://example.com/cat.png"),
        Image(url="gs://bucket/dog", media_type="image/png"),
        File(b"%PDF", media_type="application/pdf", name="a.pdf"),
        "Well?",
    )

    assert encode(asked(Message("user", *parts)), SETTINGS, False) == (
        b'{"contents":[{"role":"user","parts":[{"text":"Look\\n\\nhere"},'
        b'{"inlineData":{"mimeType":"image/gif","data":"R0lGODlh"}},'
        b'{"fileData":{"fileUri":"https://example.com/cat.png"}},'
        b'{"fileData":{"mimeType":"image/png","fileUri":"gs://bucket/dog"}},'
        b'{"inlineData":{"mimeType":"application/pdf","data":"JVBERg=="}},{"text":"Well?"}]}]}'
    )


def test_a_part_that_cannot_be_sent_is_known_before_it_is_paid_for():
    """Left out in silence, the model would answer about a picture that it has not seen."""
    with pytest.raises(UnsupportedPartError) as caught:
        sent(Message("system", File(b"", media_type="text/plain")), Message("user", "Hi"))

    assert str(caught.value) == (
        "a system message holds more than text, and Gemini takes nothing else there. "
        "Put images and files into a user message."
    )


def test_empty_text_is_not_sent():
    """An empty document would have its whole request refused."""
    assert sent(Message("system", ""), Message("user", "", "Hi", ""), Message("assistant", "")) == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}]
    }


def test_a_system_message_alone_is_sent_as_the_users():
    """A prompt that OpenAI answers must not fail with the fallback."""
    assert sent(Message("system", "Tell a joke.")) == {
        "contents": [{"role": "user", "parts": [{"text": "Tell a joke."}]}]
    }


class Node(BaseModel):
    children: list["Node"] = []


class Item(BaseModel):
    kind: Literal["a"]
    size: Literal["s", 1]
    count: int = Field(ge=1, lt=9, multiple_of=2)
    name: str | None = Field(None, max_length=5)
    when: str = Field(json_schema_extra={"format": "date"})
    odd: str = Field(json_schema_extra={"format": "email"})
    many: list[int] = Field(min_length=2, max_length=3)


def test_a_schema_is_told_in_geminis_subset():
    """It knows no `const`, which choices between types are told apart by; a rule that is read can be kept."""
    schema = sent(schema=Item.model_json_schema())["generationConfig"]["responseJsonSchema"]

    assert schema["additionalProperties"] is False
    assert schema["required"] == ["kind", "size", "count", "name", "when", "odd", "many"]
    assert schema["properties"] == {
        "kind": {"enum": ["a"], "title": "Kind", "type": "string"},
        "size": {"enum": ["s", 1], "title": "Size", "type": ["string", "integer"]},
        "count": {
            "minimum": 1,
            "title": "Count",
            "type": "integer",
            "description": "(exclusiveMaximum: 9, multipleOf: 2)",
        },
        "name": {
            "anyOf": [{"type": "string", "description": "(maxLength: 5)"}, {"type": "null"}],
            "title": "Name",
        },
        "when": {"format": "date", "title": "When", "type": "string"},
        "odd": {"title": "Odd", "type": "string", "description": '(format: "email")'},
        "many": {"items": {"type": "integer"}, "maxItems": 3, "minItems": 2, "title": "Many", "type": "array"},
    }


@pytest.mark.parametrize(
    "schema",
    [
        Node.model_json_schema(),
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"sure": {"const": True, "type": "boolean"}}},
        {"type": "object", "properties": {"size": {"enum": ["s", None]}}},
    ],
    ids=["recursive", "free-keys", "const-boolean", "null-among-values"],
)
def test_a_schema_beyond_the_subset_is_told_in_words_and_asks_for_json(schema):
    """The half of the promise that Gemini can give is worth having."""
    body = sent(schema=schema)

    assert body["generationConfig"] == {"responseMimeType": "application/json"}
    assert body["contents"][0]["parts"][0]["text"].endswith(json.dumps(schema, separators=(",", ":")))


@pytest.mark.parametrize(
    ("mode", "config"), [("json", {"generationConfig": {"responseMimeType": "application/json"}}), ("prompt", {})]
)
def test_without_the_schema_mode_the_schema_is_told_in_words(mode, config):
    """Older models have no schema mode, and the oldest none for JSON."""
    body = sent(schema=TITLE, settings=Settings("flash", structured_output=mode))

    text = body.pop("contents")[0]["parts"][0]["text"]
    assert text.startswith("Hi\n\nAnswer with one JSON value that fits this JSON schema")
    assert body == config


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-2.5-flash", "/models/gemini-2.5-flash:generateContent"),
        ("models/gemini-2.5-flash", "/models/gemini-2.5-flash:generateContent"),
        ("a/../b?c#d:e é", "/models/a%2F..%2Fb%3Fc%23d%3Ae%20%C3%A9:generateContent"),
    ],
)
def test_the_model_is_named_in_the_address_and_cannot_change_it(model, path):
    """A name comes from configuration, and a key must go to this path only."""
    assert ADAPTER.path(Settings(model), False) == path


def test_a_stream_is_asked_for_as_server_sent_events():
    """Without `alt=sse` it is one list, of which nothing can be read before its end."""
    assert ADAPTER.path(SETTINGS, True) == "/models/flash:streamGenerateContent?alt=sse"


def test_the_key_goes_into_its_header():
    """In the address it would stand in every log."""
    assert ADAPTER.headers(Secret("k")) == {"x-goog-api-key": "k"}
    assert ADAPTER.headers(None) == {}
    assert ADAPTER.reserved == {"contents", "systemInstruction"}


def test_a_reply_becomes_a_completion():
    """Thoughts are no text, but billed as such, and are counted apart."""
    assert read(REPLY, headers={}) == WHOLE
    assert read(REPLY, headers={"x-request-id": "q1"}).request_id == "q1"


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "filter"),
        ("RECITATION", "filter"),
        ("BLOCKLIST", "filter"),
        ("PROHIBITED_CONTENT", "filter"),
        ("SPII", "filter"),
        ("LANGUAGE", "filter"),
        ("MODEL_ARMOR", "filter"),
        ("OTHER", "other"),
        ("A_NEW_ONE", "other"),
        (1, "stop"),
        (2, "length"),
        (3, "filter"),
        (99, "other"),
        (None, "other"),
        ({}, "other"),
    ],
)
def test_every_reason_to_finish_has_its_name(raw, finish):
    """A cut reply must be known as one; a reason nobody knows must not fail."""
    found = read(chunk({"text": "a"}, finishReason=raw))

    assert (found.finish, found.raw_finish) == (finish, str(raw) if isinstance(raw, str | int) else None)
    assert (found.refusal is not None) == (finish == "filter")


@pytest.mark.parametrize("raw", ["MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", 9])
def test_a_reply_that_gemini_could_not_use_is_an_error_that_may_pass(raw):
    """It comes with status 200 and without text, and empty text would pass for an answer."""
    found = refused({"candidates": [{"finishReason": raw, "finishMessage": f"Malformed {KEY}."}]})

    assert (type(found), found.kind, found.billed, found.status) == (UnavailableError, "bad_output", "yes", 200)
    assert str(found) == (
        "model 'gemini:flash' wrote a reply that its provider found invalid: “Malformed [secret]”. "
        "Another try may go better."
    )


def test_a_call_of_a_tool_is_the_reason_to_finish():
    """Gemini says STOP, and a caller would wait for text that never comes."""
    found = read(chunk({"functionCall": {"name": "f", "args": {}}}, finishReason="STOP"))

    assert (found.finish, found.raw_finish, found.text) == ("tool", "STOP", "")


@pytest.mark.parametrize(
    ("feedback", "words"),
    [
        ({"blockReason": "SAFETY"}, "SAFETY"),
        ({"blockReason": "SAFETY", "blockReasonMessage": "No."}, "No."),
        ({"blockReason": "SAFETY", "blockReasonMessage": {}}, "SAFETY"),
    ],
)
@pytest.mark.parametrize("candidates", [{}, {"candidates": []}, {"candidates": None}])
def test_a_blocked_prompt_is_a_filtered_reply(feedback, words, candidates):
    """It is a success without any candidate, and must reach the fallback."""
    found = read({**BLOCKED, "promptFeedback": feedback, **candidates})

    assert found == Completion("", "filter", Usage(9, 0), "flash-001", None, words, "SAFETY")


def test_a_filtered_reply_keeps_what_was_billed():
    """Half a text may have come before the filter, and Gemini leaves out a count of zero."""
    usage = {"promptTokenCount": 14, "totalTokenCount": 14}
    body = {"candidates": [{"content": {}, "finishReason": "SAFETY", "finishMessage": "Hm."}], "usageMetadata": usage}

    assert read(body) == Completion("", "filter", Usage(14, 0), None, None, "Hm.", "SAFETY")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ([], Usage()),
        ({"promptTokenCount": 8, "candidatesTokenCount": 9}, Usage(8, 9)),
        ({"thoughtsTokenCount": 4}, Usage(None, 4, reasoning_tokens=4)),
        ({"promptTokenCount": 5, "totalTokenCount": 9, "thoughtsTokenCount": 4}, Usage(5, 4, reasoning_tokens=4)),
        ({"promptTokenCount": 9, "totalTokenCount": 5}, Usage(9, 0)),
        ({"promptTokenCount": None, "totalTokenCount": 5}, Usage()),
        ({"promptTokenCount": -1, "candidatesTokenCount": "7", "thoughtsTokenCount": 4}, Usage(reasoning_tokens=4)),
        ({"promptTokenCount": 1, "candidatesTokenCount": True, "totalTokenCount": 9}, Usage(1)),
    ],
)
def test_nonsense_in_the_usage_is_unknown_and_not_zero(usage, expected):
    """A call of unknown cost must not look free."""
    assert read(chunk({"text": "a"}, usage=usage)).usage == expected


def test_of_several_candidates_the_first_is_read():
    """Others are sent only if they were asked for, and mixed they would be one senseless text."""
    second = candidate({"text": "B"}, index=1, finishReason="MAX_TOKENS")
    first = candidate({"text": "A"}, index=0, finishReason="STOP")

    assert (read({"candidates": [second, first]}).text, read({"candidates": [first, second]}).text) == ("A", "A")
    assert followed(streamed([{"candidates": [second]}, {"candidates": [first]}, {"candidates": [second]}])) == (
        ["A"],
        Completion("A", raw_finish="STOP"),
    )


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize(
    ("status", "error", "expected", "kind", "retry_after"),
    [
        (
            429,
            {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "48s"}]},
            RateLimitError,
            "rate_limited",
            48.0,
        ),
        (
            400,
            {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"},
            RejectedError,
            "auth",
            None,
        ),
        (200, {"code": 503, "message": "x", "status": "UNAVAILABLE"}, UnavailableError, "overloaded", None),
        (200, {"code": 429, "message": "x", "details": [{"retryDelay": "3s"}]}, RateLimitError, "rate_limited", 3.0),
    ],
)
def test_an_error_is_found_whatever_it_is_wrapped_in(status, error, expected, kind, retry_after, is_wrapped):
    """Some come as a list of one, and some with a status of success."""
    body = {"error": error}

    found = refused([body] if is_wrapped else body, status=status)

    assert (type(found), found.kind, found.status, found.retry_after) == (expected, kind, status, retry_after)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "an empty body"),
        (b"<html>", "something that is not JSON that begins “<html>”"),
        (b"{}", "JSON without any candidate that begins “{}”"),
        (b'{"candidates": []}', 'JSON without any candidate that begins “{"candidates": []}”'),
        (b'{"candidates": [3]}', 'JSON without any candidate that begins “{"candidates": [3]}”'),
        (b"[]", "JSON without any candidate that begins “[]”"),
        (f'{{"k": "{KEY}"}}'.encode(), 'JSON without any candidate that begins “{"k": "[secret]"}”'),
    ],
)
def test_what_is_no_reply_is_a_bad_response(body, said):
    """Login pages and half-configured proxies answer 200, too, and so does Gemini with nothing at all."""
    found = refused(body)

    assert (type(found), found.kind, found.billed) == (UnavailableError, "bad_response", "maybe")
    assert f"answered HTTP 200 with {said}." in str(found)


def test_a_stream_becomes_the_same_completion():
    """Whether a step streams or not must not change what it gets; a thought is a sign of life without text."""
    assert followed(streamed(CHUNKS)) == (["", "Hel", "lo", ""], WHOLE)


@given(st.lists(st.integers(1, 40), min_size=1))
def test_a_stream_is_the_same_wherever_it_is_cut(sizes):
    """Networks cut anywhere: inside a character, between CR and LF, inside a name."""
    chunks = copy.deepcopy(CHUNKS)
    chunks[1]["candidates"][0]["content"]["parts"][0]["text"] = "é\u2028\U0001f600"
    data = streamed(chunks)

    assert followed(data, sizes) == followed(data)
    assert followed(data.replace(b"\r\n", b"\n"), sizes) == followed(data)


@pytest.mark.parametrize("end", range(len(CHUNKS)))
def test_a_stream_without_a_reason_to_finish_is_truncated(end):
    """There is no other marker, and half an answer is no answer."""
    assert type(failure_of(streamed(CHUNKS[:end]))) is StreamTruncatedError


def test_what_comes_after_the_reason_to_finish_still_counts():
    """The tokens may be counted in a chunk of their own, and a translating proxy may say STOP too early."""
    early = [chunk({"text": "Hel"}, finishReason="STOP", usage=None), chunk({"text": "lo"}, usage=None)]
    data = streamed([*early, {"usageMetadata": USAGE, "modelVersion": "flash-001"}])

    assert followed(data) == (["Hel", "lo"], WHOLE)
    assert followed(data + b"data: [DONE]\r\n\r\n") == (["Hel", "lo"], WHOLE)


def test_counts_that_were_told_stay_told():
    """A last chunk without any must not make the call look free."""
    assert followed(streamed([*CHUNKS, {"usageMetadata": None}, {"modelVersion": None}])) == followed(streamed(CHUNKS))


def test_a_blocked_prompt_ends_a_stream():
    """There is nothing to come, and it is no truncation that could be tried again."""
    assert followed(streamed([BLOCKED])) == ([], read(BLOCKED))


def test_a_stream_that_comes_as_one_list_is_read():
    """Proxies drop `alt=sse`, and then there is one JSON document at the end."""
    head = Reply(200, {"content-type": "application/json; charset=UTF-8"})

    assert open_stream(head, ENDPOINT) is None
    assert read(CHUNKS) == WHOLE
    assert type(refused(CHUNKS[:-1])) is StreamTruncatedError
    assert refused([*CHUNKS, {"error": {"code": 503, "message": "x"}}]).kind == "overloaded"


@pytest.mark.parametrize(
    ("event", "piece"),
    [
        (chunk({"text": ""}), None),
        (chunk({"text": "x"}), "x"),
        (chunk({"text": "x"}, {"text": "h", "thought": True}, {"text": "y"}), "xy"),
        (chunk({"text": "h", "thought": True}), ""),
        (chunk({"functionCall": {"name": "f"}}), ""),
        (chunk({"inlineData": {"data": "x"}}), ""),
        (chunk({"text": "", "thoughtSignature": "x"}), ""),
        (chunk({}), None),
        (chunk(), None),
        ({"usageMetadata": USAGE}, None),
        ({"candidates": [{"index": 0}]}, None),
        ([chunk({"text": "x"})], "x"),
    ],
)
def test_only_what_brings_the_reply_forward_is_a_piece(event, piece):
    """A timeout for silence must not be kept off by empty chunks, nor fire while the model thinks."""
    assert open_stream(HEAD, ENDPOINT).feed(streamed([event])) == ([] if piece is None else [piece])


@pytest.mark.parametrize(
    ("data", "expected", "kind", "billed"),
    [
        (b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}', RateLimitError, "rate_limited", "maybe"),
        (b'[{"error": {"code": 503, "message": "x"}}]', UnavailableError, "overloaded", "maybe"),
        (b'{"error": {"code": 400, "message": "x"}}', RejectedError, "invalid", "no"),
        (b'{"error": "boom"}', UnavailableError, "stream_error", "maybe"),
        (b'{"candidates": [', UnavailableError, "bad_response", "maybe"),
    ],
)
def test_an_error_inside_a_stream_is_the_error_that_it_is(data, expected, kind, billed):
    """The status was 200 long ago, so there is nothing else to go by."""
    found = failure_of(streamed(CHUNKS[:2]) + b"data: " + data + b"\r\n\r\n")

    assert (type(found), found.kind, found.status, found.billed) == (expected, kind, 200, billed)


NAMES = sorted({*REPLY, *REPLY["candidates"][0], *USAGE, "content", "parts", "text", "thought", "promptFeedback"})
KINDS = ["STOP", "SAFETY", "MALFORMED_RESPONSE", "blockReason", "error"]
ODD = [None, True, -1, 1e300, "", "\ud800", [], {}, [[]], [{}], {"blockReason": {}}, "SAFETY"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(
    LEAVES | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*NAMES, *KINDS]), inner, max_size=6),
)


def variants(value):
    """Yield a document with each of its places taken by each odd value, or missing."""
    yield from ODD
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {key: other for key, other in value.items() if key != name}
            yield from ({**value, name: odd} for odd in variants(inner))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ([*value[:place], odd, *value[place + 1 :]] for odd in variants(inner))


def is_handled(read_it):
    try:
        found = read_it()
    except ProviderError:
        return True
    return isinstance(found if isinstance(found, Completion) else found[1], Completion)


@pytest.mark.parametrize("document", [REPLY, BLOCKED, CHUNKS], ids=["reply", "blocked", "list"])
def test_a_reply_with_anything_odd_in_it_is_a_completion_or_a_typed_error(document):
    """Every field may be missing, null or of another type; the run goes on."""
    assert all(is_handled(lambda body=body: read(body)) for body in variants(document))


def test_a_stream_with_anything_odd_in_it_is_a_completion_or_a_typed_error():
    """The same holds for each of its chunks."""
    for place, event in enumerate(CHUNKS):
        for odd in variants(event):
            data = b"data: " + json.dumps(odd).encode() + b"\n\n"
            whole = streamed(CHUNKS[:place]) + data + streamed(CHUNKS[place + 1 :])
            assert is_handled(lambda whole=whole: followed(whole))


@given(JSON, st.integers(100, 599))
def test_any_json_is_a_completion_or_a_typed_error(document, status):
    """Whatever a server sends, the process lives on."""
    data = json.dumps(document).encode()

    assert is_handled(lambda: read(data, status=status))
    assert is_handled(lambda: followed(b"data: " + data + b"\n\n" + streamed(CHUNKS[-1:])))


@given(st.binary())
def test_any_bytes_are_a_typed_error(data):
    """Even what is no JSON at all."""
    assert is_handled(lambda: read(data))
    assert is_handled(lambda: followed(data))
