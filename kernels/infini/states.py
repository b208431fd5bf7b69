"""The memory before every segment, all segments of a call at once.

A segment changes the memory by M' = P M + N with N = sum sigma(k) v^T and, for the delta rules, the (D, D) matrix
P = 1 - sum sigma(k) sigma(k)^T / (sigma(k) z + epsilon) of its keys (the corrected rule weighs both sums). z does not
depend on M, so every P and N is known before the first product of two states: only (D, D) times (D, Dv) is sequential.
The linear rule has P = 1 and needs sums only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt.kernels.infini.features import InfiniState, Rule
from jrt.kernels.infini.reference import corrected_steps


def states(
    sigma_k: Tensor, weight: Tensor | None, value: Tensor, state: InfiniState, rule: Rule, epsilon: float
) -> InfiniState:
    """The state before each of n segments, and after the last.

    Args:
        sigma_k: features of the keys, `(B, Hkv, n, S, D)`, in the state's type.
        weight: how much of each is written, `(B, Hkv, n, S)`; None means all.
        value: `(B, Hkv, n, S, Dv)`, in the state's type.
        state: what the first segment finds.
        rule: how a segment is written.
        epsilon: added to the denominators.

    Returns:
        memories `(B, Hkv, n + 1, D, Dv)` and normalisers `(B, Hkv, n + 1, D)`.
    """
    written = sigma_k if weight is None else sigma_k * weight[..., None]
    taken = added = written
    if rule == "delta_corrected":
        normalisers, unknown, step = _corrected_normalisers(sigma_k, written, state.normaliser)
        added, taken = written * (unknown + step), written * step
    else:
        normalisers = _sums(state.normaliser, written.sum(3))
    if rule == "linear":
        return InfiniState(_sums(state.memory, added.mT @ value), normalisers)
    inverse = 1 / (sigma_k @ normalisers[:, :, :-1, :, None] + epsilon)
    return InfiniState(_affine(state.memory, taken.mT @ (sigma_k * inverse), added.mT @ value), normalisers)


def _sums(first: Tensor, added: Tensor) -> Tensor:
    """first, first + added_1, first + added_1 + added_2, ... along dimension 2."""
    return torch.cat([first[:, :, None], first[:, :, None] + added.cumsum(2)], 2)


def _corrected_normalisers(sigma_k: Tensor, written: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z before each segment and after the last when a key counts only as far as z does not count it yet, and the
    `corrected_steps` of every segment, `(B, Hkv, n, S, 1)`."""
    found, steps = [first], []
    for keys, weighted in zip(sigma_k.unbind(2), written.unbind(2), strict=True):
        steps.append(corrected_steps(keys, weighted, found[-1]))
        found.append(found[-1] + (weighted * steps[-1][0]).sum(2))
    unknown, step = (torch.stack(parts, 2) for parts in zip(*steps, strict=True))
    return torch.stack(found, 2), unknown, step


def _affine(first: Tensor, removed: Tensor, added: Tensor) -> Tensor:
    """M' = (1 - removed) M + added, along dimension 2, beginning with `first`: one product a segment."""
    kept = (torch.eye(removed.shape[-1], dtype=removed.dtype, device=removed.device) - removed).flatten(0, 1)
    found = [first.flatten(0, 1)]
    for keep, plus in zip(kept.unbind(1), added.flatten(0, 1).unbind(1), strict=True):
        found.append(torch.baddbmm(plus, keep, found[-1]))
    return torch.stack(found, 1).unflatten(0, first.shape[:2])
