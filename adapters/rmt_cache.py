"""What a decoder with memory tokens keeps between two calls: the open segment of every row, and the memory before it.

Rows open their segments at different times. The keys and values of a row whose segment has ended are masked at once,
and the columns are packed, so the size depends on the segment's length and never on how much was read.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache


class RMTCache:
    """The state of a decoder, which `forward` takes and returns as `past_key_values`.

    Attributes:
        segment: keys and values of the open segments, memory included, (B, H, C, D) for each layer.
        live: which columns belong to the row's open segment, (B, C).
        positions: position of every column in its segment, (B, C).
        places: text tokens in the open segment of each row, on the CPU, (B,).
        memory: what the open segments have read, or will read, fp32, (B, m, D).
    """

    is_compileable = False
    reorders_everything = True
    keeps_gaps = True

    def __init__(self, memory: Tensor) -> None:
        rows, device = len(memory), memory.device
        self.segment = DynamicCache()
        self.live = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self.positions = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.places = torch.zeros(rows, dtype=torch.long)
        self.memory = memory

    def grow(self, seen: Tensor, positions: Tensor) -> None:
        """Takes note of the columns that a forward is about to add to `segment`, (B, width)."""
        self.live = torch.cat([self.live, seen], dim=1)
        self.positions = torch.cat([self.positions, positions], dim=1)

    def advance(self, places: Tensor, ended: Tensor, memory: Tensor) -> None:
        """Moves on: rows whose segment has ended, (B,) on the CPU, forget it and hold the new memory."""
        self.places, self.memory = places, memory
        if bool(ended.any()):
            self.live = self.live & ~ended.to(self.live.device)[:, None]
            self._pack()

    def _pack(self) -> None:
        """Moves the live columns of every row to the left and drops what then holds nothing."""
        width = int(self.live.sum(dim=1).max())
        order = (~self.live).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        self.live, self.positions = self.live.gather(1, order), self.positions.gather(1, order)
        for layer in self.segment.layers:
            layer.keys, layer.values = (_columns(tensor, order) for tensor in (layer.keys, layer.values))

    def reorder_cache(self, indices: Tensor) -> None:
        """Keeps the rows `indices`, (N,), in that order; a row may appear several times."""
        self.places = self.places.index_select(0, indices.cpu())
        for name in ("live", "positions", "memory"):
            setattr(self, name, getattr(self, name).index_select(0, indices.to(self.memory.device)))
        for layer in self.segment.layers:
            layer.keys = layer.keys.index_select(0, indices.to(layer.keys.device))
            layer.values = layer.values.index_select(0, indices.to(layer.values.device))


def _columns(tensor: Tensor, order: Tensor) -> Tensor:
    """Columns `order`, (B, C), of keys or values, (B, H, columns, D)."""
    index = order.to(tensor.device)[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
    return tensor.gather(2, index)
