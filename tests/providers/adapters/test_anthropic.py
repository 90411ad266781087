"""Anthropic's messages: the exact bytes sent, and every shape of reply and stream."""

import copy
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from pipeline_engine.errors import (
    ProviderError,
    RateLimitError,
    RejectedError,
    StreamTruncatedError,
    UnavailableError,
)
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply, Settings
from pipeline_engine.providers.adapters.anthropic import ADAPTER, decode, encode, open_stream
from pipeline_engine.providers.adapters.writing import UnsupportedPartError
from pipeline_engine.values import Completion, File, Image, Message, Request, Text, Usage

KEY = "sk-ant-canary-5f1d"
ENDPOINT = Endpoint("anthropic:claude", "https://api.anthropic.com", "ANTHROPIC_API_KEY", Secret(KEY))
SETTINGS = Settings("claude")
HEAD = Reply(200, {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_1"})
TITLE = {"title": "Title", "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 3000,
    "cache_creation": {"ephemeral_5m_input_tokens": 200},
    "output_tokens": 40,
    "output_tokens_details": {"thinking_tokens": 30},
    "service_tier": "standard",
}
REPLY = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        {"type": "text", "text": "Hel", "citations": None},
        {"type": "server_tool_use", "id": "1", "name": "n", "input": {}},
        {"type": "text", "text": "lo"},
        {"type": "redacted_thinking", "data": "x"},
    ],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "stop_details": None,
    "usage": USAGE,
}
WHOLE = Completion("Hello", "stop", Usage(3210, 40, 3000, 200, 30), "claude-opus-5", "req_1", None, "end_turn")
EVENTS = [
    {"type": "message_start", "message": {**REPLY, "content": [], "stop_reason": None, "usage": {"input_tokens": 10}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "x"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE},
    {"type": "message_stop"},
]


def asked(*messages, **fields):
    return Request(messages or (Message("user", "Hi"),), **fields)


def sent(*messages, settings=SETTINGS, **fields):
    return json.loads(encode(asked(*messages, **fields), settings, False))


def read(body, status=200, headers=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode(Reply(status, {"request-id": "req_1"} if headers is None else headers, data), ENDPOINT)


def refused(body, **kwargs):
    with pytest.raises(ProviderError) as caught:
        read(body, **kwargs)
    return caught.value


def streamed(events):
    return "".join(
        f"event: {event.get('type')}\ndata: {json.dumps(event, ensure_ascii=False)}   \n\n" for event in events
    ).encode()


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
    """System messages have a place of their own, neighbours of one role are one, and a cap is a must."""
    request = asked(
        Message("system", "Be brief."),
        Message("user", "One é"),
        Message("user", "Two\u2028"),
        Message("assistant", "Yes?"),
        Message("system", "Be kind."),
        Message("user", "Three"),
        sources=("canary",),
    )

    assert (
        encode(request, Settings("claude", temperature=0, seed=7), False)
        == (
            '{"model":"claude","max_tokens":4096,"messages":[{"role":"user","content":"One é\\n\\nTwo\u2028"},'
            '{"role":"assistant","content":"Yes?"},{"role":"user","content":"Three"}],'
            '"system":"Be brief.\\n\\nBe kind.","temperature":0}'
        ).encode()
    )


def test_a_stream_is_asked_for_and_extra_fields_are_merged():
    """What this library has no name for can be asked for all the same."""
    settings = Settings("m", max_tokens=9, extra_body={"output_config": {"effort": "low"}, "top_k": 5})

    assert encode(asked(schema=TITLE), settings, True) == (
        b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"output_config":{"format":{'
        b'"type":"json_schema","schema":{"title":"Title","type":"object","properties":{"text":{"type":"string"}},'
        b'"required":["text"],"additionalProperties":false}},"effort":"low"},"stream":true,"top_k":5}'
    )


def test_images_and_files_are_sent_as_blocks():
    """Scanned documents reach the model as they are, and an address is left to the provider to open."""
    parts = (
        "Look",
        Image(b"GIF89a", media_type="image/gif"),
        Image(url="https://example.com/cat.png"),
        File(b"%PDF", media_type="application/pdf", name="a.pdf"),
        File(b"\xef\xbb\xbfcaf\xc3\xa9 \xff", media_type="text/csv; charset=utf-8", name="b.csv"),
    )

    assert (
        encode(asked(Message("user", *parts)), SETTINGS, False)
        == (
            '{"model":"claude","max_tokens":4096,"messages":[{"role":"user","content":[{"type":"text","text":"Look"},'
            '{"type":"image","source":{"type":"base64","media_type":"image/gif","data":"R0lGODlh"}},'
            '{"type":"image","source":{"type":"url","url":"https://example.com/cat.png"}},'
            '{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERg=="},'
            '"title":"a.pdf"},'
            '{"type":"document","source":{"type":"text","media_type":"text/plain","data":"café \ufffd"},'
            '"title":"b.csv"}]}]}'
        ).encode()
    )


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            Message("user", File(b"PK", media_type="application/zip", name="a.zip")),
            (
                "file 'a.zip' is of the type 'application/zip', and Anthropic takes only PDFs and text. "
                "Put what it says into the prompt."
            ),
        ),
        (
            Message("system", Image(url="https://example.com/cat.png")),
            (
                "a system message holds more than text, and Anthropic takes nothing else there. "
                "Put images and files into a user message."
            ),
        ),
    ],
)
def test_a_part_that_cannot_be_sent_is_known_before_it_is_paid_for(message, words):
    """Left out in silence, the model would answer about a document that it has not seen."""
    with pytest.raises(UnsupportedPartError) as caught:
        encode(asked(message, Message("user", "Hi")), SETTINGS, False)

    assert str(caught.value) == words


def test_shared_text_carries_a_cache_marker():
    """A long prefix that every document begins with is then paid for once."""
    request = asked(
        Message("system", Text("Rules", is_shared=True)), Message("user", Text("Guide", is_shared=True), "Doc")
    )

    assert encode(request, SETTINGS, False) == (
        b'{"model":"claude","max_tokens":4096,"messages":[{"role":"user","content":['
        b'{"type":"text","text":"Guide","cache_control":{"type":"ephemeral"}},{"type":"text","text":"\\n\\nDoc"}]}],'
        b'"system":[{"type":"text","text":"Rules","cache_control":{"type":"ephemeral"}}]}'
    )


@given(st.lists(st.builds(Text, st.text(), st.booleans())))
def test_a_marker_changes_the_price_and_not_what_is_read(texts):
    """The same prompt must give the same answers whether its beginning is cached or not."""
    marked = sent(Message("user", *texts))["messages"]
    plain = sent(Message("user", *(Text(text.text) for text in texts)))["messages"]

    contents = [message["content"] for message in marked]
    read_as = [text if isinstance(text, str) else "".join(block["text"] for block in text) for text in contents]
    assert read_as == [message["content"] for message in plain]


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.booleans()), max_size=12))
def test_no_more_than_the_last_four_markers_are_sent(turns):
    """A fifth is a 400, and the last ones stand behind the longest prefixes."""
    body = sent(*(Message(role, Text(f"{n}", is_shared=is_shared)) for n, (role, is_shared) in enumerate(turns)))

    contents = [body.get("system", ""), *(message["content"] for message in body["messages"])]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    marked = [block["text"].strip() for block in blocks if "cache_control" in block]
    order = sorted(enumerate(turns), key=lambda turn: turn[1][0] != "system")  # stable: system messages come first
    shared = [str(n) for n, (_, is_shared) in order if is_shared]
    assert marked == shared[-4:]


