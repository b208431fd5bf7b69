"""What Infini-attention keeps between two calls: the unfinished segment of every row, and the memory of all before it.

The size does not depend on how much was read. Rows may be selected, repeated and dropped, and padding anywhere in a row
is exact, because nothing of it is ever kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class InfiniLayer:
    """The state of one layer; every tensor is None before the first token.

    Attributes:
        keys: of the unfinished segment (of the last tokens, in a layer with a window), as the base rotated them,
            `(B, Hkv, W, D)`. A row with fewer than W holds them at the right end.
        values: the same, `(B, Hkv, W, Dv)`.
        memory: M, `(B, Hkv, D, Dv)` in float32; None in a layer without memory.
        normaliser: z, `(B, Hkv, D)` in float32; None in a layer without memory.
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    memory: Tensor | None = None
    normaliser: Tensor | None = None


class InfiniCache:
    """The state of a whole model, which `forward` takes and returns as `past_key_values`.

    Attributes:
        layers: one state a layer.
        seen: real tokens read in every row, `(B,)` on the CPU; None before the first.
        columns: columns read, padding included.
    """

    is_compileable = False
    reorders_everything = True
    keeps_gaps = True

    def __init__(self, num_layers: int) -> None:
        self.layers = [InfiniLayer() for _ in range(num_layers)]
        self.seen: Tensor | None = None
        self.columns = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read so far, padding included."""
        return self.columns

    def reorder_cache(self, indices: Tensor) -> None:
        """Keeps the rows `indices`, (N,), in that order; a row may appear several times."""
        if self.seen is not None:
            self.seen = self.seen.index_select(0, indices.cpu())
        for layer in self.layers:
            for name, tensor in vars(layer).items():
                if tensor is not None:
                    setattr(layer, name, tensor.index_select(0, indices.to(tensor.device)))

    def detach_(self) -> None:
        """Forgets how the state was computed, so that no gradient flows further back."""
        self.layers = [
            InfiniLayer(**{name: tensor if tensor is None else tensor.detach() for name, tensor in vars(layer).items()})
            for layer in self.layers
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [tensor for layer in self.layers for tensor in vars(layer).values() if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def no_tokens(rows: int) -> Tensor:
    """How many tokens the rows of an empty cache have read."""
    return torch.zeros(rows, dtype=torch.long)
