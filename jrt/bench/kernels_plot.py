"""The kernel report as a picture: one panel a group and phase, times over the length for one batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jrt.bench.plotting import figure_of, logarithmic
from jrt.bench.report import Report

_COLORS = ("#D1495B", "#E08E45", "#1F5A99", "#7A9CC6", "#5B8C5A", "#8C5B8A", "#8A8A8A")
_TITLES = {"taylor": "Taylor attention", "window": "Sliding window", "infini": "Infini-attention", "scan": "Scan"}
_PUBLISHED_BATCH = 16


def plot(report: Report, path: Path) -> None:
    """Draws every group and phase with a time, at 16 rows where they were measured, else at the fewest.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    column = "CPU ms" if any("CPU ms" in row for row in report.rows) else "ms"
    timed = [row for row in report.rows if row[column]]
    panels = list(dict.fromkeys((row["group"], row["phase"]) for row in timed))
    rows = len({group for group, _ in panels})
    with figure_of(path, max(len(panels), 1), rows=max(rows, 1) if len(panels) > 3 else 1) as axes:
        for panel, (group, phase) in zip(axes, panels, strict=False):
            _panel(panel, [row for row in timed if (row["group"], row["phase"]) == (group, phase)], column)
            unit = "CPU milliseconds" if column == "CPU ms" else "milliseconds"
            panel.set(title=f"{_TITLES[group]}, {phase}, {panel.get_title()}", xlabel="positions", ylabel=unit)


def _panel(axes: Any, rows: list[dict[str, Any]], column: str) -> None:
    """One line for every way, and the roofline dashed."""
    batches = sorted({row["batch"] for row in rows})
    batch = _PUBLISHED_BATCH if _PUBLISHED_BATCH in batches else batches[0]
    rows = [row for row in rows if row["batch"] == batch]
    for index, name in enumerate(dict.fromkeys(row["way"] for row in rows)):
        points = sorted((row["positions"], row[column]) for row in rows if row["way"] == name)
        color = _COLORS[index % len(_COLORS)]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=color, label=name)
        floor = sorted(
            (row["positions"], row["floor ms"]) for row in rows if row["way"] == name and row.get("floor ms")
        )
        if index == 0 and floor:
            axes.plot(*zip(*floor, strict=True), linestyle="--", color=color, label="roofline of the first")
    axes.set_title(f"{batch} row{'s' if batch > 1 else ''}")
    logarithmic(axes, sorted({row["positions"] for row in rows}))
    axes.legend(frameon=False, fontsize=8)
