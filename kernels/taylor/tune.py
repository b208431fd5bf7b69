"""Finds the fastest launch of every pass on the GPU that is there and writes it into `tuned.json`.

Called on request only (`jrt bench kernels --tune`): it compiles some ninety kernels, several minutes in all, so it can
be given a time; what was found by then is kept. A candidate counts when its results agree with those of the default
launch; one that does not fit on the device is passed over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jrt.kernels.taylor import tuning
from jrt.kernels.taylor.features import TaylorState
from jrt.kernels.taylor.tuning import Arithmetic, Launch, Pass

TOLERANCE = 2e-2
"""Largest relative difference (L2) to the default launch: two roundings to bfloat16 in another order."""

_ORDER: tuple[Pass, ...] = ("forward", "backward", "state")
"""Most wanted first, for when the time is short."""

Timer = Callable[[Callable[[], Any]], float]
Run = Callable[[Launch], tuple[Tensor, ...]]


_TILES: dict[Arithmetic, list[tuple[int, int, int, int]]] = {
    "bf16": [
        (64, 64, 4, 1),
        (64, 64, 4, 2),
        (64, 64, 4, 3),
        (64, 32, 4, 2),
        (64, 64, 8, 2),
        (128, 64, 8, 1),
        (128, 64, 8, 2),
        (32, 64, 4, 2),
        (64, 128, 8, 2),
    ],
    "tf32": [(32, 32, 4, 2), (64, 32, 4, 1), (32, 64, 4, 1), (64, 32, 8, 1), (64, 64, 4, 1), (64, 64, 8, 1)],
    "fp32": [(16, 16, 8, 1), (32, 16, 4, 1), (16, 32, 4, 1), (32, 16, 8, 1), (32, 32, 8, 1)],
}
"""(block_t, block_v, num_warps, stages) worth timing."""


def candidates(arithmetic: Arithmetic, width: int) -> list[Launch]:
    """Launches worth timing; the default comes first, no tile is wider than the values."""
    first = tuning.default_launch(arithmetic, width)
    widest = max(first.block_v, 1 << (width - 1).bit_length())
    found = [Launch(t, min(v, widest), warps, stages) for t, v, warps, stages in _TILES[arithmetic]]
    return list(dict.fromkeys([first, *found]))


def tune(
    *,
    batch: int = 16,
    heads: int = 16,
    length: int = 8192,
    widths: Sequence[int] = (64, 128),
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cuda",
    timer: Timer | None = None,
    table: Path = tuning.TABLE,
    seconds: float = float("inf"),
) -> dict[str, tuple[Launch, float]]:
    """Times the candidates and keeps the best of each shape class in this device's row of `table`.

    Args:
        batch: rows; batch * heads should fill the GPU, so that the tiles are compared and not the splitting.
        heads: heads of a row. How far few heads are split is then chosen at batch 1.
        length: positions.
        widths: value widths, each of another shape class.
        dtype: type of queries, keys and values.
        device: a CUDA device.
        timer: milliseconds of a call; None is Triton's median over repetitions.
        table: the JSON to write, after every shape class; it is replaced whole or not at all.
        seconds: after which no further candidate and no further shape class is begun.

    Returns:
        Shape class -> (launch, milliseconds at `batch`, `heads`, `length`), the forward pass first.

    Raises:
        RuntimeError: the default launch itself does not run on this device.
    """
    if timer is None:
        from triton.testing import do_bench

        def timer(call: Callable[[], Any]) -> float:
            return float(do_bench(call, return_mode="median"))

    stop = time.monotonic() + seconds
    best: dict[str, tuple[Launch, float]] = {}
    arithmetic = tuning.arithmetic(dtype)
    for width in widths:
        many, few = (_runs(rows, heads, length, width, dtype, device) for rows in (batch, 1))
        for pass_ in _ORDER:
            if time.monotonic() >= stop:
                return best
            launch, taken = _fastest(many[pass_], candidates(arithmetic, width), timer, stop)
            fills = [launch, *(replace(launch, fill=fill) for fill in (1, 2, 4, 8) if fill != launch.fill)]
            key = tuning.shape_class(pass_, arithmetic, width)
            best[key] = (_fastest(few[pass_], fills, timer, stop)[0], taken)
            write(table, _name(device), {key: best[key][0]})
    return best


def _fastest(run: Run, launches: Sequence[Launch], timer: Timer, stop: float = float("inf")) -> tuple[Launch, float]:
    """(launch, milliseconds); the first must run and says what is right. After `stop` it is the only one."""
    try:
        right = run(launches[0])
    except Exception as error:  # what a device cannot hold is raised as this and that
        raise RuntimeError(f"The default launch {launches[0]} does not run on this device.") from error

    def timed() -> Iterator[tuple[float, int]]:
        for index, launch in enumerate(launches):
            if index and time.monotonic() >= stop:
                return
            try:
                if _difference(run(launch), right) < TOLERANCE:
                    yield timer(partial(run, launch)), index
            except Exception:
                continue  # a candidate that does not fit is no candidate

    taken, index = min(timed(), default=(float("nan"), 0))
    return launches[index], taken


def _difference(found: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    pairs = zip(found, right, strict=True)
    return max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in pairs)


def _runs(batch: int, heads: int, length: int, width: int, dtype: torch.dtype, device: str) -> dict[Pass, Run]:
    """The three passes on random inputs; each returns everything that it computes."""
    from jrt.kernels.taylor import triton_path

    generator = torch.Generator(device).manual_seed(0)

    def normal(columns: int) -> Tensor:
        shape = (batch, heads, length, columns)
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    q, k, v, d_o = normal(16), normal(16), normal(width), normal(width)
    scale, epsilon = 0.25, 1e-12
    o, denominator, final = triton_path.forward(q, k, v, None, None, scale, epsilon)
    zero = TaylorState(*(torch.zeros_like(part) for part in final))

    def state(how: Launch) -> tuple[Tensor, ...]:
        return tuple(triton_path.state(k, v, None, how=how))

    def forward(how: Launch) -> tuple[Tensor, ...]:
        output, total, last = triton_path.forward(q, k, v, None, None, scale, epsilon, how=how)
        return output, total, *last

    def backward(how: Launch) -> tuple[Tensor, ...]:
        return triton_path.backward(d_o, zero, q, k, v, None, None, o, denominator, scale, how=how)[:3]

    return {"state": state, "forward": forward, "backward": backward}


def write(table: Path, device: str, launches: dict[str, Launch]) -> None:
    """Replaces the entries of one device; the file is whole at every moment."""
    entries = {name: dict(row) for name, row in tuning.tuned(table).items()}
    entries[device] = entries.get(device, {}) | {key: asdict(launch) for key, launch in launches.items()}
    text = json.dumps(entries, indent=2, sort_keys=True) + "\n"
    draft = table.with_name(f"{table.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(table)
    finally:
        draft.unlink(missing_ok=True)
    tuning.tuned.cache_clear()


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "interpreter"
