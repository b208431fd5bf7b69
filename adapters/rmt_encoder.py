"""RMT around an encoder: one block of memory tokens, read and written at the same places (arXiv 2304.11062).

A step reads one segment of every row that has one left, as `[cls] memory [sep] tokens [sep]`, and the outputs at the
memory are the next memory. Heads over the whole sequence answer from the last segment, which has read all others
through the memory; heads over tokens answer for every token, in the layout of the input.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jrt.adapters.rmt import SegmentMethod
from jrt.adapters.rmt_body import ModelFacts
from jrt.adapters.rmt_model import RMTModel, RMTOutput, Writes, cut_here
from jrt.adapters.rmt_outputs import InputLayout, Targets, check_labels, span_loss, token_loss
from jrt.adapters.rmt_segments import Segments, Text, cut
from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.state.state import forward_parameters


@dataclass(frozen=True)
class _Step:
    """One segment of the rows that have one: token ids with the special ones, and where everything stands."""

    rows: Tensor  # (b,)
    columns: Tensor  # input columns of the tokens, (b, W)
    inside: Tensor  # which of them the segment has, (b, W)
    left: Tensor  # ids before the memory, (b, 0 or 1)
    right: Tensor  # ids behind it: [sep] tokens [sep], (b, ...)
    seen: Tensor  # which of `right` are no padding
    types: Tensor | None  # token types of `right`
    offset: int  # column of the first token in the model's input
    sizes: Tensor  # tokens of each segment, (b,)


class RMTEncoder(RMTModel):
    """An encoder that reads any length; see `jrt.RMT`."""

    writes_text = False

    def __init__(self, base: Any, method: SegmentMethod, facts: ModelFacts) -> None:
        refuse_unknown_tokens(base, method)
        separators = 0 if method.sep_token_id is None else 1 + bool(method.num_memory_tokens)
        super().__init__(base, method, facts, method.num_memory_tokens + (method.cls_token_id is not None) + separators)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        memory: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> RMTOutput:
        """Reads rows of any length.

        The special tokens at the two ends of a row are those of its segments; others in between are read as text.

        Args:
            input_ids: token ids, (B, T), padded on either side.
            attention_mask: 1 for tokens, 0 for padding, (B, T).
            token_type_ids: (B, T), for models that have them; memory and special tokens in front of it have type 0.
            labels: what the base model takes: (B,) or (B, C) for sequence classification, (B, T) for tokens.
            start_positions: question answering, columns of the input, (B,).
            end_positions: as `start_positions`.
            memory: the memory of an earlier call that these rows go on from, (B, m, D).
            logits_to_keep: how many of the last columns an output over tokens is made for; 0 means all. What is not
                asked for is not computed, so reading on for the memory alone costs no head.

        Raises:
            EmptyInputError: a row without tokens.
            InvalidOptionError: labels of the wrong shape, in padding, or of a head or class that the model has not.
            StateMismatchError: a memory of the wrong shape.
        """
        layout = InputLayout(input_ids.shape, logits_to_keep)
        targets = check_labels(self, input_ids, attention_mask, labels, start_positions, end_positions)
        if targets.over_tokens:
            layout = InputLayout(input_ids.shape, 0)
        text = self._text(input_ids, attention_mask, token_type_ids)
        segments = cut(text.lengths, self.segment_length, self.method.alignment or "right")
        state = self.first_memory(memory, len(input_ids))
        fields: dict[str, Tensor] = {}
        writes = Writes()
        for number in range(len(segments)):
            step = self._step(text, token_type_ids, segments, number)
            back = len(segments) - 1 - number
            head = back == 0 or (bool(self.facts.token_fields) and layout.wants(step.columns, step.inside))
            reached = self._reached(back)
            if self.method.bptt_segments is not None and cut_here(back, self.method.bptt_segments):
                state = _detached(state, segments, number, memory is not None)
            with nullcontext() if reached else torch.no_grad():
                new, gates, fields = self._read(state, step, head, None if back else targets.sequence)
            state = new if len(new) == len(state) else state.index_copy(0, step.rows, new)
            writes.add(gates, reached or not self.training)
            for name in self.facts.token_fields if head else ():
                layout.put(name, fields[name][:, step.offset :], step.rows, step.columns, step.inside)
        for name in self.facts.token_fields:
            self._put_special(layout, name, fields[name], step, text)
        return self._output(layout, fields, targets, attention_mask, state, writes)

    def _text(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Text:
        """The rows without padding and special tokens at their ends."""
        for name, given in (("attention_mask", mask), ("token_type_ids", types)):
            if given is not None and given.shape != ids.shape:
                raise InvalidOptionError(
                    f"{name} has the shape {tuple(given.shape)}, input_ids {tuple(ids.shape)}.", "Give them alike."
                )
        if types is not None and "token_type_ids" not in forward_parameters(self.base):
            raise InvalidOptionError(f"{type(self.base).__name__} has no token types.", "Leave token_type_ids out.")
        if ids.shape[1] == 0 or (mask is not None and not bool((mask != 0).any(dim=1).all())):
            raise EmptyInputError("A row holds no token.", "Leave empty rows out.")
        return Text.of(ids, mask, self.method.cls_token_id, self.method.sep_token_id)

    def _reached(self, back: int) -> bool:
        """Whether a gradient comes to the segment `back` before the last: not past the truncation, where only the last
        segment answers."""
        k = self.method.bptt_segments
        return k is None or back <= k or bool(self.facts.token_fields)

    def _step(self, text: Text, types: Tensor | None, segments: Segments, number: int) -> _Step:
        """The segment `number` of the rows that have one, with its special tokens around it."""
        device, method = text.ids.device, self.method
        rows = segments.active[number].nonzero()[:, 0]
        start, sizes = segments.start[number, rows].to(device), segments.size[number, rows]
        width, rows, sizes = int(sizes.max()), rows.to(device), sizes.to(device)
        columns = text.columns(rows, start, width)
        inside = torch.arange(width, device=device) < sizes[:, None]
        kinds = None if types is None else types[rows[:, None], columns]
        ids = text.ids[rows[:, None], columns]
        seen, offset = inside, method.num_memory_tokens + (method.cls_token_id is not None)
        if method.sep_token_id is not None:
            ids, seen, kinds = _close(ids, inside, sizes, kinds, method.sep_token_id)
            if method.num_memory_tokens:
                offset += 1
                ids = torch.cat([torch.full_like(rows, method.sep_token_id)[:, None], ids], dim=1)
                seen = torch.cat([torch.ones_like(seen[:, :1]), seen], dim=1)
                kinds = None if kinds is None else torch.cat([torch.zeros_like(kinds[:, :1]), kinds], dim=1)
        left = rows.new_full((len(rows), int(method.cls_token_id is not None)), method.cls_token_id or 0)
        return _Step(rows, columns, inside, left, ids, seen, kinds, offset, sizes)

    def _read(
        self, state: Tensor, step: _Step, head: bool, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One forward: the new memory of the step's rows, (b, m, D), its gates, and what the model answers."""
        memory = state if len(step.rows) == len(state) else state[step.rows]
        if self.checkpointing and torch.is_grad_enabled():
            read: Any = checkpoint(self._segment, memory, step, head, labels, use_reentrant=False)
            return read  # type: ignore[no-any-return]
        return self._segment(memory, step, head, labels)

    def _segment(
        self, memory: Tensor, step: _Step, head: bool, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        embedding, left = self.base.get_input_embeddings(), step.left.shape[1]
        parts = [embedding(step.left), self.embed_memory(memory), embedding(step.right)]
        inputs: dict[str, Any] = {"inputs_embeds": torch.cat([part for part in parts if part.shape[1]], dim=1)}
        first = step.seen.new_ones(len(memory), left + self.method.num_memory_tokens)
        inputs["attention_mask"] = torch.cat([first, step.seen], dim=1).long()
        if step.types is not None:
            inputs["token_type_ids"] = torch.cat([first.long() - 1, step.types], dim=1)
        if labels is not None:
            inputs["labels"] = labels
        columns = torch.arange(left, first.shape[1], device=memory.device).expand(len(memory), -1)
        output, new, gates = self.run(memory, columns, head, inputs)
        names = ("loss", *self.fields) if head else ()
        return new, gates, {name: output[name] for name in names if output.get(name) is not None}

    @property
    def fields(self) -> tuple[str, ...]:
        """What the model answers with."""
        return (*self.facts.token_fields, *self.facts.sequence_fields)

    def _put_special(self, layout: InputLayout, name: str, values: Tensor, step: _Step, text: Text) -> None:
        """The input's own special tokens answer as those of the last segment, which holds every row."""
        if self.method.cls_token_id is not None:
            layout.put(name, values[:, :1], step.rows, text.head[:, None], text.head[:, None] >= 0)
        if self.method.sep_token_id is not None:
            closing = values[step.rows, step.offset + step.sizes][:, None]
            layout.put(name, closing, step.rows, text.tail[:, None], text.tail[:, None] >= 0)

    def _output(
        self,
        layout: InputLayout,
        fields: dict[str, Tensor],
        targets: Targets,
        mask: Tensor | None,
        memory: Tensor,
        writes: Writes,
    ) -> RMTOutput:
        answers = {name: fields[name] for name in self.facts.sequence_fields} | layout.fields
        loss = fields.get("loss")
        if targets.tokens is not None:
            loss = token_loss(answers["logits"], targets.tokens, mask)
        elif targets.spans is not None:
            loss = span_loss(answers["start_logits"], answers["end_logits"], targets.spans)
        mean_write = writes.mean if self.method.gated else None
        return self.with_memory(RMTOutput(loss=self.penalized(loss, mean_write), **answers), memory, mean_write)


def refuse_unknown_tokens(base: Any, method: SegmentMethod) -> None:
    """Says which special token the model does not have.

    Raises:
        InvalidOptionError: its id is past the model's vocabulary.
    """
    vocabulary = base.get_input_embeddings().num_embeddings
    for name in ("cls_token_id", "sep_token_id"):
        token = getattr(method, name)
        if token is not None and token >= vocabulary:
            raise InvalidOptionError(
                f"{type(method).__name__}({name}={token}): {type(base).__name__} has the tokens 0 to {vocabulary - 1}.",
                f"Write {type(method).__name__}.for_tokenizer(tokenizer, ...) with the model's own tokenizer.",
            )


def _detached(state: Tensor, segments: Segments, number: int, given: bool) -> Tensor:
    """The memory as a value where a segment has written it; the initial memory of a row that starts now is learned."""
    if given:
        written = segments.active[number]
    else:
        written = segments.active[number - 1] if number else torch.zeros_like(segments.active[0])
    return torch.where(written.to(state.device)[:, None, None], state.detach(), state)


def _close(
    ids: Tensor, inside: Tensor, sizes: Tensor, kinds: Tensor | None, sep_token_id: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Puts the separator behind the tokens of every row; it has the type of the token before it."""
    end = torch.arange(ids.shape[1] + 1, device=ids.device) == sizes[:, None]
    ids = torch.nn.functional.pad(ids, (0, 1)).masked_fill(end, sep_token_id)
    seen = torch.nn.functional.pad(inside, (0, 1)) | end
    if kinds is not None:
        longer = torch.nn.functional.pad(kinds, (0, 1))
        before = torch.nn.functional.pad(kinds, (1, 0))
        kinds = torch.where(end, before, longer)
    return ids, seen, kinds
