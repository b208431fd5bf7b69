"""Infini-attention: causal attention inside a segment, and a compressive memory of every segment before it.

    output, state = infini_attention(q, k, v, mq, mk, gate, segment_length=2048)             # any length
    output, state = infini_attention(q2, k2, v2, mq2, mk2, gate, state, segment_length=2048) # what follows

README.md in this folder has the maths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt.kernels.infini.features import FeatureMap, InfiniState, Rule
from jrt.kernels.infini.paths import choose, implementation

__all__ = ["FeatureMap", "InfiniState", "Rule", "choose", "implementation", "infini_attention"]


def infini_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory_query: Tensor,
    memory_key: Tensor,
    gate: Tensor,
    state: InfiniState | None = None,
    *,
    segment_length: int,
    rule: Rule = "linear",
    feature_map: FeatureMap = "elu",
    mask: Tensor | None = None,
    write_gate: Tensor | None = None,
    scale: float | None = None,
    epsilon: float = 1e-6,
) -> tuple[Tensor, InfiniState]:
    """sigmoid(gate) A_mem + (1 - sigmoid(gate)) A_dot for a sequence that starts at a segment's border (2404.07143).

    Each segment first reads what the segments before it wrote, then is written itself. A last segment that is not full
    is attended and reads, but is not written: give its tokens again when more of them are there. Where nothing has been
    written (z = 0) the output is A_dot alone.

    Args:
        query: with positions, `(B, H, T, D)`.
        key: with positions, `(B, Hkv, T, D)`; H is a multiple of Hkv, and heads of a group stand together.
        value: `(B, Hkv, T, Dv)`.
        memory_query: without positions, `(B, H, T, D)`.
        memory_key: without positions, `(B, Hkv, T, D)`.
        gate: logits, `(H,)`.
        state: what earlier segments wrote; None is an empty memory.
        segment_length: S, tokens a segment.
        rule: how a segment is written.
        feature_map: sigma.
        mask: `(B, T)`, false where a position is padding: neither attended nor written. Its own output means nothing.
        write_gate: how much of each position is written, `(B, Hkv, T)`; None means all of it.
        scale: of the scores; None is 1 / sqrt(D).
        epsilon: added to the denominators of the memory.

    Returns:
        The output, `(B, H, T, Dv)` in the values' type, and the state after the last full segment. Both are
        differentiable in every floating argument.

    Raises:
        ValueError: shapes, types, devices or options do not fit together.
    """
    tensors = dict(query=query, key=key, value=value, memory_query=memory_query, memory_key=memory_key, gate=gate)
    _check(tensors, state, mask, write_gate, segment_length)
    if rule not in ("linear", "delta", "delta_corrected") or feature_map not in ("elu", "relu"):
        raise ValueError(f"rule={rule!r} with feature_map={feature_map!r} is not known; they are {Rule}, {FeatureMap}.")
    attention = implementation(choose(query.device, value.dtype, query.shape[-1], value.shape[-1]).path)
    with torch.autocast(query.device.type, enabled=False):
        return attention(
            query,
            key,
            value,
            memory_query,
            memory_key,
            gate,
            state,
            segment_length=segment_length,
            rule=rule,
            feature_map=feature_map,
            mask=mask,
            write_gate=write_gate,
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            epsilon=epsilon,
        )


def _check(
    tensors: dict[str, Tensor],
    state: InfiniState | None,
    mask: Tensor | None,
    write_gate: Tensor | None,
    segment_length: int,
) -> None:
    """Raises a ValueError that names what does not fit, and what would."""
    query, key, value = tensors["query"], tensors["key"], tensors["value"]
    if any(x.dim() != 4 for x in (query, key, value)) or query.shape[1] % key.shape[1] or query.shape[2] == 0:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)} and value {tuple(value.shape)} do not fit together. "
            "They are (B, H, T, D), (B, Hkv, T, D) and (B, Hkv, T, Dv), H a multiple of Hkv, T at least 1."
        )
    if segment_length < 1:
        raise ValueError(f"segment_length={segment_length}; it is at least 1.")
    (rows, heads, length, width), pairs, wide = query.shape, key.shape[1], value.shape[-1]
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "key": (key, (rows, pairs, length, width)),
        "value": (value, (rows, pairs, length, wide)),
        "memory_query": (tensors["memory_query"], (rows, heads, length, width)),
        "memory_key": (tensors["memory_key"], (rows, pairs, length, width)),
        "gate": (tensors["gate"], (heads,)),
        "mask": (mask, (rows, length)),
        "write_gate": (write_gate, (rows, pairs, length)),
        "state.memory": (state and state.memory, (rows, pairs, width, wide)),
        "state.normaliser": (state and state.normaliser, (rows, pairs, width)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}; with query {tuple(query.shape)} it has to be {shape}.")
        if tensor is not None and tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, query on {query.device}. Move them to one device.")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"The mask is {mask.dtype}; it has to be bool, true where a position is real.")
    types = {tensors[name].dtype for name in ("query", "key", "value", "memory_query", "memory_key")}
    if len(types) > 1 or not value.dtype.is_floating_point:
        raise ValueError(f"Queries, keys and values must share one floating type, got {types}. Cast them.")
