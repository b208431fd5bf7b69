"""How many numbers each long-context architecture keeps: table 1 of the Infini-attention paper (2404.07143).

The formulas are written per model: H heads, l layers, keys d_k and values d_v wide, a residual stream d_model wide,
segments of N tokens of which S were read. The paper's Infini row is per head and layer; with grouped heads it is the
key heads that count, because heads that share keys and values share the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jrt.errors import InvalidOptionError, UnsupportedModelError


@dataclass(frozen=True)
class AttentionShape:
    """What the count needs to know of a decoder.

    Attributes:
        layers: l.
        heads: query heads.
        key_value_heads: heads of keys and values, H in the formulas.
        key_width: d_k.
        value_width: d_v.
        width: d_model.
    """

    layers: int
    heads: int
    key_value_heads: int
    key_width: int
    value_width: int
    width: int


PAPER = AttentionShape(layers=12, heads=8, key_value_heads=8, key_width=128, value_width=128, width=1024)
"""The paper's language model (section 4.1): segments of 2048, memorizing 65,000 tokens in one layer, 100 summaries."""

PRESETS: Mapping[str, AttentionShape] = {
    "llama-3-8b": AttentionShape(32, 32, 8, 128, 128, 4096),
    "llama-3.2-1b": AttentionShape(16, 32, 8, 64, 64, 2048),
    "qwen2.5-0.5b": AttentionShape(24, 14, 2, 64, 64, 896),
    "gpt2": AttentionShape(12, 12, 12, 64, 64, 768),
}
"""The numbers of models that people use, from their configurations."""


def transformer_xl(shape: AttentionShape, segment: int) -> int:
    """(d_k + d_v) H N l: keys and values of one segment."""
    return (shape.key_width + shape.value_width) * shape.key_value_heads * segment * shape.layers


def compressive(shape: AttentionShape, segment: int, compressed: int) -> int:
    """d_model (c + N) l, with c compressed memories; it reaches c r + N tokens back at a compression rate r."""
    return shape.width * (compressed + segment) * shape.layers


def memorizing(shape: AttentionShape, tokens: int) -> int:
    """(d_k + d_v) H N S: keys and values of every token read, in one layer."""
    return (shape.key_width + shape.value_width) * shape.key_value_heads * tokens


def recurrent_memory(shape: AttentionShape, prompts: int) -> int:
    """d_model p l 2: keys and values of p summary vectors in every layer (what is handed on is p d_model)."""
    return shape.width * prompts * shape.layers * 2


def auto_compressors(shape: AttentionShape, prompts: int, steps: int) -> int:
    """d_model p (m + 1) l: p summary vectors of each of m segments."""
    return shape.width * prompts * (steps + 1) * shape.layers


def infini(shape: AttentionShape) -> int:
    """d_k (d_v + 1) H l: the memory M and its normaliser z, whatever was read."""
    return shape.key_width * (shape.value_width + 1) * shape.key_value_heads * shape.layers


def key_value_cache(shape: AttentionShape, tokens: int) -> int:
    """(d_k + d_v) H T l: the cache of a plain decoder."""
    return transformer_xl(shape, tokens)


def paper_rows(segment: int = 2048, memorized: int = 65_000, prompts: int = 100) -> list[dict[str, Any]]:
    """Table 1 with the numbers of the paper's experiments, and how many times smaller Infini-attention's state is.

    The paper's 183M of Memorizing Transformers are `memorized` tokens in one layer and a Transformer-XL cache in all.
    Its 114 times is 183M / 1.6M, both rounded; exactly it is 115.7.
    """
    table = table_row(PAPER, memorized, segment, prompts)
    printed = {"Transformer-XL": 50, "Memorizing": 183, "RMT": 2.5, "Infini": 1.6}
    return [
        {
            "table 1": name,
            "millions": table[name],
            "times Infini": table[name] / table["Infini"],
            "paper's millions": millions,
            "their quotient": millions / printed["Infini"],
        }
        for name, millions in printed.items()
    ]


def table_row(shape: AttentionShape, tokens: int, segment: int, prompts: int = 100) -> dict[str, float]:
    """Table 1 for one model: millions of numbers that each architecture keeps after `tokens` tokens.

    As in the paper, Memorizing Transformers keep one layer's keys and values and a Transformer-XL cache. Compressive
    Transformers have as many compressed memories as a segment has tokens; RMT and AutoCompressors have `prompts`
    summary vectors, AutoCompressors those of every segment.
    """
    counts = {
        "Transformer-XL": transformer_xl(shape, segment),
        "Compressive": compressive(shape, segment, compressed=segment),
        "Memorizing": memorizing(shape, tokens) + transformer_xl(shape, segment),
        "RMT": recurrent_memory(shape, prompts),
        "AutoCompressors": auto_compressors(shape, prompts, steps=-(-tokens // segment)),
        "Infini": infini(shape),
    }
    return {name: count / 1e6 for name, count in counts.items()}


def parse_shape(text: str) -> AttentionShape:
    """A shape from numbers, e.g. `layers=32,heads=32,key_value_heads=8,key_width=128,width=4096`.

    key_value_heads is heads, key_width is width / heads and value_width is key_width where they are not given.

    Raises:
        InvalidOptionError: a name is unknown, a value is no positive number, or one is missing.
    """
    known = list(AttentionShape.__dataclass_fields__)
    example = "Type e.g. layers=32,heads=32,key_value_heads=8,key_width=128,width=4096."
    given: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known or not value.isdecimal() or int(value) == 0:
            raise InvalidOptionError(f"{part!r} is not one of {', '.join(known)} with a positive number.", example)
        given[name] = int(value)
    missing = [name for name in ("layers", "heads", "width") if name not in given]
    if missing:
        raise InvalidOptionError(f"The model's numbers lack {', '.join(missing)}.", example)
    key_width = given.get("key_width", given["width"] // given["heads"])
    defaults = {"key_value_heads": given["heads"], "key_width": key_width, "value_width": key_width}
    return AttentionShape(**(defaults | given))


def shape_of(config: Any) -> AttentionShape:
    """The numbers of a transformers configuration.

    Raises:
        UnsupportedModelError: it has no attention heads, as a recurrent model.
    """
    config = config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or not isinstance(getattr(config, "hidden_size", None), int):
        raise UnsupportedModelError(
            f"A {config.model_type!r} model has no attention heads to count.", "Take a Transformer's configuration."
        )
    key_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return AttentionShape(config.num_hidden_layers, heads, shared, key_width, key_width, config.hidden_size)
