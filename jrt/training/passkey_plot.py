"""The table of `jrt.training.passkey_table` as heat maps: how often the number is found, by depth and length.

python -m jrt.training.passkey_plot table.json --out table.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jrt.errors import DataFormatError
from jrt.figures import new_figure, save_figure

DEPTHS = ("start", "middle", "end", "random")


def panels(rows: list[dict[str, Any]]) -> dict[str, dict[tuple[str, int], tuple[int, int]]]:
    """By model and memory, `(right, of)` for every depth and length; seeds of one model are added up.

    Raises:
        DataFormatError: a row is none of a passkey table.
    """
    found: dict[str, dict[tuple[str, int], tuple[int, int]]] = {}
    for row in rows:
        try:
            plain = str(row.get("model", "")).startswith("plain")
            name = "plain recipe" if plain else f"memory {row['memory']}"
            for depth, (right, of) in row["depths"].items():
                cells = found.setdefault(name, {})
                before = cells.get((depth, row["tokens"]), (0, 0))
                cells[depth, row["tokens"]] = (before[0] + right, before[1] + of)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataFormatError(f"A row is none of a passkey table: {error!r}.", "Pass its JSON file.") from None
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> Path:
    """Draws one heat map for every model, and writes a PNG (or SVG or PDF, by the file's name).

    Raises:
        MissingDependencyError: matplotlib is not installed.
        WriteError: the file cannot be written.
    """
    found = panels(rows)
    lengths = sorted({length for cells in found.values() for _, length in cells})
    figure = new_figure((1.6 + 1.05 * len(lengths), 0.7 + 1.75 * len(found)), dpi=130)
    axes = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axis, (name, cells) in zip(axes, sorted(found.items()), strict=True):
        shares = [[_share(cells.get((depth, length))) for length in lengths] for depth in DEPTHS]
        axis.imshow(shares, vmin=0.0, vmax=1.0, cmap="RdYlGn", alpha=0.7, aspect="auto")
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axis.set_yticks(range(len(DEPTHS)), DEPTHS)
        for row, depth in enumerate(DEPTHS):
            for column, length in enumerate(lengths):
                cell = cells.get((depth, length))
                axis.text(column, row, f"{cell[0]}/{cell[1]}" if cell else "-", ha="center", va="center", fontsize=9)
    axes[-1].set_xlabel("tokens")
    figure.supylabel("depth of the hidden number", fontsize=10)
    return save_figure(figure, path)


def _share(cell: tuple[int, int] | None) -> float:
    """Right answers of all; NaN, which is drawn white, where nothing was measured."""
    return cell[0] / cell[1] if cell and cell[1] else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    plot(json.loads(arguments.table.read_text(encoding="utf-8")), arguments.out)


if __name__ == "__main__":
    main()
