"""The gated short convolution of Based (BaseConv): silu(conv(u)) * w between two projections (arXiv 2402.18668)."""

from __future__ import annotations

from torch import Tensor, nn

from jrt.kernels.causal_conv1d import causal_conv1d
from jrt.models.cache import LayerMemory
from jrt.models.configuration import BasedConfig
from jrt.models.regions import Regions


class Depthwise(nn.Module):
    """Holds the weight under the name that the released checkpoints give it, `conv.conv.weight`, (C, 1, K)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels, bias=False)


class BaseConv(nn.Module):
    """A mixer over the last `conv_kernel` tokens; its memory is the last `conv_kernel - 1` inputs."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.in_proj = nn.Linear(width, 4 * width)
        self.conv = Depthwise(2 * width, config.conv_kernel)
        self.out_proj = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, regions: Regions, memory: LayerMemory | None) -> Tensor:
        """Reads (B, T, hidden_size) after the inputs in `memory`, which it renews."""
        inputs, gate = self.in_proj(x).chunk(2, -1)
        if regions.present is not None:
            inputs = inputs.masked_fill(~regions.present[..., None], 0)
        seen = regions.after(None if memory is None else memory.conv_states, inputs)
        y, last = causal_conv1d(seen.transpose(1, 2), self.conv.conv.weight[:, 0], silu=True)
        if memory is not None:
            memory.conv_states = last.transpose(1, 2).clone()
        out: Tensor = self.out_proj(y[..., -x.shape[1] :].transpose(1, 2) * gate)
        return out
