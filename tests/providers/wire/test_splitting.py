"""Cutting streams into events: the rules of server-sent events to the letter, however the bytes arrive."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.providers.wire import splitting
from pipeline_engine.providers.wire.splitting import EventSplitter, LineSplitter, OversizedEventError, ServerEvent

CR, LF, CRLF = b"\r", b"\n", b"\r\n"


def pieces_of(data, cuts):
    """Return the data cut at these places, some of the pieces empty if a place comes twice."""
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def split(data, splitter=EventSplitter, cuts=()):
    """Return all events of a stream, those first that are whole before its end."""
    cutter = splitter()
    whole = [event for piece in pieces_of(data, cuts) for event in cutter.feed(piece)]
    return whole, list(cutter.finish())


def events(data, **kwargs):
    whole, rest = split(data, **kwargs)
    return whole + rest


def data_of(data, **kwargs):
    return [event.data for event in events(data, **kwargs)]


def expected_events(data):
    """Return the events of a whole stream by the rules of the standard, spelled out anew."""
    found, name, lines = [], "", []
    data = data.removeprefix(b"\xef\xbb\xbf")
    # The end of the stream ends its last line and its last event, too: some servers leave out both.
    for line in [*re.split(b"\r\n|\r|\n", data), b""]:
        field, value = line.split(b":", 1) if b":" in line else (line, b"")
        value = value[1:] if value[:1] == b" " else value
        if line == b"":
            found += [ServerEvent(name, b"\n".join(lines))] if lines else []
            name, lines = "", []
        elif field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return found


@pytest.mark.parametrize("end", [CR, LF, CRLF], ids=["CR", "LF", "CRLF"])
def test_lines_may_end_in_any_of_three_ways(end):
    """Gemini and Perplexity send CRLF, nearly all others LF, and CR is legal."""
    stream = end.join([b"event: a", b"data: 1", b"", b"data: 2", b"", b""])

    assert split(stream) == ([ServerEvent("a", b"1"), ServerEvent("", b"2")], [])


def test_ends_of_lines_may_be_mixed():
    """Gateways add lines of their own to a stream that they pass on."""
    assert data_of(b"data: 1\r\ndata: 2\ndata: 3\r\r\ndata: 4\n\r\n") == [b"1\n2\n3", b"4"]


@pytest.mark.parametrize("cut", range(len(b"data: 1\r\n\r\ndata: 2\r\n\r\n") + 1))
def test_a_crlf_that_is_cut_in_two_is_one_end_of_line(cut):
    """Taken for two, its halves would end an event in the middle."""
    stream = b"data: 1\r\ndata: 2\r\n\r\n"

    assert data_of(stream, cuts=[cut]) == data_of(stream, cuts=[cut, cut]) == [b"1\n2"]


def test_an_event_is_whole_as_soon_as_its_blank_line_is():
    """The first word must not wait for the second."""
    splitter = EventSplitter()

    assert list(splitter.feed(b"data: 1\r\n")) == []
    assert list(splitter.feed(b"\r")) == [ServerEvent("", b"1")]
    assert list(splitter.feed(b"\n")) == []
    assert list(splitter.feed(b"data: 2\n\n")) == [ServerEvent("", b"2")]


def test_comments_and_unknown_fields_are_no_events():
    """OpenRouter begins with comments, and proxies send them to keep a connection alive."""
    assert split(b": OPENROUTER PROCESSING\n\n:\n\nid: 7\nretry: 10\n\nfoo: bar\n\n") == ([], [])


def test_a_comment_within_an_event_does_not_end_it():
    """It may come at any time."""
    assert data_of(b"data: 1\n: ping\ndata: 2\n\n") == [b"1\n2"]


def test_lines_of_data_are_joined():
    """A server may break its JSON into lines."""
    assert data_of(b'data: {\ndata:   "a": 1\ndata\ndata:\ndata: }\n\n') == [b'{\n  "a": 1\n\n\n}']


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (b"data:x", b"x"),
        (b"data: x", b"x"),
        (b"data:  x ", b" x "),
        (b"data:\tx", b"\tx"),
        (b"data: a: b", b"a: b"),
        (b"data: :", b":"),
        (b"data: \x00\x0b\x0c\x1c\x1d\x1e", b"\x00\x0b\x0c\x1c\x1d\x1e"),
    ],
)
def test_one_space_behind_the_colon_is_no_part_of_the_data(line, data):
    """And one only; all else is the server's."""
    assert data_of(line + b"\n\n") == [data]


@pytest.mark.parametrize("line", [b"Data: x", b" data: x", b"data : x", b"dat", b"datax: x", b"\xff: x"])
def test_other_fields_are_not_taken_for_data(line):
    """Names of fields are case-sensitive, and nothing is trimmed from them."""
    assert events(line + b"\n\n") == []


def test_an_event_without_data_is_none_and_its_name_is_forgotten():
    """The name must not slip to the next event."""
    assert events(b"event: ping\n\ndata: 1\n\n") == [ServerEvent("", b"1")]


def test_of_several_names_the_last_one_counts():
    """So the standard says."""
    assert events(b"event: a\ndata: 1\nevent: b\xc3\xa9\xff\n\n") == [ServerEvent("bé\ufffd", b"1")]


@pytest.mark.parametrize("cut", range(4))
def test_a_byte_order_mark_at_the_beginning_is_no_part_of_the_first_line(cut):
    """Else the first event would be lost, which may hold the error."""
    assert data_of(b"\xef\xbb\xbfdata: 1\n\n", cuts=[cut]) == [b"1"]


