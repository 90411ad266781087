"""OpenAI's chat completions: the exact bytes sent, and every shape of reply that servers send."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.errors import (
    ProviderError,
    RateLimitError,
    StreamTruncatedError,
    UnavailableError,
)
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters import writing
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply, Settings
from pipeline_engine.providers.adapters.openai_chat import ADAPTER, OPENAI_ADAPTER, decode, encode, open_stream
from pipeline_engine.values import Completion, File, Image, Message, Request, Text, Usage

KEY = "sk-canary-5f1d"
ENDPOINT = Endpoint("openai:gpt-4o", "https://api.openai.com/v1", "OPENAI_API_KEY", Secret(KEY))
SETTINGS = Settings("gpt-4o")
HEAD = Reply(200, {"content-type": "text/event-stream", "x-request-id": "req_1"})
TITLE = {"title": "Title", "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def asked(*messages, **fields):
    return Request(messages or (Message("user", "Hi"),), **fields)


def reply(message=None, finish="stop", **fields):
    choice = {
        "index": 0,
        "message": message or {"role": "assistant", "content": "Hello"},
        "finish_reason": finish,
    }
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], **fields}


def read(body, status=200, headers=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode(Reply(status, headers or {}, data), ENDPOINT)


def refused(body, **kwargs):
    with pytest.raises(ProviderError) as caught:
        read(body, **kwargs)
    return caught.value


def delta(content=None, finish=None, **fields):
    inner = {**({} if content is None else {"content": content}), **fields}
    return {"model": "gpt-4o-2024", "choices": [{"index": 0, "delta": inner, "finish_reason": finish}]}


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 40,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 7, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 30, "accepted_prediction_tokens": 0},
}
COUNTED = Usage(100, 40, 80, 7, 30)
CHUNKS = [
    delta("", role="assistant", refusal=None),
    delta(reasoning_content="Hm."),
    delta("Hel"),
    delta("lo\u2028"),
    delta(finish="stop"),
    {"model": "gpt-4o-2024", "choices": [], "usage": USAGE},
]
PIECES = ["", "Hel", "lo\u2028"]
STREAMED = Completion("Hello\u2028", "stop", COUNTED, "gpt-4o-2024", "req_1", None, "stop")


def streamed(chunks, last=b"data: [DONE]\n\n"):
    return "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks).encode() + last


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


def test_text_messages_are_sent_as_strings():
    """Many compatible servers know nothing else than a string."""
    request = asked(Message("system", "Be brief."), Message("user", "One é", "Two\u2028"))

    assert (
        encode(request, SETTINGS, False)
        == (
            '{"model":"gpt-4o","messages":[{"role":"system","content":"Be brief."},'
            '{"role":"user","content":"One é\\n\\nTwo\u2028"}]}'
        ).encode()
    )


def test_images_and_files_are_sent_as_parts():
    """Scanned documents reach the model as they are, and an address is left to the provider to open."""
    parts = (
        "Look",
        Image(b"GIF89a", media_type="image/gif"),
        Image(url="https://example.com/cat.png"),
        File(b"%PDF", media_type="application/pdf", name="a.pdf"),
    )

    assert encode(asked(Message("user", *parts)), SETTINGS, False) == (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text","text":"Look"},'
        b'{"type":"image_url","image_url":{"url":"data:image/gif;base64,R0lGODlh"}},'
        b'{"type":"image_url","image_url":{"url":"https://example.com/cat.png"}},'
        b'{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERg=="}}]}]}'
    )


def test_a_schema_is_sent_in_the_strict_subset():
    """Then the provider itself keeps the model to it."""
    assert encode(asked(schema=TITLE, schema_name="Title of a page!"), SETTINGS, False) == (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}],"response_format":{"type":"json_schema",'
        b'"json_schema":{"name":"Title_of_a_page_","schema":{"title":"Title","type":"object",'
        b'"properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false},'
        b'"strict":true}}}'
    )


def test_a_schema_beyond_the_strict_subset_is_sent_as_it_is():
    """A wish is better than a 400; validation does the rest."""
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    body = json.loads(encode(asked(schema=schema), SETTINGS, False))

    assert body["response_format"]["json_schema"] == {"name": "output", "schema": schema, "strict": False}


@pytest.mark.parametrize(
    ("name", "sent"), [("é" * 80, "_" * 64), ("list[Item]", "list_Item_"), ("", "output"), ("a-b_9", "a-b_9")]
)
def test_a_schemas_name_keeps_to_the_letters_allowed(name, sent):
    """OpenAI rejects any other, and names of Python types hold brackets."""
    body = json.loads(encode(asked(schema=TITLE, schema_name=name), SETTINGS, False))

    assert body["response_format"]["json_schema"]["name"] == sent


def test_parameters_are_sent_and_those_that_are_none_are_not():
    """An explicit null is an error at some servers."""
    settings = Settings("m", temperature=0, seed=7)

    assert encode(asked(), settings, False) == (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0,"seed":7}'
    )


def test_neighbours_of_one_role_are_one_message():
    """Many chat templates ask for user and assistant to take turns."""
    messages = (Message("user", Text("One", is_shared=True)), Message("user", "Two"), Message("assistant", "Three"))

    assert encode(asked(*messages), SETTINGS, False) == (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"One\\n\\nTwo"},'
        b'{"role":"assistant","content":"Three"}]}'
    )


@pytest.mark.parametrize(
    ("adapter", "cap"), [(OPENAI_ADAPTER, "max_completion_tokens"), (ADAPTER, "max_tokens")], ids=["own", "compatible"]
)
def test_the_token_cap_has_the_name_that_the_server_knows(adapter, cap):
    """OpenAI's newer models reject the old name, and most compatible servers know only that one."""
    assert (
        adapter.encode(asked(), Settings("m", max_tokens=5), True)
        == (
            f'{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],"{cap}":5,'
            '"stream":true,"stream_options":{"include_usage":true}}'
        ).encode()
    )


