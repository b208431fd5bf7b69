"""Falcon's attention for Infini-attention: the one family that does not ask transformers' registry how to attend."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

from jrt.adapters.infini_switch import current


def attend(module: Any, hidden_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """`FalconAttention.forward`, `(B, N, d)` to `(B, N, d)`, through the attention of the forward that runs now.

    Falcon repeats each key for its group of query heads before it rotates; here a group keeps one.
    """
    attention = current()
    if attention is None:
        stock: tuple[Tensor, Tensor | None] = type(module).forward(module, hidden_states, *args, **options)
        return stock
    query, key, value = (x.transpose(1, 2) for x in module._split_heads(module.query_key_value(hidden_states)))
    if module.new_decoder_architecture:
        group = module.num_heads // module.num_kv_heads
        key, value = key[:, ::group], value[:, ::group]
    query, key = apply_rotary_pos_emb(query, key, *options["position_embeddings"])
    output = attention.attend(module, query, key, value, scaling=None, dropout=0.0, softcap=None)
    return module.dense(output.transpose(1, 2).flatten(2)), None


def is_attention(module: nn.Module) -> bool:
    """Whether a module is what `attend` stands for."""
    return all(hasattr(module, name) for name in ("query_key_value", "_split_heads", "layer_idx"))
