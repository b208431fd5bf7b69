"""Infini-attention as its definition reads: one segment after the other. Every other path is tested against it.

Paper: Leave No Context Behind, 2404.07143, section 2.1. What the paper leaves open (README.md says why): an empty
memory passes local attention through, `epsilon` stands in both denominators, padding is neither attended nor written,
and the last segment is written when it is full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt.kernels.infini.features import FeatureMap, InfiniState, Rule, compute_dtype, empty_state, features


def infini_attention_reference(
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
    """`infini_attention` segment by segment, in float64 when `value` is; differentiable, for tests and for reading."""
    dtype, (rows, _, length, _), groups = compute_dtype(value.dtype), query.shape, query.shape[1] // key.shape[1]
    real = query.new_ones(rows, length, dtype=torch.bool) if mask is None else mask
    written = torch.ones_like(key[..., 0]) if write_gate is None else write_gate
    gates = torch.sigmoid(gate.to(dtype)).view(-1, groups, 1, 1)  # (Hkv, G, 1, 1): heads of a group share a memory
    memory, z = (part.to(dtype) for part in (state or empty_state(key, value)))
    outputs = []
    for start in range(0, length, segment_length):
        now = slice(start, start + segment_length)
        q, mq = (x[:, :, now].to(dtype).unflatten(1, (-1, groups)) for x in (query, memory_query))
        k, v, mk = (x[:, :, now].to(dtype) for x in (key, value, memory_key))
        local = _causal_softmax(scale * q @ k[:, :, None].mT, real[:, now]) @ v[:, :, None]

        sigma_q = features(mq, feature_map)
        read = sigma_q @ memory[:, :, None] / (sigma_q @ z[:, :, None, :, None] + epsilon)
        share = gates * (z != 0).any(-1)[..., None, None, None]
        outputs.append((share * read + (1 - share) * local).flatten(1, 2))

        if k.shape[2] == segment_length:
            sigma_k = features(mk, feature_map)
            weighted = sigma_k * written[:, :, now, None].to(dtype) * real[:, None, now, None].to(dtype)
            known = sigma_k @ memory / (sigma_k @ z[..., None] + epsilon)
            if rule == "delta_corrected":
                unknown, step = corrected_steps(sigma_k, weighted, z)
                memory = memory + weighted.mT @ (unknown * v + step * (v - known))
                weighted = weighted * unknown
            else:
                memory = memory + weighted.mT @ (v if rule == "linear" else v - known)
            z = z + weighted.sum(2)
    return torch.cat(outputs, 2).to(value.dtype), InfiniState(memory, z)


def corrected_steps(sigma_k: Tensor, weighted: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """What of each key is new, and how far what is known of it moves; README.md has the formulas.

    Args:
        sigma_k: features of a segment's keys, `(B, Hkv, S, D)`.
        weighted: the same times how much of each is written.
        z: the normaliser before the segment, `(B, Hkv, D)`.

    Returns:
        gamma and c, `(B, Hkv, S, 1)`, detached as gamma is in 2407.04841.
    """
    tiny, counted = torch.finfo(z.dtype).tiny, sigma_k @ z[..., None]
    unknown = (1 - counted / sigma_k.square().sum(-1, keepdim=True).clamp(min=tiny)).clamp(0, 1)
    again = sigma_k @ (weighted * (1 - unknown)).sum(2)[..., None]
    step = (1 - unknown) * (counted / again.clamp(min=tiny)).clamp(max=1)
    return unknown.detach(), step.detach()


def _causal_softmax(scores: Tensor, real: Tensor) -> Tensor:
    """Attention weights `(..., S, S)` of scores; padding (`real` (B, S) is false) is attended by itself only."""
    size = scores.shape[-1]
    square = torch.ones(size, size, dtype=torch.bool, device=scores.device)
    seen = (square.tril() & real[:, None]) | torch.eye(size, dtype=torch.bool, device=scores.device)
    return scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(-1)
