"""What the operations of the kernel benchmark share: random inputs, one head of them, and what a position sees."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jrt.bench.cells import Case, Inputs


def normal(case: Case, shapes: Mapping[str, tuple[int, int]], *, seed: int = 0) -> dict[str, Tensor]:
    """Unit-Gaussian tensors `(B, H, *shape)` by name, the same at every call."""
    generator = torch.Generator(case.device).manual_seed(1000 * case.length + 10 * case.batch + seed)
    return {
        name: torch.randn(case.batch, case.heads, *shape, generator=generator, device=case.device, dtype=case.dtype)
        for name, shape in shapes.items()
    }


def head_part(inputs: Inputs, row: int, head: int) -> dict[str, Tensor]:
    """One row and head of tensors `(B, H, T, D)`; tensors `(H,)` are a head's number."""
    return {
        name: tensor[head : head + 1] if tensor.dim() == 1 else tensor[row : row + 1, head : head + 1]
        for name, tensor in inputs.items()
    }


def visible(positions: Tensor, length: int, window: int | None = None) -> Tensor:
    """What each of `positions` sees of `length` positions, `(n, length)`: itself and everything (or less) before."""
    other = torch.arange(length, device=positions.device)
    seen = other <= positions[:, None]
    return seen if window is None else seen & (other > positions[:, None] - window)
