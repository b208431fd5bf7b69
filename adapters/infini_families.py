"""What Infini-attention has to know of a model family that its modules do not show: one declarative table.

Everything else is read from the model: attention modules are those that call transformers' attention registry, rotary
modules those that hold frequencies, the rotated width is the width of their tables, and groups of query heads follow
from the shapes of what the attention is called with.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from jrt.errors import UnsupportedModelError


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        rotary: how positions are put on queries and keys: in two halves, in neighbouring pairs, or not at all.
        prescaled_query: the query arrives multiplied by 1 / sqrt(D) already.
        stand_in: a module with `attend` and `is_attention`, where attention does not ask transformers' registry.
        refused: options of the config that change attention in a way that Infini-attention does not follow.
    """

    rotary: Literal["half", "pairs", "none"] = "half"
    prescaled_query: bool = False
    stand_in: str | None = None
    refused: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "phi": Family(),
    "phi3": Family(),
    "gpt_neox": Family(),
    "opt": Family(rotary="none", prescaled_query=True),
    "gpt2": Family(rotary="none"),
    "falcon": Family(stand_in="jrt.adapters.infini_falcon", refused=("alibi",)),
}
"""By `config.model_type`."""


def family_of(config: Any) -> Family:
    """The family of a model.

    Raises:
        UnsupportedModelError: it is not in the table.
    """
    kind = str(getattr(config, "model_type", ""))
    if kind not in FAMILIES:
        raise UnsupportedModelError(
            f"InfiniAttention does not know the model type {kind!r}; it knows {', '.join(sorted(FAMILIES))}.",
            "Add a line to FAMILIES in jrt/adapters/infini_families.py that says how the family rotates its queries "
            "and keys; tests/adapters/test_infini_families.py then checks it.",
        )
    family = FAMILIES[kind]
    for option in family.refused:
        if getattr(config, option, False):
            raise UnsupportedModelError(
                f"This {kind} model has {option}=True, which changes attention scores in a way that the memory and the "
                "segments here do not follow.",
                "Use a model of the family without it.",
            )
    return family


def rotary_module(model: nn.Module, family: Family) -> nn.Module | None:
    """The module that makes the tables of cosines and sines."""
    if family.rotary == "none":
        return None
    for module in model.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            return module
    raise UnsupportedModelError(
        f"{type(model).__name__} has no module that holds rotary frequencies.",
        'Its line in FAMILIES should say rotary="none".',
    )


def takes_layer_type(rotary: nn.Module) -> bool:
    """Whether there is one table for every kind of layer (Gemma 3)."""
    return "layer_type" in inspect.signature(rotary.forward).parameters


def sliding_windows(config: Any) -> list[int | None]:
    """Of every layer, how many tokens its own attention sees; None where it sees all."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def key_value_heads(base: nn.Module) -> int:
    """Hkv: what the attention modules say (Falcon's config means it in some variants only), or else the config."""
    for module in base.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "num_kv_heads"):
            return int(module.num_kv_heads)  # type: ignore[arg-type]
    config: Any = base.config
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
