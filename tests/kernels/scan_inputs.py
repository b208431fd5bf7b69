"""Random inputs of the selective scan, shared by its tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scan_inputs(
    rows: int = 2,
    channels: int = 21,
    states: int = 6,
    steps: int = 17,
    *,
    state: bool = True,
    masked: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Any]:
    """Every argument of `selective_scan` by its name; the second row begins with two padded steps when masked."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs: dict[str, Any] = dict(
        u=normal(rows, channels, steps),
        delta=normal(rows, channels, steps),
        A=-normal(channels, states).exp(),
        B=normal(rows, states, steps),
        C=normal(rows, states, steps),
        D=normal(channels),
        z=normal(rows, channels, steps),
        delta_bias=normal(channels),
        initial_state=normal(rows, channels, states) if state else None,
        mask=None,
    )
    if masked:
        inputs["mask"] = torch.ones(rows, steps, dtype=torch.long)
        inputs["mask"][-1, :2] = 0
    return inputs


def to(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The same with floating tensors in `dtype`."""
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def relative_error(found: Tensor, right: Tensor) -> float:
    """|found - right| / |right| in the L2 norm."""
    return float((found.double() - right.double()).norm() / (right.double().norm() + 1e-30))
