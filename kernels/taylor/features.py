"""The second-order Taylor feature map, packed: 153 numbers instead of 273, padded to 160.

With s = scale * <q, k>, the weight of a key is 1 + s + s^2 / 2, the Taylor series of exp(s) (Based, arXiv 2402.18668;
Just Read Twice, arXiv 2407.05483, section 4). It is an inner product of features, and since x_m x_n = x_n x_m, one
number for each unordered pair is enough. With x~ = [x, 1], every feature is a product of two entries of x~:

    feature(x)_e = x~_left(e) * x~_right(e)          key side
    feature(q)_e * weight_e                          query side, weight 1/2 for squares and 1 otherwise, q scaled before

Keys carry neither scale nor weight, so a state is the same for every scale.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

FEATURE_BLOCK = 32
"""Feature counts are padded to a multiple of this, which Triton's tiles need."""


class TaylorState(NamedTuple):
    """Everything that Taylor attention keeps of the keys and values it has read.

    Attributes:
        values: sum over positions of feature(k) v^T, `(B, H, E, Dv)`, float32 (float64 for float64 inputs).
        normalizer: sum over positions of feature(k), `(B, H, E)`, of the same type.

    States of different positions add: `TaylorState(a.values + b.values, a.normalizer + b.normalizer)`.
    """

    values: Tensor
    normalizer: Tensor


def num_features(feature_dim: int) -> int:
    """Packed features of a `feature_dim`-wide vector with padding: 160 for 16."""
    used = feature_dim * (feature_dim + 1) // 2 + feature_dim + 1
    return -(-used // FEATURE_BLOCK) * FEATURE_BLOCK


@lru_cache(maxsize=8)
def packed_indices(feature_dim: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """(left, right, weight) of every feature; index `feature_dim` is the constant 1, `feature_dim + 1` a padding zero.

    Order: pairs (m, n) with m <= n, then the vector itself, then the constant, then zeros.
    """
    one, zero = feature_dim, feature_dim + 1
    entries = [(m, n, 0.5 if m == n else 1.0) for m in range(feature_dim) for n in range(m, feature_dim)]
    entries += [(m, one, 1.0) for m in range(feature_dim)] + [(one, one, 1.0)]
    entries += [(zero, zero, 0.0)] * (num_features(feature_dim) - len(entries))
    left, right, weight = zip(*entries, strict=True)
    return left, right, weight


def feature_weight(feature_dim: int, like: Tensor) -> Tensor:
    """The query side's weights, `(E,)`, with the type and device of `like`."""
    return like.new_tensor(packed_indices(feature_dim)[2])


def packed_features(x: Tensor) -> Tensor:
    """Key-side features of `x`, `(..., D)` to `(..., E)`; the shortest right version, for references and tests."""
    left, right, _ = packed_indices(x.shape[-1])
    extended = torch.cat([x, torch.ones_like(x[..., :1]), torch.zeros_like(x[..., :1])], -1)
    return extended[..., list(left)] * extended[..., list(right)]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of states and sums: float64 stays, everything else is summed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
