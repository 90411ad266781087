"""Chunks: pieces of a text that lose nothing and end where a reader would pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.documents import Chunk, chunk_text

TEXTS = st.text(alphabet=st.sampled_from("ab .!?\n\t漢。é"), max_size=300) | st.text(max_size=200)


def texts(text, max_chars):
    return [chunk.text for chunk in chunk_text(text, max_chars)]


@given(TEXTS, st.integers(min_value=1, max_value=40))
def test_joined_chunks_are_the_text(text, max_chars):
    """A summary of all chunks must not miss a character of the document."""
    assert "".join(texts(text, max_chars)) == text


@given(TEXTS, st.integers(min_value=1, max_value=40))
def test_every_chunk_is_the_slice_that_it_names_and_fits(text, max_chars):
    """A citation by offsets must be exact, and a model's window must hold."""
    for chunk in chunk_text(text, max_chars):
        assert chunk == Chunk(text[chunk.start : chunk.end], chunk.start, chunk.end)
        assert 1 <= len(chunk.text) <= max_chars


@given(TEXTS, st.integers(min_value=1, max_value=40))
def test_chunks_are_few(text, max_chars):
    """Each chunk is a paid call: small ones are allowed only where a better boundary gave them."""
    assert len(chunk_text(text, max_chars)) <= 5 * (1 + 2 * len(text) // max_chars) + 5


@pytest.mark.parametrize(
    ("text", "max_chars", "chunks"),
    [
        ("", 10, []),
        ("short", 10, ["short"]),
        ("One.\n\nTwo.\n\nThree.", 14, ["One.\n\nTwo.\n\n", "Three."]),
        ("a line\nb line\nc line", 14, ["a line\nb line\n", "c line"]),
        ("One two. Three four. Five", 22, ["One two. Three four. ", "Five"]),
        ("alpha beta gamma", 12, ["alpha beta ", "gamma"]),
        ("一二三。四五六。七八", 5, ["一二三。", "四五六。", "七八"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("\n\nabcdef ghi", 8, ["\n\nabcdef", " ghi"]),
    ],
)
def test_a_chunk_ends_at_the_best_boundary_that_fits(text, max_chars, chunks):
    """A model understands a whole paragraph better than two halves."""
    assert texts(text, max_chars) == chunks


def test_a_megabyte_without_any_boundary_is_cut_like_any_other():
    """A hostile document must not stall the others."""
    assert [len(chunk) for chunk in texts("x" * 1_000_000, 300_000)] == [300_000, 300_000, 300_000, 100_000]


def test_a_limit_below_one_is_refused():
    """A chunk of nothing would never reach the end of the text."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared below
        chunk_text("text", 0)

    assert str(caught.value) == "max_chars is 0, but a chunk holds at least 1 character. Give 1 or more."
