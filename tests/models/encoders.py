"""Tiny random encoders of every family that memory tokens are tested on, with every head, built from configs."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCABULARY = 64
CLS, SEP = 3, 4

_SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    num_labels=3,
    pad_token_id=0,
)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _SIZES),
    "roberta": ("Roberta", _SIZES | dict(max_position_embeddings=66, pad_token_id=1, type_vocab_size=1)),
    "distilbert": (
        "DistilBert",
        dict(
            vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=64,
            num_labels=3, pad_token_id=0,
        ),
    ),
    "electra": ("Electra", _SIZES | dict(embedding_size=16)),
    "albert": ("Albert", _SIZES | dict(embedding_size=16)),
    "mpnet": ("MPNet", _SIZES | dict(max_position_embeddings=66, pad_token_id=1)),
    "deberta_v2": ("DebertaV2", _SIZES | dict(relative_attention=True, pos_att_type=["p2c", "c2p"])),
    "modernbert": (
        "ModernBert",
        _SIZES | dict(num_hidden_layers=3, local_attention=8, global_attn_every_n_layers=3, cls_token_id=CLS,
                      sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP),
    ),
}  # fmt: skip

HEADS = ("Model", "ForSequenceClassification", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")


def build_encoder(family: str, head: str, seed: int = 0) -> Any:
    """A random encoder in evaluation mode whose matrices are large enough that everything it reads matters."""
    name, options = FAMILIES[family]
    model_class = getattr(transformers, name + head)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        labels = {"num_labels": 2} if head == "ForQuestionAnswering" else {}
        model = model_class(getattr(transformers, name + "Config")(**(options | labels))).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4.0)
    return model


def random_text(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    """Token ids of shape (rows, columns) that hold no special token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCABULARY, (rows, columns), generator=generator)
