"""OpenAI's responses: the exact bytes sent, and every shape of reply and stream."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.errors import (
    ProviderError,
    RateLimitError,
    RejectedError,
    StreamTruncatedError,
    UnavailableError,
)
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply, Settings
from pipeline_engine.providers.adapters.openai_responses import ADAPTER, decode, encode, open_stream
from pipeline_engine.providers.adapters.writing import UnsupportedPartError
from pipeline_engine.values import Completion, File, Image, Message, Request, Text, Usage

KEY = "sk-canary-5f1d"
ENDPOINT = Endpoint("openai-responses:gpt-5", "https://api.openai.com/v1", "OPENAI_API_KEY", Secret(KEY))
SETTINGS = Settings("gpt-5")
HEAD = Reply(200, {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "req_1"})
TITLE = {"title": "Title", "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 7},
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 140,
}
COUNTED = Usage(100, 40, 80, 7, 30)
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "content": []}


def message(*parts):
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": list(parts)}


def said(text):
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response(*items, status="completed", **fields):
    return {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": "gpt-5-2025",
        "output": list(items),
        "usage": USAGE,
        **fields,
    }


REPLY = response(REASONING, message(said("Hel"), said("lo")))
WHOLE = Completion("Hello", "stop", COUNTED, "gpt-5-2025", "req_1", None, "completed")
BEGUN = response(status="in_progress", usage=None)
EVENTS = [
    {"type": "response.created", "response": BEGUN},
    {"type": "response.in_progress", "response": BEGUN},
    {"type": "response.output_item.added", "item": {"type": "reasoning", "summary": []}},
    {"type": "response.reasoning_summary_text.delta", "delta": "Hm."},
    {"type": "response.output_item.done", "item": REASONING},
    {"type": "response.output_item.added", "item": message()},
    {"type": "response.content_part.added", "part": said("")},
    {"type": "response.output_text.delta", "delta": "Hel"},
    {"type": "response.output_text.delta", "delta": "lo"},
    {"type": "response.output_text.done", "text": "Hello"},
    {"type": "response.completed", "response": REPLY},
]
PIECES = ["", "", "", "Hel", "lo"]


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


def streamed(events, is_named=True):
    names = [f"event: {event['type']}\n" if is_named else "" for event in events]
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
    return "".join(name + line for name, line in zip(names, lines, strict=True)).encode()


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
    """Messages are items here, and the token cap has a third name."""
    request = asked(
        Message("system", Text("Be brief.", is_shared=True)),
        Message("user", "One é"),
        Message("user", "Two\u2028"),
        Message("assistant", "Yes?"),
        Message("user", "Three"),
        sources=("canary",),
    )
    settings = Settings("gpt-5", temperature=0, max_tokens=9)

    assert (
        encode(request, settings, True)
        == (
            '{"model":"gpt-5","input":[{"type":"message","role":"system","content":"Be brief."},'
            '{"type":"message","role":"user","content":"One é\\n\\nTwo\u2028"},'
            '{"type":"message","role":"assistant","content":"Yes?"},'
            '{"type":"message","role":"user","content":"Three"}],"store":false,"temperature":0,"max_output_tokens":9,"stream":true}'
        ).encode()
    )


def test_a_plain_request_asks_for_nothing_to_be_kept():
    """Unless it is told not to, OpenAI stores documents and replies for a month."""
    assert encode(asked(), SETTINGS, False) == (
        b'{"model":"gpt-5","input":[{"type":"message","role":"user","content":"Hi"}],"store":false}'
    )


def test_there_is_no_seed():
    """An unknown field is refused, so it is left out."""
    assert encode(asked(), Settings("gpt-5", seed=7), False) == encode(asked(), SETTINGS, False)


def test_images_and_files_are_sent_as_parts():
    """Scanned documents reach the model as they are, and an address is left to the provider to open."""
    parts = (
        "Look",
        Image(b"GIF89a", media_type="image/gif"),
        Image(url="https://example.com/cat.png"),
        File(b"%PDF", media_type="application/pdf", name="a.pdf"),
    )

    assert encode(asked(Message("user", *parts)), SETTINGS, False) == (
        b'{"model":"gpt-5","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"Look"},'
        b'{"type":"input_image","detail":"auto","image_url":"data:image/gif;base64,R0lGODlh"},'
        b'{"type":"input_image","detail":"auto","image_url":"https://example.com/cat.png"},'
        b'{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERg=="}]}],'
        b'"store":false}'
    )


def test_a_part_that_cannot_be_sent_is_known_before_it_is_paid_for():
    """What the assistant has said can only be text here."""
    with pytest.raises(UnsupportedPartError) as caught:
        sent(Message("assistant", "Look", Image(url="https://example.com/cat.png")))

    assert str(caught.value) == (
        "a message of the assistant's holds more than text, and OpenAI takes nothing else there. "
        "Put images and files into a user message."
    )


def test_a_schema_is_asked_for_and_extra_fields_are_merged():
    """What this library has no name for, such as how much to think, can be asked for all the same."""
    extra = {"text": {"verbosity": "low"}, "reasoning": {"effort": "low"}, "store": True}

    assert encode(asked(schema=TITLE, schema_name="Title!"), Settings("gpt-5", extra_body=extra), False) == (
        b'{"model":"gpt-5","input":[{"type":"message","role":"user","content":"Hi"}],"store":true,"text":{"format":{'
        b'"type":"json_schema","name":"Title_","schema":{"title":"Title","type":"object",'
        b'"properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false},"strict":true},'
        b'"verbosity":"low"},"reasoning":{"effort":"low"}}'
    )


def test_a_schema_beyond_the_strict_subset_is_sent_as_it_is():
    """A wish is better than a 400; validation does the rest."""
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}

    assert sent(schema=schema)["text"] == {
        "format": {"type": "json_schema", "name": "output", "schema": schema, "strict": False}
    }


@pytest.mark.parametrize(("mode", "text"), [("json", {"text": {"format": {"type": "json_object"}}}), ("prompt", {})])
def test_without_the_schema_mode_the_schema_is_told_in_words(mode, text):
    """Compatible servers know less than OpenAI's."""
    body = sent(schema=TITLE, settings=Settings("gpt-5", structured_output=mode))

    assert body.pop("input")[0]["content"].startswith("Hi\n\nAnswer with one JSON value that fits this JSON schema")
    assert body == {"model": "gpt-5", "store": False, **text}


