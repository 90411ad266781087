"""Ollama's own interface: the exact bytes sent, and every shape of reply, stream and vector."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipeline_engine.errors import ProviderError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply, Settings
from pipeline_engine.providers.adapters.ollama import ADAPTER, EMBEDDING_ADAPTER, decode, encode, open_stream
from pipeline_engine.providers.adapters.writing import UnsupportedPartError
from pipeline_engine.values import Completion, Embeddings, File, Image, Message, Request, Text, Usage

KEY = "canary-5f1d"
ENDPOINT = Endpoint("ollama:qwen3", "http://127.0.0.1:11434", "OLLAMA_API_KEY", Secret(KEY))
SETTINGS = Settings("qwen3")
HEAD = Reply(200, {"content-type": "application/x-ndjson"})
TITLE = {"title": "Title", "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
COUNTS = {"total_duration": 9, "prompt_eval_count": 17, "prompt_eval_duration": 9, "eval_count": 50}


def line(content="", done=False, **fields):
    message = {"role": "assistant", "content": content, **fields.pop("message", {})}
    return {"model": "qwen3:8b", "created_at": "2025-08-20T09:45:30Z", "message": message, "done": done, **fields}


REPLY = line("Hello", True, done_reason="stop", message={"thinking": "Hm."}, **COUNTS)
WHOLE = Completion("Hello", "stop", Usage(17, 50), "qwen3:8b", None, None, "stop")
LINES = [line(message={"thinking": "Hm."}), line("Hel"), line("lo\u2028"), line("", True, done_reason="stop", **COUNTS)]
STREAMED = Completion("Hello\u2028", "stop", Usage(17, 50), "qwen3:8b", None, None, "stop")
PIECES = ["", "Hel", "lo\u2028"]


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


def streamed(lines):
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()


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
    """What is a parameter elsewhere is an option here, with names of its own."""
    request = asked(
        Message("system", Text("Be brief.", is_shared=True)),
        Message("user", "One é"),
        Message("user", "Two\u2028", Image(b"GIF89a", media_type="image/gif")),
        sources=("canary",),
    )
    settings = Settings("qwen3", temperature=0, max_tokens=9, seed=7)

    assert (
        encode(request, settings, True)
        == (
            '{"model":"qwen3","messages":[{"role":"system","content":"Be brief."},'
            '{"role":"user","content":"One é\\n\\nTwo\u2028","images":["R0lGODlh"]}],"stream":true,'
            '"options":{"temperature":0,"num_predict":9,"seed":7}}'
        ).encode()
    )


def test_a_whole_reply_is_asked_for_expressly():
    """Ollama streams unless it is told not to."""
    assert encode(asked(), SETTINGS, False) == (
        b'{"model":"qwen3","messages":[{"role":"user","content":"Hi"}],"stream":false}'
    )


def test_extra_fields_are_merged_with_the_options():
    """There are thirty more of them, and how long a model stays loaded besides."""
    settings = Settings("qwen3", seed=7, extra_body={"options": {"num_ctx": 8192}, "keep_alive": "1h", "think": False})
    body = sent(settings=settings)

    assert (body["options"], body["keep_alive"], body["think"]) == ({"seed": 7, "num_ctx": 8192}, "1h", False)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            File(b"%PDF", media_type="application/pdf", name="a.pdf"),
            (
                "file 'a.pdf' is of the type 'application/pdf', and Ollama takes no files. "
                "Put what it says into the prompt."
            ),
        ),
        (
            Image(url="https://example.com/cat.png"),
            "an image is given by its address, and Ollama opens none. Give its bytes: Image(data, media_type=…).",
        ),
    ],
)
def test_a_part_that_cannot_be_sent_is_known_before_it_is_sent(part, words):
    """Left out in silence, the model would answer about a picture that it has not seen."""
    with pytest.raises(UnsupportedPartError) as caught:
        sent(Message("user", "Look", part))

    assert str(caught.value) == words


def test_a_schema_is_asked_for_and_told_besides():
    """It holds the model to it, but is not shown to it: Ollama itself advises to tell it, too."""
    body = sent(schema=TITLE)

    assert body["format"] == {**TITLE, "additionalProperties": False}
    assert body["messages"][0]["content"] == (
        "Hi\n\nAnswer with one JSON value that fits this JSON schema, and with nothing else: no explanation, "
        f"no Markdown.\n{json.dumps(TITLE, separators=(',', ':'))}"
    )


class Item(BaseModel):
    price: Decimal
    name: str = Field(max_length=5000)
    short: str = Field(max_length=50)
    count: int = Field(ge=1, le=9)
    parts: list["Item"] = []


def test_what_its_grammar_cannot_say_is_left_out_of_the_format():
    """A pattern that looks ahead, or thousands of repetitions, is refused as a whole; validation does the rest."""
    schema = sent(schema=Item.model_json_schema())["format"]
    properties = schema["$defs"]["Item"]["properties"]

    assert [sorted(choice) for choice in properties["price"]["anyOf"]] == [["type"], ["type"]]
    assert properties["name"] == {"title": "Name", "type": "string", "description": "(maxLength: 5000)"}
    assert properties["short"] == {"maxLength": 50, "title": "Short", "type": "string"}
    assert properties["count"] == {"maximum": 9, "minimum": 1, "title": "Count", "type": "integer"}
    assert properties["parts"] == {"items": {"$ref": "#/$defs/Item"}, "title": "Parts", "type": "array"}


def test_a_schema_beyond_the_subset_asks_for_json():
    """The half of the promise that Ollama can give is worth having."""
    assert sent(schema={"type": "object", "additionalProperties": {"type": "integer"}})["format"] == "json"


@pytest.mark.parametrize(("mode", "fields"), [("json", {"format": "json"}), ("prompt", {})])
def test_without_the_schema_mode_the_schema_is_told_in_words(mode, fields):
    """Ollama's cloud has no schema mode."""
    body = sent(schema=TITLE, settings=Settings("qwen3", structured_output=mode))

    assert body.pop("messages")[0]["content"].startswith("Hi\n\nAnswer with one JSON value")
    assert body == {"model": "qwen3", "stream": False, **fields}


