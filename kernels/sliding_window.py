"""Exact causal attention in a sliding window: every position sees itself and the `window - 1` before it.

Written because SDPA, given the window as a mask, still computes all T x T scores. Here time and memory grow with
T x window: FlexAttention on a GPU (it skips the blocks outside the window), blocks of SDPA elsewhere, which unlike
FlexAttention on a CPU have gradients. What fits in one block is one masked SDPA.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt.kernels.switch import plain_torch_only

__all__ = ["sliding_window_attention"]

_BLOCKS = (64, 256)  # queries of one block: as many as the window is wide, within these bounds (measured on a CPU)
_FLEX_BLOCK = 128  # of queries and of keys, in FlexAttention
_FLEX_WIDTH = 16  # of the narrowest heads that FlexAttention compiles for


def sliding_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """o_i = sum_j softmax_j(scale * <q_i, k_j>) v_j over the real positions j with i - window < j <= i.

    Queries are the last T of the Tk positions, so a prompt may be read in chunks: pass the keys and values of the chunk
    behind those of (at least) the `window - 1` positions before it. The window counts positions, padded ones too.

    Args:
        query: `(B, H, T, D)`.
        key: `(B, Hkv, Tk, D)`, Tk >= T; Hkv divides H, consecutive query heads share a key head.
        value: `(B, Hkv, Tk, Dv)`.
        window: positions that a query sees, its own included, >= 1.
        mask: `(B, Tk)`, true where a position is real: only those are seen; None when all are. What stands at the
            others must be finite. A query that sees nothing gives zeros.
        scale: None is 1 / sqrt(D).

    Returns:
        `(B, H, T, Dv)` in the type of `query`; differentiable in query, key and value.

    Raises:
        ValueError: shapes do not fit together, or the window is below 1.

    Example:
        >>> whole = sliding_window_attention(q, k, v, 64)
        >>> torch.allclose(sliding_window_attention(q[:, :, 500:], k[:, :, 437:], v[:, :, 437:], 64), whole[:, :, 500:])
        True
    """
    _check(query, key, value, window, mask)
    length, seen = query.shape[2], min(key.shape[2], query.shape[2] + window - 1)
    key, value = key[:, :, key.shape[2] - seen :], value[:, :, value.shape[2] - seen :]
    mask = None if mask is None else mask[:, mask.shape[1] - seen :].bool()
    blind = None if mask is None else _sees_nothing(mask, length, window)
    output = _path(query, key, value, window, mask)(query, key, value, window, mask, blind, scale)
    return output if blind is None else output.masked_fill(blind[:, None, :, None], 0)


def _path(query: Tensor, key: Tensor, value: Tensor, window: int, mask: Tensor | None) -> Callable[..., Tensor]:
    """The fastest path for a call; all of them take the same arguments."""
    if mask is None and window >= key.shape[2] == query.shape[2]:
        return _causal
    if query.shape[2] <= _block_size(window):
        return _one_block
    return _flex if _flex_fits(query, value) else _blocked


def _block_size(window: int) -> int:
    """Queries of one block."""
    return min(max(window, _BLOCKS[0]), _BLOCKS[1])


def _flex_fits(query: Tensor, value: Tensor) -> bool:
    """Whether FlexAttention runs, compiled, and has gradients for such queries and values."""
    return (
        query.device.type == "cuda"
        and query.dtype != torch.float64
        and min(query.shape[3], value.shape[3]) >= _FLEX_WIDTH
        and not plain_torch_only()
        and importlib.util.find_spec("triton") is not None
    )


def _causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    mask: Tensor | None,
    blind: Tensor | None,
    scale: float | None,
) -> Tensor:
    """One causal SDPA, where the window is no bound."""
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


def _blocked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    mask: Tensor | None,
    blind: Tensor | None,
    scale: float | None,
) -> Tensor:
    """SDPA of every block of queries with the blocks of keys that its window reaches.

    Keys are cut where queries are and joined again, instead of sliced: the backward pass of a slice fills a tensor of
    full length with zeros, for every slice, and would be quadratic.
    """
    length, first = query.shape[2], key.shape[2] - query.shape[2]
    size = _block_size(window)
    count, before = -(-length // size), -(-first // size)
    sizes = [size] * (length // size) + ([length % size] if length % size else [])
    lead = [first - (before - 1) * size] + [size] * (before - 1) if before else []
    queries, reach = query.split(sizes, 2), -(-(window - 1) // size)
    keys, values = key.split(lead + sizes, 2), value.split(lead + sizes, 2)
    masks = None if mask is None else mask.split(lead + sizes, 1)
    blinds = None if blind is None else blind.split(sizes, 1)
    outputs = []
    for index in range(count):
        pieces = slice(max(0, before + index - reach), before + index + 1)
        outputs.append(
            _one_block(
                queries[index],
                torch.cat(keys[pieces], 2),
                torch.cat(values[pieces], 2),
                window,
                None if masks is None else torch.cat(masks[pieces], 1),
                None if blinds is None else blinds[index],
                scale,
            )
        )
    return torch.cat(outputs, 2)


def _one_block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    mask: Tensor | None,
    blind: Tensor | None,
    scale: float | None,
) -> Tensor:
    """Masked SDPA. The queries of heads that share a key head stand below each other, so that no key is copied."""
    (rows, heads, length, width), (shared, seen) = query.shape, key.shape[1:3]
    position = torch.arange(seen - length, seen, device=query.device)[:, None]
    other = torch.arange(seen, device=query.device)
    visible = (other <= position) & (other > position - window)
    if mask is not None and blind is not None:
        visible = (visible & mask[:, None]) | ((other == position) & blind[:, :, None])
        visible = visible[:, None]
    groups = heads // shared
    folded = query.reshape(rows, shared, groups * length, width)
    visible = visible.repeat(*[1] * (visible.dim() - 2), groups, 1)
    output = F.scaled_dot_product_attention(folded, key, value, attn_mask=visible, scale=scale)
    return output.reshape(rows, heads, length, value.shape[3])


def _flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int,
    mask: Tensor | None,
    blind: Tensor | None,
    scale: float | None,
) -> Tensor:
    """FlexAttention, compiled, over the blocks that a window touches."""
    length, seen = query.shape[2], key.shape[2]
    blocks = _block_mask(length, seen, window, query.device) if mask is None else None
    if mask is not None and blind is not None:
        blocks = _padded_block_mask(length, seen, window, mask, blind)
    grouped = query.shape[1] != key.shape[1]
    output: Tensor = _compiled_flex()(query, key, value, block_mask=blocks, scale=scale, enable_gqa=grouped)
    return output


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@lru_cache(maxsize=16)
def _block_mask(length: int, seen: int, window: int, device: torch.device) -> Any:
    """The window as FlexAttention takes it; the same for every layer, so kept."""
    if torch.is_inference_mode_enabled():  # what is made then could not be saved for a backward pass later
        with torch.inference_mode(False):
            return _window_mask(length, seen, window, device)
    return _window_mask(length, seen, window, device)


def _window_mask(length: int, seen: int, window: int, device: torch.device) -> Any:
    first, width = _as_tensors(seen - length, window, device)

    def visible(row: Tensor, head: Tensor, at: Tensor, other: Tensor) -> Tensor:
        return (other <= at + first) & (other > at + first - width)

    return _blocks_of(visible, *_touched(length, seen, window, device), (length, seen))


def _padded_block_mask(length: int, seen: int, window: int, mask: Tensor, blind: Tensor) -> Any:
    """The same for rows of a batch with padding; a query that sees nothing sees itself (its output is dropped)."""
    first, width = _as_tensors(seen - length, window, mask.device)

    def visible(row: Tensor, head: Tensor, at: Tensor, other: Tensor) -> Tensor:
        inside = (other <= at + first) & (other > at + first - width)
        return (inside & mask[row, other]) | ((other == at + first) & blind[row, at])

    touched, _ = _touched(length, seen, window, mask.device)
    return _blocks_of(visible, touched, torch.zeros_like(touched), (length, seen))


def _as_tensors(first: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers as tensors: every other number in a mask function would compile the attention anew."""
    return torch.tensor(first, device=device), torch.tensor(window, device=device)


