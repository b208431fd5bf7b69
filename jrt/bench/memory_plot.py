"""The memory report as a picture: bytes over the length, cache against state, and the paper's table 1 as bars."""

from __future__ import annotations

from pathlib import Path

from jrt.bench.plotting import figure_of, logarithmic
from jrt.bench.report import Report


def plot(report: Report, path: Path) -> None:
    """Draws the formula's megabytes over the length, one colour a model, and the paper's comparison.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    paper = [row for row in report.rows if "table 1" in row]
    formula = [row for row in report.rows if "cache MB" in row]
    lengths = sorted({row["tokens"] for row in formula})
    with figure_of(path, 2) as (left, right):
        for index, name in enumerate(dict.fromkeys(row["model"] for row in formula)):
            rows = [row for row in formula if row["model"] == name]
            cache = [(row["tokens"], row["cache MB"]) for row in rows]
            state = [(row["tokens"], row["state MB"]) for row in rows]
            left.plot(*zip(*cache, strict=True), marker="o", markersize=3.5, color=f"C{index}", label=name)
            left.plot(*zip(*state, strict=True), linestyle="--", color=f"C{index}")
        left.plot([], [], color="#555555", label="key-value cache")
        left.plot([], [], color="#555555", linestyle="--", label="compressive state")
        left.set(xlabel="tokens", title="Megabytes of one sequence, by formula")
        logarithmic(left, lengths)
        left.legend(frameon=False, fontsize=8, loc="best")
        names = [row["table 1"] for row in paper][::-1]
        values = [row["millions"] for row in paper][::-1]
        right.barh(names, values, 0.62, color="#7A9CC6")
        for place, value in enumerate(values):
            right.annotate(f"{value:.1f}M", (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        right.set(title="Numbers kept, table 1 of 2404.07143", xlabel="millions", xlim=(0, 1.2 * max(values)))
        right.tick_params(labelsize=8)
