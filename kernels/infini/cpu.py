"""Infini-attention in plain torch: all segments of a call in one batch. Any device and type, with gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt.kernels.infini.features import FeatureMap, InfiniState, Rule, compute_dtype, empty_state, features
from jrt.kernels.infini.states import states


def infini_attention_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory_query: Tensor,
    memory_key: Tensor,
    gate: Tensor,
    state: InfiniState | None,
    *,
    segment_length: int,
    rule: Rule,
    feature_map: FeatureMap,
    mask: Tensor | None,
    write_gate: Tensor | None,
    scale: float,
    epsilon: float,
) -> tuple[Tensor, InfiniState]:
    """`infini_attention`: the full segments, then what is left of the last one, which reads and does not write."""
    dtype, length = compute_dtype(value.dtype), query.shape[2]
    count = length // segment_length
    full = count * segment_length
    state = InfiniState(*(part.to(dtype) for part in (state or empty_state(key, value))))
    outputs = []
    if count:
        cut = [_segments(x[:, :, :full], count) for x in (query, key, value, memory_query, memory_key)]
        real = None if mask is None else mask[:, :full].unflatten(1, (count, -1))
        weight = None if write_gate is None else _segments(write_gate[:, :, :full], count).to(dtype)
        if real is not None:
            of_mask = real[:, None].to(dtype)
            weight = of_mask.expand(-1, key.shape[1], -1, -1) if weight is None else weight * of_mask
        found = states(features(cut[4].to(dtype), feature_map), weight, cut[2].to(dtype), state, rule, epsilon)
        before = InfiniState(found.memory[:, :, :-1], found.normaliser[:, :, :-1])
        outputs.append(_attend(tuple(cut[:4]), gate, before, real, feature_map, scale, epsilon))
        state = InfiniState(found.memory[:, :, -1], found.normaliser[:, :, -1])
    if full < length:
        cut = [_segments(x[:, :, full:], 1) for x in (query, key, value, memory_query)]
        real = None if mask is None else mask[:, None, full:]
        before = InfiniState(state.memory[:, :, None], state.normaliser[:, :, None])
        outputs.append(_attend(tuple(cut), gate, before, real, feature_map, scale, epsilon))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), state


def _segments(x: Tensor, count: int) -> Tensor:
    """(B, H, n S, ...) as (B, H, n, S, ...)"""
    return x.unflatten(2, (count, -1))


def _attend(
    tensors: tuple[Tensor, ...],
    gate: Tensor,
    state: InfiniState,
    real: Tensor | None,
    feature_map: FeatureMap,
    scale: float,
    epsilon: float,
) -> Tensor:
    """Local attention and memory of n segments, mixed by the gate.

    `tensors` are query `(B, H, n, S, D)`, key and value `(B, Hkv, n, S, ...)` and memory_query like the query; states
    before each segment `(B, Hkv, n, ...)`, `real` `(B, n, S)`; the output is `(B, H, n S, Dv)` in the values' type.
    """
    query, key, value, memory_query = tensors
    groups, dtype = query.shape[1] // key.shape[1], state.memory.dtype
    local = _local_attention(query, key, value, real, scale)
    sigma_q = features(memory_query.to(dtype), feature_map).unflatten(1, (-1, groups))
    numerator = _read(sigma_q, state.memory)
    denominator = _read(sigma_q, state.normaliser[..., None])
    gates = torch.sigmoid(gate.to(dtype)).view(-1, groups, 1, 1, 1)
    share = gates * (state.normaliser != 0).any(-1)[:, :, None, :, None, None]
    local = local.to(dtype).unflatten(1, (-1, groups))
    output = torch.lerp(local, numerator / (denominator + epsilon), share.expand_as(local))
    return output.flatten(1, 2).flatten(2, 3).to(value.dtype)


def _read(sigma_q: Tensor, memory: Tensor) -> Tensor:
    """sigma(Q) M: (B, Hkv, G, n, S, D) and (B, Hkv, n, D, E) to (B, Hkv, G, n, S, E), no memory copied."""
    if sigma_q.shape[2] == 1:
        return (sigma_q[:, :, 0] @ memory)[:, :, None]
    count = sigma_q.shape[2]
    rows = sigma_q.transpose(2, 3).flatten(3, 4)  # (B, Hkv, n, G S, D)
    return (rows @ memory).unflatten(3, (count, -1)).transpose(2, 3)


def _local_attention(query: Tensor, key: Tensor, value: Tensor, real: Tensor | None, scale: float) -> Tensor:
    """Causal softmax attention inside each segment, (B, H, n, S, Dv); padding is attended by itself only."""
    rows, count = query.shape[0], query.shape[2]
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # (B n, H, S, D)
    seen = None
    if real is not None:
        size = real.shape[-1]
        square = torch.ones(size, size, dtype=torch.bool, device=real.device)
        itself = torch.eye(size, dtype=torch.bool, device=real.device)
        seen = ((square.tril() & real[:, :, None]) | itself).flatten(0, 1)[:, None]
    local = F.scaled_dot_product_attention(
        query, key, value, seen, is_causal=seen is None, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return local.unflatten(0, (rows, count)).transpose(1, 2)