@pytest.mark.parametrize("is_shared", [False, True])
def test_text_without_a_word_is_not_sent(is_shared):
    """An empty document would have its whole request refused."""
    body = sent(
        Message("system", ""), Message("user", Text(" \n", is_shared=is_shared), "Hi"), Message("assistant", "")
    )

    assert body == {"model": "claude", "max_tokens": 4096, "messages": [{"role": "user", "content": "Hi"}]}


def test_a_system_message_alone_is_sent_as_the_users():
    """A prompt that OpenAI answers must not fail with the fallback."""
    assert sent(Message("system", "Tell a joke."))["messages"] == [{"role": "user", "content": "Tell a joke."}]


class Node(BaseModel):
    children: list["Node"] = []


class Item(BaseModel):
    kind: Literal["a"]
    count: int = Field(ge=1, le=9, multiple_of=2)
    name: str = Field(min_length=2, max_length=5, pattern="^a+$")
    when: str = Field(json_schema_extra={"format": "uri"})
    odd: str = Field(json_schema_extra={"format": "regex"})
    many: list[int] = Field(min_length=1, max_length=3)
    more: list[int] = Field(min_length=2)


def test_a_schema_is_told_in_anthropics_subset():
    """A keyword that it does not know is a 400; the model can keep to a rule that it can read."""
    schema = sent(schema=Item.model_json_schema())["output_config"]["format"]["schema"]

    assert schema["additionalProperties"] is False
    assert schema["required"] == ["kind", "count", "name", "when", "odd", "many", "more"]
    assert schema["properties"] == {
        "kind": {"const": "a", "title": "Kind", "type": "string"},
        "count": {
            "title": "Count",
            "type": "integer",
            "description": "(maximum: 9, minimum: 1, multipleOf: 2)",
        },
        "name": {"title": "Name", "type": "string", "description": '(maxLength: 5, minLength: 2, pattern: "^a+$")'},
        "when": {"format": "uri", "title": "When", "type": "string"},
        "odd": {"title": "Odd", "type": "string", "description": '(format: "regex")'},
        "many": {
            "items": {"type": "integer"},
            "minItems": 1,
            "title": "Many",
            "type": "array",
            "description": "(maxItems: 3)",
        },
        "more": {"items": {"type": "integer"}, "title": "More", "type": "array", "description": "(minItems: 2)"},
    }


