"""The group "window": sliding-window attention against SDPA with a mask, and against attention to the whole history."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from jrt.bench.cells import Case, Inputs, Way
from jrt.bench.kernels_attention import masked, sdpa_ways, softmax
from jrt.bench.roofline import Work

WINDOW, WIDTH = 128, 64
_DENSE = 8192  # positions up to which a mask of T x T is made
_WINDOWED = softmax(WIDTH, WINDOW)


def _ours(case: Case, inputs: Inputs) -> Tensor:
    from jrt.kernels.sliding_window import sliding_window_attention

    return sliding_window_attention(inputs["q"], inputs["k"], inputs["v"], WINDOW)


def _decode(case: Case, inputs: Inputs) -> Callable[[], Tensor]:
    """Over the whole cache; only the window's end of it is read."""
    return lambda: _ours(case, inputs)


def _whole_mask(case: Case) -> str | None:
    return f"makes a mask of all pairs; up to {_DENSE} positions" if case.length > _DENSE else None


WAYS = (
    Way("sliding window", "window", _WINDOWED, _ours, _decode, ours=True),
    Way(
        "SDPA, window as mask",
        "window",
        _WINDOWED,
        partial(masked, window=WINDOW),
        phases=("prefill", "backward"),
        obstacle=_whole_mask,
        temporary=lambda case: 3 * case.count * float(case.length) ** 2,
        cost=lambda case: Work(8 * case.count * float(case.length) ** 2 * WIDTH, 0),
    ),
    *sdpa_ways("window", WIDTH),
)
