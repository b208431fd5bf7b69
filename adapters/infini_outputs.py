"""Which logits and labels of a call are wanted, and how the results of its windows become one output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from jrt.adapters.adapted import first_kept
from jrt.adapters.infini_cache import InfiniCache
from jrt.adapters.infini_windows import Window
from jrt.errors import InvalidOptionError

IGNORED = -100
"""The label of a token that has no part in the loss, as everywhere in transformers."""


@dataclass
class InfiniOutput(CausalLMOutputWithPast):
    """What `InfiniModel.forward` returns.

    Attributes:
        mean_write: what the memory layers write of a token in the mean, in training: the features of its key, or its
            write gate.
    """

    mean_write: Tensor | None = None


@dataclass(frozen=True)
class Wanted:
    """What a call asks for.

    Attributes:
        length: T, the columns of the call.
        targets: the token that follows each one, -100 where it is no part of the loss, `(B, T)`; None for no loss.
        first: the first column whose logits are returned.
        logits: whether logits are returned at all.
    """

    length: int
    targets: Tensor | None
    first: int
    logits: bool

    @classmethod
    def of(
        cls, shape: tuple[int, int], mask: Tensor | None, labels: Tensor | None, logits_to_keep: int, training: bool
    ) -> Wanted:
        """From the shape of the tokens, (B, T), which of them are real, `(B, T)`, and the arguments of `forward`.

        Raises:
            InvalidOptionError: labels of another shape, or logits of a negative number of columns.
        """
        if labels is not None and tuple(labels.shape) != shape:
            raise InvalidOptionError(
                f"labels have the shape {tuple(labels.shape)}, the tokens {shape}.",
                "Pass the same tokens as labels, -100 where there is no loss.",
            )
        targets = None if labels is None else following(labels, mask)
        return cls(shape[1], targets, first_kept(shape[1], logits_to_keep), labels is None or not training)

    def targets_of(self, window: Window) -> Tensor | None:
        """The targets of a window's tokens, `(B, N)`, on the CPU's or the labels' device."""
        if self.targets is None:
            return None
        columns = window.columns.to(self.targets.device)
        return self.targets.gather(1, columns).masked_fill(~window.real().to(columns.device), IGNORED)

    def columns_of(self, window: Window, targets: Tensor | None) -> Tensor:
        """The columns of a window whose logits have to be computed, `(K,)` on the CPU."""
        needed = window.real() & (window.columns >= self.first) if self.logits else torch.zeros(1, window.length) > 0
        needed = needed.any(0)
        if targets is not None:
            needed = needed | (targets != IGNORED).any(0).cpu()
        return needed.nonzero()[:, 0]


@dataclass(frozen=True)
class Part:
    """What one window gave, and nothing that is as large as the window: a call may have thousands of them.

    Attributes:
        tokens: how many it had.
        uniform: whether its rows stand side by side, see `Window`.
        columns: of the call, whose logits are there, `(B, K)` on the CPU.
        real: which of them are tokens, `(B, K)` bool on the CPU.
        logits: `(B, K, V)`; None where none are returned.
        loss: the sum of the cross entropies; None without labels.
        writes: what each memory layer writes of a token in the mean; empty outside of training.
    """

    tokens: int
    uniform: bool
    columns: Tensor
    real: Tensor
    logits: Tensor | None
    loss: Tensor | None
    writes: list[Tensor]

    @classmethod
    def of(
        cls, window: Window, chosen: Tensor, logits: Tensor | None, loss: Tensor | None, writes: list[Tensor]
    ) -> Part:
        """From a window and the columns of it that have logits, `(K,)`."""
        tokens, columns, real = int(window.counts.sum()), window.columns[:, chosen], window.real()[:, chosen]
        return cls(tokens, window.uniform, columns, real, logits, loss, writes)


def following(labels: Tensor, mask: Tensor | None) -> Tensor:
    """The label of the token that follows each one in its row, padding left out, -100 where none does, `(B, T)`.

    Args:
        labels: `(B, T)`, as transformers takes them.
        mask: true for tokens, `(B, T)`; None when there is no padding.
    """
    if mask is None:
        return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    mask = mask.to(labels.device)
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    targets = F.pad(labels.gather(1, order)[:, 1:], (0, 1), value=IGNORED)
    last = torch.arange(labels.shape[1], device=labels.device) >= mask.sum(1, keepdim=True) - 1
    return torch.empty_like(labels).scatter(1, order, targets.masked_fill(last, IGNORED))


def sum_of_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross entropies of logits `(B, K, V)` in single precision; targets `(B, K)`."""
    flat = logits.flatten(0, 1)
    return F.cross_entropy(flat.float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def combined(
    parts: Sequence[Part],
    wanted: Wanted,
    cache: InfiniCache | None,
    padded: bool,
    write_penalty: float,
    num_items: Tensor | int | None,
) -> InfiniOutput:
    """One output of all windows; the mean write counts every window as much as it has tokens.

    Where the loss is divided by the labels of several batches, the penalty counts as much as this one's share of them.
    """
    loss = writes = None
    tokens = [part.tokens for part in parts]
    if parts and parts[0].writes:
        means = [torch.stack(part.writes).mean() * count for part, count in zip(parts, tokens, strict=True)]
        writes = torch.stack(means).sum() / sum(tokens)
    if wanted.targets is not None:
        total = sum(part.loss for part in parts if part.loss is not None)
        own = (wanted.targets != IGNORED).sum().clamp_min(1)
        count = own if num_items is None else torch.as_tensor(num_items).to(own.device)
        loss = torch.as_tensor(total) / count
        if writes is not None and write_penalty:
            loss = loss + write_penalty * writes * (own / count).to(writes.device)
    logits = _logits(parts, wanted, padded) if wanted.logits else None
    return InfiniOutput(loss=loss, logits=logits, past_key_values=cache, mean_write=writes)


def _logits(parts: Sequence[Part], wanted: Wanted, padded: bool) -> Tensor:
    """The logits of the windows in the order of the columns, `(B, T or logits_to_keep, V)`."""
    found = [part.logits for part in parts if part.logits is not None and part.logits.shape[1]]
    uniform = all(part.uniform for part in parts)
    if uniform and not padded:
        return found[0] if len(found) == 1 else torch.cat(found, 1)
    rows, vocabulary = found[0].shape[0], found[0].shape[2]
    logits = found[0].new_zeros(rows, wanted.length - wanted.first, vocabulary)
    for part in parts:
        if part.logits is None or not part.logits.shape[1]:
            continue
        chosen = part.real & (part.columns >= wanted.first)
        row, place = (index.to(logits.device) for index in chosen.nonzero(as_tuple=True))
        logits[row, part.columns[chosen].to(logits.device) - wanted.first] = part.logits[row, place]
    return logits
