"""Taylor attention in plain torch, linear in the length: the CPU's path, and the fallback on every other device.

A loop over chunks. Inside a chunk the weights 1 + s + s^2 / 2 are computed directly; earlier chunks are one matrix, the
state, updated in place. The normaliser is a column of ones beside v, so both sums are one product. Features are written
by slices into a buffer that all chunks share: on one CPU thread that halves the time of gathering them by index.

`(N, T, D)` with N = B * H below. Gradients are written out (README.md has the derivation), because autograd would keep
every chunk's features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from jrt.kernels.taylor.features import TaylorState, compute_dtype, feature_weight, num_features

CHUNK = 64
"""Positions of one step; on one thread 64 is faster than 128 and 256 from 2,048 positions on."""


class _Features:
    """Packed features of one chunk after another in one buffer, and the gradient through them."""

    def __init__(self, rows: int, feature_dim: int, like: Tensor) -> None:
        self.width = feature_dim
        self.buffer = like.new_zeros(rows, CHUNK, num_features(feature_dim))
        self.pairs = feature_dim * (feature_dim + 1) // 2
        self.buffer[..., self.pairs + feature_dim] = 1

    def _blocks(self) -> Iterator[tuple[int, slice]]:
        """(m, features x_m * x_m .. x_m * x_last) for every entry m."""
        start = 0
        for entry in range(self.width):
            stop = start + self.width - entry
            yield entry, slice(start, stop)
            start = stop

    def __call__(self, x: Tensor) -> Tensor:
        """Features of `(N, C, D)`, valid until the next call."""
        features = self.buffer[:, : x.shape[1]]
        for entry, block in self._blocks():
            torch.mul(x[..., entry : entry + 1], x[..., entry:], out=features[..., block])
        features[..., self.pairs : self.pairs + self.width] = x
        return features

    def gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of x from the gradient of its features."""
        result = gradient[..., self.pairs : self.pairs + self.width].clone()
        for entry, block in self._blocks():
            part = gradient[..., block]
            result[..., entry:].addcmul_(part, x[..., entry : entry + 1])
            result[..., entry] += (part * x[..., entry:]).sum(-1)
        return result


def _chunks(length: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1).contiguous()


def _flat_mask(mask: Tensor | None, heads: int, dtype: torch.dtype) -> Tensor | None:
    """`(B, T)` to `(B * H, T, 1)`."""
    return None if mask is None else mask.to(dtype).repeat_interleave(heads, 0)[..., None]


def _with_ones(v: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[v, 1], zero where the mask is false."""
    extended = torch.cat([v.to(dtype), v.new_ones(*v.shape[:-1], 1, dtype=dtype)], -1)
    return extended if mask is None else extended.mul_(mask)


def _join(values: Tensor, normalizer: Tensor) -> Tensor:
    return torch.cat([_flat(values), _flat(normalizer)[..., None]], -1)


def _split(joined: Tensor, batch: int, heads: int) -> TaylorState:
    joined = joined.view(batch, heads, *joined.shape[1:])
    return TaylorState(joined[..., :-1].contiguous(), joined[..., -1].contiguous())


def state(k: Tensor, v: Tensor, mask: Tensor | None) -> TaylorState:
    """Sums of feature(k) [v, 1]^T; `(B, H, T, D)`, `(B, H, T, Dv)`, `(B, T)`."""
    dtype, (batch, heads, length, width) = compute_dtype(v.dtype), k.shape
    keys, real = _flat(k), _flat_mask(mask, heads, dtype)
    values = _flat(v)
    joined = values.new_zeros(batch * heads, num_features(width), v.shape[-1] + 1, dtype=dtype)
    features = _Features(batch * heads, width, joined)
    for part in _chunks(length):
        extended = _with_ones(values[:, part], None if real is None else real[:, part], dtype)
        joined.baddbmm_(features(keys[:, part].to(dtype)).transpose(1, 2), extended)
    return _split(joined, batch, heads)


def state_gradient(
    d_values: Tensor, d_normalizer: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(dk, dv) of `state`."""
    dtype, (batch, heads, length, width) = compute_dtype(v.dtype), k.shape
    keys, values, real = _flat(k), _flat(v), _flat_mask(mask, heads, dtype)
    gradient = _join(d_values, d_normalizer)
    features = _Features(batch * heads, width, gradient)
    dk, dv = torch.empty_like(keys), torch.empty_like(values)
    for part in _chunks(length):
        key, seen = keys[:, part].to(dtype), None if real is None else real[:, part]
        extended = _with_ones(values[:, part], seen, dtype)
        dk[:, part] = features.gradient(key, extended @ gradient.transpose(1, 2))
        d_extended = (features(key) @ gradient)[..., :-1]
        dv[:, part] = d_extended if seen is None else d_extended * seen
    return dk.view_as(k), dv.view_as(v)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial: TaylorState | None,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, TaylorState]:
    """(o `(B, H, T, Dv)` in v's type, denominator `(B, H, T)`, final state)."""
    dtype, (batch, heads, length, width) = compute_dtype(v.dtype), q.shape
    queries, keys, values = _flat(q), _flat(k), _flat(v)
    real = _flat_mask(mask, heads, dtype)
    rows = batch * heads
    if initial is None:
        joined = values.new_zeros(rows, num_features(width), v.shape[-1] + 1, dtype=dtype)
    else:
        joined = _join(*initial)
    of_queries, of_keys = _Features(rows, width, joined), _Features(rows, width, joined)
    weight = feature_weight(width, joined)[:, None]
    o, denominator = torch.empty_like(values), joined.new_empty(rows, length)
    for part in _chunks(length):
        query, key = queries[:, part].to(dtype) * scale, keys[:, part].to(dtype)
        extended = _with_ones(values[:, part], None if real is None else real[:, part], dtype)
        scores = torch.bmm(query, key.transpose(1, 2))
        weights = (scores / 2).add_(1).mul_(scores).add_(1).tril_()
        sums = torch.bmm(weights, extended).baddbmm_(of_queries(query), joined * weight)
        denominator[:, part] = sums[..., -1] + epsilon
        o[:, part] = sums[..., :-1] / denominator[:, part, None]
        joined.baddbmm_(of_keys(key).transpose(1, 2), extended)
    return o.view_as(v), denominator.view(batch, heads, length), _split(joined, batch, heads)


