"""The causal convolution by torch's own: the definition, and the path for gradients and other devices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` in the data type of `x`, differentiable."""
    past = weight.shape[1] - 1
    if initial_state is None:
        initial_state = x.new_zeros(*x.shape[:2], past)
    seen = torch.cat([initial_state.to(x.dtype), x], dim=2)
    y = F.conv1d(seen, weight.to(x.dtype)[:, None], None if bias is None else bias.to(x.dtype), groups=x.shape[1])
    return F.silu(y) if silu else y, seen[:, :, seen.shape[2] - past :]