def test_a_byte_order_mark_elsewhere_is_data():
    """It may stand in a document."""
    assert data_of(b"data: \xef\xbb\xbf1\n\n\xef\xbb\xbfdata: 2\n\n") == [b"\xef\xbb\xbf1"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_other_separators_of_lines_are_data(mark):
    """They are legal within JSON: to split there, as `str.splitlines` does, is to lose the reply."""
    line = f'{{"a": "b{mark}c"}}'.encode()

    assert data_of(b"data: " + line + b"\n\n") == data_of(line + b"\n", splitter=LineSplitter) == [line]


def test_a_character_that_is_cut_in_two_is_whole_again():
    """Networks cut bytes, not characters."""
    stream = "data: é漢😀\n\n".encode()

    assert all(data_of(stream, cuts=[cut]) == ["é漢😀".encode()] for cut in range(len(stream)))


@pytest.mark.parametrize("rest", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r", b"data: [DONE]\r\n"])
def test_a_last_event_without_its_blank_line_comes_with_the_end(rest):
    """Some servers hang up as soon as they have said the last word."""
    assert split(b"data: 1\n\n" + rest) == ([ServerEvent("", b"1")], [ServerEvent("", b"[DONE]")])


def test_the_end_adds_nothing_to_a_stream_that_is_whole():
    """An event must not come twice."""
    assert split(b"data: 1\n\n: bye") == ([ServerEvent("", b"1")], [])
    assert split(b"") == split(b"\xef\xbb\xbf") == split(b"\r\n\r\n") == ([], [])


STREAMS = st.lists(
    st.sampled_from([b"data", b"event", b"id", b":", b" ", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", "é\u2028".encode()])
    | st.binary(max_size=3),
    max_size=40,
).map(b"".join)
CUTS = st.lists(st.integers(0, 80), max_size=12)


@given(STREAMS, CUTS)
def test_events_are_those_of_the_standard_however_the_stream_is_cut(stream, cuts):
    """Where a chunk ends is chance."""
    assert events(stream, cuts=cuts) == expected_events(stream)
    assert events(stream, cuts=range(len(stream))) == expected_events(stream)


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\n", b"\r\n", b" \n"]), max_size=12).map(b"".join), CUTS)
def test_json_lines_are_the_same_however_the_stream_is_cut(stream, cuts):
    """So it is with lines."""
    expected = [ServerEvent("", line.strip()) for line in stream.split(b"\n") if line.strip()]

    assert events(stream, splitter=LineSplitter, cuts=cuts) == expected
    assert events(stream, splitter=LineSplitter, cuts=range(len(stream))) == expected


def test_json_lines_end_in_line_feeds_and_blank_ones_are_none():
    """CR at the end is blank space; in the middle it is a fault that the JSON parser will name."""
    assert split(b'{"a": 1}\r\n\n \r\n{"b": 2}\n{"c"', splitter=LineSplitter) == (
        [ServerEvent("", b'{"a": 1}'), ServerEvent("", b'{"b": 2}')],
        [ServerEvent("", b'{"c"')],
    )
    assert data_of(b'{"a":\r1}\n', splitter=LineSplitter) == [b'{"a":\r1}']


def test_the_longest_event_is_as_long_as_a_whole_reply():
    """`response.completed` repeats all of it."""
    assert splitting.MAX_EVENT_BYTES == 16 * 1024 * 1024
    assert str(OversizedEventError()) == "an event of more than 16 MiB"


@pytest.fixture
def _small_cap(monkeypatch):
    monkeypatch.setattr(splitting, "MAX_EVENT_BYTES", 20)


@pytest.mark.usefixtures("_small_cap")
@pytest.mark.parametrize(
    ("splitter", "stream"),
    [
        (EventSplitter, b"data: 3456789012345678901"),
        (EventSplitter, b"data: 3456789012345678901\n\n"),
        (EventSplitter, b": 3456789012345678901\n\n"),
        (EventSplitter, b"event: 89012345678901\n\n"),
        (EventSplitter, b"data: 34567\ndata: 34567\ndata: 34567\n\n"),
        (EventSplitter, b"data\n" * 30),
        (EventSplitter, b"data: 3456789\nx: 234567890123456\n\n"),
        (LineSplitter, b"123456789012345678901"),
        (LineSplitter, b"123456789012345678901\n"),
        (LineSplitter, b" " * 21 + b"\n"),
    ],
)
def test_an_event_that_has_no_end_is_given_up(splitter, stream):
    """A broken server must not fill the memory, neither with one line nor with many, nor however it is cut."""
    for cuts in ((), range(len(stream)), range(0, len(stream), 7)):
        with pytest.raises(OversizedEventError):
            events(stream, splitter=splitter, cuts=cuts)


@pytest.mark.usefixtures("_small_cap")
@pytest.mark.parametrize(
    ("splitter", "stream"),
    [
        (EventSplitter, b"data: 34567890123456\n\n" * 9),
        (EventSplitter, b": comment\n" * 9),
        (EventSplitter, b"data: 1\ndata: 2\n\n" * 9),
        (LineSplitter, b"12345678901234567890\n" * 9),
    ],
)
def test_the_cap_is_for_each_event_and_not_for_the_stream(splitter, stream):
    """A long reply is no fault."""
    for cuts in ((), range(len(stream)), range(0, len(stream), 7)):
        assert events(stream, splitter=splitter, cuts=cuts) == events(stream, splitter=splitter)


@pytest.mark.usefixtures("_small_cap")
@given(STREAMS, CUTS)
def test_what_is_too_long_does_not_depend_on_the_cuts_either(stream, cuts):
    """A stream that is read today must be read tomorrow."""

    def outcome(cuts):
        try:
            return events(stream, cuts=cuts)
        except OversizedEventError:
            return "too long"

    assert outcome(cuts) == outcome(()) == outcome(range(len(stream)))
