"""Text files that a user names: read as UTF-8, or refused with what is wrong in them."""

from __future__ import annotations

from pathlib import Path

from jrt.errors import DataFormatError, InputNotFoundError

TO_UTF8 = "Save it as UTF-8 first, such as with iconv -f LATIN1 -t UTF-8 FILE > FILE.txt"
"""What to do with a text in another encoding."""


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputNotFoundError: there is none.
        DataFormatError: it is no UTF-8 text.
    """
    if not path.is_file():
        raise InputNotFoundError(f"There is no text file {path}.", "Check the path.")
    return decode_text(path.read_bytes(), str(path))


def decode_text(data: bytes, label: str) -> str:
    """UTF-8 text, with or without a byte order mark, its line ends as newlines.

    Args:
        data: what a file holds.
        label: what an error calls it.

    Raises:
        DataFormatError: it is no UTF-8 text; the first line that is not is named.
    """
    if data.startswith(b"%PDF"):
        raise DataFormatError(f"{label} is a PDF, and plain text is needed.", "pdftotext FILE.pdf FILE.txt")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataFormatError(
            f"{label} is no UTF-8 text: byte 0x{data[error.start]:02x} in line {line}.",
            TO_UTF8,
        ) from None
    if "\0" in text:
        raise DataFormatError(f"{label} is no text: it holds NUL bytes.", "Pass a plain text file.")
    return text.replace("\r\n", "\n")
