"""Pictures of what a memory did: who attended to whom in each segment, and how the memory moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jrt.figures import new_figure, save_figure
from jrt.inspection import MemoryInspection

BLUE, ORANGE = "#1F5A99", "#E08E45"


def plot_attention(found: MemoryInspection, path: str | Path) -> Path:
    """Three maps, one row a layer and head, one column a segment: writing, carrying, reading.

    Args:
        found: what `inspect_memory` gave.
        path: the file to write; PNG, SVG or PDF by its name.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        WriteError: the file cannot be written.
    """
    layers, heads = len(found.segments[0].to_memory), len(found.segments[0].to_memory[0])
    maps = {
        "memory attends to the text (writing)": [segment.memory_to_text for segment in found.segments],
        "memory attends to memory (carrying)": [segment.memory_to_memory for segment in found.segments],
        "answering token attends to memory (reading)": [segment.answer_to_memory for segment in found.segments],
    }
    figure = new_figure((3.2 + 0.28 * max(12, len(found.segments)), 1.0 + len(maps) * (0.75 + 0.16 * layers * heads)))
    panels = figure.subplots(len(maps), 1, sharex=True)
    names = [f"{layer + 1}.{head + 1}" for layer in range(layers) for head in range(heads)]
    for axes, (title, values) in zip(panels, maps.items(), strict=True):
        rows = [[value[layer][head] for value in values] for layer in range(layers) for head in range(heads)]
        extent = (0.5, len(values) + 0.5, len(names) - 0.5, -0.5)
        image = axes.imshow(rows, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest", extent=extent)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_ylabel("layer.head", fontsize=8)
        for index in _marked(found):
            axes.add_patch(_frame(index, len(names)))
    panels[-1].set_xlabel(_caption(found))
    figure.colorbar(image, ax=panels, shrink=0.6, label="share of attention")
    return save_figure(figure, path)


def plot_memory(found: MemoryInspection, path: str | Path) -> Path:
    """Norm, drift and gate of every memory token over the segments.

    Args:
        found: what `inspect_memory` gave.
        path: the file to write; PNG, SVG or PDF by its name.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        WriteError: the file cannot be written.
    """
    rows = {
        "length of each memory token": [segment.norms for segment in found.segments],
        "distance from where it was after the last marked part": [segment.drift for segment in found.segments],
    }
    if found.segments[0].gates is not None:
        rows["gate"] = [segment.gates or [] for segment in found.segments]
    figure = new_figure((3.2 + 0.28 * max(12, len(found.segments)), 1.0 + 1.7 * len(rows)))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    numbers = range(1, len(found.segments) + 1)
    for axes, (title, values) in zip(panels, rows.items(), strict=True):
        for token in range(len(values[0])):
            shade = 0.35 + 0.65 * (token + 1) / len(values[0])
            axes.plot(
                numbers, [value[token] for value in values], color=BLUE, alpha=shade, marker=".", label=f"{token + 1}"
            )
        for index in _marked(found):
            axes.axvspan(index - 0.5, index + 0.5, color=ORANGE, alpha=0.25, linewidth=0)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(title="memory token", fontsize=7, title_fontsize=7, ncols=8, frameon=False)
    panels[-1].set_xlabel(_caption(found))
    return save_figure(figure, path)


def _caption(found: MemoryInspection) -> str:
    return "segment; those with a marked part in orange" if _marked(found) else "segment"


def _marked(found: MemoryInspection) -> list[int]:
    """Segments with a marked part, counted from 1."""
    return [number for number, segment in enumerate(found.segments, start=1) if segment.marked]


def _frame(index: int, height: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((index - 0.5, -0.5), 1, height, fill=False, edgecolor=ORANGE, linewidth=1.6)
