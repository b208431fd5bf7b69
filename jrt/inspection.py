"""What a memory does while a text is read: who attends to it, what it attends to, how it changes.

The paper shows it by attention maps (arXiv 2304.11062, section 5): a segment with a fact is *written* (memory attends
to the fact), segments without one are *carried* (memory attends to itself), and the question *reads* (the answering
token attends to the memory). Here the same comes as numbers per layer, head and segment, for any model under `jrt.RMT`.

The model is read as it is, one segment a call with the memory handed on, and attention is caught where each layer
computes it, in the implementation that has weights to show ("eager"); the model's own one is put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from jrt.adapters.rmt import RMT
from jrt.adapters.rmt_model import BELOW, STRETCH, RMTModel
from jrt.adapters.rmt_segments import cut
from jrt.errors import EmptyInputError, InvalidOptionError, UnsupportedModelError
from jrt.state.running import evaluating

Heads = list[list[float]]
"""One number a layer and head."""


class SegmentMemory(BaseModel):
    """One segment; shares of attention lie between 0 and 1.

    Attributes:
        text: the segment.
        marked: whether a marked part of the text (a fact) stands in it.
        to_memory: how much of the attention of the segment's tokens goes to the memory, their mean: reading.
        answer_to_memory: the same of the answering token alone (the first one of an encoder, the last of a decoder).
        memory_to_text: how much of the attention of the written memory goes to the segment's tokens: writing.
        memory_to_memory: how much goes to the memory: carrying. The rest goes to special tokens.
        memory_to_marked: how much goes to the marked tokens; None where there are none.
        norms: length of each memory token after the segment.
        change: how far each memory token moved in this segment, relative to its length before.
        drift: how far each has moved since the last marked segment (since the first one where none is marked),
            relative to its length then.
        gates: what each memory token let in, 0 where a decoder's segment is not full and writes nothing; None where
            the memory is replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    marked: bool
    to_memory: Heads
    answer_to_memory: Heads
    memory_to_text: Heads
    memory_to_memory: Heads
    memory_to_marked: Heads | None
    norms: list[float]
    change: list[float]
    drift: list[float]
    gates: list[float] | None