def test_openai_itself_is_spoken_to_like_its_compatible_servers_otherwise():
    """One difference is enough."""
    assert OPENAI_ADAPTER.encode(asked(schema=TITLE), SETTINGS, False) == encode(asked(schema=TITLE), SETTINGS, False)
    assert (OPENAI_ADAPTER.decode, OPENAI_ADAPTER.open_stream) == (ADAPTER.decode, ADAPTER.open_stream)
    assert (
        OPENAI_ADAPTER.reserved
        == ADAPTER.reserved
        == {
            "messages",
            "model",
            "n",
            "response_format",
            "stream",
            "stream_options",
        }
    )


@pytest.mark.parametrize(("mode", "fields"), [("json", {"response_format": {"type": "json_object"}}), ("prompt", {})])
def test_without_the_schema_mode_the_schema_is_told_in_words(mode, fields):
    """Some servers know only that a reply shall be JSON, and some not even that."""
    settings = Settings("m", structured_output=mode)
    system = Message("system", "Be brief.")
    body = json.loads(encode(asked(system, Message("user", "Hi"), schema=TITLE), settings, False))

    assert body.pop("messages") == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": (
                "Hi\n\nAnswer with one JSON value that fits this JSON schema, and with nothing else: "
                f"no explanation, no Markdown.\n{json.dumps(TITLE, separators=(',', ':'))}"
            ),
        },
    ]
    assert body == {"model": "m", **fields}


@pytest.mark.parametrize("mode", ["schema", "json", "prompt"])
def test_without_a_schema_nothing_is_said_about_json(mode):
    """A step for plain text gets plain text."""
    assert encode(asked(), Settings("gpt-4o", structured_output=mode), False) == encode(asked(), SETTINGS, False)


def test_extra_fields_are_merged():
    """What this library has no name for can be asked for all the same."""
    settings = Settings("m", temperature=0, extra_body={"top_k": 5, "temperature": 1, "chat_template_kwargs": {"a": 1}})

    assert encode(asked(), settings, False) == (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":1,"top_k":5,'
        b'"chat_template_kwargs":{"a":1}}'
    )


TEXTS = st.text(st.characters(), max_size=20)


