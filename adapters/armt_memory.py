"""The associative memory of one layer: a matrix A that is read by queries and written by the delta rule.

A holds, for every key that was written, its value; writing under a key again takes the old value out first. There are
two normalisations:

- `Sums`, of the paper (arXiv 2407.04841, equations 5 to 10): beside A stands a normaliser z, which says how much was
  written under a key, and a read-out is the quotient. z grows only by what was not there yet (gamma), which is what
  keeps a key that was written hundreds of times readable. Where keys overlap in part, A can be large at a feature at
  which z is small, so the quotient has no bound, and in training it went to NaN.
- `Lengths`, as in DeltaNet (arXiv 2406.06484): keys and queries have length 1, and there is no quotient. A segment
  never makes longer what was there before it, so A grows by no more than what segments write, and not geometrically. A
  query between two keys reads a mixture of their values. (The authors' later code has keys of length 1 too; its default
  divides by z beside.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jrt.adapters.armt import Normalization
from jrt.adapters.precision import Float32Linear, full_precision

EPSILON = 1e-5
"""Added to denominators; what was never written is read as zero."""
TINY = 1e-9
"""Added to squared lengths. Features are products, so their squares are as the fourth power of the hidden state: 2e-6
where embeddings have a standard deviation of 0.02."""


def features(x: Tensor, order: int) -> Tensor:
    """DPFP (arXiv 2102.11174, section 5.3): non-negative features, (..., d) to (..., 2 order d).

    Products of [relu(x), relu(-x)] with itself, shifted by 1 to `order`: most are zero, so two keys seldom meet.
    """
    halves = torch.relu(torch.cat([x, -x], dim=-1))
    return torch.cat([halves * halves.roll(shift, dims=-1) for shift in range(1, order + 1)], dim=-1)


def shares(keys: Tensor) -> Tensor:
    """Which part of its correction each key of a segment has, (B, m, K) to (B, m, 1).

    All keys of a segment correct the same old value, so keys that are alike share the correction: |k|^2 / sum k.k' over
    all keys k' of the segment. That is 1 for a key that meets no other and 1 / n for n copies. As published each has
    all of it, n copies overshoot n times, and a memory whose keys are alike grows without bound.
    """
    size = keys.square().sum(dim=-1, keepdim=True)
    return size / ((keys @ keys.transpose(1, 2)).sum(dim=-1, keepdim=True) + EPSILON)


class Sums:
    """The paper's normalisation; a state is A and, as its last row, z, (B, D + 1, K)."""

    extra_rows = 1

    @staticmethod
    def prepared(keys: Tensor) -> Tensor:
        """Features as they are."""
        return keys

    @staticmethod
    def read(state: Tensor, keys: Tensor) -> Tensor:
        """What is stored under `keys`, (B, T, K) to (B, T, D)."""
        found = keys @ state.transpose(1, 2)
        return found[..., :-1] / (found[..., -1:] + EPSILON)

    @classmethod
    def write(cls, state: Tensor, keys: Tensor, values: Tensor, strength: Tensor) -> Tensor:
        """The state after all keys of a segment were written at once.

        Args:
            state: what was there.
            keys: features, (B, m, K).
            values: (B, m, D).
            strength: how far the old value is replaced, between 0 and 1, (B, m, 1).
        """
        size = keys.square().sum(dim=-1, keepdim=True)
        change = strength * (values - cls.read(state, keys))
        there = (keys * state[:, None, -1]).sum(dim=-1, keepdim=True)
        new = (1 - there / (size + EPSILON)).clamp(0.0, 1.0).detach()
        return state + (shares(keys) * torch.cat([change, new], dim=-1)).transpose(1, 2) @ keys


class Lengths:
    """Keys and queries of length 1; a state is A, (B, D, K)."""

    extra_rows = 0

    @staticmethod
    def prepared(keys: Tensor) -> Tensor:
        """Features of length 1, where they are not nearly zero."""
        return keys / (keys.square().sum(dim=-1, keepdim=True) + TINY).sqrt()

    @staticmethod
    def read(state: Tensor, keys: Tensor) -> Tensor:
        """What is stored under `keys`, (B, T, K) to (B, T, D)."""
        return keys @ state.transpose(1, 2)

    @classmethod
    def write(cls, state: Tensor, keys: Tensor, values: Tensor, strength: Tensor) -> Tensor:
        """The state after all keys of a segment were written at once; arguments as in `Sums.write`."""
        change = strength * (values - cls.read(state, keys))
        return state + (shares(keys) * change).transpose(1, 2) @ keys


NORMALIZATIONS: dict[Normalization, type[Sums] | type[Lengths]] = {"length": Lengths, "sum": Sums}


class LayerMemory(nn.Module):
    """What a layer learns for its memory; the memory itself is passed in and out.

    Args:
        width: D, of the layer.
        key_width: width of keys and queries.
        order: of the feature map.
        normalization: of read-outs.
        device: where the weights are.
    """

    def __init__(
        self, width: int, key_width: int, order: int, normalization: Normalization, device: torch.device
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"bias": False, "device": device}
        self.order, self.rule = order, NORMALIZATIONS[normalization]
        self.query = Float32Linear(width, key_width, **options)
        self.key = Float32Linear(width, key_width, **options)
        self.value = Float32Linear(width, width, **options)
        self.strength = Float32Linear(width, 1, device=device)
        nn.init.zeros_(self.value.weight)

    def read(self, state: Tensor, hidden: Tensor) -> Tensor:
        """The layer's input with what the memory holds for each token added, (B, T, D)."""
        with full_precision(hidden):
            queries = self.rule.prepared(features(self.query(hidden.float()), self.order))
            return hidden + self.rule.read(state, queries).to(hidden.dtype)

    def written(self, state: Tensor, tokens: Tensor) -> Tensor:
        """The state after the layer's outputs at the memory tokens, (B, m, D), were written."""
        with full_precision(tokens):
            tokens = tokens.float()
            keys = self.rule.prepared(features(self.key(tokens), self.order))
            return self.rule.write(state, keys, self.value(tokens), torch.sigmoid(self.strength(tokens)))
