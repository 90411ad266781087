"""Messages and their parts: what a prompt can be made of."""

import pytest

from pipeline_engine.values import File, Image, Message, Text

PIXEL = b"GIF89a"


def test_strings_become_text_parts():
    """Most messages are one text, and should read like it."""
    message = Message("user", "What is this?", Image(PIXEL, media_type="image/gif"), Text("Be brief."))

    assert message.parts == (Text("What is this?"), Image(PIXEL, media_type="image/gif"), Text("Be brief."))
    assert message.text == "What is this?\n\nBe brief."


def test_a_message_of_pictures_has_an_empty_text():
    """Whoever counts or shows text must not trip over it."""
    assert Message("user", Image(url="https://example.com/a.png")).text == ""
    assert Message("assistant").parts == ()


def test_messages_are_values():
    """Records, journals and tests compare them, and one must not change after it was sent."""
    assert Message("user", "a") == Message("user", Text("a"))
    assert len({Message("user", "a"), Message("user", "a"), Message("system", "a")}) == 2
    with pytest.raises(AttributeError):
        Message("user", "a").role = "system"


@pytest.mark.parametrize("role", ["tool", "User", "", None])
def test_an_unknown_role_is_refused(role):
    """Providers answer it with HTTP 400, one paid document at a time."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Message(role, "a")

    assert str(caught.value) == f"a message's role is 'system', 'user' or 'assistant', not {role!r}."


@pytest.mark.parametrize(("part", "shown"), [(None, "NoneType"), (b"a", "bytes"), (["a"], "list")])
def test_a_part_of_another_kind_is_refused(part, shown):
    """A list in place of `*parts` is the usual slip."""
    with pytest.raises(TypeError) as caught:
        Message("user", part)

    assert str(caught.value) == f"a message's part is a str, Text, Image or File, not {shown}."


def test_bytes_become_a_data_url_and_an_address_stays_one():
    """What providers take on the wire; an address is fetched by them, never by the engine."""
    assert Image(PIXEL, media_type="image/gif").data_url == "data:image/gif;base64,R0lGODlh"
    assert Image(url="https://example.com/a.png").data_url == "https://example.com/a.png"
    assert File(b"a", media_type="text/plain").data_url == "data:text/plain;base64,YQ=="


@pytest.mark.parametrize("given", [{}, {"data": PIXEL, "media_type": "image/gif", "url": "https://example.com"}])
def test_an_image_is_either_bytes_or_an_address(given):
    """Neither is nothing to look at, both are two pictures."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Image(**given)

    assert str(caught.value) == "Image takes either data and media_type, or url. Give exactly one of them."


def test_an_images_bytes_need_a_type():
    """Providers refuse bytes without one."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Image(PIXEL)

    assert str(caught.value) == 'Image(data, …) needs its media_type, such as "image/png".'


def test_files_are_read_with_their_type_and_name(tmp_path):
    """The name is what the model sees and may cite."""
    path = tmp_path / "invoice.pdf"
    path.write_bytes(b"%PDF-1.7")

    assert File.from_path(path) == File(b"%PDF-1.7", media_type="application/pdf", name="invoice.pdf")
    assert File.from_path(str(path), "text/plain").media_type == "text/plain"


def test_a_file_without_a_known_ending_is_plain_bytes(tmp_path):
    """It is for the provider to refuse, not for a guess."""
    path = tmp_path / "notes"
    path.write_bytes(b"a")

    assert File.from_path(path) == File(b"a", media_type="application/octet-stream", name="notes")


def test_images_are_read_with_their_type(tmp_path):
    """A name tells the type; the caller may know better."""
    (tmp_path / "a.png").write_bytes(PIXEL)
    (tmp_path / "scan").write_bytes(PIXEL)

    assert Image.from_path(tmp_path / "a.png") == Image(PIXEL, media_type="image/png")
    assert Image.from_path(tmp_path / "scan", "image/gif") == Image(PIXEL, media_type="image/gif")


def test_a_file_that_does_not_look_like_an_image_is_refused_before_it_is_read(tmp_path):
    """A PDF sent as an image fails at the provider, with a worse message."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Image.from_path(tmp_path / "missing.pdf")

    shown = repr(str(tmp_path / "missing.pdf"))
    assert str(caught.value) == f"{shown} looks like application/pdf, not like image/*. Pass media_type= yourself."
