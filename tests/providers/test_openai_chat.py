"""OpenAI's chat completions: the exact bytes sent, and every shape of reply that servers send."""

import json

import pytest

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, UnavailableError
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapter import Endpoint
from pipeline_engine.providers.openai_chat import ADAPTER, decode, encode
from pipeline_engine.values import Completion, File, Image, Message, Request, Usage

KEY = "sk-canary-5f1d"
ENDPOINT = Endpoint("openai:gpt-4o", "https://api.openai.com/v1", "OPENAI_API_KEY", Secret(KEY))
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
    return decode(status, headers or {}, data, ENDPOINT)


def refused(body, **kwargs):
    with pytest.raises(ProviderError) as caught:
        read(body, **kwargs)
    return caught.value


def test_text_messages_are_sent_as_strings():
    """Many compatible servers know nothing else than a string."""
    request = asked(Message("system", "Be brief."), Message("user", "One é", "Two\u2028"))

    assert (
        encode(request, "gpt-4o", {})
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

    assert encode(asked(Message("user", *parts)), "gpt-4o", {}) == (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text","text":"Look"},'
        b'{"type":"image_url","image_url":{"url":"data:image/gif;base64,R0lGODlh"}},'
        b'{"type":"image_url","image_url":{"url":"https://example.com/cat.png"}},'
        b'{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,JVBERg=="}}]}]}'
    )


def test_a_schema_is_sent_in_the_strict_subset():
    """Then the provider itself keeps the model to it."""
    assert encode(asked(schema=TITLE, schema_name="Title of a page!"), "gpt-4o", {}) == (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}],"response_format":{"type":"json_schema",'
        b'"json_schema":{"name":"Title_of_a_page_","schema":{"title":"Title","type":"object",'
        b'"properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false},'
        b'"strict":true}}}'
    )


def test_a_schema_beyond_the_strict_subset_is_sent_as_it_is():
    """A wish is better than a 400; validation does the rest."""
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    body = json.loads(encode(asked(schema=schema), "gpt-4o", {}))

    assert body["response_format"]["json_schema"] == {"name": "output", "schema": schema, "strict": False}


@pytest.mark.parametrize(
    ("name", "sent"), [("é" * 80, "_" * 64), ("list[Item]", "list_Item_"), ("", "output"), ("a-b_9", "a-b_9")]
)
def test_a_schemas_name_keeps_to_the_letters_allowed(name, sent):
    """OpenAI rejects any other, and names of Python types hold brackets."""
    body = json.loads(encode(asked(schema=TITLE, schema_name=name), "gpt-4o", {}))

    assert body["response_format"]["json_schema"]["name"] == sent


def test_parameters_are_sent_and_those_that_are_none_are_not():
    """An explicit null is an error at some servers."""
    parameters = {"temperature": 0, "max_tokens": None, "seed": 7}

    assert encode(asked(), "m", parameters) == (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0,"seed":7}'
    )


def test_sources_are_never_sent():
    """They are for models that work on the text itself, and would double the bill."""
    assert b"canary" not in encode(asked(sources=("canary",)), "m", {})


def test_half_a_surrogate_pair_is_sent_as_a_replacement_character():
    """Documents hold such halves, and one of them must not fail its batch."""
    assert json.loads(encode(asked(Message("user", "a\ud83db\ud83d\ude00")), "m", {}))["messages"] == [
        {"role": "user", "content": "a\ufffdb\ufffd\ufffd"}
    ]


def test_the_key_goes_into_the_authorization_header():
    """It is what OpenAI and every compatible server look for."""
    assert ADAPTER.authorise(Secret("k")) == {"authorization": "Bearer k"}


def test_a_reply_becomes_a_completion():
    """This is what every step reads."""
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}

    assert read(reply(model="gpt-4o-2024", usage=usage), headers={"x-request-id": "req_1"}) == Completion(
        "Hello", "stop", Usage(9, 2), "gpt-4o-2024", "req_1"
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
    assert read(reply(finish=finish)).finish == expected


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


def test_a_refusal_is_an_error_with_the_models_words():
    """It fits no schema, no retry helps, and it was billed."""
    found = refused(reply({"content": None, "refusal": "I cannot help with that."}), headers={"request-id": "r1"})

    assert (type(found), found.kind, found.billed) == (RejectedError, "refusal", "yes")
    assert str(found) == (
        "model 'openai:gpt-4o' refused to answer: “I cannot help with that”. Give the step a fallback= "
        "for documents that this model does not take. (request r1)"
    )


def test_a_refusal_among_the_parts_is_found():
    """Newer servers answer in parts."""
    assert refused(reply({"content": [{"type": "refusal", "refusal": "No."}]})).kind == "refusal"


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "content_filter", "content_filter_results": {"hate": {"filtered": True}}},
        {"finish_reason": "content_filter", "message": {"content": "half a"}},
        {"finish_reason": "stop", "index": 0},
    ],
)
def test_a_filtered_reply_is_an_error_and_was_billed(choice):
    """Half an answer must not flow downstream as if it were whole."""
    found = refused({"choices": [choice]})

    assert (type(found), found.kind, found.billed) == (RejectedError, "filter", "yes")


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
