"""One question about one document, read from a file line by line, and how a sample of them is drawn.

A sample depends on the items' ids and the seed only: an item is ranked by the SHA-256 of seed and id, and the `limit`
lowest ranks are kept, in the order of the file. So every method sees the same items, the order of the file does not
matter, a sample of 50 lies within the sample of 100, and the whole file is checked while only the sample is held.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jrt.errors import DataFormatError, InputNotFoundError, InvalidOptionError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: names the item within its task; the same in every run.
        context: the document.
        question: what is asked about it.
        answers: every answer that counts as right.
        extras: the other columns of its row.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """The item as a row of a data file."""
        own = {"id": self.id, "context": self.context, "question": self.question, "answers": list(self.answers)}
        return {**self.extras, **own}


def plain_item(row: Row) -> Item:
    """The item of a row with `id, context, question, answers`; other columns become extras.

    Raises:
        DataFormatError: a column is missing, empty or of another type.
    """
    missing = [column for column in ("id", "context", "question", "answers") if column not in row]
    if missing:
        raise DataFormatError(
            f"the row has the columns {', '.join(row) or 'none'}; {', '.join(missing)} is missing.",
            "Give every row id, context, question and answers.",
        )
    answers = (row["answers"],) if isinstance(row["answers"], str) else row["answers"]
    return Item(
        id=_filled(str(row["id"]) if isinstance(row["id"], int) else row["id"], "id"),
        context=_filled(row["context"], "context"),
        question=_filled(row["question"], "question"),
        answers=_answers(answers),
        extras={column: row[column] for column in row if column not in ("id", "context", "question", "answers")},
    )


def read_items(path: Path, item: Callable[[Row, int], Item]) -> Iterator[Item]:
    """The items of a JSONL file, gzip or not, one at a time.

    Args:
        path: the file.
        item: a row and its line number to its item.

    Raises:
        InputNotFoundError: there is no such file.
        DataFormatError: a line is broken or lacks something (the line is named), two rows have one id, the file is
            empty or truncated.
    """
    lines: dict[str, int] = {}
    for number, row in read_rows(path):
        try:
            found = item(row, number)
        except DataFormatError as error:
            raise DataFormatError(f"{path}, line {number}: {error.message}", error.hint) from None
        if found.id in lines:
            raise DataFormatError(
                f"{path}, line {number}: the id {found.id!r} is already that of line {lines[found.id]}.",
                "Give every row an id of its own.",
            )
        lines[found.id] = number
        yield found
    if not lines:
        raise DataFormatError(f"{path} holds no rows.", "Give one JSON object a line.")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a JSONL file and their numbers from 1; blank lines are skipped.

    Raises:
        InputNotFoundError: there is no such file.
        DataFormatError: a line is no JSON object in UTF-8, or the compressed file is broken.
    """
    if not path.is_file():
        raise InputNotFoundError(f"There is no data file {path}.", "Check the path; it must be a .jsonl or .jsonl.gz.")
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                text = _text(line, path, number)
                if text.strip():
                    yield number, _object(text, path, number)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(
            f"{path}, after line {number}: the compressed file is truncated or broken ({error}).",
            "Download or compress it again.",
        ) from None


def sample(items: Iterable[Item], limit: int | None, seed: int) -> list[Item]:
    """The `limit` items with the lowest rank, in the order they came; all of them when there are no more, or no limit.

    Raises:
        InvalidOptionError: `limit` is below 1.
    """
    check_limit(limit)
    if limit is None:
        return list(items)
    kept: list[tuple[int, int, Item]] = []  # a heap whose head is the kept item of the highest rank
    for position, item in enumerate(items):
        entry = (-_rank(item.id, seed), position, item)
        if len(kept) < limit:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    return [item for _, _, item in sorted(kept, key=lambda entry: entry[1])]


def check_limit(limit: int | None) -> None:
    """Raises InvalidOptionError unless `limit` is None or at least 1."""
    if limit is not None and limit < 1:
        raise InvalidOptionError(f"limit={limit} leaves nothing to evaluate.", "Use 1 or more, or no limit.")


def items_hash(items: Iterable[Item]) -> str:
    """SHA-256 of the rows of the items, so that a run knows its data again."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item.row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()


def _rank(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _open(path: Path) -> gzip.GzipFile | BinaryIO:
    if path.suffix == ".gz":
        return gzip.GzipFile(path, "rb")
    return path.open("rb")


def _text(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{path}, line {number}: this is not UTF-8 ({error.reason}).", "Save as UTF-8.") from None


def _object(text: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataFormatError(
            f"{path}, line {number}: this is no JSON ({error.msg} at character {error.pos + 1}).",
            "Give one JSON object a line.",
        ) from None
    if not isinstance(row, dict):
        raise DataFormatError(f"{path}, line {number}: this is {type(row).__name__}, not an object.")
    return row


def _filled(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise DataFormatError(f"{column} holds {type(value).__name__}, not text.")
    if not value.strip():
        raise DataFormatError(f"{column} is empty.")
    return value


def _answers(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise DataFormatError(f"answers holds {type(value).__name__}, not a list of texts.")
    if not value:
        raise DataFormatError("answers is empty.")
    return tuple(_filled(answer, "an answer") for answer in value)
