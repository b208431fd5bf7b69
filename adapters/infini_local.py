"""Attention of a window's tokens to each other and to the tokens before them that the cache holds.

Held tokens stand right before the window's own, so every row is contiguous: held `(B, H, W, D)`, of which row b fills
the last `fills[b]` columns, then new `(B, H, N, D)`, of which row b fills the first `counts[b]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """What the N new tokens see of W held and N new ones.

    Attributes:
        mask: true where a token is seen, `(B or 1, 1, N, W + N)`; None when `causal` says it all.
        causal: every token sees those up to itself; otherwise, without a mask, every token sees all.
    """

    mask: Tensor | None
    causal: bool = False


def band(held: int, length: int, fills: Tensor, window: int | None, device: torch.device) -> Band:
    """What is seen, causally.

    Args:
        held: W, columns that are held.
        length: N.
        fills: how many of them are tokens of each row, `(B,)`.
        window: how many tokens each one sees, itself included; None for all.
        device: where the attention is computed.
    """
    full = bool((fills == held).all())
    bounded = window is not None and held + length > window
    if full and not bounded and (held == 0 or length == 1):
        return Band(None, causal=length > 1)
    columns = torch.arange(held + length, device=device)
    rows = columns[held:, None]
    seen = columns <= rows
    if bounded:
        assert window is not None
        seen = seen & (rows - columns < window)
    if not full:
        seen = seen & (columns >= (held - fills.to(device))[:, None, None])
    return Band(seen[:, None] if seen.dim() == 3 else seen[None, None])


def local_attention(
    query: Tensor, key: Tensor, value: Tensor, seen: Band, scale: float, dropout: float, softcap: float | None
) -> Tensor:
    """Softmax attention, `(B, H, N, Dv)`.

    Args:
        query: `(B, H, N, D)`.
        key: `(B, Hkv, W + N, D)`.
        value: `(B, Hkv, W + N, Dv)`.
        seen: what each query sees.
        scale: of the scores.
        dropout: of the weights.
        softcap: scores s become softcap tanh(s / softcap), as in Gemma 2; None leaves them.
    """
    if softcap is None:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            seen.mask,
            dropout_p=dropout,
            is_causal=seen.causal,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    grouped = query.unflatten(1, (key.shape[1], -1))
    scores = softcap * torch.tanh(scale * (grouped @ key[:, :, None].mT) / softcap)
    if seen.mask is not None:
        scores = scores.masked_fill(~seen.mask[:, :, None], float("-inf"))
    elif seen.causal:
        size = query.shape[2]
        future = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    weights = F.dropout(scores.float().softmax(-1).to(value.dtype), dropout)
    return (weights @ value[:, :, None]).flatten(1, 2)


def segmentwise(x: Tensor, segment_length: int) -> Tensor:
    """`(B, H, N, D)` as one row for every segment, `(B n, H, S, D)`, the last one filled up with zeros."""
    count = -(-x.shape[2] // segment_length)
    x = F.pad(x, (0, 0, 0, count * segment_length - x.shape[2]))
    return x.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)


def rowwise(x: Tensor, rows: int, length: int) -> Tensor:
    """The inverse of `segmentwise`."""
    return x.unflatten(0, (rows, -1)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def keep_last(tokens: Tensor, held: int, counts: Tensor, width: int) -> Tensor:
    """The last `width` columns up to every row's last new token: `(B, H, W + N, D)` to `(B, H, width, D)`.

    A copy, so that what is dropped is freed. Columns before a row's first token hold anything.
    """
    if bool((counts == counts[0]).all()):
        end = held + int(counts[0])
        if width == tokens.shape[2]:
            return tokens
        if end >= width:
            return tokens[:, :, end - width : end].clone()
    columns = (held + counts[:, None] - width + torch.arange(width)[None]).clamp(min=0).to(tokens.device)
    return tokens.gather(2, columns[:, None, :, None].expand(-1, tokens.shape[1], -1, tokens.shape[3]))
