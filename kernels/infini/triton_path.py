"""Infini-attention on a GPU: states by batched matrix products, then one kernel for everything a query does.

With TRITON_INTERPRET=1 set before triton is imported, the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

from torch import Tensor

from jrt.kernels.infini.features import FeatureMap, InfiniState, Rule, empty_state, features
from jrt.kernels.infini.ops import infini_read
from jrt.kernels.infini.states import states


def infini_attention_triton(
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
    """`infini_attention`; the arguments and results are its own."""
    length = query.shape[2]
    count = length // segment_length
    full = count * segment_length
    first = InfiniState(*(part.float() for part in (state or empty_state(key, value))))
    if count:
        weight = None if write_gate is None else write_gate[:, :, :full].float()
        if mask is not None:
            of_mask = mask[:, None, :full].float()
            weight = of_mask.expand(-1, key.shape[1], -1) if weight is None else weight * of_mask
        sigma_k = features(memory_key[:, :, :full].float(), feature_map).unflatten(2, (count, -1))
        cut = value[:, :, :full].float().unflatten(2, (count, -1))
        weight = None if weight is None else weight.unflatten(2, (count, -1))
        found = states(sigma_k, weight, cut, first, rule, epsilon)
    else:
        found = InfiniState(first.memory[:, :, None], first.normaliser[:, :, None])
    segments = -(-length // segment_length)
    before = (found.memory[:, :, :segments], found.normaliser[:, :, :segments])
    output, _ = infini_read(
        query, key, value, memory_query, *before, gate, mask, segment_length, feature_map == "relu", scale, epsilon
    )
    return output, InfiniState(found.memory[:, :, -1], found.normaliser[:, :, -1])