def backward(
    d_o: Tensor,
    d_final: TaylorState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial: TaylorState | None,
    mask: Tensor | None,
    o: Tensor,
    denominator: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, TaylorState]:
    """(dq, dk, dv, gradient of the initial state); nothing of a chunk is kept from the forward pass."""
    dtype, (batch, heads, length, width) = compute_dtype(v.dtype), q.shape
    queries, keys, values = _flat(q), _flat(k), _flat(v)
    real = _flat_mask(mask, heads, dtype)
    inverse = 1 / _flat(denominator)[..., None]
    # The gradient of [numerator, denominator] of o = numerator / denominator.
    upstream = _flat(d_o).to(dtype) * inverse
    upstream = torch.cat([upstream, -(upstream * _flat(o).to(dtype)).sum(-1, keepdim=True)], -1)
    d_joined = _join(*d_final).clone()
    joined = torch.zeros_like(d_joined) if initial is None else _join(*initial)
    of_queries, of_keys = (_Features(batch * heads, width, joined) for _ in range(2))
    weight = feature_weight(width, joined)
    dq, dk, dv = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)

    def chunk(part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        query, key = queries[:, part].to(dtype) * scale, keys[:, part].to(dtype)
        extended = _with_ones(values[:, part], None if real is None else real[:, part], dtype)
        scores, above = torch.bmm(query, key.transpose(1, 2)), upstream[:, part]
        d_scores = torch.bmm(above, extended.transpose(1, 2)).mul_(scores + 1).tril_()
        return query, key, extended, above, scores, d_scores

    for part in _chunks(length):  # in reading order, with the state as it was: dq
        query, key, extended, above, _, d_scores = chunk(part)
        d_features = torch.bmm(above, joined.transpose(1, 2)).mul_(weight)
        dq[:, part] = torch.bmm(d_scores, key).add_(of_queries.gradient(query, d_features)).mul_(scale)
        joined.baddbmm_(of_keys(key).transpose(1, 2), extended)
    for part in reversed(_chunks(length)):  # backwards, with the gradient of the state: dk, dv
        query, key, extended, above, scores, d_scores = chunk(part)
        d_features = torch.bmm(extended, d_joined.transpose(1, 2))
        dk[:, part] = torch.bmm(d_scores.transpose(1, 2), query).add_(of_keys.gradient(key, d_features))
        weights = (scores / 2).add_(1).mul_(scores).add_(1).tril_()
        d_extended = torch.bmm(weights.transpose(1, 2), above).baddbmm_(of_keys(key), d_joined)[..., :-1]
        dv[:, part] = d_extended if real is None else d_extended * real[:, part]
        d_joined.baddbmm_((of_queries(query) * weight).transpose(1, 2), above)
    return dq.view_as(q), dk.view_as(k), dv.view_as(v), _split(d_joined, batch, heads)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    normalizer: Tensor,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
) -> Tensor:
    """One position: adds it to the state in place, then reads; `(B, H, 1, D)` and `(B, H, 1, Dv)` to `(B, H, 1,
    Dv)`."""
    dtype, (batch, heads, _, width) = values.dtype, q.shape
    rows = batch * heads
    query, key = _flat(q).to(dtype) * scale, _flat(k).to(dtype)
    features = _Features(rows, width, values)
    added = features(key)
    if mask is not None:
        added = added * mask.to(dtype).repeat_interleave(heads, 0)[..., None]
    values.view(rows, *values.shape[2:]).baddbmm_(added.transpose(1, 2), _flat(v).to(dtype))
    normalizer.view(rows, -1).add_(added[:, 0])
    read = features(query) * feature_weight(width, values)
    denominator = torch.bmm(read, normalizer.view(rows, -1, 1)) + epsilon
    return (torch.bmm(read, values.view(rows, *values.shape[2:])) / denominator).to(v.dtype).view(batch, heads, 1, -1)
