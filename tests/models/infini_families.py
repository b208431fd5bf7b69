"""Tiny random models of every family that Infini-attention knows, several where a config changes how attention runs."""

from __future__ import annotations

from typing import Any

import torch
import transformers

_PLAIN: dict[str, Any] = dict(vocab_size=128, hidden_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
_WIDE = _PLAIN | dict(
    intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256
)
_HEADS = _WIDE | dict(head_dim=16)
_NEOX = dict(intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=256)
_YARN = dict(rope_type="yarn", factor=4.0, rope_theta=10000.0, original_max_position_embeddings=64)

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _WIDE),
    "llama_yarn": ("LlamaForCausalLM", "LlamaConfig", _WIDE | dict(rope_parameters=_YARN)),
    "mistral": ("MistralForCausalLM", "MistralConfig", _WIDE | dict(sliding_window=None)),
    "mistral_window": ("MistralForCausalLM", "MistralConfig", _WIDE | dict(sliding_window=6)),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _WIDE),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _HEADS),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _HEADS | dict(num_key_value_heads=1)),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _HEADS | dict(sliding_window=6, query_pre_attn_scalar=24)),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _HEADS | dict(sliding_window=6, num_hidden_layers=6)),
    "phi": ("PhiForCausalLM", "PhiConfig", _WIDE | dict(partial_rotary_factor=0.5)),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _WIDE),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _PLAIN | _NEOX | dict(rotary_pct=0.25)),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        _PLAIN
        | dict(ffn_dim=96, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=256)
        | dict(word_embed_proj_dim=64, dropout=0.0),
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        dict(vocab_size=128, n_embd=64, n_layer=3, n_head=4, n_positions=256, scale_attn_by_inverse_layer_idx=True)
        | dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
        | dict(pad_token_id=0, bos_token_id=1, eos_token_id=2),
    ),
    "falcon": ("FalconForCausalLM", "FalconConfig", _PLAIN | dict(num_hidden_layers=3, num_attention_heads=4)),
    "falcon_groups": (
        "FalconForCausalLM",
        "FalconConfig",
        _PLAIN | dict(num_hidden_layers=3, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True),
    ),
    "falcon_alibi": (
        "FalconForCausalLM",
        "FalconConfig",
        _PLAIN | dict(num_hidden_layers=3, num_attention_heads=4, alibi=True, multi_query=False),
    ),
}


def build(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The model called `name`, random but always the same, with matrices large enough that attention matters."""
    model, config, own = FAMILIES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = getattr(transformers, model)(getattr(transformers, config)(**(own | options))).eval()
    for parameter in found.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(2.0)
    return found.to(dtype)
