"""What a base model's config and modules say about how Infini-attention is put on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jrt.adapters.adapted import refuse_compiled
from jrt.adapters.infini_attention import Kind, Settings
from jrt.adapters.infini_families import family_of, rotary_module, sliding_windows, takes_layer_type
from jrt.adapters.rmt_body import max_positions, unwrapped
from jrt.errors import InvalidOptionError, UnsupportedModelError
from jrt.state.state import forward_parameters

if TYPE_CHECKING:
    from jrt.adapters.infini import InfiniAttention


def settings_of(base: Any, method: InfiniAttention) -> Settings:
    """The settings for a base model.

    Raises:
        UnsupportedModelError: its family is not known, or it has no head for language modelling.
        InvalidOptionError: it has no layer of a given number, or fewer positions than a segment.
    """
    config = base.config
    family = family_of(config)
    _refuse_other_heads(base)
    _refuse_long_segments(base, method)
    windows = sliding_windows(config)
    kinds = _kinds(windows, method)
    rotary = rotary_module(base, family)
    by_type = rotary is not None and takes_layer_type(rotary)
    inside = [window for window, kind in zip(windows, kinds, strict=True) if kind != "window" and window is not None]
    return Settings(
        segment_length=method.segment_length,
        rule=method.rule,
        feature_map=method.feature_map,
        epsilon=method.epsilon,
        kinds=kinds,
        windows=tuple(windows),
        layer_types=tuple(config.layer_types) if by_type else None,
        rotary=rotary,
        pairs=family.rotary == "pairs",
        restart="window" not in kinds,
        prescaled_query=family.prescaled_query,
        plain=getattr(config, "attn_logit_softcapping", None) is None
        and all(window >= method.segment_length for window in inside),
    )


def _refuse_other_heads(base: Any) -> None:
    """A head over whole rows would answer from every window apart; without a head there is nothing to learn from."""
    refuse_compiled(base)
    if "logits_to_keep" not in forward_parameters(base):
        name = type(base.get_base_model() if hasattr(base, "get_base_model") else base).__name__
        raise UnsupportedModelError(
            f"InfiniAttention reads with a causal language model, and {name} has no head for language modelling.",
            "Load it with AutoModelForCausalLM.",
        )


def _refuse_long_segments(base: Any, method: InfiniAttention) -> None:
    """Positions begin again in every segment, so a segment is the longest text that the base model reads."""
    limit, asked = max_positions(base), method.segment_length
    if limit is not None and asked > limit:
        raise InvalidOptionError(
            f"{type(unwrapped(base)).__name__} has {limit} positions, and a segment of {asked} tokens needs {asked}.",
            f"Write InfiniAttention(segment_length={limit}) or less.",
        )


def _kinds(windows: list[int | None], method: InfiniAttention) -> tuple[Kind, ...]:
    """A memory where it is asked for; the rest keeps its window, or attends inside the segment."""
    if method.layers is not None:
        chosen = set(method.layers)
        if max(chosen) >= len(windows):
            raise InvalidOptionError(
                f"{method} names layer {max(chosen)}; the model has {len(windows)} layers.",
                f"Layers are counted from 0 to {len(windows) - 1}.",
            )
    else:
        chosen = {index for index, window in enumerate(windows) if window is None} or set(range(len(windows)))
    return tuple(
        "memory" if index in chosen else "segment" if window is None else "window"
        for index, window in enumerate(windows)
    )
