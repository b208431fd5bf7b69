"""Learned maps around a memory, computed in float32 whatever type their weights have been moved to (`model.half()`)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """A linear map of float32 inputs."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.float(), None if self.bias is None else self.bias.float())


class Float32LayerNorm(nn.LayerNorm):
    """A layer norm of float32 inputs, with weight and bias."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