@given(st.lists(TEXTS, min_size=1, max_size=3), st.floats(0, 2) | st.none(), st.integers(1, 2**70) | st.none())
def test_the_bytes_are_the_same_with_and_without_orjson(texts, temperature, cap):
    """It is an option, and an equal request must be known as one whoever has it installed."""
    pytest.importorskip("orjson")
    request = asked(*(Message("user", text) for text in texts), schema=TITLE)
    settings = Settings("m", temperature=temperature, max_tokens=cap)
    quick = encode(request, settings, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_HAS_ORJSON", False)

        assert json.loads(encode(request, settings, False)) == json.loads(quick)
        if temperature is None:  # numbers have more than one way to be written
            assert encode(request, settings, False) == quick


def test_sources_are_never_sent():
    """They are for models that work on the text itself, and would double the bill."""
    assert b"canary" not in encode(asked(sources=("canary",)), SETTINGS, False)


def test_half_a_surrogate_pair_is_sent_as_a_replacement_character():
    """Documents hold such halves, and one of them must not fail its batch."""
    assert json.loads(encode(asked(Message("user", "a\ud83db\ud83d\ude00")), SETTINGS, False))["messages"] == [
        {"role": "user", "content": "a\ufffdb\ufffd\ufffd"}
    ]


def test_the_key_goes_into_the_authorization_header():
    """It is what OpenAI and every compatible server look for."""
    assert (ADAPTER.headers(Secret("k")), ADAPTER.headers(None)) == ({"authorization": "Bearer k"}, {})
    assert ADAPTER.path(SETTINGS, False) == ADAPTER.path(SETTINGS, True) == "/chat/completions"


def test_a_reply_becomes_a_completion():
    """This is what every step reads."""
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}

    assert read(reply(model="gpt-4o-2024", usage=usage), headers={"x-request-id": "req_1"}) == Completion(
        "Hello", "stop", Usage(9, 2), "gpt-4o-2024", "req_1", raw_finish="stop"
    )


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool"),
        ("function_call", "tool"),
        ("eos", "stop"),
        ("a new one", "other"),
        (None, "other"),
        (3, "other"),
    ],
)
def test_every_reason_to_finish_has_its_name(finish, expected):
    """A cut reply must be known as one; a reason nobody knows must not fail."""
    found = read(reply(finish=finish))

    assert (found.finish, found.raw_finish) == (expected, finish if isinstance(finish, str) else None)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ({}, Usage()),
        ([], Usage()),
        ({"prompt_tokens": -1, "completion_tokens": "7"}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, Usage()),
        ({"prompt_tokens": 10**30, "completion_tokens": 4.0}, Usage(None, 4)),
        ({"prompt_tokens": 0, "completion_tokens": None}, Usage(0, None)),
        (USAGE, COUNTED),
        ({"prompt_tokens_details": [], "completion_tokens_details": {"reasoning_tokens": -1}}, Usage()),
    ],
)
def test_nonsense_in_the_usage_is_unknown_and_not_zero(usage, expected):
    """A call of unknown cost must not look free."""
    assert read(reply(usage=usage)).usage == expected


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "tool_calls": [{"id": "1"}]}, ""),
        ({}, ""),
        ({"content": "a", "refusal": None, "reasoning_content": "b", "new": {}}, "a"),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, 3]}, "a"),
        ({"content": {"odd": 1}}, ""),
        ({"content": "cut \ud83d"}, "cut \ufffd"),
        ({"content": "\u2028\u0085\x00"}, "\u2028\u0085\x00"),
    ],
)
def test_text_is_read_from_every_shape_of_message(message, text):
    """Compatible servers agree on little more than the names of the fields."""
    body = reply()
    body["choices"][0]["message"] = message

    assert read(body).text == text


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf", b""], ids=["byte order mark", "none"])
def test_broken_utf_8_costs_one_character_and_not_the_reply(body):
    """The reply was paid for."""
    body += b'{"choices":[{"message":{"content":"a\xff"},"finish_reason":"stop"}]}'

    assert read(body).text == "a\ufffd"


def test_null_errors_are_no_errors():
    """Some servers send `"error": null` with every success."""
    assert read(reply(error=None)).text == "Hello"


def test_an_error_in_a_success_is_found_before_anything_else():
    """The body may hold choices all the same, and they are worth nothing."""
    found = refused(reply(error={"message": "slow down", "code": 429}))

    assert type(found) is RateLimitError
    assert str(found) == (
        "model 'openai:gpt-4o' is rate limited (an error inside HTTP 200): “slow down”. "
        "Try again later, with fewer calls at once."
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": "model is loading"}, "server"),
        ({"object": "error", "message": "too long", "type": "invalid_request_error"}, "invalid"),
        ([{"error": {"message": "x", "status": "RESOURCE_EXHAUSTED"}}], "rate_limited"),
        ({"choices": [{"message": {"content": ""}, "error": {"code": 502, "message": "x"}}]}, "server"),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}, "server"),
        (
            {"choices": [{"message": {"content": "a"}, "finish_reason": "insufficient_system_resource"}]},
            "overloaded",
        ),
    ],
)
def test_an_error_in_a_success_has_its_kind(body, kind):
    """Servers put it in five places."""
    assert refused(body).kind == kind


def test_a_refusal_is_a_completion_with_the_models_words():
    """It fits no schema, no retry helps, and it was billed."""
    message = {"content": None, "refusal": "I cannot help with that."}

    assert read(reply(message, usage=USAGE), headers={"request-id": "r1"}) == Completion(
        "", "refusal", COUNTED, None, "r1", "I cannot help with that.", "stop"
    )


