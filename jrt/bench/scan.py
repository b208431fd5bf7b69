"""Prefill of a Mamba-1 by every scan there is: transformers', ours, and none at all, which is the floor.

The model has the shape of Mamba-130M, fewer layers and random weights; what is timed is one forward over the prompt
that keeps its state, as reading a document does. The ratio is transformers' time over the other's. transformers without
a scan is the floor that a scan alone could reach; our adapter also replaces the convolution and, on some processors,
the linear layers, so it can be faster than that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.bench.report import Report
from jrt.bench.timing import interleaved, ratio

if TYPE_CHECKING:
    import torch

TARGET = "prefill of 512 tokens on two cores at least 2 times faster than transformers in plain torch, 4 times compiled"

_FLOOR = "transformers without scan"


def run(
    lengths: Annotated[str, typer.Option(help="Tokens of the prompts.")] = "128,512,2048",
    threads: Annotated[str, typer.Option(help="CPU threads.")] = "1,2",
    layers: Annotated[int, typer.Option(min=1, help="Layers; Mamba-130M has 24.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each way, in turns.")] = 7,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plot_to: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the CPU ratios.")] = None,
) -> Report:
    """Prefill by every scan there is, and by none."""
    import torch

    model = _model(layers, device)
    before, rows = torch.get_num_threads(), []
    try:
        for count in (int(part) for part in threads.split(",")):
            torch.set_num_threads(count)
            for length in (int(part) for part in lengths.split(",")):
                rows += _rows(model, length, count, rounds)
    finally:
        torch.set_num_threads(before)
    report = Report(
        name="scan",
        target=TARGET,
        settings={"lengths": lengths, "threads": threads, "layers": layers, "rounds": rounds, "device": device},
        rows=rows,
        notes="Ratio: transformers' time over the row's, median over rounds that took turns. CPU seconds count all "
        "threads and repeat on a busy machine; wall seconds do not.",
    )
    if plot_to is not None:
        plot(report, plot_to)
    return report


def _model(layers: int, device: str) -> Any:
    """Mamba-130M's shape with random weights."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MambaConfig(vocab_size=1000, hidden_size=768, state_size=16, num_hidden_layers=layers)
        return MambaForCausalLM(config).eval().to(device)


def _rows(model: Any, length: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One row for every way to read `length` tokens."""
    import torch

    ids = torch.randint(0, 1000, (1, length), generator=torch.Generator().manual_seed(length)).to(model.device)

    def reading(context: Callable[[Any], Any]) -> Callable[[], None]:
        def read() -> None:
            with context(model), torch.inference_mode():
                model(ids, use_cache=True, logits_to_keep=1)

        return read

    ways = {name: reading(context) for name, context in _contexts(model.device).items()}
    times = interleaved(ways, rounds, synchronize=model.device.type == "cuda")
    stock, rows = times["transformers"], []
    for name, taken in times.items():
        middle, lowest, highest = ratio(stock.wall, taken.wall)
        rows.append(
            {
                "tokens": length,
                "threads": threads,
                "scan": name,
                "wall s": taken.wall_median,
                "CPU s": taken.cpu_median,
                "ratio": middle,
                "lowest": lowest,
                "highest": highest,
                "CPU ratio": ratio(stock.cpu, taken.cpu)[0],
            }
        )
    return rows


def _contexts(device: torch.device) -> dict[str, Callable[[Any], Any]]:
    """Every way to scan on `device` by its name."""
    from contextlib import nullcontext
    from functools import partial

    from jrt.adapters.mamba import adapt
    from jrt.kernels.selective_scan import Situation, choose

    choice = choose(Situation(device))
    faster = [choice.path]
    if choice.path == "mamba_ssm":
        faster.append("triton")
    contexts: dict[str, Callable[[Any], Any]] = {"transformers": nullcontext, "torch": _plain_torch}
    contexts |= {path: partial(adapt, path=path) for path in faster if path != "torch"}
    return contexts | {_FLOOR: _without_scan}


@contextmanager
def _plain_torch(model: Any) -> Iterator[None]:
    """What runs where there is no compiler, no Triton and no package."""
    from jrt.adapters.mamba import adapt
    from jrt.kernels.switch import VARIABLE

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "torch"
    try:
        with adapt(model):
            yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def _without_scan(model: Any) -> Iterator[None]:
    """transformers' model with a scan that returns its input."""
    from jrt.adapters.rebinding import calls, rebound

    def nothing(original: Any) -> Any:
        return lambda hidden_states, dt, A, *rest, **options: (
            hidden_states,
            hidden_states.new_zeros(*hidden_states.shape[:2], A.shape[1]),
        )

    with ExitStack() as stack:
        for module in model.modules():
            if calls(module, "mamba_selective_scan"):
                stack.enter_context(rebound(module, {"mamba_selective_scan": nothing}))
        yield


def plot(report: Report, path: Path) -> None:
    """Draws the CPU ratio against the length, one panel for each number of threads.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        from jrt.errors import MissingDependencyError

        raise MissingDependencyError("A plot needs matplotlib.", "pip install matplotlib") from None
    counts = sorted({row["threads"] for row in report.rows})
    figure = Figure(figsize=(4.5 * len(counts), 4), layout="constrained")
    for axes, count in zip(figure.subplots(1, len(counts), sharey=True, squeeze=False)[0], counts, strict=True):
        rows = [row for row in report.rows if row["threads"] == count]
        for name in dict.fromkeys(row["scan"] for row in rows):
            points = sorted((row["tokens"], row["CPU ratio"]) for row in rows if row["scan"] == name)
            axes.plot(*zip(*points, strict=True), marker="o", label=name, linestyle="--" if name == _FLOOR else "-")
        axes.set(xscale="log", xlabel="tokens", title=f"{count} thread{'s' if count > 1 else ''}")
        axes.set_xticks(lengths := sorted({row["tokens"] for row in rows}), [str(length) for length in lengths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("transformers' CPU seconds / these")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
