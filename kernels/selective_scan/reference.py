"""The selective scan as its definition reads: one time step after the other. Every other path is tested against it.

Paper: Mamba, 2312.00752, algorithm 2 with the discretisation of its section 3.2 (A by zero-order hold, B by Euler).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
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
    """`selective_scan` step by step, in float64 when `u` is; differentiable, slow, for tests and for reading."""
    dtype = compute_dtype(u)
    step = positive_step(delta, delta_bias, mask, dtype)
    state = u.new_zeros(*u.shape[:2], A.shape[1], dtype=dtype) if initial_state is None else initial_state.to(dtype)
    outputs = []
    for t in range(u.shape[2]):
        decay = torch.exp(step[:, :, t, None] * A.to(dtype))
        written = (step[:, :, t] * u[:, :, t].to(dtype))[..., None] * B[:, None, :, t].to(dtype)
        state = decay * state + written
        outputs.append((state * C[:, None, :, t].to(dtype)).sum(-1))
    return finish(torch.stack(outputs, dim=-1), u, D, z), state


def compute_dtype(u: Tensor) -> torch.dtype:
    """What sums are kept in: float32, or float64 for float64 inputs."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def positive_step(delta: Tensor, delta_bias: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The step sizes, (B, D, T): softplus of delta and its bias, 0 where a row is masked."""
    step = delta.to(dtype) if delta_bias is None else delta.to(dtype) + delta_bias.to(dtype)[:, None]
    step = F.softplus(step)
    return step if mask is None else step * mask.to(dtype)[:, None]


def finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Adds the skip connection, applies the gate, and returns to the data type of `u`."""
    if D is not None:
        y = y + u.to(y.dtype) * D.to(y.dtype)[:, None]
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    return y.to(u.dtype)
