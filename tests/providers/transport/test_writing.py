"""What is sent: exactly one request, checked, with nothing smuggled in."""

import httpx2
import pytest

from pipeline_engine.providers.transport import Origin, WireRequest
from pipeline_engine.providers.transport.writing import RequestWriter

ORIGIN = Origin("http", "host", 80)
HEADERS = ((b"host", b"host"), (b"x-api-key", b"sk-canary"))


def wanted(headers=HEADERS, body=b"{}", target=b"/path", method=b"POST"):
    return WireRequest(ORIGIN, target, headers, body, 5.0, method)


def test_a_request_is_a_head_a_length_and_a_body():
    """The bytes are the interface."""
    written = RequestWriter().write(wanted())

    assert written == b"POST /path HTTP/1.1\r\nhost: host\r\nx-api-key: sk-canary\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("method", "ends"),
    [(b"POST", b"\r\ncontent-length: 0\r\n\r\n"), (b"GET", b"sk-canary\r\n\r\n"), (b"HEAD", b"sk-canary\r\n\r\n")],
)
def test_an_empty_body_has_a_length_only_where_one_is_expected(method, ends):
    """Servers wait for the body of a POST without a length, and some refuse a GET with one."""
    assert RequestWriter().write(wanted(body=b"", method=method)).endswith(ends)


def test_a_head_is_kept_for_the_same_headers_only():
    """A kept head that is not the request's own sends one model's key to another."""
    writer = RequestWriter()
    other = ((b"host", b"host"), (b"x-api-key", b"other"))
    requests = [wanted(), wanted(target=b"/other"), wanted(method=b"PUT"), wanted(other), wanted(body=b"longer")]

    assert [writer.write(request) for request in requests * 2] == [
        RequestWriter().write(request) for request in requests * 2
    ]


def test_a_list_of_headers_is_read_anew_each_time():
    """It may have changed since."""
    writer, headers = RequestWriter(), [(b"host", b"first")]
    first = writer.write(wanted(headers))
    headers[0] = (b"host", b"second")

    assert (b"first" in first, b"second" in writer.write(wanted(headers))) == (True, True)


def test_few_heads_are_kept():
    """Somebody may make a model per document."""
    writer = RequestWriter()
    for number in range(1000):
        writer.write(wanted(((b"host", b"%d" % number),)))

    assert len(writer._kept) <= 64


@pytest.mark.parametrize("bad", [b"a\r\nx: y", b"a\nb", b"a\rb", b"a\0b"])
def test_a_header_that_would_begin_a_new_line_is_refused_and_not_shown(bad):
    """A key with a line break would be two headers, or a request of somebody else's."""
    with pytest.raises(httpx2.LocalProtocolError) as error:
        RequestWriter().write(wanted(((b"x-api-key", b"sk-canary" + bad),)))

    assert str(error.value) == "the header 'x-api-key' of the request has characters that HTTP forbids"


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", "ä".encode()])
def test_a_name_that_is_none_is_refused(name):
    """The same, on the other side of the colon."""
    with pytest.raises(httpx2.LocalProtocolError):
        RequestWriter().write(wanted(((name, b"value"),)))


@pytest.mark.parametrize("target", [b"", b"/a b", b"/a\r\nhost: evil", b"/a\0"])
def test_a_path_that_is_none_is_refused_and_not_shown(target):
    """A model's name becomes part of the path, and a path may hold a key."""
    with pytest.raises(httpx2.LocalProtocolError) as error:
        RequestWriter().write(wanted(target=target))

    assert str(error.value) == "the method or the path of the request has characters that HTTP forbids"


def test_a_request_shows_neither_key_nor_document():
    """It stands in the frames of tracebacks."""
    shown = repr(wanted(body=b"secret", target=b"/path?key=secret"))

    assert shown == "<WireRequest POST to http://host:80, 6 bytes>"
