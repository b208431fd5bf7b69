"""Every kernel against what stands in its place: the one command that a machine, with a GPU or without, has to answer.

A time is measured only after the result was compared with the formula in float64. On a GPU: bf16, lengths of 1k to 1M
and 1 to 64 rows, most wanted first, until the time is used up. On a CPU: float32, one thread, the ways in turns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from jrt.bench.listed import numbers
from jrt.bench.report import Report
from jrt.errors import InvalidOptionError, did_you_mean

if TYPE_CHECKING:
    import torch

    from jrt.bench.cells import Cell

Name = TypeVar("Name", bound=str)

TARGET = (
    "on an H200 40 times SDPA's flash attention and 5 times fla's faster kernel at 16 rows of 32768 positions; "
    "on a CPU 8 times the quadratic form at 2048 and 3 times causal SDPA at 8192"
)
_LENGTHS = {"cuda": "1024,2048,4096,8192,16384,32768,65536,131072,262144,524288,1048576", "cpu": "512,2048,8192"}
_BATCHES = {"cuda": "1,2,16,64", "cpu": "1"}
_SHARE_OF_TUNING = 0.35  # of the time
_GPU_NOTES = (
    "Ratio: the row's time over that of the group's first way. Floor: the roofline's time by arithmetic. Backward is "
    "the backward pass alone. Decode reads everything before one position untimed; graph ms is the step without Python."
)
_CPU_NOTES = (
    "Ratio: the row's CPU time over that of the group's first way, float32, one thread, the ways in turns. "
    "GPU times are not measured on this machine: it has no CUDA device."
)


def run(
    lengths: Annotated[str | None, typer.Option(help="Positions; by default 512 to 8192, on a GPU 1k to 1M.")] = None,
    batches: Annotated[str | None, typer.Option(help="Rows; by default 1, on a GPU 1, 2, 16 and 64.")] = None,
    groups: Annotated[str, typer.Option(help="What is compared.")] = "taylor,window,infini,scan",
    phases: Annotated[str, typer.Option(help="Forward, backward, one more position.")] = "prefill,backward,decode",
    heads: Annotated[int, typer.Option(min=1, help="Heads.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each way on a CPU, at most.")] = 7,
    device: Annotated[str, typer.Option(help="auto is cuda where there is one, else cpu.")] = "auto",
    budget_minutes: Annotated[float, typer.Option(min=0.01, help="No new cell is begun after this time.")] = 9.0,
    tune: Annotated[bool, typer.Option("--tune", help="First look for the fastest launches on this GPU.")] = False,
    plot_to: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the times.")] = None,
) -> Report:
    """Every kernel against what stands in its place, on a GPU or a CPU."""
    import torch

    from jrt.bench.cells import PHASES, Case
    from jrt.bench.kernels_registry import GROUPS
    from jrt.bench.running import one_thread, plan

    where = _device(device)
    if tune and where.type != "cuda":
        raise InvalidOptionError("Launches of GPU kernels are tuned on a GPU.", "Leave --tune out on a CPU.")
    on_a_gpu = where.type == "cuda"
    dtype = torch.bfloat16 if on_a_gpu else torch.float32
    cells = plan(
        _names(groups, GROUPS),
        _names(phases, PHASES),
        numbers(batches or _BATCHES[where.type], "--batches"),
        numbers(lengths or _LENGTHS[where.type], "--lengths"),
        Case("prefill", 1, heads, 1, where, dtype),
    )
    stop = time.monotonic() + 60 * budget_minutes
    settings = {
        "device": where.type,
        "dtype": str(dtype).removeprefix("torch."),
        "heads": heads,
        "rounds": rounds,
        "budget_minutes": budget_minutes,
    }
    with one_thread():
        rows, found = _on_gpu(cells, stop, tune) if on_a_gpu else _on_cpu(cells, stop, rounds)
    left_out = len(found["left_out"])
    report = Report(
        name="kernels",
        target=TARGET,
        settings=settings | found,
        rows=rows,
        formats={"of floor": ".0%", "error": ".1e"},
        notes=(_GPU_NOTES if on_a_gpu else _CPU_NOTES)
        + (f" {left_out} cells were left out when the time was up." if left_out else "")
        + (f" The GPU could not be used: {found['broken']}." if found.get("broken") else ""),
    )
    if plot_to is not None:
        from jrt.bench.kernels_plot import plot

        plot(report, plot_to)
    return report


def _on_cpu(cells: Sequence[Cell], stop: float, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows, what the settings are to say about the run)"""
    from jrt.bench.running import on_cpu, within

    rows, left_out = within(cells, *on_cpu(rounds), stop)
    return rows, {"left_out": left_out}


def _on_gpu(cells: Sequence[Cell], stop: float, tune: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The same on a GPU, where everything is measured in another process. A GPU that does not answer gives no rows."""
    from jrt.bench.running import on_gpu, tuned_on_gpu, use_gpu, within
    from jrt.bench.worker import LostError, Worker

    rows, left_out, broken, tuned = list[dict[str, Any]](), [cell.label for cell in cells], None, None
    with Worker(use_gpu) as worker:
        try:
            measure, expected = on_gpu(worker, stop)
            tuned = tuned_on_gpu(worker, (stop - time.monotonic()) * _SHARE_OF_TUNING) if tune else None
            rows, left_out = within(cells, measure, expected, stop)
        except LostError as error:
            broken = str(error)
    return rows, {"tuned": tuned, "left_out": left_out, "broken": broken}


def _device(name: str) -> torch.device:
    """The device of a run.

    Raises:
        InvalidOptionError: it is not one of auto, cuda and cpu, or is not there.
    """
    import torch

    if name not in ("auto", "cuda", "cpu"):
        raise InvalidOptionError(
            f"There is no device {name!r} here.{did_you_mean(name, ['auto', 'cuda', 'cpu'])}", "Type auto, cuda or cpu."
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidOptionError("This machine has no CUDA device.", "Type --device cpu, or run it on a GPU machine.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _names(listed: str, known: Sequence[Name]) -> list[Name]:
    """The parts of a list, in the order of `known`.

    Raises:
        InvalidOptionError: a part is not known.
    """
    asked = [part.strip() for part in listed.split(",")]
    for part in asked:
        if part not in known:
            raise InvalidOptionError(f"There is no {part!r} here.{did_you_mean(part, known)}", f"{', '.join(known)}")
    return [name for name in known if name in asked]
