"""The memory itself: its initial value, how it is put beside a segment, and how what comes out updates it.

The memory lives in the space of the last hidden state and is carried in fp32. It is mapped to the space of the
embeddings only where the two have different widths (ELECTRA, ALBERT), by a learned matrix; where a model multiplies
embeddings by a factor (Granite), the memory is divided by it, so that it reaches the first layer as it left the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from jrt.adapters.adapted import AdaptedModel
from jrt.adapters.precision import Float32LayerNorm, Float32Linear
from jrt.adapters.rmt import RMT, SegmentMethod
from jrt.adapters.rmt_body import ModelFacts, body_of, with_hidden
from jrt.errors import InvalidOptionError, StateMismatchError

STRETCH, BELOW = 1.2, 0.1
"""The gate is clamp(STRETCH * sigmoid(u) - BELOW, 0, 1): it reaches both ends, and has a gradient in between."""


@dataclass
class RMTOutput(ModelOutput):
    """What the base model answers, put together from segments, and the memory.

    Outside of training `memory` and `mean_write` are attributes and no entries: Trainer collects the entries of all
    outputs of an evaluation as its predictions, and the memories of a whole data set are no part of them.

    Attributes:
        loss: as the base model defines it; in training with the write penalty added.
        logits: for a head over tokens in the layout of the input, (B, T, C); else those of the last segment, (B, C).
        start_logits: question answering, (B, T).
        end_logits: question answering, (B, T).
        last_hidden_state: of a model without a head, in the layout of the input, (B, T, D).
        pooler_output: of the last segment, (B, D).
        memory: what the next segment reads, fp32, (B, m, D).
        mean_write: mean gate over memory tokens, rows and segments, in training over those segments that a gradient
            comes to; None without gates.
        past_key_values: the state behind the last token; None unless it was asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    memory: Tensor | None = None
    mean_write: Tensor | None = None
    past_key_values: Any = None


