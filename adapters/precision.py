"""Learned maps around a memory, computed in float32 whatever type their weights have been moved to (`model.half()`) and
under autocast, as Trainer's `bf16=True` is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)


class Float32Linear(nn.Linear):
    """A linear map of float32 inputs."""

    def forward(self, input: Tensor) -> Tensor:
        with full_precision(input):
            return F.linear(input, self.weight.float(), None if self.bias is None else self.bias.float())


class Float32LayerNorm(nn.LayerNorm):
    """A layer norm of float32 inputs, with weight and bias."""

    def forward(self, input: Tensor) -> Tensor:
        with full_precision(input):
            return F.layer_norm(input, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