def test_the_adapter_says_where_and_with_which_key():
    """Ollama's cloud takes a key; a server of one's own needs none."""
    assert ADAPTER.path(SETTINGS, False) == ADAPTER.path(SETTINGS, True) == "/api/chat"
    assert (ADAPTER.headers(Secret("k")), ADAPTER.headers(None)) == ({"authorization": "Bearer k"}, {})
    assert ADAPTER.reserved == {"format", "messages", "model", "stream"}


def test_a_reply_becomes_a_completion():
    """What the model has thought is no part of its answer."""
    assert read(REPLY) == WHOLE
    assert read(REPLY, headers={"x-request-id": "q1"}).request_id == "q1"


@pytest.mark.parametrize(
    ("raw", "finish"),
    [("stop", "stop"), ("length", "length"), ("load", "other"), ("a new one", "other"), (None, "other"), ({}, "other")],
)
def test_every_reason_to_finish_has_its_name(raw, finish):
    """A cut reply must be known as one; a reason nobody knows must not fail."""
    found = read(line("Hi", True, done_reason=raw))

    assert (found.finish, found.raw_finish) == (finish, raw if isinstance(raw, str) else None)


def test_a_call_of_a_tool_is_the_reason_to_finish():
    """Ollama says "stop", and a caller would wait for text that never comes."""
    call = {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}

    assert read(line("", True, done_reason="stop", message=call)).finish == "tool"
    assert followed(streamed([line("Hi", message=call), LINES[-1]]))[1].finish == "tool"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, Usage()),
        ({"eval_count": 4}, Usage(None, 4)),
        ({"prompt_eval_count": -1, "eval_count": "7"}, Usage()),
        ({"prompt_eval_count": True, "eval_count": None}, Usage()),
    ],
)
def test_nonsense_in_the_usage_is_unknown_and_not_zero(counts, expected):
    """A prompt that is cached may have no count at all."""
    assert read(line("Hi", True, **counts)).usage == expected


@pytest.mark.parametrize(
    ("status", "body", "expected", "kind"),
    [
        (404, {"error": "model 'x' not found"}, RejectedError, "not_found"),
        (400, {"error": "the input length exceeds the context length"}, RejectedError, "context_length"),
        (
            503,
            {"error": "server busy, please try again.  maximum pending requests exceeded"},
            UnavailableError,
            "overloaded",
        ),
        (500, b"boom", UnavailableError, "server"),
        (200, {"error": "llama runner process has terminated"}, UnavailableError, "server"),
    ],
)
def test_an_error_is_the_error_that_it_is(status, body, expected, kind):
    """It is a text here, and no object."""
    found = refused(body, status=status)

    assert (type(found), found.kind, found.status) == (expected, kind, status)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "an empty body"),
        (b"Ollama is running", "something that is not JSON that begins “Ollama is running”"),
        (b"[]", "JSON without any message that begins “[]”"),
        (b'{"message": {}}', 'JSON without any message that begins “{"message": {}}”'),
        (f'{{"k": "{KEY}"}}'.encode(), 'JSON without any message that begins “{"k": "[secret]"}”'),
    ],
)
def test_what_is_no_completion_is_a_bad_response(body, said):
    """Something else may listen at the port."""
    found = refused(body)

    assert (type(found), found.kind) == (UnavailableError, "bad_response")
    assert str(found) == (
        f"model 'ollama:qwen3' answered HTTP 200 with {said}. If it happens again, check that "
        "http://127.0.0.1:11434 is the base URL of this provider's interface."
    )


def test_a_stream_becomes_pieces_and_a_completion():
    """A line is an event, and U+2028 within one ends none."""
    assert followed(streamed(LINES)) == (PIECES, STREAMED)
    assert followed(streamed(LINES)[:-1]) == (PIECES, STREAMED)
    assert followed(streamed([REPLY])) == (["Hello"], WHOLE)


