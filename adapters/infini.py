"""Infini-attention on a decoder of transformers: local attention in segments, and a memory of all segments before.

Paper: Leave No Context Behind, 2404.07143. The base model's modules and classes stay as they are; while a forward of
ours lasts, its attention runs through `WindowAttention`. What is learned beside the base is one gate for every query
head of every layer with a memory, and the write gates where they are asked for.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, StrictInt, field_validator

from jrt.kernels.infini.features import FeatureMap, Rule
from jrt.methods import Method


class InfiniAttention(Method):
    """A compressive memory beside the local attention of every layer.

    Segments are counted in each row's real tokens, and positions begin again in every segment: what attends to each
    other keeps its distances, no position is beyond those the model was trained on, and learned ones never run out.
    Layers with a window of their own (Gemma) keep it, over the borders of segments, unless `layers` names them; then
    positions go on, and so does the model's own limit on them. A model that is all windows gets a memory everywhere.

    Args:
        segment_length: tokens that attend to each other; what is before them is in the memory only.
        rule: how a segment is written: `linear` adds it, `delta` adds what its keys do not read already,
            `delta_corrected` also keeps the normaliser from counting a key twice, so that writing it again overwrites.
        feature_map: `elu` is the paper's ELU + 1; `relu` can be exactly zero, and so write exactly nothing.
        write_gate: learn how much of each token is written, from 1 at the start down to exactly nothing.
        write_penalty: times what is written of a token in the mean, added to the loss in training. A model that has
            learned to write nothing of what it does not need keeps its memory over any number of segments.
        gate_init: the gates' logits at the start. 0 mixes memory and local attention evenly and learns fastest; -4, the
            default, leaves a pretrained model nearly as it is, with a gradient that is still alive.
        gate_learning_rate: the gates' own learning rate in `parameter_groups`; None is the common one.
        layers: which layers get a memory; None is every layer that attends to everything, or every layer where each
            has a window of its own.
        epsilon: added to the memory's denominators, 0.001 by default. A read-out that finds less than this is damped
            towards zero.
        bptt_segments: how many segments back a gradient reaches; None is all. Counted from the end: the last segment
            of the longest row reaches exactly so many back, and those before form groups of that reach.
        gradient_checkpointing: read every segment again in the backward pass, so that training holds the activations of
            one segment instead of all.

    Example:
        >>> model = jrt.wrap(model, jrt.InfiniAttention(segment_length=2048))
        >>> model.generate(**tokenizer(long_text, return_tensors="pt"), max_new_tokens=32)
    """

    kind: ClassVar[str] = "infini"

    segment_length: int = Field(2048, ge=1, strict=True)
    rule: Rule = "linear"
    feature_map: FeatureMap = "elu"
    write_gate: bool = False
    write_penalty: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    gate_init: float = Field(-4.0, ge=-8.0, le=8.0, allow_inf_nan=False)
    gate_learning_rate: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    layers: tuple[StrictInt, ...] | None = None
    epsilon: float = Field(1e-3, gt=0.0, allow_inf_nan=False)
    bptt_segments: int | None = Field(None, ge=0, strict=True)
    gradient_checkpointing: bool = False

    def __init__(self, segment_length: int = 2048, **options: Any) -> None:
        super().__init__(segment_length=segment_length, **options)

    @field_validator("layers")
    @classmethod
    def _check(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (not layers or min(layers) < 0):
            raise ValueError("name at least one layer, counted from 0")
        return layers

    def adapt(self, model: Any) -> Any:
        """`model` with a memory, a `jrt.adapters.infini_model.InfiniModel`.

        Raises:
            UnsupportedModelError: its family is not known, or it has no head for language modelling.
            InvalidOptionError: it has no layer of a given number, or fewer positions than a segment.
        """
        from jrt.adapters.infini_model import InfiniModel

        return InfiniModel(model, self)
