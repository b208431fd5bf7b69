"""Text to train on: documents of files or of a data set, their tokens in one file, and rows of that file.

The token file is written once by the first process and mapped into memory by all of them, so a corpus may be larger
than memory. Which row is read when follows from the seed and the row's number only: not from how many processes there
are, and not from whether the run was stopped in between.
"""

from __future__ import annotations

import glob
import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jrt.errors import (
    DataFormatError,
    EmptyInputError,
    HubUnavailableError,
    InputNotFoundError,
    MissingDependencyError,
)
from jrt.files import write_atomic
from jrt.text_files import TO_UTF8
from jrt.training.rows import Row, Split
from jrt.training.settings import Settings

_BATCH = 64
"""Documents that are tokenized together."""


def documents(settings: Settings) -> Iterator[str]:
    """Every document that the settings name, in a fixed order.

    Raises:
        InputNotFoundError: a pattern that no file fits.
        DataFormatError: a file that is no text, or a row without the column.
        HubUnavailableError: the data set cannot be had.
    """
    if settings.dataset is not None:
        yield from _dataset(settings)
        return
    for path in files(settings.text):
        yield from _file(path, settings.column)


def files(patterns: Iterable[str]) -> list[Path]:
    """The files that fit any pattern, sorted within each.

    Raises:
        InputNotFoundError: no file fits a pattern.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        found_here = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207, Path.glob is relative
        matches = sorted(Path(match) for match in found_here)
        matches = [match for match in matches if match.is_file()]
        if not matches:
            if Path(pattern).expanduser().is_dir():
                raise InputNotFoundError(f"{pattern} is a folder.", f"Name its files: --text '{Path(pattern)}/*.txt'.")
            raise InputNotFoundError(f"There is no file {pattern}.", "Check the path.")
        found |= dict.fromkeys(matches)
    return list(found)


def _file(path: Path, column: str) -> Iterator[str]:
    """A .jsonl file is a document a line, any other file is one document; either may be compressed."""
    lines = path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as stream:
            if not lines:
                yield stream.read()
                return
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _column(json.loads(line), column, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{path} is no text in UTF-8: {error}.", TO_UTF8) from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataFormatError(f"{path} is no text: {error}.", "Pass .txt or .jsonl files, plain or .gz.") from None
    except json.JSONDecodeError as error:
        raise DataFormatError(f"{path}, line {number}: {error}.", "A line of a .jsonl file is one object.") from None


def _column(row: Any, column: str, where: str) -> str:
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        has = f"it has {', '.join(map(str, row))}" if isinstance(row, dict) else "it is no object"
        raise DataFormatError(f"{where}: there is no text {column!r}; {has}.", "Name the column: --column NAME.")
    return text


def _dataset(settings: Settings) -> Iterator[str]:
    name = str(settings.dataset)
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(
            "Training on a data set needs the package datasets.", 'Type pip install "just-read-twice[train]".'
        ) from None
    try:
        rows = datasets.load_dataset(name, settings.dataset_config, split=settings.split)
    except Exception as error:  # datasets, huggingface_hub, httpx and fsspec each raise their own
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise HubUnavailableError(
            f"The data set {name} cannot be had: {reason}", "Check its name, split and configuration, and the network."
        ) from error
    for number, row in enumerate(rows):
        yield _column(row, settings.column, f"{name}, row {number}")


def write_tokens(settings: Settings, tokenizer: Any, path: Path) -> None:
    """Writes the tokens of every document as 32-bit numbers, an end token after each, in one step.

    Raises:
        EmptyInputError: there is no text.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    counted = 0

    def write(part: Path) -> None:
        nonlocal counted
        texts = documents(settings)
        with part.open("wb") as file:
            while batch := list(islice(texts, _BATCH)):
                for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                    np.asarray(ids + end, dtype="<u4").tofile(file)
                    counted += len(ids)
        if not counted:
            raise EmptyInputError("The text to train on is empty.", "Pass files or a data set with text in them.")

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)


class TextRows:
    """Rows of a token file: windows that do not overlap, every one once before any comes again.

    Args:
        path: the file that `write_tokens` wrote.
        seed: of the order.
        validation_share: the share of the tokens, at the end of the file, that is never trained on.
        longest: the longest row that will be asked for.

    Raises:
        EmptyInputError: the text is shorter than one row.
    """

    def __init__(self, path: Path, seed: int, validation_share: float, longest: int) -> None:
        tokens: NDArray[np.uint32] = np.memmap(path, dtype="<u4", mode="r")
        held_out = max(round(len(tokens) * validation_share), longest) if validation_share else 0
        if len(tokens) - held_out < longest:
            raise EmptyInputError(
                f"The text has {len(tokens)} tokens; training needs a row of {longest}"
                f"{f' beside the {held_out} to evaluate on' if held_out else ''}.",
                f"Pass more text or shorter rows{', or --validation-share 0' if held_out else ''}.",
            )
        self._parts = {"train": tokens[: len(tokens) - held_out], "validation": tokens[len(tokens) - held_out :]}
        self._seed = seed
        self._orders: dict[tuple[str, int, int], NDArray[np.int64]] = {}

    def rows(self, split: Split, length: int) -> int:
        """How many different rows of `length` tokens there are."""
        return len(self._parts[split]) // length

    def __call__(self, split: Split, index: int, length: int) -> Row:
        """Row `index` of a split, `length` tokens long; the order is another one every time through."""
        count = self.rows(split, length)
        turn, place = divmod(index, count)
        start = int(self._order(split, turn, count)[place]) * length
        ids = self._parts[split][start : start + length].astype(np.int64)
        return Row(index=index, input_ids=ids, labels=ids)

    def _order(self, split: str, turn: int, count: int) -> NDArray[np.int64]:
        key = (split, turn, count)
        if key not in self._orders:
            if len(self._orders) > 16:
                self._orders.clear()
            self._orders[key] = np.random.default_rng([self._seed, turn, count]).permutation(count)
        return self._orders[key]
