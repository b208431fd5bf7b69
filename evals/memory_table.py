"""Tables of how far memories carry, in Markdown: what `jrt.evals.memory` measured, one column a run.

    python -m jrt.evals.memory_table evals/results/tiny-rmt

Reports are named `RUN-ANYTHING.json`; those of one run stand in one column, and a later file goes on where an earlier
one has nothing. Beside the scores stand those of the paper (arXiv 2304.11062, figure 5) and of the first run without
its memory. What follows is about the first run alone: by place, by whether a border cuts the asked fact, and by where
in the text it stands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jrt.errors import DataFormatError, InvalidOptionError, JRTError
from jrt.tables import markdown_table
from jrt.training.places import PLACES

PAPER = {
    "memorize": {64: 98.2, 512: 93.2, 1024: 92.7, 4096: 90.6},
    "detect": {64: 99.7, 512: 98.6, 1024: 97.1, 4096: 96.1},
    "reason": {64: 89.3, 512: 84.8, 1024: 83.5, 4096: 81.9},
}
"""Right answers in percent, by segments."""
Row = tuple[str, str, int]
"""A task, a split and a number of segments."""


def runs(folder: Path, names: Sequence[str] = ()) -> dict[str, dict[Row, dict[str, Any]]]:
    """What each run answered.

    Args:
        folder: where the reports are.
        names: which runs, in this order; all of them in the order of their names if none is given.

    Raises:
        InvalidOptionError: no report of a run.
        DataFormatError: a file that is no report.
    """
    found: dict[str, dict[Row, dict[str, Any]]] = {name: {} for name in names}
    for path in sorted(folder.glob("*-*.json")):
        run = path.stem.rsplit("-", 1)[0]
        if not names or run in names:
            rows = found.setdefault(run, {})
            for row, record in _records(path):
                rows.setdefault(row, record)
    empty = [name for name, rows in found.items() if not rows]
    if empty or not found:
        raise InvalidOptionError(
            f"{folder} holds no report named {', '.join(f'{name}-*.json' for name in empty) or 'RUN-*.json'}.",
            "Write them with: python -m jrt.evals.memory MODEL --out FOLDER/RUN-4096.json",
        )
    return found


def _records(path: Path) -> list[tuple[Row, dict[str, Any]]]:
    """What a report says, by row."""
    try:
        report = json.loads(path.read_text())
        return [((record["kind"], report["split"], record["segments"]), record) for record in report["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataFormatError(f"{path} is no report of jrt.evals.memory.", "Move it out of the folder.") from error


def scores(found: dict[str, dict[Row, dict[str, Any]]]) -> str:
    """Right answers in percent with intervals and items, a line a task and number of segments."""
    first = next(iter(found))
    columns, lines = ["task", "facts", "segments", "paper", *found, f"{first}, last segment only"], []
    for row in sorted({row for records in found.values() for row in records}):
        kind, split, segments = row
        cells = [_cell(records.get(row, {}).get("all")) for records in found.values()]
        alone = _cell(found[first].get(row, {}).get("without_memory"))
        lines.append([kind, split, f"{segments:,}", PAPER[kind].get(segments, ""), *cells, alone])
    return markdown_table(columns, lines)


def by_place(records: dict[Row, dict[str, Any]]) -> str:
    """One run by the right place, and by whether a border cuts the asked fact."""
    lines = []
    for (kind, split, segments), record in sorted(records.items()):
        cut, every = record["cut"] or {"right": 0, "of": 0}, record["all"]
        whole = {name: every[name] - cut[name] for name in ("right", "of")}
        parts = [*record["by_place"].values(), whole, record["cut"]]
        lines.append([kind, split, f"{segments:,}", *map(_fraction, parts)])
    return markdown_table(["task", "facts", "segments", *PLACES, "whole facts", "cut facts"], lines)


def by_tenth(records: dict[Row, dict[str, Any]]) -> str:
    """One run by the tenth of the text in which the asked fact begins, where that differs."""
    lines = []
    for (kind, split, segments), record in sorted(records.items()):
        if kind != "memorize":
            lines.append([kind, split, f"{segments:,}", *map(_fraction, record["by_tenth"])])
    return markdown_table(["task", "facts", "segments", *range(1, 11)], lines)


def _cell(share: dict[str, Any] | None) -> str:
    return f"{share['value']:.1f} ({share['low']:.1f} to {share['high']:.1f}; n = {share['of']})" if share else "-"


def _fraction(share: dict[str, Any] | None) -> str:
    return f"{share['right']} of {share['of']}" if share and share["of"] else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", nargs="*", default=(), help="which, in this order; all")
    arguments = parser.parse_args()
    try:
        found = runs(arguments.folder, arguments.runs)
    except JRTError as error:
        parser.error(str(error))
    first = found[next(iter(found))]
    for table in (scores(found), by_place(first), by_tenth(first)):
        print(table, end="\n\n")


if __name__ == "__main__":
    main()
