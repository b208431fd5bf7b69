"""Sliding windows (Mistral, Gemma) inside segments: counted in the row's own positions.

transformers counts a window in columns of the cache, and in a batch whose rows open their segments at different times
columns say nothing about distances. So for a model with windows the masks are made here; all other models get the plain
mask of columns, and transformers chooses what is fastest for it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from jrt.adapters.rmt_body import unwrapped
from jrt.errors import UnsupportedModelError
from jrt.state.running import device_of

MaskStyle = Literal["columns", "one", "by_layer_type"]
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)


def mask_style(model: Any) -> MaskStyle:
    """How `model` takes masks: of columns where it has no window, else one for all layers or one for each type.

    Raises:
        UnsupportedModelError: it has windows and takes no mask that says so.
    """
    config = _text_config(model)
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if window is None or (types and "sliding_attention" not in types):
        return "columns"
    width, device = model.get_input_embeddings().embedding_dim, device_of(model)
    inputs = torch.zeros(1, 2, width, dtype=model.dtype, device=device)
    seen, positions = torch.ones(1, 2, dtype=torch.bool, device=device), torch.arange(2, device=device)[None]
    styles: tuple[MaskStyle, ...] = ("by_layer_type", "one")
    for style in styles:
        mask = attention_mask(model, style, seen, positions, positions)
        try:
            with torch.no_grad():
                model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False)
        except _FAILURES:
            continue
        return style
    raise UnsupportedModelError(
        f"{type(unwrapped(model)).__name__} has a sliding window and takes no mask of its own under "
        f"{config._attn_implementation!r} attention.",
        'Load it with attn_implementation="sdpa".',
    )


def attention_mask(model: Any, style: MaskStyle, live: Tensor, positions: Tensor, queries: Tensor) -> Any:
    """The mask of a forward, in the style that the model takes.

    Args:
        model: the model.
        style: what `mask_style` found.
        live: columns that may be seen, those of this forward included, (B, C).
        positions: position of every column in its segment, (B, C).
        queries: positions of this forward's columns, (B, N).
    """
    if style == "columns":
        return live.long()
    distance = queries[:, :, None] - positions[:, None, :]
    full = live[:, None, :] & (distance >= 0)
    near = full & (distance < _text_config(model).sliding_window)
    if style == "one":
        return _additive(near, model.dtype)
    return {"full_attention": _additive(full, model.dtype), "sliding_attention": _additive(near, model.dtype)}


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, the lowest number elsewhere, (B, 1, N, C)."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def _text_config(model: Any) -> Any:
    return unwrapped(model).config.get_text_config(decoder=True)
