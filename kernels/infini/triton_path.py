"""Infini-attention on a GPU: what every segment adds to the memory, the states between the segments, and one kernel for
everything a query does. The delta rules' states are batched products of plain torch (README.md says what that costs).

With TRITON_INTERPRET=1 set before triton is imported, the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt.kernels.infini.features import FeatureMap, InfiniState, Rule, empty_state, features
from jrt.kernels.infini.ops import infini_read
from jrt.kernels.infini.states import states
from jrt.kernels.infini.sums import infini_sums


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
    first = InfiniState(*(part.float() for part in (state or empty_state(key, value))))
    weight = None if write_gate is None else write_gate.float()
    if mask is not None:
        of_mask = mask[:, None].float()
        weight = of_mask.expand(-1, key.shape[1], -1) if weight is None else weight * of_mask
    count, rest = divmod(query.shape[2], segment_length)
    if count == 0:
        before, after = InfiniState(*(part[:, :, None] for part in first)), first
    elif rule == "linear":
        added = infini_sums(memory_key, value, weight, segment_length, feature_map == "relu")
        before, after = _sums(first, InfiniState(*added), open_segment=rest > 0)
    else:
        full = slice(0, count * segment_length)
        sigma_k = features(memory_key[:, :, full].float(), feature_map).unflatten(2, (count, -1))
        cut = value[:, :, full].float().unflatten(2, (count, -1))
        weight = None if weight is None else weight[:, :, full].unflatten(2, (count, -1))
        found = states(sigma_k, weight, cut, first, rule, epsilon)
        read = slice(0, count + (rest > 0))
        before, after = (InfiniState(*(part[:, :, at] for part in found)) for at in (read, -1))
    output, _ = infini_read(
        query, key, value, memory_query, *before, gate, mask, segment_length, feature_map == "relu", scale, epsilon
    )
    return output, after


def _sums(first: InfiniState, added: InfiniState, *, open_segment: bool) -> tuple[InfiniState, InfiniState]:
    """(the state before every segment, after the last full one), from what each full segment adds."""
    before, after = [], []
    for start, parts in zip(first, added, strict=True):
        known = parts if open_segment else parts[:, :, :-1]
        before.append(torch.cat([start[:, :, None], known], 2).cumsum(2))
        after.append(before[-1][:, :, -1] if open_segment else before[-1][:, :, -1] + parts[:, :, -1])
    return InfiniState(*before), InfiniState(*after)
