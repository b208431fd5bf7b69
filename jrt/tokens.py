"""Text to token ids: where special tokens go, where a kept prefix ends, how rows become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jrt.errors import TokenizerError
from jrt.prompts import JRTPrompt, Plan
from jrt.prompts.ids import repeat_ids

_ANCHOR = 200  # characters before a boundary that are tokenized again to see where it falls


def encode_plan(tokenizer: Any, plan: Plan) -> list[int]:
    """The token ids of a whole prompt. A chat template has put its own special tokens into the text already."""
    return encode(tokenizer, plan.text, special=not plan.chat)


def encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """The token ids of `text`; `special` adds what the tokenizer puts in front, never an end-of-sequence token."""
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    if special and ids and ids[-1] == tokenizer.eos_token_id:
        plain: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > 1 and plain[-1:] != ids[-1:]:
            return ids[:-1]
    return ids


def encode_after(tokenizer: Any, before: str, text: str) -> list[int]:
    """The token ids of `text` where it follows `before`, so that a sentence's first word keeps its leading space.

    Tokens that would merge across the boundary stay apart, because the ones before it have been read already.
    """
    anchor = before[-_ANCHOR:]
    alone, together = encode(tokenizer, anchor, special=False), encode(tokenizer, anchor + text, special=False)
    if together[: len(alone)] == alone:
        return together[len(alone) :]
    return encode(tokenizer, text, special=False)


def left_pad(tokenizer: Any, rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of different length as one batch: ids (B, T) and mask (B, T), padding on the left.

    Raises:
        TokenizerError: rows differ in length and the tokenizer has no padding token.
    """
    longest = max(len(row) for row in rows)
    if any(len(row) < longest for row in rows) and tokenizer.pad_token_id is None:
        raise TokenizerError(
            f"{len(rows)} prompts of different length need padding, and the tokenizer has no padding token.",
            "Set tokenizer.pad_token = tokenizer.eos_token, or use batch_size=1.",
        )
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def lengthen(
    method: JRTPrompt, tokenizer: Any, ids: Tensor, mask: Tensor, context_length: int | None
) -> tuple[Tensor, Tensor]:
    """A batch of prompts in the order of a method: ids (B, T) and mask (B, T) to longer ones.

    Args:
        method: how often and in which order the context is read.
        tokenizer: whose special tokens in front of a row are not repeated, and in whose tokens the separators are.
        ids: prompts, (B, T), padded on the left.
        mask: 1 for tokens, 0 for padding, (B, T).
        context_length: tokens of each row that are special or context; the rest is the question.
    """
    special = set(tokenizer.all_special_ids)
    rows = []
    for row, keep in zip(ids, mask, strict=True):
        tokens = row[keep.bool()].tolist()
        front = next((index for index, token in enumerate(tokens) if token not in special), len(tokens))
        rows.append(
            repeat_ids(
                method,
                tokens,
                context_length=context_length,
                num_special=front,
                separator_ids=encode(tokenizer, method.separator, special=False),
                joint_ids=encode(tokenizer, method.joint, special=False),
            )
        )
    return left_pad(tokenizer, rows, ids.device)
