"""Files and folders that a user names: read or refused before anything slow starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jrt.cli.output import note
from jrt.errors import EmptyInputError, InputNotFoundError, InvalidOptionError
from jrt.text_files import decode_text


def read_text(name: str) -> str:
    """The text of a file, or of stdin for `-`.

    Raises:
        InputNotFoundError: there is no such file.
        InvalidOptionError: it is a folder, or cannot be read.
        DataFormatError: it is no UTF-8 text.
        EmptyInputError: it holds nothing but white space.
    """
    label = "stdin" if name == "-" else name
    text = decode_text(_bytes(name), label)
    if not text.strip():
        raise EmptyInputError(f"{label} is empty.", "Pass the document that holds the answer.")
    return text


def _bytes(name: str) -> bytes:
    if name == "-":
        if sys.stdin.isatty():
            note("Reading the document from the terminal; end it with Ctrl-D.")
        return sys.stdin.buffer.read()
    path = Path(name).expanduser()
    if path.is_dir():
        raise InvalidOptionError(f"{name} is a folder, and a text file is needed.", "Pass one file, or - for stdin.")
    if not path.exists():
        raise InputNotFoundError(f"There is no file {name}.", "Check the path, or pass - to read stdin.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidOptionError(f"{name} cannot be read: {error.strerror}.", "Check its permissions.") from error


def check_out(folder: Path) -> None:
    """Makes sure that `folder` can be written, or made, before anything slow starts; nothing is made here.

    Raises:
        InvalidOptionError: it is a file or below one, or nothing can be written there.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise InvalidOptionError(f"{folder} cannot be a folder: {existing} is a file.", "Pass another folder to --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidOptionError(f"Nothing can be written into {existing}.", "Pass another folder to --out.")