def test_a_reply_that_is_not_streamed_is_read_whole():
    """Its media type tells."""
    assert open_stream(Reply(200, {"content-type": "application/json; charset=utf-8"}), ENDPOINT) is None


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_a_stream_is_the_same_however_it_is_cut(sizes):
    """Where a chunk ends is chance."""
    data = streamed(LINES)

    assert followed(data, sizes) == followed(data, [1]) == followed(data, [7]) == (PIECES, STREAMED)


@pytest.mark.parametrize("end", range(len(LINES)))
def test_a_stream_without_its_last_line_is_truncated(end):
    """Half an answer is no answer."""
    for rest in (b"", b'{"model":"qwen3:8b","mess'):
        assert type(failure_of(streamed(LINES[:end]) + rest)) is StreamTruncatedError


def test_an_error_line_is_the_error_that_it_is():
    """The status was 200 long ago."""
    found = failure_of(streamed([*LINES[:2], {"error": "an error was encountered while running the model"}]))

    assert (type(found), found.kind, found.billed) == (UnavailableError, "stream_error", "maybe")
    assert "“an error was encountered while running the model”" in str(found)


def test_a_line_that_is_no_json_is_a_bad_response():
    """A gateway's page may come in the middle."""
    assert failure_of(streamed(LINES[:2]) + b"<html>\n").kind == "bad_response"


@pytest.mark.parametrize(
    ("fields", "piece"),
    [
        (line("x"), "x"),
        (line(""), None),
        (line("", message={"thinking": "Hm"}), ""),
        (line("", message={"tool_calls": [{}]}), ""),
        (line(None), None),
        ({}, None),
        ({"message": "odd"}, None),
    ],
)
def test_only_what_brings_the_reply_forward_is_a_piece(fields, piece):
    """A timeout for silence must not fire while the model thinks."""
    assert open_stream(HEAD, ENDPOINT).feed(streamed([fields])) == ([] if piece is None else [piece])


def vectors(body, count=2, status=200):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return EMBEDDING_ADAPTER.decode(Reply(status, {"x-request-id": "q1"}, data), ENDPOINT, count)


def test_vectors_are_asked_for_to_the_byte():
    """A text that is too long must fail: unless it is told not to, Ollama embeds the beginning and says nothing."""
    settings = Settings("nomic", temperature=0, extra_body={"dimensions": 256, "input": "x", "model": "y"})

    assert EMBEDDING_ADAPTER.encode(["a", "é"], settings) == (
        '{"model":"nomic","input":["a","é"],"truncate":false,"dimensions":256}'.encode()
    )
    assert (EMBEDDING_ADAPTER.path(settings), EMBEDDING_ADAPTER.max_texts) == ("/api/embed", 512)


def test_vectors_come_in_the_order_of_the_texts():
    """There is no number beside them."""
    body = {"model": "nomic:v1", "embeddings": [[0.5, 1], [-2, 0.25]], "prompt_eval_count": 8}

    assert vectors(body) == Embeddings(([0.5, 1.0], [-2.0, 0.25]), Usage(8, 0), "nomic:v1", "q1")
    assert vectors({"embeddings": [[1.0]]}, 1) == Embeddings(([1.0],), Usage(), None, "q1")


@pytest.mark.parametrize(
    "body", [{}, {"embeddings": None}, {"embeddings": [[1]]}, {"embeddings": [[1], [1, 2]]}, {"embeddings": [[], []]}]
)
def test_anything_else_than_so_many_vectors_is_a_bad_response(body):
    """A vector that belongs to another text would be found for it for ever."""
    with pytest.raises(UnavailableError) as caught:
        vectors(body)

    assert caught.value.kind == "bad_response"


def test_a_text_that_is_too_long_is_known_as_such():
    """It must be cut by someone who knows where."""
    with pytest.raises(RejectedError) as caught:
        vectors({"error": "the input length exceeds the context length"}, status=400)

    assert caught.value.kind == "context_length"


PLACES = ("error", "message", "content", "thinking", "tool_calls", "done", "done_reason", "model", "embeddings")
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PLACES) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(SHAPES, st.sampled_from([200, 302, 400, 500]), st.integers(1, 3))
def test_hostile_json_is_an_answer_or_a_typed_error(document, status, count):
    """Whatever a server sends, the process lives on."""
    for ask, answer in ((read, Completion), (lambda body, status: vectors(body, count, status), Embeddings)):
        try:
            assert isinstance(ask(document, status=status), answer)
        except ProviderError:
            pass


@given(st.lists(SHAPES, max_size=4))
def test_a_hostile_stream_is_a_completion_or_a_typed_error(documents):
    """So it is with streams."""
    data = "".join(f"{json.dumps(document)}\n" for document in documents).encode()
    try:
        pieces, found = followed(data)
        assert "".join(pieces) == found.text
    except ProviderError:
        pass