@pytest.mark.parametrize(
    "schema",
    [
        Node.model_json_schema(),
        {"type": "object", "additionalProperties": {"type": "integer"}},
        create_model("Many", **{f"a{n}": (int | None, None) for n in range(17)}).model_json_schema(),
    ],
    ids=["recursive", "free-keys", "17-unions"],
)
def test_a_schema_beyond_the_subset_is_told_in_words(schema):
    """It would be refused with a 400, and a wish is better than no answer."""
    body = sent(schema=schema)

    assert "output_config" not in body
    assert body["messages"][0]["content"].endswith(json.dumps(schema, separators=(",", ":")))


def test_as_many_unions_as_are_taken_are_sent():
    """Optional fields are the commonest thing in a model, and each of them is one."""
    schema = create_model("Many", **{f"a{n}": (int | None, None) for n in range(16)}).model_json_schema()

    assert "output_config" in sent(schema=schema)


@pytest.mark.parametrize("mode", ["json", "prompt"])
def test_without_the_schema_mode_the_schema_is_told_in_words(mode):
    """Older models have no schema mode, and none has a mode that promises JSON of any shape."""
    body = sent(schema=TITLE, settings=Settings("claude", structured_output=mode))

    assert body.keys() == {"model", "max_tokens", "messages"}
    assert body["messages"][0]["content"].startswith("Hi\n\nAnswer with one JSON value that fits this JSON schema")


def test_the_key_goes_into_its_header_and_the_version_beside_it():
    """Without the version every call is refused."""
    assert ADAPTER.headers(Secret("k")) == {"anthropic-version": "2023-06-01", "x-api-key": "k"}
    assert ADAPTER.headers(None) == {"anthropic-version": "2023-06-01"}
    assert ADAPTER.path(SETTINGS, False) == ADAPTER.path(SETTINGS, True) == "/v1/messages"
    assert ADAPTER.reserved == {"messages", "model", "stream", "system"}


def test_a_reply_becomes_a_completion():
    """Its input tokens are only a third of those that are billed as input, and its thoughts are no text."""
    assert read(REPLY) == WHOLE


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("a new one", "other"),
        (None, "other"),
        (3, "other"),
        ({}, "other"),
    ],
)
def test_every_reason_to_stop_has_its_name(raw, finish):
    """A cut reply must be known as one; a reason nobody knows must not fail."""
    found = read({**REPLY, "stop_reason": raw})

    assert (found.finish, found.raw_finish) == (finish, raw if isinstance(raw, str) else None)


@pytest.mark.parametrize(
    ("details", "content", "words"),
    [
        ({"type": "refusal", "category": "cyber", "explanation": "Declined."}, [], "Declined."),
        ({"category": "cyber", "explanation": None}, [], "cyber"),
        ({"category": None}, [{"type": "text", "text": "I cannot."}], "I cannot."),
        (None, [], None),
        ("odd", None, None),
    ],
)
def test_a_refusal_is_a_completion_with_the_providers_words(details, content, words):
    """It fits no schema, no retry helps, and it was billed."""
    found = read({**REPLY, "content": content, "stop_reason": "refusal", "stop_details": details})

    assert (found.finish, found.refusal, found.usage) == ("refusal", words, WHOLE.usage)