def _touched(length: int, seen: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which blocks of keys a block of queries sees anything of, and which it sees all of: `(query blocks, key blocks)`.

    Worked out for blocks, because torch's own way makes a mask of all T x T pairs first.
    """
    start = torch.arange(0, length, _FLEX_BLOCK, device=device)[:, None] + seen - length
    end = (start + _FLEX_BLOCK - 1).clamp_max(seen - 1)
    begin = torch.arange(0, seen, _FLEX_BLOCK, device=device)
    stop = begin + _FLEX_BLOCK - 1
    return (begin <= end) & (stop > start - window), (stop <= start) & (begin > end - window)


def _blocks_of(visible: Callable[..., Tensor], touched: Tensor, full: Tensor, lengths: tuple[int, int]) -> Any:
    """A BlockMask that looks at single pairs in blocks that are seen in part only."""
    from torch.nn.attention.flex_attention import BlockMask

    def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """How many blocks each row has, and their numbers, those first."""
        count, order = blocks.sum(-1), blocks.int().argsort(dim=-1, descending=True, stable=True)
        return count.int()[None, None], order.int()[None, None]

    return BlockMask.from_kv_blocks(
        *ordered(touched & ~full), *ordered(full), BLOCK_SIZE=_FLEX_BLOCK, mask_mod=visible, seq_lengths=lengths
    )


def _sees_nothing(mask: Tensor, length: int, window: int) -> Tensor:
    """Which of the last `length` positions have no real position in their window: `(B, T)`."""
    real = F.pad(mask.long().cumsum(1), (window, 0))  # real[:, i + window] counts the real positions up to i
    return (real[:, window:] == real[:, :-window])[:, mask.shape[1] - length :]


def _check(query: Tensor, key: Tensor, value: Tensor, window: int, mask: Tensor | None) -> None:
    """Raises a ValueError that names what does not fit."""
    if window < 1:
        raise ValueError(f"window is {window}; a position sees at least itself, so it has to be 1 or more.")
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.dim() == key.dim() == value.dim() == 4:
        raise ValueError(f"query, key and value have to be (B, H, T, D); they are {shapes}.")
    if key.shape[:3] != value.shape[:3] or query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(f"Batch, key heads, positions or widths do not fit together: {shapes}.")
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"{query.shape[1]} query heads cannot share {key.shape[1]} key heads evenly.")
    if not 0 < query.shape[2] <= key.shape[2]:
        raise ValueError(f"Queries are the last positions, so there have to be as many keys or more: {shapes}.")
    if mask is not None and tuple(mask.shape) != (key.shape[0], key.shape[2]):
        expected = (key.shape[0], key.shape[2])
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it marks the keys, so it has to be {expected}.")
