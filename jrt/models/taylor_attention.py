"""Taylor attention as a layer: causal (Based) and with a prefix that is read without an order (JRT-RNN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jrt.kernels.taylor import TaylorState, taylor_attention, taylor_state, taylor_step
from jrt.models.cache import LayerMemory
from jrt.models.configuration import BasedConfig
from jrt.models.regions import Regions


class LinearAttention(nn.Module):
    """Causal attention with the weights 1 + s + s^2 / 2 (arXiv 2402.18668, section 4); no positions, no norms."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        keys, values = self.heads * config.feature_dim, self.heads * int(config.value_head_dim or 0)
        self.proj_q = nn.Linear(width, keys, bias=False)
        self.proj_k = nn.Linear(width, keys, bias=False)
        self.proj_v = nn.Linear(width, values, bias=False)
        self.out_proj = nn.Linear(values, width, bias=False)

    def forward(self, x: Tensor, regions: Regions, memory: LayerMemory | None) -> Tensor:
        """Reads (B, T, hidden_size) on top of the sums in `memory`, which it renews."""
        q, v = self._heads(self.proj_q(x)), self._heads(self.proj_v(x))
        k = self._keys(self.proj_k(x), regions)
        before = None if memory is None else memory.taylor
        if before is not None and x.shape[1] == 1 and not torch.is_grad_enabled():
            o = taylor_step(q, k, v, before, regions.present)  # renews the sums in place
        else:
            start = self._prefix(x, regions) if before is None else before
            o, after = taylor_attention(q, k, v, start, regions.present)
            if memory is not None:
                memory.taylor = after
        out: Tensor = self.out_proj(o.transpose(1, 2).flatten(2))
        return out

    def _prefix(self, x: Tensor, regions: Regions) -> TaylorState | None:
        """What is known before the first position; nothing in a causal layer."""
        return None

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _keys(self, k: Tensor, regions: Regions) -> Tensor:
        """Keys by head; zero at legacy padding, whose constant feature still counts."""
        return self._heads(k if regions.blank is None else k.masked_fill(regions.blank[..., None], 0))


class PrefixLinearAttention(LinearAttention):
    """Causal Taylor attention that starts from a state of the prefix (arXiv 2407.05483, equation 7).

    The causal sum covers the prefix too. The prefix has keys and values of its own and shares the queries; once it is
    read it is part of the sums, and its projections are not used again.
    """

    def __init__(self, config: BasedConfig) -> None:
        super().__init__(config)
        self.proj_k_enc = nn.Linear(config.hidden_size, self.proj_k.out_features, bias=False)
        self.proj_v_enc = nn.Linear(config.hidden_size, self.proj_v.out_features, bias=False)

    def _prefix(self, x: Tensor, regions: Regions) -> TaylorState | None:
        if regions.prefix is None:
            return None
        k, v = self._keys(self.proj_k_enc(x), regions), self._heads(self.proj_v_enc(x))
        return taylor_state(k, v, regions.prefix)
