"""Which columns of a batch are tokens, where they stand in their row, and which belong to the prefix.

Rows of a batch differ in length and may have gaps. `arrange` moves every row's padding to its front, so that all mixers
need to know is how much of it there is; `Arrangement.restore` puts the results back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jrt.errors import InvalidOptionError, StateMismatchError


@dataclass
class Regions:
    """What the mixers need to know about the columns that are read now; T counts legacy padding, where there is any.

    Attributes:
        positions: the position of every token in its row, (B, T).
        before: tokens that each row had read, (B,).
        present: true for columns that are read, false for padding, (B, T); None when all are.
        padding: how many columns at the front of each row are padding, (B,); None where no row ever had any.
        prefix: true for the columns that are read non-causally, (B, T); None when none are.
        blank: true for legacy padding, (B, T): read like a token, but with Taylor keys of zero; None without any.
    """

    positions: Tensor
    before: Tensor
    present: Tensor | None = None
    padding: Tensor | None = None
    prefix: Tensor | None = None
    blank: Tensor | None = None

    def after(self, memory: Tensor | None, new: Tensor) -> Tensor:
        """The last inputs that a layer remembers and the new ones, in one row without padding between.

        Args:
            memory: (B, S, ...), the rows' last tokens at the end.
            new: (B, T, ...), padding in front.

        Returns:
            (B, S + T, ...); where there is padding, it is in front of the memory.
        """
        if memory is None:
            return new
        joined = torch.cat([memory, new], 1)
        if self.padding is None:
            return joined
        kept, columns = memory.shape[1], torch.arange(joined.shape[1], device=new.device)
        padding = self.padding[:, None]
        source = torch.where(columns < padding, columns + kept, columns - padding)
        source = torch.where(columns < padding + kept, source, columns)
        return joined[torch.arange(len(joined), device=new.device)[:, None], source]

    def visible(self, kept: int, length: int) -> Tensor | None:
        """Which columns of `after` are tokens when `kept` are remembered and `length` new, (B, kept + length)."""
        if self.padding is None:
            return None
        hidden = self.padding + (kept - self.before).clamp_min(0)
        return torch.arange(kept + length, device=hidden.device) >= hidden[:, None]


@dataclass
class Arrangement:
    """Columns in the order in which the mixers read them.

    Attributes:
        order: the column that stands at each place, (B, T); None when nothing moves.
        present: as in `Regions`.
    """

    order: Tensor | None
    present: Tensor | None

    def apply(self, x: Tensor) -> Tensor:
        return x if self.order is None else x.take_along_dim(self.order[..., None], 1)

    def restore(self, x: Tensor) -> Tensor:
        return x if self.order is None else x.take_along_dim(self.order.argsort(1)[..., None], 1)


def arrange(attention_mask: Tensor | None, past: int, batch: int, length: int) -> Arrangement:
    """The padding of every row in front of its tokens.

    Args:
        attention_mask: 1 for tokens and 0 for padding, (B, past + length), or of the new columns only.
        past: columns that were read before.
        batch: rows.
        length: new columns.

    Raises:
        InvalidOptionError: the mask fits neither the new columns nor all of them.
    """
    if attention_mask is None:
        return Arrangement(None, None)
    if attention_mask.dim() != 2 or attention_mask.shape not in ((batch, length), (batch, past + length)):
        raise InvalidOptionError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; {past} columns were read and {length} are new.",
            f"Pass ({batch}, {past + length}), or ({batch}, {length}) for the new columns alone.",
        )
    mask = attention_mask[:, -length:].bool()
    if not torch.compiler.is_compiling() and bool((mask[:, 1:] >= mask[:, :-1]).all()):
        return Arrangement(None, None if bool(mask.all()) else mask)  # in order already, as for most batches
    order = mask.long().argsort(dim=1, stable=True)
    return Arrangement(order, mask.take_along_dim(order, 1))


def prefix_lengths(prefix_length: int | Tensor | None, longest: int, num_tokens: Tensor) -> Tensor:
    """How many tokens of each row are read non-causally, (B,).

    Args:
        prefix_length: tokens, for all rows or for each, (B,); None is as many as `longest`.
        longest: what the configuration allows by default.
        num_tokens: tokens of each row, (B,).

    Raises:
        InvalidOptionError: a negative length, or lengths that do not fit the batch.
    """
    wanted = longest if prefix_length is None else prefix_length
    lengths = torch.as_tensor(wanted, device=num_tokens.device).reshape(-1)
    fits = len(lengths) in (1, len(num_tokens)) and not lengths.is_floating_point()
    if not fits or (not torch.compiler.is_compiling() and bool((lengths < 0).any())):
        raise InvalidOptionError(
            f"prefix_length is {lengths.tolist()} for {len(num_tokens)} rows.",
            "Pass one whole number of tokens, 0 or more, or one for every row.",
        )
    return lengths.minimum(num_tokens)


def refuse_late_prefix(past: int, prefix_length: int | Tensor | None) -> None:
    """A prefix is read before everything else; what comes after a state can only be causal.

    Raises:
        StateMismatchError: a prefix was asked for after tokens had been read.
    """
    if past and prefix_length is not None:
        raise StateMismatchError(
            f"prefix_length was given after {past} columns had been read.", "Give it with the first forward only."
        )
