"""How a padded batch of new tokens is cut into windows, so that every row is cut at the borders of its own segments.

A row's segments are counted in its real tokens, padding left out, so a padded row is cut like the row alone. A window
is what one forward of the base model reads: the next real tokens of every row, moved to the left. It either begins at a
border in every row that takes part and may hold several segments (`wide`), or it crosses no border at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """The tokens of one forward of the base. Counts live on the CPU, where the loop over windows runs.

    Attributes:
        columns: of every token among the new tokens, `(B, N)`; a row with fewer repeats some column.
        fills: tokens that each row's unfinished segment held before, `(B,)`.
        counts: real tokens of each row in this window, `(B,)`; they come first.
        seen: real tokens that each row had read before, `(B,)`.
        segment_length: tokens a segment.
        wide: every row that takes part begins at a border.
    """

    columns: Tensor
    fills: Tensor
    counts: Tensor
    seen: Tensor
    segment_length: int
    wide: bool

    @property
    def length(self) -> int:
        """N, the tokens of the longest row."""
        return self.columns.shape[1]

    @cached_property
    def ends(self) -> Tensor:
        """Tokens in each row's unfinished segment afterwards, `(B,)`."""
        return (self.fills + self.counts) % self.segment_length

    @cached_property
    def uniform(self) -> bool:
        """Whether all rows take the same number of tokens at the same place in their segment."""
        return bool((self.counts == self.length).all()) and bool((self.fills == self.fills[0]).all())

    @cached_property
    def finished(self) -> Tensor:
        """Rows whose segment is full at the end of a window that is not wide, `(B,)` bool."""
        return (self.counts > 0) & (self.ends == 0)

    def positions(self, restart: bool) -> Tensor:
        """The position of every token, `(B, N)`: in its segment, or in the whole row."""
        steps = torch.arange(self.length)[None]
        return (self.fills[:, None] + steps) % self.segment_length if restart else self.seen[:, None] + steps

    def segment_positions(self, restart: bool) -> Tensor:
        """The positions of the segment that each row is in, `(B, S)`."""
        steps = torch.arange(self.segment_length)[None]
        return steps.expand(len(self.fills), -1) if restart else (self.seen - self.fills)[:, None] + steps

    def real(self) -> Tensor:
        """Which columns of the window hold a token, `(B, N)` bool."""
        return torch.arange(self.length)[None] < self.counts[:, None]

    def complete(self) -> Tensor:
        """Which columns of a wide window belong to a segment that is full in it, `(B, N)` bool."""
        full = self.counts // self.segment_length * self.segment_length
        return torch.arange(self.length)[None] < full[:, None]


def windows(
    mask: Tensor | None, length: int, seen: Tensor, segment_length: int, segments: tuple[int, int], wide: bool
) -> Iterator[Window]:
    """Cuts new tokens into windows.

    Args:
        mask: true for tokens, `(B, T)` on the CPU; None when there is no padding.
        length: T.
        seen: real tokens that each row had read before, `(B,)`.
        segment_length: tokens a segment.
        segments: how many segments a wide window holds at most, the first one and the others.
        wide: whether windows may be wide at all.
    """
    rows = len(seen)
    order = None if mask is None else torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices
    totals = torch.full((rows,), length) if mask is None else mask.sum(dim=1)
    done, fills = torch.zeros_like(totals), seen % segment_length
    while bool((done < totals).any()):
        left = totals - done
        aligned = bool((fills[left > 0] == 0).all())
        room = segment_length * segments[bool(done.any())] if wide and aligned else segment_length - fills
        counts = torch.minimum(left, torch.as_tensor(room))
        steps = torch.arange(int(counts.max()))[None]
        columns = (done[:, None] + steps).clamp(max=length - 1)
        if order is not None:
            columns = order.gather(1, columns)
        yield Window(columns, fills, counts, seen + done, segment_length, wide and aligned)
        done, fills = done + counts, (fills + counts) % segment_length
