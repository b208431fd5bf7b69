"""The samples of a run on disk: appended as they are answered, read again when a killed run goes on.

A line is written whole and flushed, so whatever kills the process leaves whole lines and at most one half at the end,
which is cut off when the run goes on. A write that fails half way (a full disk) is cut off at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from jrt.errors import DataFormatError, WriteError
from jrt.evals.schema import Sample

Key = tuple[str, str, str]
"""Task, method and id."""


class SampleLog:
    """An append-only JSONL file of samples.

    Args:
        path: the file; made when it is not there.

    Raises:
        DataFormatError: a line other than a half last one is no sample.

    Attributes:
        samples: what the file held, by task, method and id, and what was added since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples, whole = _read(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, samples: Iterable[Sample]) -> None:
        """Appends samples.

        Raises:
            WriteError: the disk is full or the file cannot grow; it ends with its last whole line.
        """
        for sample in samples:
            end = os.lseek(self._file, 0, os.SEEK_CUR)
            try:
                _write_all(self._file, sample.model_dump_json().encode() + b"\n")
            except OSError as error:
                os.ftruncate(self._file, end)
                raise WriteError(
                    f"Sample {sample.id!r} of {sample.task} could not be written to {self.path}: {error.strerror}.",
                    "Make room and run the same command again; it goes on after the last whole line.",
                ) from error
            self.samples[sample.task, sample.method, sample.id] = sample


def _write_all(file: int, line: bytes) -> None:
    while line:
        line = line[os.write(file, line) :]


def _read(path: Path) -> tuple[dict[Key, Sample], int]:
    """The samples of a file, and how many bytes its whole lines take."""
    samples: dict[Key, Sample] = {}
    if not path.is_file():
        return samples, 0
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break  # the process was killed while it wrote this line
            try:
                sample = Sample.model_validate_json(line)
            except ValidationError as error:
                raise DataFormatError(
                    f"{path}, line {number}: this is no sample ({error.errors()[0]['msg']}).",
                    "Delete the line, or begin in another folder.",
                ) from None
            samples[sample.task, sample.method, sample.id] = sample
            whole += len(line)
    return samples, whole
