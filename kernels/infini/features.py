"""What every path of Infini-attention shares: the state, the options and the feature maps."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["linear", "delta", "delta_corrected"]
"""How a segment is written: added ("linear"), added less what its keys already read ("delta"), the same with a
normaliser that does not count a key again ("delta_corrected", 2407.04841)."""

FeatureMap = Literal["elu", "relu"]
"""sigma: ELU + 1 as in the paper, always above zero; or ReLU, which can be exactly zero and write exactly nothing."""


class InfiniState(NamedTuple):
    """Everything that Infini-attention keeps of the segments it has read.

    Attributes:
        memory: M, `(B, Hkv, D, Dv)`, float32 (float64 for float64 inputs).
        normaliser: z, `(B, Hkv, D)`, of the same type; a head whose z is zero everywhere has an empty memory.
    """

    memory: Tensor
    normaliser: Tensor


def features(x: Tensor, feature_map: FeatureMap) -> Tensor:
    """sigma(x), of the same shape and type."""
    return F.relu(x) if feature_map == "relu" else F.elu(x) + 1


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of states and sums: float64 stays, everything else is summed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_state(key: Tensor, value: Tensor) -> InfiniState:
    """A memory of nothing for keys `(B, Hkv, T, D)` and values `(B, Hkv, T, Dv)`."""
    (rows, heads, _, width), dtype = key.shape, compute_dtype(value.dtype)
    return InfiniState(
        value.new_zeros(rows, heads, width, value.shape[-1], dtype=dtype),
        value.new_zeros(rows, heads, width, dtype=dtype),
    )