def test_a_refusal_among_the_parts_is_found():
    """Newer servers answer in parts."""
    found = read(reply({"content": [{"type": "refusal", "refusal": "No."}, {"refusal": 3}, None]}))

    assert (found.finish, found.refusal, found.text) == ("refusal", "No.", "")


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"finish_reason": "content_filter", "content_filter_results": {"hate": {"filtered": True}}}, ""),
        ({"finish_reason": "content_filter", "message": {"content": "half a"}}, "half a"),
        ({"finish_reason": "stop", "index": 0}, ""),
    ],
)
def test_a_filtered_reply_says_so_and_was_billed(choice, text):
    """Half an answer must not flow downstream as if it were whole."""
    found = read({"choices": [choice], "usage": USAGE})

    assert found == Completion(text, "filter", COUNTED, raw_finish="content_filter")


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"", {}, "an empty body"),
        (b" \n", {}, "an empty body"),
        (
            b"<html>\n<title>Log in</title>",
            {"content-type": "text/html; charset=utf-8"},
            "something that is not JSON (text/html) that begins “<html> <title>Log in</title>”",
        ),
        (b'{"choices": [', {}, 'something that is not JSON that begins “{"choices": [”'),
        (b'{"choices": NaN}', {}, 'something that is not JSON that begins “{"choices": NaN}”'),
        (b'{"ok": 1}', {}, 'JSON without any choice that begins “{"ok": 1}”'),
        (b'{"choices": []}', {}, 'JSON without any choice that begins “{"choices": []}”'),
        (b'{"choices": {}}', {}, 'JSON without any choice that begins “{"choices": {}}”'),
        (b"null", {}, "JSON without any choice that begins “null”"),
        (f'{{"k": "{KEY}"}}'.encode(), {}, 'JSON without any choice that begins “{"k": "[secret]"}”'),
    ],
)
def test_what_is_no_completion_is_a_bad_response(body, headers, said):
    """Login pages and half-configured proxies answer 200, too."""
    found = refused(body, headers=headers)

    assert (type(found), found.kind, found.billed) == (UnavailableError, "bad_response", "maybe")
    assert str(found) == (
        f"model 'openai:gpt-4o' answered HTTP 200 with {said}. If it happens again, check that "
        "https://api.openai.com/v1 is the base URL of this provider's interface."
    )


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"choices":' + b"9" * 5000 + b"}", b"\x00" * 99])
def test_hostile_bodies_become_typed_errors(body):
    """Whatever a server sends, the process lives on."""
    assert refused(body).kind == "bad_response"


def test_any_other_status_is_an_error_even_with_a_completion_inside():
    """A status other than 2xx is no success, whatever the body claims."""
    assert refused(reply(), status=500).kind == "server"


def test_a_stream_becomes_pieces_and_a_completion():
    """A reader of the stream and a reader of the result must see one text."""
    assert followed(streamed(CHUNKS)) == (PIECES, STREAMED)


def test_a_clean_end_behind_a_finish_reason_is_one():
    """Many compatible servers never send the marker."""
    assert followed(streamed(CHUNKS, b"")) == (PIECES, STREAMED)
    assert followed(streamed(CHUNKS, b"")[:-2]) == (PIECES, STREAMED)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_a_stream_is_the_same_however_it_is_cut(sizes):
    """Where a chunk ends is chance."""
    data = b": OPENROUTER PROCESSING\n\n" + streamed(CHUNKS)

    assert followed(data, sizes) == followed(data, [1]) == followed(data, [7]) == (PIECES, STREAMED)
    assert followed(data.replace(b"\n", b"\r\n"), sizes) == (PIECES, STREAMED)


@pytest.mark.parametrize("end", range(4))
def test_a_stream_that_breaks_off_is_truncated(end):
    """Half an answer is no answer."""
    for rest in (b"", b'data: {"choices":[{"delta":{"cont', b": bye\n\n"):
        found = failure_of(streamed(CHUNKS[:end], rest))
        assert (type(found), found.request_id) == (StreamTruncatedError, "req_1")


def test_a_marker_alone_ends_nothing():
    """A proxy that lost the reply must not make an empty answer of it."""
    assert type(failure_of(b"data: [DONE]\n\n")) is StreamTruncatedError
    assert type(failure_of(streamed([{"choices": []}]))) is StreamTruncatedError


def test_a_marker_behind_anything_ends_the_reply():
    """Servers send it when they are done, whether or not they have said why."""
    assert followed(streamed(CHUNKS[:3]))[1] == Completion("Hel", "other", model="gpt-4o-2024", request_id="req_1")
    assert followed(streamed(CHUNKS[:1]))[1] == Completion("", "other", model="gpt-4o-2024", request_id="req_1")


