"""The FLOPs report as a picture: savings by formula for every size, and what the small model took."""

from __future__ import annotations

from pathlib import Path

from jrt.bench.flop_formulas import OPT, PAPER_TOKENS
from jrt.bench.plotting import figure_of, logarithmic
from jrt.bench.report import Report


def plot(report: Report, path: Path) -> None:
    """Draws the savings over the length and, where they were measured, seconds and bytes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    formula = [row for row in report.rows if row["counted"] == "paper" and row["tokens"] <= PAPER_TOKENS]
    measured = [row for row in report.rows if row["counted"] == "measured"]
    with figure_of(path, 3 if measured else 1) as panels:
        for size in OPT:
            points = [(row["tokens"], row[size]) for row in formula]
            panels[0].plot(*zip(*points, strict=True), marker="o", markersize=3.5, label=size)
            if points[-1][1] >= 2:
                panels[0].annotate(f"{points[-1][1]:.0f}", points[-1], (5, -3), textcoords="offset points", fontsize=8)
        panels[0].set(xlabel="tokens", title="Operations by formula: dense / segments of 512")
        logarithmic(panels[0], [row["tokens"] for row in formula][::3])
        panels[0].legend(frameon=False, fontsize=8)
        titles = {"CPU s": "Seconds of a small OPT on a CPU", "MB": "The most megabytes its tensors held"}
        for axes, (unit, title) in zip(panels[1:], titles.items(), strict=False):
            for way in ("dense", "segments"):
                points = [(row["tokens"], row[f"{way} {unit}"]) for row in measured]
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, label=way)
            axes.set(xlabel="tokens", title=title)
            logarithmic(axes, [row["tokens"] for row in measured])
            axes.legend(frameon=False, fontsize=8)
