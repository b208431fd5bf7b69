"""One layer of Based and JRT-RNN: a mixer and a gated MLP, each after a norm and beside the residual stream.

Parameters have the names of the released checkpoints, so a converted state_dict needs no renaming. The residual stream
is float32 whatever the weights are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from jrt.models.cache import LayerMemory
from jrt.models.configuration import BasedConfig
from jrt.models.convolution import BaseConv
from jrt.models.regions import Regions
from jrt.models.sliding_window import SlidingWindowAttention
from jrt.models.taylor_attention import LinearAttention, PrefixLinearAttention

_MIXERS: dict[str, Any] = {
    "conv": BaseConv,
    "sliding": SlidingWindowAttention,
    "linear": LinearAttention,
    "prefix": PrefixLinearAttention,
}


class RootMeanSquareNorm(nn.Module):
    """x / rms(x) * weight, computed in the residual stream's type and handed on in the weights'."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.epsilon = config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.epsilon)
        return normed.to(self.weight.dtype)


class GatedMLP(nn.Module):
    """fc2(a * silu(b)) with [a, b] = fc1(x)."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__()
        hidden = int(config.intermediate_size or 0)
        self.fc1 = nn.Linear(config.hidden_size, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.fc1(x).chunk(2, -1)
        out: Tensor = self.fc2(a * F.silu(b))
        return out


class BasedLayer(GradientCheckpointingLayer):
    """x + mixer(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, config: BasedConfig, mixer: str) -> None:
        super().__init__()
        self.mixer: Any = _MIXERS[mixer](config)
        self.mlp = GatedMLP(config)
        self.norm1 = RootMeanSquareNorm(config)
        self.norm2 = RootMeanSquareNorm(config)
        for output in (self.mixer.out_proj, self.mlp.fc2):
            output.writes_stream = True  # starts with smaller weights, see `_init_weights`

    def forward(self, x: Tensor, regions: Regions, memory: LayerMemory | None) -> Tensor:
        x = x + self.mixer(self.norm1(x), regions, memory)
        return x + self.mlp(self.norm2(x))
