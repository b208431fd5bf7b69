"""Writing files so that a reader never sees half of one, whatever kills the writer."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from jrt.errors import InvalidOptionError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a file beside `path`, then puts it in its place in one step.

    A full disk or a killed process leaves the old file, or none, and no half one. The file has the permissions of any
    new file, whatever `write` gives it.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.touch(exist_ok=False)
        mode = stat.S_IMODE(part.stat().st_mode)
        write(part)
        part.chmod(mode)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def give_usual_permissions(paths: Iterable[Path]) -> None:
    """Gives files the permissions of any new file beside them; safetensors makes them readable by their owner only."""
    for path in paths:
        fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            fresh.touch(exist_ok=False)
            path.chmod(stat.S_IMODE(fresh.stat().st_mode))
        finally:
            fresh.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file in one step."""
    write_atomic(path, lambda part: _fill(part, text))


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds a folder against a second writer; the operating system lets go when the process ends, however it ends.

    The lock file is gone afterwards. It is deleted while it is held, and a lock on a deleted file is none for FileLock,
    so nobody holds an old file beside a new one.

    Raises:
        InvalidOptionError: another process writes there now.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # Windows deletes it only when it is let go
                    (folder / ".lock").unlink()
    except Timeout:
        raise InvalidOptionError(
            f"Another process is writing to {folder}.", "Wait for it to end, or write to another folder."
        ) from None
