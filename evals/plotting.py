"""A result as a picture: one bar a method with its interval, in groups where there are several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jrt.evals.schema import EvalResult, Interval
from jrt.figures import new_figure, save_figure

COLORS = ("#B8BEC7", "#7A9CC6", "#1F5A99", "#E08E45", "#5B8C5A", "#8C5B8A")
"""Grey for the baseline, then blues that grow darker; readable in print and for the colour-blind."""
_ERROR_STYLE = {"ecolor": "#333333", "elinewidth": 1.1, "capsize": 3}


def plot(result: EvalResult, path: str | Path) -> Path:
    """Draws `contains` of every task and method, and writes a PNG (or SVG or PDF, by the file's name).

    Args:
        result: the result.
        path: the file to write.

    Returns:
        The path.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        WriteError: the file cannot be written.
    """
    single = len(result.settings.tasks) == 1
    rows, groups = len(result.settings.methods), len(result.settings.tasks)
    size = (7.2, 1.5 + 0.42 * rows) if single else (max(6.0, 1.6 + groups * (0.5 + 0.55 * rows)), 4.2)
    figure = new_figure(size, dpi=160)
    axes = figure.add_subplot()
    (_one_task if single else _many_tasks)(axes, result)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def _one_task(axes: Any, result: EvalResult) -> None:
    """Lying bars, the methods' names beside them."""
    task = result.settings.tasks[0]
    methods = [method.label for method in result.settings.methods]
    for index, method in enumerate(methods):
        score = result.score(task.name, method).contains
        color = COLORS[index % len(COLORS)]
        axes.barh(index, 100 * score.value, 0.66, xerr=_error([score]), color=color, error_kw=_ERROR_STYLE)
        axes.annotate(
            f"{100 * score.value:.0f}", (100 * score.high, index), (5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("contains a right answer, % (95 % intervals)")
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{result.settings.model.name}, {task.name}, {task.items} items", fontsize=10, loc="left")


def _many_tasks(axes: Any, result: EvalResult) -> None:
    """Standing bars in groups, a legend below the title."""
    tasks = [task.name for task in result.settings.tasks]
    methods = [method.label for method in result.settings.methods]
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        scores = [result.score(task, method).contains for task in tasks]
        places = [place + (index - (len(methods) - 1) / 2) * width for place in range(len(tasks))]
        heights = [100 * score.value for score in scores]
        color = COLORS[index % len(COLORS)]
        axes.bar(places, heights, width * 0.92, yerr=_error(scores), color=color, label=method, error_kw=_ERROR_STYLE)
        for place, score in zip(places, scores, strict=True):
            label = f"{100 * score.value:.0f}"
            axes.annotate(label, (place, 100 * score.high), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    counts = [f"{task.name}\nn = {task.items}" for task in result.settings.tasks]
    axes.set_xticks(range(len(tasks)), counts, fontsize=9)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("contains a right answer, %")
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.tick_params(axis="x", length=0)
    axes.set_title(f"{result.settings.model.name} (95 % intervals)", fontsize=10, loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=min(4, len(methods)), frameon=False, fontsize=9)


def _error(scores: Sequence[Interval]) -> list[list[float]]:
    """How far the intervals reach below and above the scores, in points."""
    return [
        [100 * (score.value - score.low) for score in scores],
        [100 * (score.high - score.value) for score in scores],
    ]