def test_a_reply_that_filled_the_context_is_rejected():
    """Half an answer must not pass for a whole one, and sent again the prompt is as long as before."""
    found = refused({**REPLY, "stop_reason": "model_context_window_exceeded"})

    assert (type(found), found.kind, found.billed, found.status) == (RejectedError, "context_length", "yes", 200)
    assert str(found) == (
        "model 'anthropic:claude' filled its context before its reply was whole. "
        "Shorten the prompt, split the document, or use a model with a larger context. (request req_1)"
    )


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ([], Usage()),
        ({"input_tokens": 19, "output_tokens": 22}, Usage(19, 22)),
        ({"cache_read_input_tokens": 5}, Usage(cache_read_tokens=5)),
        (
            {"input_tokens": 1, "cache_read_input_tokens": None, "cache_creation_input_tokens": 2},
            Usage(3, None, None, 2),
        ),
        ({"input_tokens": -1, "output_tokens": "7", "output_tokens_details": {"thinking_tokens": True}}, Usage()),
    ],
)
def test_nonsense_in_the_usage_is_unknown_and_not_zero(usage, expected):
    """A call of unknown cost must not look free."""
    assert read({**REPLY, "usage": usage}).usage == expected


@pytest.mark.parametrize(
    ("body", "expected", "kind"),
    [
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            RateLimitError,
            "overloaded",
        ),
        ({**REPLY, "error": {"type": "rate_limit_error"}}, RateLimitError, "rate_limited"),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}, RejectedError, "invalid"),
        ({"type": "error"}, UnavailableError, "server"),
    ],
)
def test_an_error_in_a_success_is_found_before_anything_else(body, expected, kind):
    """The status says 200, and what else the body holds is worth nothing."""
    found = refused(body)

    assert (type(found), found.kind, found.status) == (expected, kind, 200)


def test_any_other_status_is_an_error_even_with_a_reply_inside():
    """A status other than 2xx is no success, whatever the body claims."""
    assert refused(REPLY, status=529).kind == "overloaded"
    assert (
        refused({"type": "error", "error": {"type": "not_found_error", "message": "x"}}, status=404).kind == "not_found"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "an empty body"),
        (b"<html>", "something that is not JSON that begins “<html>”"),
        (b"{}", "JSON without any content that begins “{}”"),
        (b'{"content": 3}', 'JSON without any content that begins “{"content": 3}”'),
        (b"[]", "JSON without any content that begins “[]”"),
        (f'{{"k": "{KEY}"}}'.encode(), 'JSON without any content that begins “{"k": "[secret]"}”'),
    ],
)
def test_what_is_no_reply_is_a_bad_response(body, said):
    """Login pages and half-configured proxies answer 200, too."""
    found = refused(body, headers={})

    assert (type(found), found.kind, found.billed) == (UnavailableError, "bad_response", "maybe")
    assert f"answered HTTP 200 with {said}." in str(found)


def test_a_null_error_is_none():
    """Some servers send `"error": null` with every success."""
    assert read({**REPLY, "error": None}) == WHOLE


def test_a_stream_becomes_the_same_completion():
    """Whether a step streams or not must not change what it gets; a thought is a sign of life without text."""
    pieces, completion = followed(streamed(EVENTS))

    assert pieces == ["", "", "", "Hel", "lo"]
    assert completion == WHOLE


def test_a_whole_reply_instead_of_a_stream_is_known():
    """Servers that cannot stream send it."""
    assert open_stream(Reply(200, {"content-type": "application/json"}), ENDPOINT) is None


@given(st.lists(st.integers(1, 40), min_size=1))
def test_a_stream_is_the_same_wherever_it_is_cut(sizes):
    """Networks cut anywhere: inside a character, between CR and LF, inside a name."""
    events = copy.deepcopy(EVENTS)
    events[7]["delta"]["text"] = "é\u2028\U0001f600"
    data = streamed(events)

    assert followed(data, sizes) == followed(data)
    assert followed(data.replace(b"\n", b"\r\n"), sizes) == followed(data)


@pytest.mark.parametrize("end", range(len(EVENTS)))
def test_a_stream_without_its_last_event_is_truncated(end):
    """Half an answer is no answer, however finished it looks."""
    found = failure_of(streamed(EVENTS[:end]))

    assert (type(found), found.request_id) == (StreamTruncatedError, "req_1")


def test_a_last_event_alone_ends_nothing():
    """A proxy that lost the beginning must not make an empty answer of it."""
    assert type(failure_of(streamed(EVENTS[-1:]))) is StreamTruncatedError


def test_what_stands_behind_the_last_event_is_not_read():
    """It is nothing that was asked for."""
    assert followed(streamed(EVENTS) + b"data: [DONE]\n\ndata: junk\n\n") == followed(streamed(EVENTS))


