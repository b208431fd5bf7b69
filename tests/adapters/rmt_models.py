"""Decoders with memory tokens that the tests share: random, untrained, with a memory that matters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import torch
import transformers
from torch import Tensor
from zoo import VOCABULARY, build, random_ids

from jrt.adapters.rmt import RMT

DECODERS = (
    "llama", "mistral", "mistral_window", "qwen3", "gemma3", "phi3", "gpt_neox", "opt", "gpt2", "bert_decoder",
    "opt_narrow", "granite",
)  # fmt: skip


def build_decoder(name: str) -> Any:
    """A decoder of the zoo, or one whose embeddings are narrower than its layers, or are multiplied inside."""
    if name not in ("opt_narrow", "granite"):
        return build(name)
    common: dict[str, Any] = dict(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "opt_narrow":
            options = dict(ffn_dim=128, max_position_embeddings=256, word_embed_proj_dim=32, do_layer_norm_before=False)
            model: Any = transformers.OPTForCausalLM(transformers.OPTConfig(**common, **options))
        else:
            config = transformers.GraniteConfig(**common, intermediate_size=128, embedding_multiplier=6.0)
            model = transformers.GraniteForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(2.0)
    return model.eval()


def decoder(name: str = "llama", **options: Any) -> Any:
    """The decoder with a memory as large as a hidden state and, where it is gated, with gates that differ."""
    method = RMT(**(dict(num_memory_tokens=2, segment_length=6, initial_std=1.0) | options))
    base = build_decoder(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = method.adapt(base)
        if method.update == "gated":
            torch.nn.init.normal_(model.write_gate.weight, std=0.3)
            torch.nn.init.normal_(model.write_norm.weight)
    return model


def left_padded(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Random rows of different length, (B, T), and their mask."""
    rows = random_ids(len(lengths), max(lengths))
    mask = torch.zeros_like(rows)
    for row, length in enumerate(lengths):
        mask[row, rows.shape[1] - length :] = 1
    return rows.masked_fill(mask == 0, 0), mask
