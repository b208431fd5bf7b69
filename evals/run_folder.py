"""The folder of a run: settings that must be equal to go on, samples, and the finished result.

`run.json` is written before the first answer, `samples.jsonl` grows with every answer, `result.json` and `report.md`
come last, each in one step. Only one process writes at a time; the lock goes with the process, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from jrt.errors import DataFormatError, InvalidOptionError, WriteError
from jrt.evals.samples import Key, SampleLog
from jrt.evals.schema import Sample, Settings
from jrt.files import only_writer, write_text

RUN, SAMPLES, RESULT, REPORT = "run.json", "samples.jsonl", "result.json", "report.md"


class Log(Protocol):
    """Samples that are there already, and a way to add more."""

    samples: dict[Key, Sample]

    def add(self, samples: Iterable[Sample]) -> None: ...


class MemoryLog:
    """Samples of a run that is not kept on disk."""

    def __init__(self) -> None:
        self.samples: dict[Key, Sample] = {}

    def add(self, samples: Iterable[Sample]) -> None:
        self.samples |= {(sample.task, sample.method, sample.id): sample for sample in samples}


@contextmanager
def open_log(folder: Path | None, settings: Settings) -> Iterator[Log]:
    """The samples of a run, held against a second writer; those of a run that was killed are there already.

    Args:
        folder: where the run is kept; None keeps it in memory only.
        settings: of this run.

    Raises:
        InvalidOptionError: another process writes there, or the folder holds a run with other settings.
        DataFormatError: a file in it is broken.
        WriteError: the folder cannot be written.
    """
    if folder is None:
        yield MemoryLog()
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The folder {folder} cannot be made: {error.strerror}.", "Use another one.") from error
    with only_writer(folder):
        check_settings(folder, settings)
        with SampleLog(folder / SAMPLES) as log:
            yield log


def check_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings of a new run, or compares them with those of the run that is there.

    Raises:
        InvalidOptionError: they differ; the message says in what.
        DataFormatError: the settings there cannot be read.
    """
    path = folder / RUN
    if not path.is_file():
        if (folder / SAMPLES).is_file():
            raise InvalidOptionError(
                f"{folder} holds samples without {RUN}, so it is not known what they are.", "Use another folder."
            )
        write(path, settings.model_dump_json(indent=2) + "\n")
        return
    try:
        there = Settings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataFormatError(
            f"{path} holds no settings of a run ({error.errors()[0]['msg']}).", "Use another folder."
        ) from None
    changes = differences(there.model_dump(mode="json"), settings.model_dump(mode="json"))
    if changes:
        raise InvalidOptionError(
            f"{folder} holds a run with other settings: {'; '.join(changes)}.",
            "Repeat the command that began it, or use another folder.",
        )


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """What differs between two pieces of JSON data, each as `path is X there, Y here`."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = dict.fromkeys([*there, *here])
        pairs = [(f"{name}.{key}" if name else key, there.get(key), here.get(key)) for key in names]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(f"{name}[{index}]", old, new) for index, (old, new) in enumerate(zip(there, here, strict=True))]
    else:
        return [] if there == here else [f"{name} is {_short(there)} there and {_short(here)} here"]
    return [change for path, old, new in pairs for change in differences(old, new, path)]


def write(path: Path, text: str) -> None:
    """Writes a whole file in one step.

    Raises:
        WriteError: the disk is full or the folder cannot be written; what was there before is still there.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise WriteError(
            f"{path} could not be written: {error.strerror}.", "Make room and run the same command again."
        ) from error


def _short(value: Any) -> str:
    if isinstance(value, list):
        named = [item.get("label") or item.get("name") if isinstance(item, Mapping) else item for item in value]
        return ",".join(map(str, named)) or "nothing"
    return "nothing" if value is None else str(value)
