"""A result as a picture: one group of bars a task, one bar a method, with error bars."""

from __future__ import annotations

from pathlib import Path

from jrt.errors import MissingDependencyError, WriteError
from jrt.evals.schema import EvalResult

COLORS = ("#B8BEC7", "#7A9CC6", "#1F5A99", "#E08E45", "#5B8C5A", "#8C5B8A")
"""Grey for the baseline, then blues that grow darker; readable in print and for the colour-blind."""


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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "Plots need the package matplotlib.", 'Type pip install "just-read-twice[plot]".'
        ) from None
    tasks = [task.name for task in result.settings.tasks]
    methods = [method.label for method in result.settings.methods]
    width = 0.8 / len(methods)
    figure = Figure(
        figsize=(max(4.2, 1.6 + len(tasks) * (0.5 + 0.55 * len(methods))), 3.8), dpi=160, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, method in enumerate(methods):
        scores = [result.score(task, method).contains for task in tasks]
        places = [place + (index - (len(methods) - 1) / 2) * width for place in range(len(tasks))]
        errors = [
            [100 * (score.value - score.low) for score in scores],
            [100 * (score.high - score.value) for score in scores],
        ]
        heights = [100 * score.value for score in scores]
        style = {"ecolor": "#333333", "elinewidth": 1.1, "capsize": 3}
        axes.bar(
            places, heights, width * 0.92, yerr=errors, color=COLORS[index % len(COLORS)], label=method, error_kw=style
        )
        for place, score in zip(places, scores, strict=True):
            label = f"{100 * score.value:.0f}"
            axes.annotate(label, (place, 100 * score.high), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    counts = [f"{task.name}\nn = {task.items}" for task in result.settings.tasks]
    axes.set_xticks(range(len(tasks)), counts, fontsize=9)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("contains a right answer, %")
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.set_title(f"{result.settings.model.name} (95 % intervals)", fontsize=10, loc="left", pad=26)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(methods), frameon=False, fontsize=9)
    target = Path(path)
    try:
        figure.savefig(target)
    except OSError as error:
        raise WriteError(f"{target} could not be written: {error.strerror}.", "Choose another place.") from error
    return target
