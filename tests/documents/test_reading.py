"""Reading: text from files of many kinds, and one kind of error for all that can be wrong with them."""

import builtins
import codecs
import io
import zipfile

import pytest

from pipeline_engine.documents import MAX_BYTES, read_document
from pipeline_engine.errors import DocumentError


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def write_file(name, data):
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write_file


def pdf(text):
    """Return a one-page PDF without any library; PDFium rebuilds the missing table of objects."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>endobj\n"
        b"4 0 obj<</Length " + str(len(stream)).encode() + b">>stream\n" + stream + b"\nendstream endobj\n"
        b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n"
        b"trailer<</Root 1 0 R/Size 6>>\n%%EOF\n"
    )


def docx_bytes():
    docx = pytest.importorskip("docx", reason="python-docx is not installed")
    document = docx.Document()
    document.add_heading("Tea", level=0)
    document.add_paragraph("Tea is hot.")
    document.add_heading("Kinds", level=1)
    table = document.add_table(rows=2, cols=2)
    cells = [cell for row in table.rows for cell in row.cells]
    for cell, text in zip(cells, ("Name", "Origin", "Assam", "India"), strict=True):
        cell.text = text
    document.add_paragraph("The end.")
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def error_of(path):
    with pytest.raises(DocumentError) as caught:
        read_document(path)
    assert caught.value.path == str(path)
    return caught.value


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.markdown", "a.rst", "a.json", "a.jsonl", "a.csv", "a.log", "README"]
)
def test_text_is_returned_as_it_stands(write, name):
    """What the user wrote is what the model must see."""
    assert read_document(write(name, "# Tea\n\n{a,b}\n")) == "# Tea\n\n{a,b}\n"


@pytest.mark.parametrize(
    "data",
    [
        "é\r\nb\rc".encode(),
        codecs.BOM_UTF8 + "é\nb\nc".encode(),
        codecs.BOM_UTF16_LE + "é\r\nb\nc".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "é\r\nb\nc".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "é\nb\nc".encode("utf-32-le"),
    ],
)
def test_marks_and_line_ends_do_not_reach_the_text(write, data):
    """The same document saved on Windows must have the same key and the same prompt."""
    assert read_document(write("a.txt", data)) == "é\nb\nc"


def test_html_is_read_as_its_visible_text(write):
    """Tags and scripts are not the document."""
    assert read_document(write("a.html", "<h1>Tea</h1><script>x</script><p>Hot.</p>")) == "# Tea\n\nHot."


def test_a_pdf_is_read_as_its_text(write):
    """Most documents of a company are PDFs."""
    pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")

    assert read_document(write("a.pdf", pdf("Tea is hot."))) == "Tea is hot."


def test_a_docx_is_read_with_headings_and_tables_in_order(write):
    """A table that stands behind the text it belongs to has lost its meaning."""
    text = read_document(write("a.docx", docx_bytes()))

    assert text == "# Tea\n\nTea is hot.\n\n# Kinds\n\nName | Origin\nAssam | India\n\nThe end."


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", "", "is empty. Give a document with text in it."),
        ("a.md", " \n\t", "is empty. Give a document with text in it."),
        ("a.html", "<p></p>", "is empty. Give a document with text in it."),
        (
            "a.txt",
            b"ab\0c",
            "is binary, not text: a NUL byte at offset 2. Give a text, HTML, PDF or DOCX file.",
        ),
        (
            "a.png",
            b"\x89PNG\0",
            "is binary, not text: a NUL byte at offset 4. Give a text, HTML, PDF or DOCX file.",
        ),
        (
            "a.txt",
            "caf\xe9".encode("latin-1"),
            "is not UTF-8 text: byte 0xe9 at offset 3. Save it as UTF-8, or give a text, HTML, PDF or DOCX file.",
        ),
    ],
)
def test_what_is_no_text_says_so(write, name, data, reason):
    """A user with a thousand files must know which one is wrong, and what to do with it."""
    path = write(name, data)

    assert str(error_of(path)) == f"{str(path)!r} {reason}"


def test_a_missing_file_offers_the_near_miss(write):
    """Most missing files are typing errors."""
    path = write("report.md", "text")

    assert error_of(path.with_name("reprot.md")).reason == "does not exist. Did you mean 'report.md'? Check the path."


def test_a_folder_is_no_document(tmp_path):
    """`read_document(".")` is a mistake that the message must turn into the right call."""
    assert error_of(tmp_path).reason == "is a folder. Name a file, or find the files in it with find_documents."


def test_a_file_beyond_the_limit_is_refused(write):
    """A log of 2 GB must not take the memory of the process."""
    path = write("a.txt", b"x" * (MAX_BYTES + 1))

    assert error_of(path).reason == "has 20.0 MiB, more than the 20 MiB that are read. Split it first."


def test_a_file_that_may_not_be_opened_is_named(write, monkeypatch):
    """Permissions are the user's to change."""
    path = write("a.txt", "text")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)

    error = error_of(path)
    assert error.reason == "may not be read by this user. Change its permissions."
    assert isinstance(error.__cause__, PermissionError)


def test_a_path_with_a_nul_is_a_document_error(tmp_path):
    """A list of paths read from a broken file must not end the batch with a ValueError."""
    assert error_of(tmp_path / "a\0b").reason.startswith("cannot be read: ")


def test_a_scanned_pdf_asks_for_text_recognition(write):
    """A picture of text gives the model nothing, and the user would see an empty summary."""
    pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")

    error = error_of(write("scan.pdf", pdf("")))
    assert error.reason == "has no text: its pages are probably scans. Run a text recognition (OCR) over it first."


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
@pytest.mark.parametrize("data", [b"", b"junk", b"%PDF-1.7 junk", b"PK\x03\x04 junk"])
def test_a_malformed_file_is_a_document_error_with_its_cause(write, name, data):
    """One damaged file of ten thousand is that document's failure, not the batch's."""
    pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    pytest.importorskip("docx", reason="python-docx is not installed")

    error = error_of(write(name, data))
    assert error.reason.startswith(f"cannot be read as {name[2:].upper()}: ")
    assert error.__cause__ is not None


def test_a_docx_that_unpacks_to_a_flood_is_refused(write):
    """200 kB of zip can hold 200 MB of XML."""
    pytest.importorskip("docx", reason="python-docx is not installed")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * (61 * 2**20))

    reason = error_of(write("bomb.docx", buffer.getvalue())).reason

    assert reason == "unpacks to 61 MiB, more than the 60 MiB that are read. Take large pictures out, or split it."


@pytest.mark.parametrize(
    ("name", "module", "reason"),
    [
        ("a.pdf", "pypdfium2", 'is a PDF, and its reader is not installed. Run: pip install "pipeline-engine[pdf]"'),
        ("a.docx", "docx", 'is a DOCX, and its reader is not installed. Run: pip install "pipeline-engine[docx]"'),
    ],
)
def test_a_missing_reader_names_its_install_line(write, monkeypatch, name, module, reason):
    """The cure must be one line to copy."""
    real_import = builtins.__import__

    def import_without(wanted, *rest):
        if wanted == module:
            raise ImportError(wanted)
        return real_import(wanted, *rest)

    monkeypatch.setattr(builtins, "__import__", import_without)

    assert error_of(write(name, b"data")).reason == reason