def test_the_adapter_says_where_and_with_which_key():
    """It is OpenAI's chat but for the path."""
    assert ADAPTER.path(SETTINGS, False) == ADAPTER.path(SETTINGS, True) == "/responses"
    assert ADAPTER.headers(Secret("k")) == {"authorization": "Bearer k"}
    assert ADAPTER.reserved == {"background", "input", "model", "stream"}


def test_a_reply_becomes_a_completion():
    """Thoughts are no text, but billed as such, and are counted apart."""
    assert read(REPLY, headers={"x-request-id": "req_1"}) == WHOLE


@pytest.mark.parametrize(
    ("fields", "finish", "raw"),
    [
        ({"status": "completed"}, "stop", "completed"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
            "max_output_tokens",
        ),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "filter", "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": "steered"}}, "length", "steered"),
        ({"status": "incomplete", "incomplete_details": None}, "length", "incomplete"),
        ({"status": "incomplete", "incomplete_details": {"reason": {}}}, "length", "incomplete"),
        ({"status": "a new one"}, "other", "a new one"),
        ({"status": None}, "other", None),
        ({"status": ["odd"]}, "other", None),
    ],
)
def test_every_reason_to_finish_has_its_name(fields, finish, raw):
    """A cut reply must be known as one; a reason nobody knows must not fail."""
    found = read(response(message(said("Hi")), **fields))

    assert (found.text, found.finish, found.raw_finish, found.usage) == ("Hi", finish, raw, COUNTED)


def test_a_call_of_a_tool_is_the_reason_to_finish():
    """OpenAI says that the response is completed, and a caller would wait for text that never comes."""
    call = {"type": "function_call", "name": "f", "arguments": "{}"}

    assert (read(response(call)).finish, read(response(call)).text) == ("tool", "")
    assert read(response({"type": "web_search_call"}, message(said("Hi")))).finish == "stop"