class MemoryInspection(BaseModel):
    """What `inspect_memory` found; one entry a segment, in the order of the text.

    Attributes:
        model: the name of the model.
        method: the method's shorthand.
        num_tokens: of the text.
        answer: the class that a classifier chose after the last segment; None for other models.
        segments: what was found.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    method: str
    num_tokens: int
    answer: str | None
    segments: list[SegmentMemory]


@torch.no_grad()
def inspect_memory(
    model: Any, input_ids: Tensor, *, tokenizer: Any = None, marked: Tensor | None = None
) -> MemoryInspection:
    """Reads a text segment by segment and looks at the memory.

    Args:
        model: what `jrt.RMT` gives, or a Reader of it.
        input_ids: the text without special tokens, (T,).
        tokenizer: writes the segments out; None leaves their text empty.
        marked: which tokens are marked, as a fact whose way one wants to see, (T,), bool.

    Raises:
        UnsupportedModelError: the model has no memory of RMT, or its attention cannot be seen.
        EmptyInputError: the text has no token.
        InvalidOptionError: `marked` has another length.
    """
    model, tokenizer = getattr(model, "model", model), tokenizer or getattr(model, "tokenizer", None)
    _check(model, input_ids, marked)
    marks = torch.zeros_like(input_ids, dtype=torch.bool) if marked is None else marked.bool()
    segments: list[SegmentMemory] = []
    memory, origin, output = model.first_memory(None, 1), None, None
    with evaluating(model), _visible_attention(model) as caught:
        for ids, mark in zip(_cut(model, input_ids), _cut(model, marks), strict=True):
            caught.clear()
            before = memory
            output = model(ids[None].to(model.device), memory=before)
            memory = output.memory
            if bool(mark.any()) or origin is None:
                origin = memory
            segments.append(_segment(model, ids, mark, tokenizer, caught, before[0], memory[0], origin[0]))
    return MemoryInspection(
        model=model.name_or_path or type(model.base).__name__,
        method=str(model.method),
        num_tokens=len(input_ids),
        answer=_answer(model, output),
        segments=segments,
    )


def _check(model: Any, input_ids: Tensor, marked: Tensor | None) -> None:
    if not isinstance(model, RMTModel) or not isinstance(model.method, RMT) or not model.method.num_memory_tokens:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no memory tokens to look at.", "Pass jrt.wrap(model, jrt.RMT(...))."
        )
    if input_ids.dim() != 1 or not len(input_ids):
        raise EmptyInputError("There is no text to read.", "Pass the ids of one text, (T,).")
    if marked is not None and marked.shape != input_ids.shape:
        raise InvalidOptionError(
            f"marked has the shape {tuple(marked.shape)}, the text {tuple(input_ids.shape)}.", "Mark each token."
        )


def _cut(model: RMTModel, values: Tensor) -> list[Tensor]:
    """The values of each segment; the short one stands where the model would put it."""
    alignment = model.method.alignment or ("left" if model.facts.causal else "right")
    segments = cut(torch.tensor([len(values)]), model.segment_length, alignment)
    return list(values.split(segments.size[:, 0].tolist()))


class _Caught:
    """What the hooks saw in one forward."""

    def __init__(self) -> None:
        self.attention: list[Tensor] = []
        self.gates: Tensor | None = None

    def clear(self) -> None:
        self.attention, self.gates = [], None


@contextmanager
def _visible_attention(model: RMTModel) -> Iterator[_Caught]:
    """Catches attention weights, (H, T, T) a layer, and gates, while the block runs.

    Raises:
        UnsupportedModelError: the model has no implementation that computes weights.
    """
    caught = _Caught()
    base = model.base
    before = base.config._attn_implementation
    try:
        base.set_attn_implementation("eager")
    except (AttributeError, ValueError) as error:
        raise UnsupportedModelError(f"The attention of {type(base).__name__} cannot be seen: {error}") from error

    def keep_weights(module: nn.Module, arguments: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, Tensor) and weights.dim() == 4 and not _holds_attention(module):
            caught.attention.append(weights[0].float())

    def keep_gates(module: nn.Module, arguments: Any, output: Tensor) -> None:
        caught.gates = (STRETCH * torch.sigmoid(output) - BELOW).clamp(0.0, 1.0)[0, :, 0]

    handles = [module.register_forward_hook(keep_weights) for module in base.modules()]
    if model.method.gated:
        handles.append(model.write_gate.register_forward_hook(keep_gates))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()
        base.set_attn_implementation(before)


def _holds_attention(module: nn.Module) -> bool:
    """Whether another module inside computes the weights that this one passes on."""
    return any("attention" in type(inner).__name__.lower() for inner in module.modules() if inner is not module)


def _segment(
    model: RMTModel,
    ids: Tensor,
    mark: Tensor,
    tokenizer: Any,
    caught: _Caught,
    before: Tensor,
    after: Tensor,
    origin: Tensor,
) -> SegmentMemory:
    if not caught.attention:
        raise UnsupportedModelError(
            f"No layer of {type(model.base).__name__} gives its attention weights.",
            "Use a transformer of transformers.",
        )
    width = caught.attention[0].shape[-1]
    read, write, text = _places(model, len(ids), width)
    attention = torch.stack(caught.attention).cpu()  # (L, H, T, T)
    marks = text[mark.cpu()]

    def share(sources: Tensor, targets: Tensor) -> Heads:
        found: Heads = attention[:, :, sources][..., targets].sum(-1).mean(-1).tolist()
        return found

    answering = torch.tensor([width - 1 if model.facts.causal else 0])
    return SegmentMemory(
        text="" if tokenizer is None else tokenizer.decode(ids),
        marked=bool(mark.any()),
        to_memory=share(text, read),
        answer_to_memory=share(text[-1:] if model.facts.causal else answering, read),
        memory_to_text=share(write, text),
        memory_to_memory=share(write, torch.cat([read, write]).unique()),
        memory_to_marked=share(write, marks) if len(marks) else None,
        norms=after.norm(dim=-1).tolist(),
        change=((after - before).norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-9)).tolist(),
        drift=((after - origin).norm(dim=-1) / origin.norm(dim=-1).clamp_min(1e-9)).tolist(),
        gates=None if caught.gates is None else (caught.gates * _writes(model, len(ids))).tolist(),
    )


def _places(model: RMTModel, count: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the memory is read, where it is written, and where the tokens stand in a segment that is `width` wide."""
    size = model.method.num_memory_tokens
    if model.facts.causal:
        read = torch.arange(size)
        write = torch.arange(width - size, width) if _writes(model, count) else read
        return read, write, torch.arange(size, size + count)
    first = int(model.method.cls_token_id is not None)
    read = torch.arange(first, first + size)
    begin = first + size + (model.method.sep_token_id is not None)
    return read, read, torch.arange(begin, begin + count)


def _writes(model: RMTModel, count: int) -> bool:
    """Whether a segment of `count` tokens writes the memory; a decoder does so only behind a full one."""
    return not model.facts.causal or count == model.segment_length


def _answer(model: RMTModel, output: Any) -> str | None:
    names = getattr(model.config, "id2label", None)
    if not model.facts.sequence_fields or output is None or output.logits is None or not names:
        return None
    return str(names[int(output.logits[0].argmax())])