def test_what_stands_behind_the_marker_is_not_read():
    """It is nothing that was asked for."""
    assert followed(streamed(CHUNKS) + b"data: junk\n\n") == (PIECES, STREAMED)


@pytest.mark.parametrize(
    ("chunk", "piece"),
    [
        (delta("x"), "x"),
        (delta(""), None),
        (delta(role="assistant"), None),
        (delta(finish="stop"), None),
        (delta([{"type": "thinking", "thinking": []}, {"type": "text", "text": "x"}]), "x"),
        (delta(reasoning="Hm"), ""),
        (delta(reasoning_content="Hm"), ""),
        (delta(None, tool_calls=[{"index": 0, "function": {"arguments": "{"}}]), ""),
        (delta(refusal="No"), ""),
        ({"choices": [{"delta": None}]}, None),
        ({"choices": [{}]}, None),
        ({"choices": [None]}, None),
        ({"choices": {}}, None),
        ({}, None),
        ([], None),
        ("odd", None),
    ],
)
def test_only_what_brings_the_reply_forward_is_a_piece(chunk, piece):
    """A timeout for silence must not be kept off by pings, nor fire while the model thinks."""
    assert open_stream(HEAD, ENDPOINT).feed(streamed([chunk], b"")) == ([] if piece is None else [piece])


def test_a_streamed_refusal_is_known():
    """Its words come in deltas of their own."""
    chunks = [delta(refusal="I "), delta(refusal="cannot."), delta(finish="stop")]

    assert followed(streamed(chunks)) == (
        ["", ""],
        Completion("", "refusal", model="gpt-4o-2024", request_id="req_1", refusal="I cannot.", raw_finish="stop"),
    )


@pytest.mark.parametrize(
    ("raw", "finish"), [("length", "length"), ("content_filter", "filter"), ("a new one", "other")]
)
def test_every_reason_to_finish_a_stream_has_its_name(raw, finish):
    """A cut reply must be known as one, streamed or not."""
    found = followed(streamed([delta("Hi"), delta(finish=raw), delta(finish=None)]))[1]

    assert (found.text, found.finish, found.raw_finish) == ("Hi", finish, raw)


def test_usage_may_ride_on_any_chunk():
    """Some servers send it with the finish reason, and some with each chunk."""
    chunks = [{**delta("Hi"), "usage": None}, {**delta(finish="stop"), "usage": {"prompt_tokens": 3}}, delta()]

    assert followed(streamed(chunks))[1].usage == Usage(3)


@pytest.mark.parametrize(
    ("data", "expected", "kind"),
    [
        (b'data: {"error": {"message": "slow down", "code": "429"}}\n\n', RateLimitError, "rate_limited"),
        (b'event: error\ndata: {"message": "boom"}\n\n', UnavailableError, "stream_error"),
        (b'data: {"choices": [{"error": {"code": 502}}]}\n\n', UnavailableError, "server"),
        (b'data: {"choices": [{"finish_reason": "error"}]}\n\n', UnavailableError, "stream_error"),
        (b"data: boom\n\n", UnavailableError, "bad_response"),
    ],
)
def test_an_error_inside_a_stream_is_the_error_that_it_is(data, expected, kind):
    """The status was 200 long ago, so there is nothing else to go by."""
    found = failure_of(streamed(CHUNKS[:3], data))

    assert (type(found), found.kind, found.status, found.billed) == (expected, kind, 200, "maybe")


def test_a_reply_that_is_not_streamed_is_read_whole():
    """Servers that cannot stream answer as if they had not been asked to."""
    assert open_stream(Reply(200, {"content-type": "application/json"}), ENDPOINT) is None
    assert open_stream(Reply(200, {}), ENDPOINT) is not None


PLACES = ("choices", "delta", "message", "content", "finish_reason", "error", "usage", "model", "refusal", "text")
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PLACES) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(SHAPES, st.sampled_from([200, 302, 400, 429, 500]))
def test_hostile_json_is_a_completion_or_a_typed_error(document, status):
    """Whatever a server sends, the process lives on."""
    try:
        assert isinstance(read(document, status=status), Completion)
    except ProviderError:
        pass


@given(st.lists(SHAPES, max_size=4))
def test_a_hostile_stream_is_a_completion_or_a_typed_error(documents):
    """So it is with streams."""
    try:
        pieces, found = followed(streamed(documents))
        assert "".join(pieces) == found.text
    except ProviderError:
        pass
