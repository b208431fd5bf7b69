"""The FLOPs report as a picture: savings by formula for every size, and what the small model took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jrt.bench.flop_formulas import OPT, PAPER_TOKENS
from jrt.bench.plotting import figure_of, logarithmic
from jrt.bench.report import Report
from jrt.errors import InvalidOptionError


def plot(report: Report, path: Path) -> None:
    """Draws the savings over the length and, where they were measured, seconds and bytes.

    Raises:
        InvalidOptionError: there is neither.
        MissingDependencyError: matplotlib is not installed.
    """
    rows = sorted(report.rows, key=lambda row: row["tokens"])
    formula = [row for row in rows if row["counted"] == "paper"]
    measured = [row for row in rows if row["counted"] == "measured"]
    if not formula and not measured:
        raise InvalidOptionError("There is nothing to draw: no length was asked for.", "--lengths 512,4096")
    with figure_of(path, bool(formula) + 2 * bool(measured)) as panels:
        if formula:
            _savings(panels[0], formula)
        titles = {"CPU s": "Seconds of a small OPT on a CPU", "MB": "The most megabytes its tensors held"}
        for axes, (unit, title) in zip(panels[bool(formula) :], titles.items(), strict=False):
            for way in ("dense", "segments"):
                points = [(row["tokens"], row[f"{way} {unit}"]) for row in measured]
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, label=way)
            axes.set(xlabel="tokens", title=title)
            logarithmic(axes, [row["tokens"] for row in measured])
            axes.legend(frameon=False, fontsize=8)


def _savings(axes: Any, rows: list[dict[str, Any]]) -> None:
    """One line a size, over the lengths of `rows`; beside it its value at the paper's length, or else its last one."""
    lengths = [row["tokens"] for row in rows]
    told = lengths.index(PAPER_TOKENS) if PAPER_TOKENS in lengths else -1
    for size in OPT:
        points = [(row["tokens"], row[size]) for row in rows]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, label=size)
        if points[told][1] >= 2:
            axes.annotate(f"{points[told][1]:.0f}", points[told], (5, -3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="tokens", title="Operations by formula: dense / segments of 512")
    logarithmic(axes, lengths[::3])
    axes.legend(frameon=False, fontsize=8)
