"""Reads a file as text, or says in one error what is wrong with it. The only module that knows PDF and DOCX."""

from __future__ import annotations

import codecs
import difflib
import io
import stat
import threading
import zipfile
from typing import TYPE_CHECKING, Any

from pipeline_engine.documents.markup import html_to_text
from pipeline_engine.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_BYTES", "read_document"]

MAX_BYTES = 20 * 2**20
"""The largest file that is read: 20 MiB."""

_MAX_UNPACKED = 3 * MAX_BYTES  # a DOCX is a zip: 200 kB of it can unpack to 200 MB
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PDFIUM = threading.Lock()  # PDFium is not thread-safe, and steps that read files run in threads


def read_document(path: Path) -> str:
    r"""Return the text of a document, with `\n` as the only line end and without a byte order mark.

    HTML, PDF and DOCX become plain text with `# ` headings; every other file is read as UTF-8 text
    (UTF-16 and UTF-32 too, where a byte order mark says so) and returned as it stands.

    Args:
        path: A file of at most 20 MiB.

    Raises:
        DocumentError: If the file cannot be read, is no text or has none; whatever is wrong, it is this error.
    """
    data = _read_bytes(path)
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        text = _read_pdf(path, data)
        empty = "has no text: its pages are probably scans. Run a text recognition (OCR) over it first."
    elif suffix == ".docx":
        text = _read_docx(path, data)
        empty = "has no text in its paragraphs and tables. Give a document with text in it."
    else:
        text = _decode(path, data)
        text = html_to_text(text) if suffix in {".html", ".htm"} else text
        empty = "is empty. Give a document with text in it."
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DocumentError(str(path), empty)
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DocumentError(str(path), "is a folder. Name a file, or find the files in it with find_documents.")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
            raise DocumentError(str(path), "is a device or pipe, not a file. Copy what it gives into a file first.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DocumentError(str(path), f"does not exist.{_near_miss(path)} Check the path.") from error
    except PermissionError as error:
        raise DocumentError(str(path), "may not be read by this user. Change its permissions.") from error
    except (OSError, ValueError) as error:
        raise DocumentError(str(path), f"cannot be read: {error}. Check the path and the disk.") from error
    if len(data) > MAX_BYTES:
        size = max(status.st_size, len(data)) / 2**20
        raise DocumentError(str(path), f"has {size:.1f} MiB, more than the 20 MiB that are read. Split it first.")
    return data


def _near_miss(path: Path) -> str:
    try:
        names = sorted(sibling.name for sibling in path.parent.iterdir())
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    return f" Did you mean {near[0]!r}?" if near else ""


def _decode(path: Path, data: bytes) -> str:
    encoding = next((encoding for mark, encoding in _ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data and encoding == "utf-8":
            raise DocumentError(str(path), _binary(data.index(b"\0"))) from error
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        where = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        reason = f"is not {name} text: {where}. Save it as UTF-8, or give a text, HTML, PDF or DOCX file."
        raise DocumentError(str(path), reason) from error
    if "\0" in text:
        raise DocumentError(str(path), _binary(text.index("\0")))
    return text


def _binary(offset: int) -> str:
    return f"is binary, not text: a NUL byte at offset {offset}. Give a text, HTML, PDF or DOCX file."


def _read_pdf(path: Path, data: bytes) -> str:
    try:
        import pypdfium2
    except ImportError as error:
        raise DocumentError(str(path), _missing_extra("PDF", "pdf")) from error
    pages: list[str] = []
    length = 0
    try:
        with _PDFIUM, pypdfium2.PdfDocument(data) as document:
            for index in range(len(document)):
                page = document[index]
                text_page = page.get_textpage()
                text = text_page.get_text_range()
                text_page.close()
                page.close()
                pages.append(text)
                length += len(text)
                if length > MAX_BYTES:
                    break
    except (pypdfium2.PdfiumError, ValueError, IndexError) as error:
        hint = "It may need a password, or be damaged: open it in a viewer and save it again."
        raise DocumentError(str(path), f"cannot be read as PDF: {_plain(error)} {hint}") from error
    if length > MAX_BYTES:
        raise DocumentError(str(path), f"has more than {MAX_BYTES:,} characters of text. Split it first.")
    # PDFium writes U+FFFE or U+0002 for a hyphen that only breaks a line.
    joined = "\n\n".join(page.replace("\ufffe\r\n", "").replace("\x02\r\n", "").strip() for page in pages)
    return joined.replace("\ufffe", "-").replace("\x02", "-").replace("\0", "")


def _read_docx(path: Path, data: bytes) -> str:
    try:
        import docx
    except ImportError as error:
        raise DocumentError(str(path), _missing_extra("DOCX", "docx")) from error
    try:
        _refuse_bomb(path, data)
        blocks = [*_docx_blocks(docx.Document(io.BytesIO(data)))]
    except DocumentError:
        raise
    except Exception as error:  # python-docx lets through whatever a malformed part raises
        hint = "It may be damaged: open it in a word processor and save it again."
        raise DocumentError(str(path), f"cannot be read as DOCX: {_plain(error)} {hint}") from error
    return "\n\n".join(block for block in blocks if block.strip())


def _refuse_bomb(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MAX_UNPACKED:
        reason = f"unpacks to {unpacked / 2**20:.0f} MiB, more than the {_MAX_UNPACKED // 2**20} MiB that are read."
        raise DocumentError(str(path), f"{reason} Take large pictures out, or split it.")


def _docx_blocks(document: Any) -> Iterator[str]:
    """Give paragraphs, headings as `# ` lines, and tables as lines of cells, in the order of the document."""
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            rows = ([" ".join(cell.text.split()) for cell in row.cells] for row in block.rows)
            yield "\n".join(" | ".join(cells) for cells in rows if any(cells))
            continue
        style = (block.style.name or "") if block.style is not None else ""
        kind, _, level = style.partition(" ")
        if style == "Title":
            yield f"# {block.text}"
        elif kind == "Heading" and level.isdigit() and block.text.strip():
            yield f"{'#' * min(int(level), 6)} {block.text}"
        else:
            yield block.text


def _missing_extra(kind: str, extra: str) -> str:
    return f'is a {kind}, and its reader is not installed. Run: pip install "pipeline-engine[{extra}]"'


def _plain(error: Exception) -> str:
    """Return an outside library's message as a sentence of its own."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
