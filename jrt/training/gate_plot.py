"""Where the gates of Infini-attention go while they are trained: their histogram over the steps, and the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BINS = 20


def draw_gates(history: list[dict[str, Any]], path: Path) -> None:
    """Draws a PNG.

    Args:
        history: `step`, and by layer the share of memory in every head, between 0 and 1, in the order of the steps.
        path: the file to write.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [entry["step"] for entry in history]
    values = [[gate for gates in entry["gates"].values() for gate in gates] for entry in history]
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.array([np.histogram(row, edges)[0] for row in values]).T
    figure = Figure(figsize=(9, 3.4), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    over_time, last = figure.subplots(1, 2, width_ratios=(3, 2))
    image = over_time.imshow(
        counts, origin="lower", aspect="auto", cmap="Blues", extent=(0, max(1, len(steps)), 0, 1), vmin=0
    )
    ticks = np.linspace(0, len(steps) - 1, min(6, len(steps))).round().astype(int)
    over_time.set_xticks(ticks + 0.5, [str(steps[tick]) for tick in ticks])
    over_time.set(xlabel="step", ylabel="share of the memory", title="gates while training")
    figure.colorbar(image, ax=over_time, label="heads")
    layers = list(history[-1]["gates"])
    last.hist(
        [history[-1]["gates"][layer] for layer in layers],
        bins=edges.tolist(),
        stacked=True,
        label=[f"layer {layer}" for layer in layers],
    )
    last.set(xlabel="share of the memory", ylabel="heads", title=f"step {steps[-1]}", xlim=(0, 1))
    if len(layers) <= 6:
        last.legend(frameon=False, fontsize=8)
    for axes in (over_time, last):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    figure.savefig(path)
