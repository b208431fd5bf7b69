"""What a command prints: results on stdout, everything else on stderr, and JSON alone where JSON was asked for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PIPED_WIDTH = 120
"""Columns where there is no terminal to ask and COLUMNS is not set."""


def stdout() -> Console:
    """The console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """The console for progress, notes and errors."""
    return _console(sys.stderr)


def _console(file: IO[str]) -> Console:
    import os

    from rich.console import Console

    width = None if file.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    return Console(file=file, width=width, highlight=False, soft_wrap=False)


def print_json(data: Any) -> None:
    """One JSON document on stdout. JSON has no infinity, so numbers that are none become null."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, ensure_ascii=False) + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
    """A table on stdout; the first column never wraps, numbers stand on the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = stdout()
    console.print(title, style="bold", markup=False)
    console.print(table)
    if caption:
        console.print(caption + "\n", style="dim", markup=False)


def note(text: str) -> None:
    """A line on stderr for the person at the terminal; nothing when there is none."""
    if sys.stderr.isatty():
        stderr().print(text, style="dim", markup=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on stderr, off where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr(),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        yield bar
