"""OpenAI's embeddings: the exact bytes sent, and every shape of vectors that servers send."""

import base64
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, UnavailableError
from pipeline_engine.providers import Secret
from pipeline_engine.providers.adapters.adapter import Endpoint, Reply, Settings
from pipeline_engine.providers.adapters.openai_embeddings import ADAPTER, decode, encode
from pipeline_engine.values import Embeddings, Usage

KEY = "sk-canary-5f1d"
ENDPOINT = Endpoint("openai:small", "https://api.openai.com/v1", "OPENAI_API_KEY", Secret(KEY))


def packed(*numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def body(*vectors, **fields):
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {
        "object": "list",
        "data": data,
        "model": "small-3",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
        **fields,
    }


def read(document, count=2, status=200, headers=None):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return decode(Reply(status, headers or {}, data), ENDPOINT, count)


def refused(document, **kwargs):
    with pytest.raises(ProviderError) as caught:
        read(document, **kwargs)
    return caught.value


def test_a_request_is_written_to_the_byte():
    """In base64 a full batch fits into what is read of a reply; as decimals it would not."""
    assert encode(["a", "é\u2028"], Settings("small", temperature=0, max_tokens=9, seed=7)) == (
        '{"model":"small","input":["a","é\u2028"],"encoding_format":"base64"}'.encode()
    )


def test_extra_fields_are_sent_but_never_other_texts():
    """Shorter vectors are asked for so, and decimals of a server that knows no base64."""
    extra = {"dimensions": 256, "encoding_format": "float", "input": "canary", "model": "canary"}

    assert encode(("a",), Settings("small", extra_body=extra)) == (
        b'{"model":"small","input":["a"],"encoding_format":"float","dimensions":256}'
    )


def test_the_adapter_says_where_with_which_key_and_how_many():
    """OpenAI refuses more texts than these."""
    assert (ADAPTER.path(Settings("small")), ADAPTER.max_texts) == ("/embeddings", 2048)
    assert ADAPTER.headers(Secret("k")) == {"authorization": "Bearer k"}


def test_vectors_are_read_from_decimals_and_from_base64():
    """Servers that do not know base64 send decimals all the same."""
    expected = Embeddings(([0.5, -2.0], [1.0, 0.25]), Usage(8, 0), "small-3", "req_1")

    for document in (
        body([0.5, -2], [1, 0.25]),
        body(packed(0.5, -2), packed(1, 0.25)),
        body([0.5, -2], packed(1, 0.25)),
    ):
        assert read(document, headers={"x-request-id": "req_1"}) == expected


def test_vectors_come_in_the_order_of_the_texts():
    """They have numbers because they need not come in it."""
    document = body([1.0], [2.0], [3.0])
    document["data"].reverse()

    assert read(document, 3).vectors == ([1.0], [2.0], [3.0])


def test_vectors_without_numbers_come_in_the_order_of_the_texts():
    """Some servers leave the numbers out."""
    document = body([1.0], [2.0])
    for entry in document["data"]:
        del entry["index"]

    assert read(document).vectors == ([1.0], [2.0])


@pytest.mark.parametrize(
    ("usage", "expected"),
    [(None, Usage()), ({"prompt_tokens": -1}, Usage()), ({"prompt_tokens": 0}, Usage(0, 0)), ([], Usage())],
)
def test_nothing_is_spent_on_a_reply_but_the_texts_may_be_unknown(usage, expected):
    """A call of unknown cost must not look free."""
    assert read(body([1.0], [2.0], usage=usage)).usage == expected


def numbered(*numbers):
    data = [{"index": number, "embedding": [1.0]} for number in numbers]
    return {"data": data}


@pytest.mark.parametrize(
    ("document", "lack"),
    [
        ({}, "0 instead of 2 vectors"),
        ([], "0 instead of 2 vectors"),
        ({"data": {}}, "0 instead of 2 vectors"),
        (body([1.0]), "1 instead of 2 vectors"),
        (body([1.0], [1.0], [1.0]), "3 instead of 2 vectors"),
        (numbered(0, 0), "something else than vectors"),
        (numbered(1, 2), "something else than vectors"),
        (numbered(0, None), "something else than vectors"),
        (numbered(0, "1"), "something else than vectors"),
        (numbered(False, True), "something else than vectors"),
        (numbered(0, [1]), "something else than vectors"),
        (body([1.0], [1.0, 2.0]), "something else than vectors"),
        (body([], []), "something else than vectors"),
        (body([1.0], None), "something else than vectors"),
        (body([1.0], ["1"]), "something else than vectors"),
        (body([1.0], [True]), "something else than vectors"),
        (body([1.0], [10**400]), "something else than vectors"),
        (body([1.0], "AAA"), "something else than vectors"),
        (body([1.0], "AAAA"), "something else than vectors"),
        (body([1.0], "é==="), "something else than vectors"),
        (body([1.0], packed(math.nan)), "something else than vectors"),
        (body([1.0], packed(math.inf)), "something else than vectors"),
        (body([1.0], packed(-math.inf, math.inf)), "something else than vectors"),
    ],
)
def test_anything_else_than_so_many_vectors_is_a_bad_response(document, lack):
    """A vector that belongs to another text, or to none, would be found for it for ever."""
    found = refused(document)

    assert (type(found), found.kind, found.billed) == (UnavailableError, "bad_response", "maybe")
    assert f"answered HTTP 200 with {lack} that begins" in str(found)


@pytest.mark.parametrize(
    ("status", "document", "expected", "kind"),
    [
        (429, {"error": {"message": "slow down"}}, RateLimitError, "rate_limited"),
        (400, {"error": {"message": "maximum context length is 8192 tokens"}}, RejectedError, "context_length"),
        (200, {"error": {"message": "boom", "code": 503}}, UnavailableError, "overloaded"),
        (200, {"object": "error", "message": "x", "type": "invalid_request_error"}, RejectedError, "invalid"),
        (200, b"", UnavailableError, "bad_response"),
        (200, b"<html>", UnavailableError, "bad_response"),
        (200, b'{"data": [{"embedding": [NaN]}]}', UnavailableError, "bad_response"),
    ],
)
def test_an_error_is_the_error_that_it_is(status, document, expected, kind):
    """As for chats."""
    found = refused(document, status=status)

    assert (type(found), found.kind, found.status) == (expected, kind, status)


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1)
)
def test_base64_and_decimals_are_the_same_vectors(vectors):
    """Which of them came must not matter to anybody."""
    assert read(body(*vectors), len(vectors)).vectors == tuple(vectors)
    assert read(body(*(packed(*vector) for vector in vectors)), len(vectors)).vectors == tuple(vectors)


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("data", "index", "embedding", "error", "usage", "model")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(SHAPES, st.sampled_from([200, 302, 400, 500]), st.integers(1, 3))
def test_hostile_json_is_vectors_or_a_typed_error(document, status, count):
    """Whatever a server sends, the process lives on."""
    try:
        assert len(read(document, count, status).vectors) == count
    except ProviderError:
        pass
