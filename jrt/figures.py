"""Figures of matplotlib that are written to a file, without its global state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jrt.errors import MissingDependencyError, WriteError


def new_figure(size: tuple[float, float], dpi: int = 140) -> Any:
    """A figure of `size` inches, with a canvas of its own.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "Plots need the package matplotlib.", 'Type pip install "just-read-twice[plot]".'
        ) from None
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | Path) -> Path:
    """Writes a PNG, SVG or PDF, by the file's name.

    Raises:
        WriteError: the file cannot be written.
    """
    target = Path(path)
    try:
        figure.savefig(target)
    except OSError as error:
        raise WriteError(f"{target} could not be written: {error.strerror}.", "Choose another place.") from error
    return target