class RMTModel(AdaptedModel):
    """What encoders and decoders have in common.

    Attributes:
        initial_memory: what the first segment reads, (m, D).
        write_penalty: the method's; may be changed while training, as a curriculum does.
        checkpointing: whether a training step reads every segment again in its backward pass.
    """

    method: SegmentMethod
    reads_tokens = True
    """Whether a decoder's segment begins with the memory tokens."""

    def __init__(self, base: Any, method: SegmentMethod, facts: ModelFacts, num_other_tokens: int) -> None:
        super().__init__(base, method)
        self.facts = facts
        self.segment_length = _segment_length(base, method, facts, num_other_tokens)
        self.write_penalty = method.write_penalty if isinstance(method, RMT) else 0.0
        self.checkpointing = method.gradient_checkpointing
        device, width = self.device, facts.hidden_width
        std = facts.embedding_std * facts.embedding_scale if method.initial_std is None else method.initial_std
        self.initial_memory = nn.Parameter(torch.randn(method.num_memory_tokens, width, device=device) * std)
        if facts.embedding_width != width:
            self.projection = Float32Linear(width, facts.embedding_width, bias=False, device=device)
            nn.init.normal_(self.projection.weight, std=width**-0.5)
        if method.gated:
            self.write_norm = Float32LayerNorm(width, device=device)
            self.write_gate = Float32Linear(width, 1, device=device)
            nn.init.constant_(self.write_gate.bias, 1.0)
        self.follow_mode()

    def first_memory(self, memory: Tensor | None, rows: int) -> Tensor:
        """The memory that the first segment of a call reads, fp32, (B, m, D): the given one, or the initial one.

        Raises:
            StateMismatchError: the given one has another shape.
        """
        start = self.start_memory()
        expected = (rows, *start.shape)
        if memory is None:
            return start.expand(expected)
        if memory.shape != expected:
            raise StateMismatchError(
                f"memory has the shape {tuple(memory.shape)}; {rows} rows of {self.method} need {expected}.",
                "Pass the `memory` of an earlier output of the same model, for the same rows.",
            )
        return memory.float()

    def start_memory(self) -> Tensor:
        """The memory before the first segment of a row, fp32, (m, D)."""
        return self.initial_memory.float()

    def embed_memory(self, memory: Tensor) -> Tensor:
        """The memory as a segment's embeddings, (B, m, E), in the data type of the embeddings."""
        if self.facts.embedding_width != self.facts.hidden_width:
            memory = self.projection(memory)
        return (memory / self.facts.embedding_scale).to(self.embedding_dtype)

    @property
    def embedding_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.base.get_input_embeddings().weight.dtype
        return dtype

    def run(self, memory: Tensor, columns: Tensor, head: bool, inputs: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
        """One forward of the base model over a segment.

        Args:
            memory: what the segment reads, (b, m, D).
            columns: where it writes, (b, m).
            head: whether the model's head answers too.
            inputs: of the base model, with the memory tokens in their places.

        Returns:
            What the model answers, or None; the new memory; the gates, (b, m, 1).
        """
        output, hidden = with_hidden(self.base, **inputs) if head else (None, body_of(self.base)(**inputs)[0])
        row = torch.arange(len(memory), device=hidden.device)[:, None]
        return output, *self.written(memory, hidden[row, columns.to(hidden.device)].to(memory.device))

    def written(self, old: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The new memory, (B, m, D), and the gates, (B, m, 1), all ones where the memory is replaced."""
        output = output.float()
        if not self.method.gated:
            return output, torch.ones_like(output[..., :1])
        gate = (STRETCH * torch.sigmoid(self.write_gate(self.write_norm(output))) - BELOW).clamp(0.0, 1.0)
        return old + gate * (output - old), gate

    def with_memory(self, output: RMTOutput, memory: Tensor, mean_write: Tensor | None) -> RMTOutput:
        """`output` with the memory beside it; in training as entries, which wrappers of `forward` hand on."""
        if self.training:
            output.memory, output.mean_write = memory, mean_write
        else:
            output.__dict__.update(memory=memory, mean_write=mean_write)  # past its __setattr__, which makes entries
        return output

    def penalized(self, loss: Tensor | None, mean_write: Tensor | None) -> Tensor | None:
        """The loss with the write penalty, which counts in training only."""
        if loss is None or mean_write is None or not self.training or not self.write_penalty:
            return loss
        return loss + self.write_penalty * mean_write

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Reads every segment again in the backward pass; what Trainer calls when it is to checkpoint.

        Args:
            activation_checkpointing_kwargs: ours is always without re-entering autograd.
            every_n_layers: ours is by segments, so 1.
            offload: ours keeps the borders where they are, so False.

        Raises:
            InvalidOptionError: something else is asked for.
        """
        options = dict(activation_checkpointing_kwargs or {})
        if options.pop("use_reentrant", False) or options or every_n_layers != 1 or offload:
            raise InvalidOptionError(
                "RMT reads whole segments again, without re-entering autograd, and offloads nothing.",
                "Leave out the options of checkpointing.",
            )
        self.checkpointing = True

    def activation_checkpointing_disable(self) -> None:
        """Undoes `activation_checkpointing_enable`."""
        self.checkpointing = False

    gradient_checkpointing_enable = activation_checkpointing_enable
    gradient_checkpointing_disable = activation_checkpointing_disable

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: the initial memory and the gate do not decay, as vectors do not."""
        own = [self.initial_memory] + ([self.write_gate.weight] if self.method.gated else [])
        decaying, kept = super().parameter_groups(weight_decay)
        moved = [parameter for parameter in decaying["params"] if any(parameter is one for one in own)]
        decaying["params"] = [p for p in decaying["params"] if not any(p is one for one in moved)]
        kept["params"] = kept["params"] + moved
        return [decaying, kept]


class Writes:
    """The mean gate over memory tokens, rows and segments."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, gates: Tensor, counted: bool = True) -> None:
        """Adds the gates of a segment, (b, m, 1), unless no gradient comes to them."""
        if counted and gates.numel():
            self.total = gates.sum() if self.total is None else self.total + gates.sum()
            self.count += gates.numel()

    @property
    def mean(self) -> Tensor | None:
        return None if self.total is None else self.total / self.count


def cut_here(back: Any, bptt_segments: int) -> Any:
    """Whether the gradient stops at the memory that the segment `back` before the last reads; a number or a tensor."""
    return back % (bptt_segments + 1) == bptt_segments


def _segment_length(base: Any, method: SegmentMethod, facts: ModelFacts, others: int) -> int:
    """Text tokens of a segment.

    Raises:
        InvalidOptionError: the model has fewer positions.
    """
    limit = None if facts.max_positions is None else facts.max_positions - others
    name, asked = type(base).__name__, method.segment_length or 1
    if limit is None and method.segment_length is None:
        raise InvalidOptionError(
            f"RMT() does not say how long a segment is, and {name} has no limit that would.",
            "Write RMT(segment_length=1024).",
        )
    if limit is not None and (limit < 1 or asked > limit):
        raise InvalidOptionError(
            f"{name} has {facts.max_positions} positions; {asked} tokens of a segment and {others} memory and special "
            f"tokens need {asked + others}.",
            f"Write RMT(segment_length={limit}) or less." if limit > 0 else "Use fewer memory tokens.",
        )
    return method.segment_length or int(limit or 0)
