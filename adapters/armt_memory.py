"""The associative memory of one layer: a matrix A and a normaliser z, read by queries and written by the delta rule.

A holds, for every key that was written, its value; z says how much was written under a key, so that the read-out is a
value and no sum. Writing under a key again takes the old value out first, and z grows only by what was not there yet
(gamma), which is what keeps a key that was written hundreds of times readable (arXiv 2407.04841, equations 5 to 10).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jrt.adapters.precision import Float32Linear

EPSILON = 1e-5
"""Added to denominators; what was never written is read as zero."""


def features(x: Tensor, order: int) -> Tensor:
    """DPFP (arXiv 2102.11174, section 5.3): non-negative features, (..., d) to (..., 2 order d).

    Products of [relu(x), relu(-x)] with itself, shifted by 1 to `order`: most are zero, so two keys seldom meet.
    """
    halves = torch.relu(torch.cat([x, -x], dim=-1))
    return torch.cat([halves * halves.roll(shift, dims=-1) for shift in range(1, order + 1)], dim=-1)


def read_out(state: Tensor, keys: Tensor) -> Tensor:
    """What is stored under `keys`.

    Args:
        state: A and, as its last row, z, (B, D + 1, K).
        keys: features, (B, T, K).

    Returns:
        (B, T, D).
    """
    found = keys @ state.transpose(1, 2)
    return found[..., :-1] / (found[..., -1:] + EPSILON)


def write(state: Tensor, keys: Tensor, values: Tensor, strength: Tensor) -> Tensor:
    """The state after all keys of a segment were written at once.

    All of them correct the same old value, so keys that are alike share the correction: each has |k|^2 / sum k.k' of
    it, over all keys k' of the segment. That is 1 for a key that meets no other and 1 / n for n copies. As published
    each has all of it, n copies overshoot n times, and a memory whose keys are alike grows without bound.

    Args:
        state: A and z, (B, D + 1, K).
        keys: features, (B, m, K).
        values: (B, m, D).
        strength: how far the old value is replaced, between 0 and 1, (B, m, 1).
    """
    size = keys.square().sum(dim=-1, keepdim=True)
    own = size / ((keys @ keys.transpose(1, 2)).sum(dim=-1, keepdim=True) + EPSILON)
    change = strength * (values - read_out(state, keys))
    there = (keys * state[:, None, -1]).sum(dim=-1, keepdim=True)
    new = (1 - there / (size + EPSILON)).clamp(0.0, 1.0).detach()
    return state + (own * torch.cat([change, new], dim=-1)).transpose(1, 2) @ keys


class LayerMemory(nn.Module):
    """What a layer learns for its memory; the memory itself is passed in and out.

    Args:
        width: D, of the layer.
        key_width: width of keys and queries.
        order: of the feature map.
        device: where the weights are.
    """

    def __init__(self, width: int, key_width: int, order: int, device: torch.device) -> None:
        super().__init__()
        options: dict[str, Any] = {"bias": False, "device": device}
        self.order = order
        self.query = Float32Linear(width, key_width, **options)
        self.key = Float32Linear(width, key_width, **options)
        self.value = Float32Linear(width, width, **options)
        self.strength = Float32Linear(width, 1, device=device)
        nn.init.zeros_(self.value.weight)

    def read(self, state: Tensor, hidden: Tensor) -> Tensor:
        """The layer's input with what the memory holds for each token added, (B, T, D)."""
        found = read_out(state, features(self.query(hidden.float()), self.order))
        return hidden + found.to(hidden.dtype)

    def written(self, state: Tensor, tokens: Tensor) -> Tensor:
        """The state after the layer's outputs at the memory tokens, (B, m, D), were written."""
        tokens = tokens.float()
        keys = features(self.key(tokens), self.order)
        return write(state, keys, self.value(tokens), torch.sigmoid(self.strength(tokens)))
