"""RMT around a decoder: memory read in front of a segment, and written behind it (arXiv 2207.06881, figure 2).

A segment is `[memory] tokens [memory]`. Its tokens see the memory in front; the copy behind them sees everything, and
what comes out at it is the next memory. It is read only when the segment is full, so it never comes between a prompt
and its answer; when an answer fills a segment, that row, and only that row, opens the next one. Reading in parts,
beside other rows or padded gives what reading at once gives, because every row is cut at its own borders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from jrt.adapters.rmt import SegmentMethod
from jrt.adapters.rmt_blocks import Arrangement, Block, arrange, blocks
from jrt.adapters.rmt_body import ModelFacts
from jrt.adapters.rmt_cache import RMTCache
from jrt.adapters.rmt_model import RMTModel, RMTOutput, Writes, cut_here
from jrt.adapters.rmt_outputs import IGNORED, InputLayout
from jrt.adapters.rmt_segments import Text
from jrt.adapters.rmt_windows import attention_mask, mask_style
from jrt.errors import EmptyInputError, InvalidOptionError, StateMismatchError
from jrt.state.state import forward_parameters


@dataclass(frozen=True)
class _Part:
    """The tokens of one block: what is read, what is predicted, and which logits are wanted."""

    rows: Tensor  # of the batch, (b,)
    ids: Tensor  # (b, W)
    columns: Tensor  # of the input, (b, W)
    targets: Tensor | None  # the next token's label, (b, W)
    kept: Tensor  # whose logits are returned, (b, W)
    places: Arrangement
    writes: Tensor  # (b,)


_Answer = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


class RMTDecoder(RMTModel):
    """A decoder that reads and writes any length; see `jrt.RMT`."""

    def __init__(self, base: Any, method: SegmentMethod, facts: ModelFacts) -> None:
        super().__init__(base, method, facts, method.num_memory_tokens * (1 + self.reads_tokens))
        if method.alignment not in (None, "left"):
            raise InvalidOptionError(
                f"RMT(alignment={method.alignment!r}) needs the end of the text before its first segment, and a "
                "decoder reads on from where it stopped.",
                "Leave alignment out.",
            )
        for name in ("cls_token_id", "sep_token_id"):
            if getattr(method, name) is not None:
                raise InvalidOptionError(
                    f"{type(method).__name__}({name}=...) puts a special token into every segment of an encoder, and "
                    f"{type(base).__name__} is a decoder, which reads its text as it is.",
                    f"Leave {name} out.",
                )
        self.mask_style = mask_style(base)
        self._selects_logits = "logits_to_keep" in forward_parameters(base)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        memory: Tensor | None = None,
        past_key_values: RMTCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
    ) -> RMTOutput:
        """Reads new tokens, on top of a state or of a memory.

        Args:
            input_ids: new tokens, (B, T), padded anywhere.
            attention_mask: 1 for tokens, 0 for padding, of the new tokens or of all, (B, past + T).
            labels: (B, T), as transformers takes them: the same tokens, -100 where there is no loss. Each is predicted
                by the token before it, over the borders of segments too.
            memory: the memory at a border of an earlier call, (B, m, D); these tokens open a segment.
            past_key_values: the state behind the tokens of an earlier call; it moves on in place.
            use_cache: return the state; None is yes outside of training and where there are no labels.
            logits_to_keep: of how many last columns logits are wanted; 0 is all. In training with labels, 0 is none:
                only those that the loss needs are computed, and none is returned.

        Returns:
            Logits of the new tokens, (B, T, V), 0 at padding, the memory at the last border of each row, the state, and
            the loss where labels were given.

        Raises:
            EmptyInputError: there is no token.
            InvalidOptionError: labels or a mask of the wrong shape.
            StateMismatchError: a memory or a state of other rows, or both at once.
        """
        layout = InputLayout(input_ids.shape, logits_to_keep)
        text = self._text(input_ids, attention_mask, labels, layout.first)
        cache = self._cache(past_key_values, memory, len(input_ids))
        asked = not self.training and labels is None if use_cache is None else use_cache
        keeps = asked or past_key_values is not None
        silent = labels is not None and self.training and not logits_to_keep
        goes_on = memory is not None or past_key_values is not None
        total, count, writes = self.initial_memory.sum() * 0.0, 0, Writes()
        for block in blocks(text.lengths, cache.places, self.segment_length):
            old = self._truncated(cache.memory, block, goes_on)
            part = self._part(text, block, labels, None if silent else layout.first, every_row=keeps)
            new, gates, logits, loss = self._read(old, part, cache if keeps else None)
            if logits is not None:
                layout.put("logits", logits, part.rows, part.columns, part.kept)
            if part.targets is not None and loss is not None:
                total, count = total + loss, count + int((part.targets != IGNORED).sum())
            writes.add(gates[part.writes])
            new = new if len(new) == len(old) else old.index_copy(0, part.rows, new)
            cache.advance((block.place + block.count) % self.segment_length, block.writes, new)
            goes_on = True
        mean_write = writes.mean if self.method.gated else None
        output = RMTOutput(
            loss=None if labels is None else self.penalized(total / max(count, 1), mean_write),
            logits=None if silent else layout.fields["logits"],
            past_key_values=cache if keeps else None,
        )
        return self.with_memory(output, cache.memory, mean_write)

    def _text(self, ids: Tensor, mask: Tensor | None, labels: Tensor | None, first: int) -> Text:
        """The new tokens of every row without their padding; logits are wanted from column `first` on."""
        if labels is not None and labels.shape != ids.shape:
            raise InvalidOptionError(
                f"labels have the shape {tuple(labels.shape)}, input_ids {tuple(ids.shape)}.",
                "Pass the same tokens as labels, -100 where there is no loss.",
            )
        if mask is not None and (mask.dim() != 2 or len(mask) != len(ids) or mask.shape[1] < ids.shape[1]):
            raise InvalidOptionError(
                f"attention_mask has the shape {tuple(mask.shape)}, input_ids {tuple(ids.shape)}.",
                "Pass the mask of these tokens, or of all tokens read so far and these.",
            )
        new = None if mask is None else mask[:, mask.shape[1] - ids.shape[1] :]
        if ids.shape[1] == 0 or (new is not None and not bool(new[:, first:].any())):
            raise EmptyInputError(
                f"There is no token in {'the input' if first == 0 else 'the columns whose logits are asked for'}.",
                "Pass input_ids with at least one token, padded on the left.",
            )
        return Text.of(ids, None if new is None or bool(new.all()) else new, None, None)

    def _cache(self, cache: RMTCache | None, memory: Tensor | None, rows: int) -> RMTCache:
        """The given state, or one of rows that open their first segment."""
        if cache is None:
            return RMTCache(self.first_memory(memory, rows).clone())
        if memory is not None:
            raise StateMismatchError(
                "forward got a memory and past_key_values, which hold the memory.", "Pass one of them."
            )
        if not isinstance(cache, RMTCache) or len(cache.memory) != rows:
            held = f" of {len(cache.memory)} rows" if isinstance(cache, RMTCache) else ""
            raise StateMismatchError(
                f"forward got a {type(cache).__name__}{held} for {rows} rows of tokens.",
                "Pass the past_key_values that this model's forward returned for the same rows, or none.",
            )
        return cache

    def _truncated(self, memory: Tensor, block: Block, goes_on: bool) -> Tensor:
        """The memory, as a value in the rows where the gradient is to stop."""
        if not goes_on or self.method.bptt_segments is None or not memory.requires_grad:
            return memory
        stops = block.reads & cut_here(block.back, self.method.bptt_segments)
        return torch.where(stops.to(memory.device)[:, None, None], memory.detach(), memory)

    def _part(self, text: Text, block: Block, labels: Tensor | None, first: int | None, every_row: bool) -> _Part:
        """What a block reads: of every row where keys and values are kept for them, else of those with tokens left.

        Logits are returned from column `first` on, or none.
        """
        device = text.ids.device
        rows = torch.arange(len(block.count)) if every_row else block.count.nonzero()[:, 0]
        block = block.of(rows)
        places = arrange(block, self.method.num_memory_tokens, self.reads_tokens).to(device)
        lengths, rows, start = text.lengths[rows].to(device), rows.to(device), block.start.to(device)
        columns = text.columns(rows, start, places.tokens.shape[1])
        kept = places.inside & (columns >= first) if first is not None else torch.zeros_like(places.inside)
        targets = None
        if labels is not None:
            following = text.columns(rows, start + 1, columns.shape[1])
            last = start[:, None] + torch.arange(1, columns.shape[1] + 1, device=device) >= lengths[:, None]
            targets = labels[rows[:, None], following].masked_fill(last | ~places.inside, IGNORED)
        return _Part(rows, text.ids[rows[:, None], columns], columns, targets, kept, places, block.writes.to(device))

    def _read(self, state: Tensor, part: _Part, cache: RMTCache | None) -> _Answer:
        """One forward: the memory of the part's rows, (b, m, D), its gates, logits (b, W, V), and the sum of losses."""
        memory = state if len(part.rows) == len(state) else state[part.rows]
        if self.checkpointing and cache is None and torch.is_grad_enabled():
            answer: _Answer = checkpoint(self._segment, memory, part, None, use_reentrant=False)
            return answer
        return self._segment(memory, part, cache)

    def _segment(self, memory: Tensor, part: _Part, cache: RMTCache | None) -> _Answer:
        inputs = self._inputs(memory, part, cache)
        wanted = part.kept if part.targets is None else part.kept | (part.targets != IGNORED)
        head, needed = bool(wanted.any()), torch.ones(part.places.seen.shape[1], dtype=torch.bool, device=wanted.device)
        if head and self._selects_logits:
            marked = torch.zeros_like(part.places.source).scatter_add_(1, part.places.tokens, wanted.long()).any(dim=0)
            if not bool(marked.all()):
                inputs["logits_to_keep"], needed = marked.nonzero()[:, 0], marked
        output, new, gates = self.run(memory, part.places.memory, head, inputs)
        logits, loss = self._scored(output.logits, part, needed) if head else (None, None)
        return torch.where(part.writes[:, None, None], new, memory), gates, logits, loss

    def _scored(self, logits: Tensor, part: _Part, needed: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The logits of the block's tokens, (b, W, V), where any are returned, and the sum of the losses.

        The model has answered for the columns `needed`, (width,), alone.
        """
        row = torch.arange(len(logits), device=logits.device)[:, None]
        column = (needed.cumsum(0) - 1).clamp_min(0)[part.places.tokens]
        kept = logits[row, column] if bool(part.kept.any()) else None
        if part.targets is None:
            return kept, None
        scored = part.targets != IGNORED
        chosen = logits[row.expand_as(column)[scored], column[scored]]
        return kept, cross_entropy(chosen.float(), part.targets[scored], reduction="sum")

    def _inputs(self, memory: Tensor, part: _Part, cache: RMTCache | None) -> dict[str, Any]:
        """The arguments of the base model's forward."""
        places, read = part.places, self.embed_memory(memory)
        everything = torch.cat([read, self.base.get_input_embeddings()(part.ids), read], dim=1)
        index = places.source[..., None].expand(-1, -1, everything.shape[-1])
        inputs: dict[str, Any] = {
            "inputs_embeds": everything.gather(1, index),
            "position_ids": places.positions,
            "use_cache": cache is not None,
        }
        live, positions = places.seen, places.positions
        if cache is not None:
            cache.grow(places.seen, places.positions)
            live, positions = cache.live, cache.positions
            inputs["past_key_values"] = cache.segment
        inputs["attention_mask"] = attention_mask(self.base, self.mask_style, live, positions, places.positions)
        return inputs
