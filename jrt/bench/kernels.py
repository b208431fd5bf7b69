"""Taylor linear attention against what stands in its place: its own quadratic form, and causal softmax attention.

A time is measured only after the result was compared with the formula in float64 on the first positions. One thread,
float32, batch 1, 16 heads; feature dimension 16 and value width 64, as in the published models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.bench.report import Report
from jrt.bench.timing import interleaved, ratio

if TYPE_CHECKING:
    from torch import Tensor

TARGET = "on a CPU 8 times the quadratic form at 2048 positions and 3 times causal SDPA at 8192"

_CHECKED = 512  # positions that are compared with the formula
_QUADRATIC_LIMIT = 4096  # the quadratic form keeps all weights: 16 heads of 4096 x 4096 are 1 GiB
_OURS = "taylor"


def run(
    lengths: Annotated[str, typer.Option(help="Positions.")] = "512,2048,8192",
    heads: Annotated[int, typer.Option(min=1, help="Heads.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each way, in turns.")] = 7,
    gradients: Annotated[bool, typer.Option(help="Forward and backward.")] = False,
) -> Report:
    """Taylor linear attention against its quadratic form and against causal SDPA."""
    import torch

    before, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for length in (int(part) for part in lengths.split(",")):
            rows += _rows(length, heads, rounds, gradients)
    finally:
        torch.set_num_threads(before)
    return Report(
        name="kernels",
        target=TARGET,
        settings={"lengths": lengths, "heads": heads, "rounds": rounds, "gradients": gradients},
        rows=rows,
        notes="Ratio: the row's CPU seconds over taylor's, median over rounds that took turns. SDPA has queries and "
        "keys 64 wide, as the softmax model of the same size has; not measured on a GPU yet.",
    )


def _rows(length: int, heads: int, rounds: int, gradients: bool) -> list[dict[str, Any]]:
    """One row for every way over `length` positions."""
    import torch
    import torch.nn.functional as F

    from jrt.kernels.taylor import reference, taylor_attention

    generator = torch.Generator().manual_seed(length)
    q, k, wide, v = (torch.randn(1, heads, length, width, generator=generator) for width in (16, 16, 64, 64))
    wrong = _error(q, k, v)
    if wrong > 1e-5:
        raise RuntimeError(f"taylor_attention is off by {wrong:.1e} at {length} positions; nothing was timed.")

    def timed(attend: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], None]:
        leaves = [tensor.clone().requires_grad_(gradients) for tensor in inputs]

        def call() -> None:
            with torch.set_grad_enabled(gradients):
                output = attend(*leaves)
                if gradients:
                    torch.autograd.grad(output.sum(), leaves)

        return call

    ways = {
        _OURS: timed(lambda q, k, v: taylor_attention(q, k, v)[0], q, k, v),
        "causal SDPA": timed(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), wide, wide, v),
    }
    if length <= _QUADRATIC_LIMIT:
        ways["quadratic form"] = timed(lambda q, k, v: reference.taylor_attention(q, k, v)[0], q, k, v)
    times = interleaved(ways, rounds)
    return [
        {
            "positions": length,
            "way": name,
            "CPU s": taken.cpu_median,
            "wall s": taken.wall_median,
            "ratio": ratio(taken.cpu, times[_OURS].cpu)[0],
            "error": wrong if name == _OURS else None,
        }
        for name, taken in times.items()
    ]


def _error(q: Tensor, k: Tensor, v: Tensor) -> float:
    """Relative difference to the formula in float64, over the first positions."""
    from jrt.kernels.taylor import reference, taylor_attention

    q, k, v = (tensor[:, :, :_CHECKED] for tensor in (q, k, v))
    found, _ = taylor_attention(q, k, v)
    expected, _ = reference.taylor_attention(q.double(), k.double(), v.double())
    return float((found.double() - expected).norm() / expected.norm())