@pytest.mark.parametrize(
    ("event", "piece"),
    [
        ({"type": "ping"}, None),
        ({"type": "a new one", "delta": {"text": "x"}}, None),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": ""}}, None),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}, "x"),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": ""}}, None),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}, ""),
        ({"type": "content_block_delta", "delta": {"type": "citations_delta", "citation": {"a": 1}}}, ""),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": "x"}}, "x"),
        ({"type": "content_block_start", "content_block": {"type": "tool_use", "input": {}}}, ""),
        ({"type": "content_block_start", "content_block": {"type": "web_search_tool_result", "text": "x"}}, ""),
        ({"type": "content_block_start"}, None),
        ({"type": "content_block_stop", "index": 0}, None),
    ],
)
def test_only_what_brings_the_reply_forward_is_a_piece(event, piece):
    """A timeout for silence must not be kept off by pings, nor fire while the model thinks."""
    assert open_stream(HEAD, ENDPOINT).feed(streamed([event])) == ([] if piece is None else [piece])


@pytest.mark.parametrize(
    ("data", "expected", "kind"),
    [
        (
            (
                b'event: error\ndata: {"type":"error","error":{"details":null,"type":"overloaded_error",'
                b'"message":"Overloaded"}              }\n\n'
            ),
            RateLimitError,
            "overloaded",
        ),
        (b'data: {"error": {"type": "rate_limit_error"}}\n\n', RateLimitError, "rate_limited"),
        (b'event: error\ndata: {"message": "boom"}\n\n', UnavailableError, "stream_error"),
        (b'event: error\ndata: "boom"\n\n', UnavailableError, "stream_error"),
        (b"event: message_start\ndata: {\n\n", UnavailableError, "bad_response"),
    ],
)
def test_an_error_inside_a_stream_is_the_error_that_it_is(data, expected, kind):
    """The status was 200 long ago, so there is nothing else to go by."""
    found = failure_of(streamed(EVENTS[:9]) + data)

    assert (type(found), found.kind, found.status, found.billed) == (expected, kind, 200, "maybe")


def test_a_streamed_refusal_and_a_full_context_are_known():
    """They come with the last but one event, after all the text."""
    refusal = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "explanation": "Declined."}}
    events = [*EVENTS[:10], {**EVENTS[10], "delta": refusal}, EVENTS[11]]
    full = [*EVENTS[:10], {**EVENTS[10], "delta": {"stop_reason": "model_context_window_exceeded"}}, EVENTS[11]]

    completion = followed(streamed(events))[1]
    assert (completion.finish, completion.refusal, completion.text) == ("refusal", "Declined.", "Hello")
    assert failure_of(streamed(full)).kind == "context_length"


def test_the_first_counts_hold_until_later_ones_come():
    """A null is no news, and the first event counts what the last one may leave out."""
    start = {"type": "message_start", "message": {"usage": USAGE, "model": "m"}}
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 50, "cache_read_input_tokens": None},
    }

    assert followed(streamed([start, end, EVENTS[-1]]))[1].usage == Usage(3210, 50, 3000, 200, 30)


def test_a_reason_to_stop_that_was_told_stays_told():
    """A later event may only bring the counts up to date."""
    update = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": USAGE}

    assert followed(streamed([*EVENTS[:11], update, EVENTS[11]]))[1] == WHOLE


NAMES = sorted({name for event in (REPLY, *EVENTS) for name in event} | {"error", "delta", "text", "usage"})
KINDS = sorted({event["type"] for event in EVENTS} | {"error", "text", "text_delta", "message", "refusal"})
ODD = [None, True, -1, 1e300, "", "\ud800", [], {}, [[]], [{}], {"type": {}}, "refusal"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
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


def test_a_reply_with_anything_odd_in_it_is_a_completion_or_a_typed_error():
    """Every field may be missing, null or of another type; the run goes on."""
    assert all(is_handled(lambda body=body: read(body)) for body in variants(REPLY))


def test_a_stream_with_anything_odd_in_it_is_a_completion_or_a_typed_error():
    """The same holds for each of its events."""
    for place, event in enumerate(EVENTS):
        for odd in variants(event):
            data = b"data: " + json.dumps(odd).encode() + b"\n\n"
            whole = streamed(EVENTS[:place]) + data + streamed(EVENTS[place + 1 :])
            assert is_handled(lambda whole=whole: followed(whole))


@given(JSON, st.integers(100, 599))
def test_any_json_is_a_completion_or_a_typed_error(document, status):
    """Whatever a server sends, the process lives on."""
    data = json.dumps(document).encode()

    assert is_handled(lambda: read(data, status=status))
    assert is_handled(lambda: followed(b"data: " + data + b"\n\n" + streamed(EVENTS[-2:])))


@given(st.binary())
def test_any_bytes_are_a_typed_error(data):
    """Even what is no JSON at all."""
    assert is_handled(lambda: read(data))
    assert is_handled(lambda: followed(data))