def test_a_refusal_is_a_completion_with_the_models_words():
    """It fits no schema, no retry helps, and it was billed."""
    found = read(
        response(message({"type": "refusal", "refusal": "I cannot "}, {"type": "refusal", "refusal": "do it"}))
    )

    assert found == Completion("", "refusal", COUNTED, "gpt-5-2025", None, "I cannot do it", "completed")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ([], Usage()),
        ({"input_tokens": -1, "output_tokens": "7"}, Usage()),
        ({"input_tokens": True, "output_tokens": 1.5}, Usage()),
        ({"input_tokens": 0, "output_tokens": 4.0, "input_tokens_details": None}, Usage(0, 4)),
        ({"input_tokens_details": [], "output_tokens_details": {"reasoning_tokens": 3}}, Usage(reasoning_tokens=3)),
    ],
)
def test_nonsense_in_the_usage_is_unknown_and_not_zero(usage, expected):
    """A call of unknown cost must not look free."""
    assert read(response(message(said("Hi")), usage=usage)).usage == expected


@pytest.mark.parametrize(
    "items",
    [
        [None, 3, [], {}, {"type": "a new one", "content": [said("x")]}, message(said("Hi"))],
        [message(None, 3, {}, {"type": "a new one", "text": "x"}, said("Hi"), said(None))],
        [{"type": "message"}, {"type": "message", "content": {}}, message(said("H")), message(said("i"))],
        [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
    ],
)
def test_what_nobody_knows_is_left_out_of_the_text(items):
    """OpenAI adds types of items all the time."""
    assert read(response(*items)).text == "Hi"


@pytest.mark.parametrize(
    ("body", "expected", "kind"),
    [
        (response(status="failed", error={"code": "server_error", "message": "x"}), UnavailableError, "server"),
        (
            response(status="failed", error={"code": "rate_limit_exceeded", "message": "x"}),
            RateLimitError,
            "rate_limited",
        ),
        (response(status="failed", error={"code": "invalid_prompt", "message": "x"}), RejectedError, "invalid"),
        (response(status="failed"), UnavailableError, "server"),
        (response(status="cancelled"), UnavailableError, "server"),
        ({"error": "boom"}, UnavailableError, "server"),
        ({"object": "error", "message": "slow down", "code": 429}, RateLimitError, "rate_limited"),
        ({"code": "content_policy_violation", "status": "failed"}, RejectedError, "filter"),
    ],
)
def test_an_error_in_a_success_is_found_before_anything_else(body, expected, kind):
    """A response that has failed is a 200 all the same."""
    found = refused(body)

    assert (type(found), found.kind, found.status) == (expected, kind, 200)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "an empty body"),
        (b"<html>", "something that is not JSON that begins “<html>”"),
        (b"null", "JSON without any output that begins “null”"),
        (b'{"ok": 1}', 'JSON without any output that begins “{"ok": 1}”'),
        (b'{"output": {}}', 'JSON without any output that begins “{"output": {}}”'),
        (b'{"output": []}', 'JSON without any output that begins “{"output": []}”'),
        (
            b'{"status": "queued", "output": []}',
            'a response that is still queued that begins “{"status": "queued", "output": []}”',
        ),
        (f'{{"k": "{KEY}"}}'.encode(), 'JSON without any output that begins “{"k": "[secret]"}”'),
    ],
)
def test_what_is_no_completion_is_a_bad_response(body, said):
    """Login pages answer 200, too; and a promise of a response is none."""
    found = refused(body)

    assert (type(found), found.kind, found.billed) == (UnavailableError, "bad_response", "maybe")
    assert str(found) == (
        f"model 'openai-responses:gpt-5' answered HTTP 200 with {said}. If it happens again, check that "
        "https://api.openai.com/v1 is the base URL of this provider's interface."
    )


def test_any_other_status_is_an_error_even_with_a_completion_inside():
    """A status other than 2xx is no success, whatever the body claims."""
    assert refused(REPLY, status=500).kind == "server"


