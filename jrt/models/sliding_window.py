"""Softmax attention of every token to itself and a few tokens before it, with rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrt.kernels.sliding_window import sliding_window_attention
from jrt.models.cache import LayerMemory
from jrt.models.configuration import BasedConfig
from jrt.models.regions import Regions


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary positions in halves (arXiv 2104.09864); `x` (B, T, H, D), `positions` (B, T)."""
    precise = torch.float64 if x.dtype == torch.float64 else torch.float32
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, device=x.device, dtype=precise) / half)
    angle = positions[..., None, None].to(precise) * frequency
    first, second = x.to(precise).chunk(2, -1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1).to(x.dtype)


class SlidingWindowAttention(nn.Module):
    """Attention of position i to the positions i - sliding_window ... i; its memory is those keys and values."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__()
        self.heads, self.window, self.theta = config.num_attention_heads, config.sliding_window, config.rope_theta
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, regions: Regions, memory: LayerMemory | None) -> Tensor:
        """Reads (B, T, hidden_size) after the tokens in `memory`, which it renews."""
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = rotate(q, regions.positions, self.theta), rotate(k, regions.positions, self.theta)
        kept = 0 if memory is None or memory.keys is None else memory.keys.shape[1]
        if memory is not None:
            k, v = regions.after(memory.keys, k), regions.after(memory.values, v)
            memory.keys, memory.values = k[:, -self.window :].clone(), v[:, -self.window :].clone()
        o = sliding_window_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            self.window + 1,
            mask=regions.visible(kept, x.shape[1]),
        )
        out: Tensor = self.out_proj(o.transpose(1, 2).flatten(2))
        return out
