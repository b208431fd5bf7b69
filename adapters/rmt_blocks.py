"""How new tokens of a batch are cut into the blocks that a decoder reads at once, and how a block is laid out.

Every row is cut at the borders of its own segments, counted in its own tokens, so a padded row is read like the row
alone. A block takes from every row what is left of its segment, `[memory] tokens [memory]`: the memory in front only
where the segment begins here, the memory behind only where it ends here. Rows are moved to the left of the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """What every row reads in one forward; all on the CPU, (B,).

    Attributes:
        start: tokens of the call that the row has read before.
        count: tokens it reads now; 0 for rows that are through.
        place: tokens of its segment that it has read before.
        reads: whether it reads the memory first.
        writes: whether its segment ends here, so that it writes the memory.
        back: how many segments come after this one in the call.
    """

    start: Tensor
    count: Tensor
    place: Tensor
    reads: Tensor
    writes: Tensor
    back: Tensor

    def of(self, rows: Tensor) -> Block:
        """The block of these rows alone."""
        return Block(*(part[rows] for part in vars(self).values()))


def blocks(lengths: Tensor, places: Tensor, segment_length: int) -> Iterator[Block]:
    """Cuts `lengths` new tokens of every row, (B,), whose segments hold `places` tokens already."""
    start, place = torch.zeros_like(lengths), places
    while bool((start < lengths).any()):
        count = torch.minimum(lengths - start, segment_length - place)
        left = (place + lengths - start + segment_length - 1) // segment_length
        yield Block(
            start=start,
            count=count,
            place=place,
            reads=(place == 0) & (count > 0),
            writes=(place + count == segment_length) & (count > 0),
            back=left - 1,
        )
        start, place = start + count, (place + count) % segment_length


@dataclass(frozen=True)
class Arrangement:
    """Where everything stands in a block that is `width` columns wide.

    Attributes:
        source: what stands in a column, as an index into the row's memory, its tokens and its memory once more,
            (B, width).
        seen: whether anything stands there, (B, width).
        positions: position in the segment, memory counted, (B, width).
        tokens: the column of every token, (B, longest count).
        inside: whether the row has that token, (B, longest count).
        memory: the columns that write the memory, (B, m); they mean something in rows that do.
    """

    source: Tensor
    seen: Tensor
    positions: Tensor
    tokens: Tensor
    inside: Tensor
    memory: Tensor

    def to(self, device: torch.device) -> Arrangement:
        return Arrangement(*(part.to(device) for part in vars(self).values()))


def arrange(block: Block, num_memory_tokens: int, reads_tokens: bool = True) -> Arrangement:
    """Lays out a block of rows of which at least one reads something.

    Args:
        block: what every row reads.
        num_memory_tokens: m.
        reads_tokens: whether the memory stands in front of a segment too.
    """
    m, longest = num_memory_tokens, int(block.count.max())
    in_front = m if reads_tokens else 0
    before = (block.reads * in_front)[:, None]
    behind = before + block.count[:, None]
    end = behind + (block.writes * m)[:, None]
    column = torch.arange(int(end.max()))[None]
    token, memory = column - before, column - behind
    source = torch.where(column < behind, m + token, m + longest + memory)
    source = torch.where(column < before, column, source)
    seen = column < end
    # Behind the tokens of a segment comes the memory, so its position goes on from the last token's.
    positions = torch.where(column < before, column, in_front + block.place[:, None] + token)
    steps = torch.arange(longest)[None]
    return Arrangement(
        source=source.masked_fill(~seen, 0),
        seen=seen,
        positions=positions.masked_fill(~seen, 0),
        tokens=(before + steps).clamp_max(column.shape[1] - 1),
        inside=steps < block.count[:, None],
        memory=(behind + torch.arange(m)[None]).clamp_max(column.shape[1] - 1),
    )