def test_a_stream_becomes_pieces_and_the_same_completion():
    """A reader of the stream and a reader of the result must see one text."""
    assert followed(streamed(EVENTS)) == (PIECES, WHOLE)
    assert followed(streamed(EVENTS, is_named=False) + b"data: [DONE]\n\n") == (PIECES, WHOLE)


def test_a_reply_that_is_not_streamed_is_read_whole():
    """Some gateways know no streams."""
    assert open_stream(Reply(200, {"content-type": "application/json"}), ENDPOINT) is None


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_a_stream_is_the_same_however_it_is_cut(sizes):
    """Where a chunk ends is chance."""
    data = streamed(EVENTS)

    assert followed(data, sizes) == followed(data, [1]) == followed(data, [7]) == (PIECES, WHOLE)
    assert followed(data.replace(b"\n", b"\r\n"), sizes) == (PIECES, WHOLE)


@pytest.mark.parametrize("end", range(len(EVENTS)))
def test_a_stream_without_its_terminal_event_is_truncated(end):
    """Half an answer is no answer, however finished it looks."""
    for rest in (b"", b"data: [DONE]\n\n", b'event: response.completed\ndata: {"type":"response.com'):
        found = failure_of(streamed(EVENTS[:end]) + rest)
        assert (type(found), found.request_id) == (StreamTruncatedError, "req_1")


@pytest.mark.parametrize(
    ("event", "piece"),
    [
        ({"type": "response.created", "response": BEGUN}, None),
        ({"type": "response.queued"}, None),
        ({"type": "keepalive"}, None),
        ({"type": "response.output_text.delta", "delta": "x"}, "x"),
        ({"type": "response.output_text.delta", "delta": ""}, None),
        ({"type": "response.output_text.delta", "delta": {"odd": 1}}, None),
        ({"type": "response.output_text.done", "text": "x"}, None),
        ({"type": "response.refusal.delta", "delta": "No"}, ""),
        ({"type": "response.reasoning_text.delta", "delta": "Hm"}, ""),
        ({"type": "response.function_call_arguments.delta", "delta": "{"}, ""),
        ({"type": "response.function_call_arguments.delta", "delta": ""}, None),
        ({"type": "response.a_new_one.delta", "delta": "x"}, ""),
        ({"type": "response.output_item.added", "item": {"type": "reasoning"}}, ""),
        ({"type": "response.output_item.added", "item": {"type": "function_call"}}, ""),
        ({"type": "response.output_item.added", "item": message()}, None),
        ({"type": "response.output_item.added", "item": None}, None),
    ],
)
def test_only_what_brings_the_reply_forward_is_a_piece(event, piece):
    """A timeout for silence must not be kept off by pings, nor fire while the model thinks."""
    assert open_stream(HEAD, ENDPOINT).feed(streamed([event])) == ([] if piece is None else [piece])


