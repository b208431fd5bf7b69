"""Where segments begin and end, in plain arithmetic over the tokens of each row.

The rows of a batch have different lengths. Their segments are set against each other at the end: a row with fewer
segments starts later, and all rows end together (the paper's scheme), so the last step holds the answer of every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jrt.adapters.rmt import Alignment


@dataclass(frozen=True)
class Segments:
    """The segments of a batch, step by step, on the CPU.

    Attributes:
        start: first token of the segment among the tokens of its row, (steps, B).
        size: tokens of the segment, (steps, B).
        active: whether the row has a segment at this step, (steps, B).
    """

    start: Tensor
    size: Tensor
    active: Tensor

    def __len__(self) -> int:
        return len(self.start)


def cut(lengths: Tensor, segment_length: int, alignment: Alignment) -> Segments:
    """Cuts rows of `lengths` tokens, (B,), into segments; a row without tokens has one empty segment.

    Every segment holds at most `segment_length` tokens, there are as few as possible, and only the first (`right`), the
    last (`left`) or none by more than one token (`center`) is shorter than the others.
    """
    counts = ((lengths + segment_length - 1) // segment_length).clamp_min(1)
    steps = int(counts.max())
    number = torch.arange(steps)[:, None] - (steps - counts)
    if alignment == "right":
        first = lengths - (counts - 1) * segment_length
        start = torch.where(number > 0, first + (number - 1) * segment_length, 0)
        size = torch.where(number > 0, segment_length, first)
    elif alignment == "center":
        width, longer = lengths // counts, lengths % counts
        start = number * width + torch.minimum(number, longer)
        size = width + (number < longer).long()
    else:
        start = number * segment_length
        size = (lengths - start).clamp_max(segment_length)
    return Segments(start=start.clamp_min(0), size=size, active=number >= 0)


@dataclass(frozen=True)
class Text:
    """The tokens of a batch without its padding, and without the special tokens at its ends.

    Attributes:
        ids: token ids as they were given, (B, T).
        first: place of the row's first text token among its tokens, (B,).
        lengths: text tokens of each row, on the CPU, (B,).
        offset: columns of padding before the row's first token, (B,); where the tokens of a row stand together.
        order: columns of the row's tokens, in order, (B, T); where they do not. Kept only then: it is as long as the
            input.
        head: column of the special token that was taken off the front, -1 for none, (B,).
        tail: column of the special token that was taken off the end, -1 for none, (B,).
    """

    ids: Tensor
    first: Tensor
    lengths: Tensor
    offset: Tensor
    order: Tensor | None
    head: Tensor
    tail: Tensor

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor | None, cls_token_id: int | None, sep_token_id: int | None) -> Text:
        """Finds the tokens of each row under `mask`, (B, T), or in all columns."""
        if mask is None:
            lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
            offset, order = torch.zeros_like(lengths), None
        else:
            lengths, offset, order = _find(mask)
        found = cls(ids, torch.zeros_like(offset), lengths.cpu(), offset, order, offset, offset)
        rows, end = torch.arange(len(ids), device=ids.device), lengths - 1
        head, tail = found.columns(rows, torch.zeros_like(end), 1)[:, 0], found.columns(rows, end, 1)[:, 0]
        starts = (ids[rows, head] == (-1 if cls_token_id is None else cls_token_id)) & (lengths > 0)
        ends = (ids[rows, tail] == (-1 if sep_token_id is None else sep_token_id)) & (lengths > starts)
        return cls(
            ids=ids,
            first=starts.long(),
            lengths=(lengths - starts.long() - ends.long()).cpu(),
            offset=offset,
            order=order,
            head=torch.where(starts, head, -1),
            tail=torch.where(ends, tail, -1),
        )

    def columns(self, rows: Tensor, start: Tensor, width: int) -> Tensor:
        """The columns of `width` text tokens of `rows` from `start` on, (b, width); past the end, the last column."""
        place = (start + self.first[rows])[:, None] + torch.arange(width, device=rows.device)
        last = self.ids.shape[1] - 1
        if self.order is None:
            return (place + self.offset[rows][:, None]).clamp(0, last)
        return self.order[rows[:, None], place.clamp(0, last)]


def _find(mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens of each row, padding before them, and their order where padding stands between them too."""
    present = mask != 0
    lengths, offset = present.sum(dim=1), present.int().argmax(dim=1)
    last = mask.shape[1] - 1 - present.flip(1).int().argmax(dim=1)
    if bool(((last - offset + 1 == lengths) | (lengths == 0)).all()):
        return lengths, offset, None
    order = (~present).to(torch.uint8).argsort(dim=1, stable=True)
    return lengths, torch.zeros_like(offset), order
