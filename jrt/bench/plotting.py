"""What the pictures of all benchmarks share: one row of panels, quiet axes, a PNG, SVG or PDF by the file's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jrt.errors import WriteError
from jrt.figures import new_figure, save_figure


@contextmanager
def figure_of(path: Path, panels: int, *, rows: int = 1) -> Iterator[list[Any]]:
    """Gives the axes of `panels` panels in `rows` rows, and writes the figure to `path` afterwards.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        WriteError: the file cannot be written.
    """
    columns = -(-panels // rows)
    figure = new_figure((4.6 * columns, 3.8 * rows))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    yield grid[:panels]
    for axes in grid[:panels]:
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    for axes in grid[panels:]:
        axes.set_axis_off()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{path} could not be written: {error.strerror}.", "Choose another place.") from error
    save_figure(figure, path)


def logarithmic(axes: Any, lengths: Sequence[int]) -> None:
    """Both axes logarithmic and marked in plain numbers: x at `lengths`, y at 1, 2, 5, 10 and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(xscale="log", yscale="log")
    axes.set_xticks(list(lengths), [short(length) for length in lengths], fontsize=8)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="y", labelsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())


def short(number: int) -> str:
    """A length in few letters: 512, 4k and 1M where it is a power of two, 128k and 2.05M where it is not."""
    power_of_two = number & (number - 1) == 0
    thousand = 1024 if power_of_two else 1000
    if number >= thousand**2:
        return f"{number / thousand**2:.3g}M"
    return f"{number / thousand:.3g}k" if number >= thousand else str(number)