@pytest.mark.parametrize(
    ("kind", "fields", "finish"),
    [
        ("response.completed", {}, "stop"),
        ("response.completed", {"status": None}, "stop"),
        ("response.incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("response.incomplete", {"incomplete_details": {"reason": "content_filter"}}, "filter"),
        ("response.incomplete", {}, "length"),
    ],
)
def test_each_terminal_event_has_its_meaning(kind, fields, finish):
    """It alone says whether the text is whole."""
    status = kind.removeprefix("response.")
    last = {"type": kind, "response": {**response(message(said("Hello")), status=status), **fields}}

    assert followed(streamed([*EVENTS[:-1], last]))[1].finish == finish


def test_a_terminal_event_without_anything_in_it_keeps_what_was_streamed():
    """Some servers do not repeat the response."""
    found = followed(streamed([*EVENTS[:-1], {"type": "response.completed"}]))

    assert found == (PIECES, Completion("Hello", "stop", request_id="req_1", raw_finish="completed"))


def test_a_text_that_comes_with_the_terminal_event_alone_is_a_piece():
    """Some servers stream in name only."""
    assert followed(streamed([EVENTS[0], EVENTS[-1]])) == (["Hello"], WHOLE)


def test_a_streamed_refusal_is_known():
    """Its words come in events of their own, and may come with the last one only."""
    whole = response(message({"type": "refusal", "refusal": "No way."}))
    deltas = [{"type": "response.refusal.delta", "delta": part} for part in ("No ", "way.")]
    expected = Completion("", "refusal", COUNTED, "gpt-5-2025", "req_1", "No way.", "completed")

    assert followed(streamed([*deltas, {"type": "response.completed", "response": whole}])) == (["", ""], expected)
    assert followed(streamed([{"type": "response.completed", "response": whole}])) == ([], expected)


def test_a_streamed_call_of_a_tool_is_known_though_it_is_not_repeated():
    """An empty text would pass for an answer."""
    call = {"type": "response.output_item.done", "item": {"type": "function_call", "name": "f"}}

    assert followed(streamed([call, {"type": "response.completed", "response": response()}]))[1].finish == "tool"


@pytest.mark.parametrize(
    ("data", "expected", "kind"),
    [
        (
            {"type": "error", "code": "server_is_overloaded", "message": "x", "param": None},
            RateLimitError,
            "overloaded",
        ),
        ({"type": "error", "code": None, "message": None}, UnavailableError, "stream_error"),
        (
            {"type": "error", "error": {"type": "too_many_requests", "code": "too_many_requests", "message": "x"}},
            RateLimitError,
            "rate_limited",
        ),
        ({"type": "error", "error": {"code": "insufficient_quota", "message": "x"}}, RejectedError, "quota"),
        ({"error": {"message": "x", "code": 400}}, RejectedError, "invalid"),
        (
            {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "x"}}},
            RateLimitError,
            "rate_limited",
        ),
        (
            {"type": "response.failed", "response": {"status": "failed", "error": None}},
            UnavailableError,
            "stream_error",
        ),
        ({"type": "response.failed"}, UnavailableError, "stream_error"),
    ],
)
def test_an_error_inside_a_stream_is_the_error_that_it_is(data, expected, kind):
    """The status was 200 long ago, so there is nothing else to go by."""
    found = failure_of(streamed(EVENTS[:-1]) + f"data: {json.dumps(data)}\n\n".encode())

    assert (type(found), found.kind, found.status) == (expected, kind, 200)


def test_what_follows_a_failure_without_words_tells_why():
    """Azure says that the response has failed first, and that its filter did it behind."""
    failed = {"type": "response.failed", "response": response(status="failed")}
    error = {"code": "content_policy_violation", "type": "invalid_request_error", "message": "Filtered."}
    found = failure_of(streamed([*EVENTS[:3], failed, {"type": "error", "error": error}]))

    assert (type(found), found.kind) == (RejectedError, "filter")
    assert "“Filtered”" in str(found)


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: boom\n\n"])
def test_an_event_that_is_no_json_is_a_bad_response(data):
    """It is a fault of the server, and another try may go better."""
    assert failure_of(streamed(EVENTS[:4]) + data).kind == "bad_response"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("error", "status", "output", "type", "content", "text", "refusal", "incomplete_details", "reason", "usage")
PLACES = (*NAMES, "model", "item", "delta", "response", "input_tokens_details", "object", "code", "message")
KINDS = ["message", "output_text", "refusal", "reasoning", "response.completed", "response.failed", "error", "failed"]
SHAPES = st.recursive(
    JSON | st.sampled_from([*KINDS, "response.output_text.delta", "response.output_item.done", "incomplete"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PLACES) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(SHAPES, st.sampled_from([200, 201, 302, 400, 429, 500]))
def test_hostile_json_is_a_completion_or_a_typed_error(document, status):
    """Whatever a server sends, the process lives on."""
    try:
        assert isinstance(read(document, status=status), Completion)
    except ProviderError:
        pass


@given(st.lists(SHAPES, max_size=4))
def test_a_hostile_stream_is_a_completion_or_a_typed_error(documents):
    """So it is with streams."""
    data = "".join(f"data: {json.dumps(document)}\n\n" for document in documents).encode()
    try:
        pieces, found = followed(data)
        assert "".join(pieces) == found.text
    except ProviderError:
        pass
