"""The selective scan of Mamba-1, with a state that goes in and comes out."""

from __future__ import annotations

from torch import Tensor

from jrt.kernels.selective_scan.cpu import selective_scan_torch


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return selective_scan_torch(u, delta, A, B, C, D, z, delta_bias, initial_state, mask)
