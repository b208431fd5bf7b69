"""Tiny random models of every architecture that the state core is tested on, built from configs: nothing is downloaded.

`jrt doctor --architectures` measures them all and makes the table of this folder's README; the tests run on the same
ones. `build(name)` gives a model in evaluation mode whose matrices are doubled, so that what was read before matters
for the logits that follow. One entry is one architecture; add a family by adding a line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

VOCABULARY = 128

_WIDTH: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_DECODER = _WIDTH | dict(num_hidden_layers=2, max_position_embeddings=256)
_PLAIN: dict[str, Any] = dict(vocab_size=VOCABULARY, hidden_size=64)
_SPECIAL: dict[str, Any] = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
_ALTERNATING = ["linear_attention", "full_attention"] * 2
_MOE: dict[str, Any] = dict(num_experts_per_tok=1)


def _model(model: str, config: str, **options: Any) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        import transformers

        found: torch.nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return found

    return make


ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    # key-value caches
    "llama": _model("LlamaForCausalLM", "LlamaConfig", **_DECODER),
    "mistral": _model("MistralForCausalLM", "MistralConfig", **_DECODER, sliding_window=None),
    "mistral_window": _model("MistralForCausalLM", "MistralConfig", **_DECODER, sliding_window=8),
    "qwen3": _model("Qwen3ForCausalLM", "Qwen3Config", **_DECODER, head_dim=16),
    "gemma3": _model("Gemma3ForCausalLM", "Gemma3TextConfig", **_DECODER, head_dim=16, sliding_window=8),
    "phi3": _model("Phi3ForCausalLM", "Phi3Config", **_DECODER),
    "gpt_neox": _model(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", **_PLAIN, **_SPECIAL, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=256,
    ),
    "opt": _model(
        "OPTForCausalLM", "OPTConfig", **_PLAIN, **_SPECIAL, ffn_dim=128, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=256, word_embed_proj_dim=64,
    ),
    "gpt2": _model(
        "GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, **_SPECIAL, n_embd=64, n_layer=3, n_head=4,
        n_positions=256,
    ),
    "bert_decoder": _model(
        "BertLMHeadModel", "BertConfig", **_PLAIN, **_SPECIAL, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, is_decoder=True,
    ),
    # recurrent states
    "mamba": _model("MambaForCausalLM", "MambaConfig", **_PLAIN, **_SPECIAL, state_size=8, num_hidden_layers=3),
    "falcon_mamba": _model(
        "FalconMambaForCausalLM", "FalconMambaConfig", **_PLAIN, **_SPECIAL, state_size=8, num_hidden_layers=3
    ),
    "mamba2": _model(
        "Mamba2ForCausalLM", "Mamba2Config", **_PLAIN, **_SPECIAL, num_heads=8, head_dim=16, state_size=16, n_groups=1,
        num_hidden_layers=3, chunk_size=8,
    ),
    "rwkv4": _model("RwkvForCausalLM", "RwkvConfig", **_PLAIN, **_SPECIAL, num_hidden_layers=3, context_length=256),
    "xlstm": _model(
        "xLSTMForCausalLM", "xLSTMConfig", **_PLAIN, **_SPECIAL, num_hidden_layers=2, num_heads=4, chunk_size=8,
        autocast_kernel_dtype="float32", qk_dim_factor=1.0,
    ),
    "recurrent_gemma": _model(
        "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", **(_WIDTH | dict(num_key_value_heads=1)),
        num_hidden_layers=3, attention_window_size=512, lru_width=64,
    ),
    # both kinds in one model
    "jamba": _model(
        "JambaForCausalLM", "JambaConfig", **_WIDTH, **_MOE, num_hidden_layers=4, attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=2, expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4,
    ),
    "zamba": _model(
        "ZambaForCausalLM", "ZambaConfig", **(_WIDTH | dict(num_key_value_heads=4)), num_hidden_layers=6,
        attn_layer_period=3, attn_layer_offset=2, mamba_d_state=8, n_mamba_heads=2, mamba_dt_rank=4,
    ),
    "zamba2": _model(
        "Zamba2ForCausalLM", "Zamba2Config", **_WIDTH, num_hidden_layers=4, mamba_d_state=8, n_mamba_heads=4,
        layers_block_type=["mamba", "mamba", "hybrid", "mamba"], mamba_ngroups=1, chunk_size=8, num_mem_blocks=1,
    ),
    "bamba": _model(
        "BambaForCausalLM", "BambaConfig", **_WIDTH, num_hidden_layers=4, attn_layer_indices=[1, 3], mamba_n_heads=8,
        mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=8,
    ),
    "falcon_h1": _model(
        "FalconH1ForCausalLM", "FalconH1Config", **_WIDTH, num_hidden_layers=3, mamba_d_ssm=128, mamba_n_heads=8,
        mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=8,
    ),
    "qwen3_next": _model(
        "Qwen3NextForCausalLM", "Qwen3NextConfig", **_WIDTH, **_MOE, num_hidden_layers=4, head_dim=16,
        linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
        num_experts=2,
        moe_intermediate_size=32, shared_expert_intermediate_size=32,
    ),
    "lfm2": _model(
        "Lfm2ForCausalLM", "Lfm2Config", **_WIDTH, num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2
    ),
    "olmo_hybrid": _model(
        "OlmoHybridForCausalLM", "OlmoHybridConfig", **_WIDTH, num_hidden_layers=4, layer_types=_ALTERNATING,
        linear_num_key_heads=4, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
    ),
    "kimi_linear": _model(
        "KimiLinearForCausalLM", "KimiLinearConfig", **(_WIDTH | dict(num_key_value_heads=4)), **_MOE,
        num_hidden_layers=4, layer_types=_ALTERNATING, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8,
        v_head_dim=16, linear_head_dim=16, linear_num_heads=4, num_local_experts=2, moe_intermediate_size=32,
    ),
    "minimax": _model(
        "MiniMaxForCausalLM", "MiniMaxConfig", **_WIDTH, **_MOE, num_hidden_layers=4, block_size=8, num_local_experts=2,
        layer_types=_ALTERNATING,
    ),
    "nemotron_h": _model(
        "NemotronHForCausalLM", "NemotronHConfig", **_WIDTH, head_dim=16,
        layers_block_type=["mamba", "attention", "mamba"],
        ssm_state_size=8, mamba_num_heads=8, mamba_head_dim=16, n_groups=1, chunk_size=8,
    ),
    "granite_moe_hybrid": _model(
        "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", **_WIDTH, num_hidden_layers=4,
        layer_types=["mamba", "attention"] * 2, mamba_n_heads=8, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=8,
        num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=64,
    ),
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """The model called `name`, random but the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ARCHITECTURES[name]().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(2.0)
    return model.to(dtype)


def random_ids(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    """Token ids of shape (rows, columns) that hold no special token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCABULARY, (rows, columns), generator=generator)
