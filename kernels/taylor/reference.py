"""Taylor attention as its formula says, quadratic in the length; what every other path is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from jrt.kernels.taylor.features import TaylorState, compute_dtype, feature_weight, packed_features


def taylor_state(k: Tensor, v: Tensor, mask: Tensor | None = None) -> TaylorState:
    """Sums of feature(k) v^T and feature(k) over all positions where `mask` is true; shapes as in
    `jrt.kernels.taylor`."""
    dtype = compute_dtype(v.dtype)
    features = packed_features(k.to(dtype))
    if mask is not None:
        features = features * mask[:, None, :, None].to(dtype)
    return TaylorState(features.transpose(-1, -2) @ v.to(dtype), features.sum(-2))


def taylor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: TaylorState | None = None,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    epsilon: float = 1e-12,
) -> tuple[Tensor, TaylorState]:
    """(o, final state), arXiv 2407.05483 equation 7 with its denominator; arguments as in `jrt.kernels.taylor`."""
    dtype = compute_dtype(v.dtype)
    queries = q.to(dtype) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = queries @ k.to(dtype).transpose(-1, -2)
    weights = (1 + scores + scores * scores / 2).tril()
    if mask is not None:
        weights = weights * mask[:, None, None, :].to(dtype)
    numerator, denominator = weights @ v.to(dtype), weights.sum(-1)
    state = taylor_state(k, v, mask)
    if initial_state is not None:
        features = packed_features(queries) * feature_weight(q.shape[-1], queries)
        numerator = numerator + features @ initial_state.values.to(dtype)
        denominator = denominator + (features @ initial_state.normalizer.to(dtype)[..., None])[..., 0]
        state = TaylorState(*(torch.add(a.to(dtype), b) for a, b in zip(initial_state, state, strict=True)))
    return (numerator / (denominator + epsilon)[..., None]).to(v.dtype), state
