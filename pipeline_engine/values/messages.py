"""What a prompt is made of: messages with parts of text, images and files."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["File", "Image", "Message", "Part", "Prompt", "Text"]


@dataclass(frozen=True, slots=True)
class Text:
    """Put a piece of text into a message.

    Example:
        >>> Text("What is in this picture?").text
        'What is in this picture?'
    """

    text: str
    """The text, as the model gets it."""
    is_shared: bool = False
    """Whether other calls begin with the same messages up to here: worth a place in the provider's prompt cache."""


def _read(path: str | Path, expected: str | None) -> tuple[bytes, str]:
    media_type = mimetypes.guess_type(str(path))[0] or "application/octet-stream"
    if expected is not None and not media_type.startswith(expected):
        raise ValueError(f"{str(path)!r} looks like {media_type}, not like {expected}*. Pass media_type= yourself.")
    return Path(path).read_bytes(), media_type


@dataclass(frozen=True, slots=True)
class Image:
    """Put an image into a message: its bytes, or an address that the provider fetches.

    Example:
        >>> Image(url="https://example.com/cat.png").url
        'https://example.com/cat.png'
        >>> Image(b"GIF89a", media_type="image/gif").data_url
        'data:image/gif;base64,R0lGODlh'
    """

    data: bytes | None = None
    """The image's bytes; then `media_type` is needed."""
    media_type: str | None = None
    """Such as "image/png"."""
    url: str | None = None
    """An address instead of bytes. The engine never opens it."""

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise ValueError("Image takes either data and media_type, or url. Give exactly one of them.")
        if self.data is not None and self.media_type is None:
            raise ValueError('Image(data, …) needs its media_type, such as "image/png".')

    @classmethod
    def from_path(cls, path: str | Path, media_type: str | None = None) -> Image:
        """Read an image file; its type is told by its name unless `media_type` says it.

        Raises:
            ValueError: If the name does not look like an image's.
            OSError: If the file cannot be read.
        """
        data, guessed = _read(path, None if media_type else "image/")
        return cls(data, media_type=media_type or guessed)

    @property
    def data_url(self) -> str:
        """The image as an address: `url`, or its bytes as a data URL."""
        if self.data is None:
            return self.url or ""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, slots=True)
class File:
    """Put a file, such as a PDF, into a message.

    Example:
        >>> File(b"%PDF-1.7", media_type="application/pdf", name="invoice.pdf").name
        'invoice.pdf'
    """

    data: bytes
    """The file's bytes."""
    media_type: str
    """Such as "application/pdf"."""
    name: str = "file"
    """The name that the model sees."""

    @classmethod
    def from_path(cls, path: str | Path, media_type: str | None = None) -> File:
        """Read a file; its type is told by its name unless `media_type` says it.

        Raises:
            OSError: If the file cannot be read.
        """
        data, guessed = _read(path, None)
        return cls(data, media_type=media_type or guessed, name=Path(path).name)

    @property
    def data_url(self) -> str:
        """The file's bytes as a data URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


Part = Text | Image | File
"""A part of a message."""


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """Say something in a conversation with a model.

    Example:
        >>> Message("user", "Describe this.", Image(url="https://example.com/cat.png")).text
        'Describe this.'
    """

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    parts: tuple[Part, ...]
    """What is said, in order."""

    def __init__(self, role: Literal["system", "user", "assistant"], *parts: Part | str) -> None:
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"a message's role is 'system', 'user' or 'assistant', not {role!r}.")
        for part in parts:
            if not isinstance(part, str | Text | Image | File):
                raise TypeError(f"a message's part is a str, Text, Image or File, not {type(part).__name__}.")
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", tuple(Text(part) if isinstance(part, str) else part for part in parts))

    @property
    def text(self) -> str:
        """The text parts, joined by blank lines."""
        return "\n\n".join(part.text for part in self.parts if isinstance(part, Text))


Prompt = str | Sequence[Message]
"""What a prompt function returns: one user message's text, or a conversation."""
