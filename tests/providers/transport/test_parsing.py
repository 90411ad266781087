"""Both parsers on the same bytes: what one takes, refuses or leaves, the other does as well."""

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.providers.transport.parsing import MAX_HEAD_BYTES, MAX_HEADERS, parser_factory

RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-Name:  value \t\r\nempty:\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"2;name=value\r\nhe\r\n3\r\nllo\r\n0\r\ntrailer: x\r\n\r\n",
    "after 1xx": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    b"HTTP/1.1 429 Too Many\r\ncontent-length: 5\r\n\r\nhello",
    "no content": b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
    "not modified, with a length": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    "empty": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "an offer to switch": b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 5\r\n\r\nhello",
}


def read(name, pieces, method=b"POST"):
    """Return what a parser has seen after each of the pieces has been fed."""
    parser = parser_factory(name)()
    parser.restart(method)
    body = b""
    for piece in pieces:
        parser.feed(piece)
        body += parser.take_body()
    return parser, body


def seen(name, pieces, method=b"POST"):
    parser, body = read(name, pieces, method)
    return parser.status, parser.headers, body, parser.is_complete, parser.is_reusable


@pytest.mark.parametrize(
    ("case", "expected"),
    {
        "length": (200, [(b"content-length", b"5"), (b"x-name", b"value"), (b"empty", b"")], b"hello", True, True),
        "chunked": (200, None, b"hello", True, True),
        "after 1xx": (429, [(b"content-length", b"5")], b"hello", True, True),
        "no content": (204, [(b"x", b"y")], b"", True, True),
        "not modified, with a length": (304, [(b"content-length", b"5")], b"", True, True),
        "empty": (200, [(b"content-length", b"0")], b"", True, True),
        "an offer to switch": (200, None, b"hello", True, True),
    }.items(),
)
def test_a_response_ends_where_its_head_says(parser, case, expected):
    """A byte more or less would be taken from, or left to, the next response."""
    found = seen(parser, [RESPONSES[case]])

    assert (found[0], found[1] if expected[1] is not None else None, *found[2:]) == expected


@given(data=st.data())
@pytest.mark.parametrize("name", ["h11", "httptools"])
@pytest.mark.parametrize("case", RESPONSES)
def test_a_response_cut_anywhere_is_the_same_response(name, case, data):
    """Networks cut where they like."""
    response = RESPONSES[case]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(response) - 1))))
    pieces = [response[start:end] for start, end in zip([0, *cuts], [*cuts, len(response)], strict=True)]

    assert seen(name, pieces) == seen(name, [response])


@pytest.mark.parametrize("case", RESPONSES)
def test_a_response_byte_by_byte_is_the_same_response(parser, case):
    """The worst network of all."""
    response = RESPONSES[case]

    assert seen(parser, [response[at : at + 1] for at in range(len(response))]) == seen(parser, [response])


@pytest.mark.parametrize("case", RESPONSES)
def test_one_parser_reads_all_responses_of_a_connection(parser, case):
    """Whatever one response leaves behind would change the next."""
    reading = parser_factory(parser)()
    for _ in range(3):
        reading.restart(b"POST")
        reading.feed(RESPONSES[case])
        body = reading.take_body()

    assert (reading.status, reading.headers, body, reading.is_complete, reading.is_reusable) == seen(
        parser, [RESPONSES[case]]
    )


def test_the_response_to_head_has_no_body_whatever_it_says(parser):
    """Its length is that of the body which GET would have had: to wait for it is to hang."""
    reading = parser_factory(parser)()
    reading.restart(b"HEAD")
    reading.feed(RESPONSES["length"].removesuffix(b"hello"))
    after_head = (reading.is_complete, reading.is_reusable, reading.take_body())
    reading.restart(b"POST")
    reading.feed(RESPONSES["length"])

    assert after_head == (True, True, b"")
    assert (reading.is_complete, reading.take_body()) == (True, b"hello")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_response_without_a_length_ends_with_its_connection(parser, version):
    """Old and small servers speak so; the connection cannot be used again."""
    pieces = [f"HTTP/{version} 200 OK\r\n\r\nhel".encode(), b"lo"]
    before, _ = read(parser, pieces)

    assert (before.is_complete, before.is_reusable) == (False, False)
    assert seen(parser, [*pieces, b""]) == (200, [], b"hello", True, False)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: x, close\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n",
    ],
)
def test_a_connection_that_the_server_will_close_is_not_kept(parser, head):
    """It would be dead at the next request, and need a replay."""
    assert seen(parser, [head + b"ok"])[2:] == (b"ok", True, False)


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\n\r\n", b"x", b"\0"])
@pytest.mark.parametrize("case", ["length", "chunked", "no content", "not modified, with a length"])
def test_bytes_behind_a_response_cost_the_connection(parser, case, surplus):
    """They would be read as the answer to the next request, which may be another document's."""
    together = seen(parser, [RESPONSES[case] + surplus])
    apart = seen(parser, [RESPONSES[case], surplus])

    assert (together[3:], apart[3:]) == ((True, False), (True, False))
    assert together[2] == apart[2] == seen(parser, [RESPONSES[case]])[2]


REFUSED = {
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "the response is no HTTP/1.1"),
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        None,
    ),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        None,
    ),
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        None,
    ),
    "a length that is none": (b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok", "the response is no HTTP/1.1"),
    "another coding": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok", None),
    "a chunk that is none": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        "the response is no HTTP/1.1",
    ),
    "too many headers": (
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: x\r\n" % at for at in range(MAX_HEADERS + 1)) + b"\r\n",
        "the response has more than 100 headers",
    ),
    "a header of a MiB": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2**20, None),
    "endless 1xx": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000, None),
    "endless trailers": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"trailer: x\r\n" * 10000,
        None,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_response_is_refused(parser, case):
    """What two readers could read in two ways is how answers get mixed up; what never ends fills the memory."""
    data, message = REFUSED[case]
    pieces = [data[at : at + 16384] for at in range(0, len(data), 16384)]

    with pytest.raises(httpx2.RemoteProtocolError) as raised:
        read(parser, pieces)
    assert message in {None, str(raised.value)}
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize("case", ["a header of a MiB", "endless trailers"])
def test_what_is_refused_is_never_held_in_memory(parser, case):
    """A cap that is looked at after everything has come is no cap."""
    data, _ = REFUSED[case]
    reading = parser_factory(parser)()
    reading.feed(data[: MAX_HEAD_BYTES // 2])

    # Whatever the rest is, no more of it than the cap is looked at.
    with pytest.raises(httpx2.RemoteProtocolError):
        reading.feed(data[MAX_HEAD_BYTES // 2 : MAX_HEAD_BYTES + 1])


def test_as_many_headers_as_are_allowed_are_read(parser):
    """Otherwise the limit would be another one than it says."""
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: x\r\n" % at for at in range(MAX_HEADERS - 1))

    assert len(seen(parser, [head + b"content-length: 0\r\n\r\n"])[1]) == MAX_HEADERS


def test_a_long_stream_of_small_chunks_is_no_flood(parser):
    """A stream of an hour sends more bytes around its text than any head may have."""
    reading = parser_factory(parser)()
    reading.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    total = 0
    for _ in range(20_000):
        reading.feed(b"1\r\n")
        reading.feed(b"x\r\n")
        total += len(reading.take_body())

    assert total == 20_000


@pytest.mark.parametrize("case", ["length", "chunked"])
def test_a_response_that_ends_too_early_is_an_error(parser, case):
    """Half a JSON document may be valid JSON, and half an answer reads like an answer."""
    response = RESPONSES[case]
    for end in range(1, len(response)):
        with pytest.raises(httpx2.RemoteProtocolError):
            read(parser, [response[:end], b""])


def test_unknown_parsers_are_refused():
    """A misspelled name must not silently be the slow one."""
    with pytest.raises(ValueError, match=r'^parser=\'fast\' is not known. Use "auto", "h11" or "httptools"\.$'):
        parser_factory("fast")


def test_the_quick_parser_is_used_where_it_is_installed():
    """Nobody should have to ask for speed that is already there."""
    assert parser_factory("auto").__name__ == "HttptoolsParser"
