"""The training objective of JRT-RNN: the next token after the prefix, hidden tokens in it (arXiv 2407.05483, eq. 5).

Positions of the prefix see all of it, so what comes next there is no question; which tokens were hidden is. The loss is
`ntp + mlm_weight * mlm`, each a mean over its own tokens, as the released models were trained; the paper also divides
by the sum of the weights.

Which tokens are asked: with M tokens of prefix, the tokens M, M + 1, ... of a row, counted from 0. The first of them is
predicted by the last position of the prefix, which has seen nothing after it; this is where an answer to a prompt
starts. (The released training left this one position out, 1 of 1024.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt.errors import InvalidOptionError, TokenizerError

IGNORED = -100


class ObjectiveLoss(NamedTuple):
    """The weighted sum and its parts, each a scalar."""

    total: Tensor
    ntp: Tensor
    mlm: Tensor


def mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the targets that are not `IGNORED`, in float32 or wider; 0, with zero gradients, when all are."""
    scores = logits if logits.dtype == torch.float64 else logits.float()
    total = F.cross_entropy(scores.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp_min(1)


def foreseeable(labels: Tensor | None, attention_mask: Tensor | None, columns: tuple[int, int]) -> Tensor | None:
    """The labels without those that a padding column would have to foresee, (B, T), so that rows count as if alone.

    Args:
        labels: the tokens, unshifted, (B, T), or None.
        attention_mask: 1 for tokens and 0 for padding, (B, T), or of all that was read, (B, past + T); None for all.
        columns: (B, T).

    Raises:
        InvalidOptionError: labels of another shape.
    """
    if labels is None:
        return None
    if tuple(labels.shape) != columns:
        raise InvalidOptionError(
            f"labels have the shape {tuple(labels.shape)}, the tokens {columns}.",
            "Pass the same tokens as labels, -100 where nothing is asked.",
        )
    if attention_mask is None:
        return labels
    before = F.pad(attention_mask[:, -columns[1] :][:, :-1] != 0, (1, 0), value=True)
    return labels.masked_fill(~before, IGNORED)


def next_token_targets(labels: Tensor, prefix: Tensor | None = None) -> Tensor:
    """What each column has to predict, (B, T): the next column's label where that is outside `prefix`."""
    asked = labels if prefix is None else labels.masked_fill(prefix, IGNORED)
    return F.pad(asked[:, 1:], (0, 1), value=IGNORED)


def prefix_objective(
    logits: Tensor, labels: Tensor | None, mlm_labels: Tensor | None, prefix: Tensor | None, mlm_weight: float
) -> ObjectiveLoss:
    """Both losses of a batch.

    Args:
        logits: (B, T, V).
        labels: the tokens, unshifted, (B, T); `IGNORED` where nothing is asked. None asks for none.
        mlm_labels: the hidden tokens at their own places, (B, T), `IGNORED` elsewhere. None asks for none.
        prefix: true for columns that were read non-causally, (B, T); None when none were.
        mlm_weight: weight of the hidden tokens.

    Raises:
        InvalidOptionError: nothing is asked at all.
    """
    nothing = logits.new_full(logits.shape[:2], IGNORED, dtype=torch.long)
    next_tokens = nothing if labels is None else next_token_targets(labels, prefix)
    hidden_tokens = nothing if mlm_labels is None else mlm_labels
    if not torch.compiler.is_compiling() and bool(((next_tokens == IGNORED) & (hidden_tokens == IGNORED)).all()):
        raise InvalidOptionError(
            "There is nothing to learn: the prefix covers every label, and no token of it is hidden.",
            "Pass a prefix_length shorter than the rows, or mlm_labels.",
        )
    ntp, mlm = mean_cross_entropy(logits, next_tokens), mean_cross_entropy(logits, hidden_tokens)
    return ObjectiveLoss(ntp + mlm_weight * mlm, ntp, mlm)


class RegionCollator:
    """Makes batches of token blocks with both parts of the objective.

    In the first `encoder_length` tokens of a block a share of `mlm_probability` (rounded, at least one) is hidden:
    always replaced by the mask token, never by a random or the same one, for the causal part of the model too. They are
    the `mlm_labels`. Every token after them is a label.

    Which tokens are hidden follows from the seed and the block alone, so it does not change with the batch, the number
    of processes or a resumed run; a block that is read again hides the same tokens.

    Args:
        tokenizer_or_mask_id: the mask token's id, or a tokenizer that has one.
        encoder_length: tokens of a block that are read non-causally.
        decoder_length: tokens after them at most.
        mlm_probability: the share that is hidden.
        seed: other seeds hide other tokens.

    Raises:
        TokenizerError: the tokenizer has no mask token.
        InvalidOptionError: a length or share that cannot be.

    Example:
        >>> batch = RegionCollator(50263, encoder_length=1024, decoder_length=1024)(blocks)
        >>> JRTForCausalLM(JRTConfig.preset("360m"))(**batch).loss
    """

    def __init__(
        self,
        tokenizer_or_mask_id: Any,
        encoder_length: int,
        decoder_length: int,
        mlm_probability: float = 0.15,
        seed: int = 0,
    ) -> None:
        mask_id = getattr(tokenizer_or_mask_id, "mask_token_id", tokenizer_or_mask_id)
        if not isinstance(mask_id, int):
            raise TokenizerError(
                "The tokenizer has no mask token, and the masked part of the objective needs one.",
                "Pass an id that no text has: 50263 for GPT-2's tokenizer and a vocabulary of 50264.",
            )
        if encoder_length < 1 or decoder_length < 1 or not 0 <= mlm_probability <= 1:
            raise InvalidOptionError(
                f"encoder_length is {encoder_length}, decoder_length {decoder_length} and mlm_probability "
                f"{mlm_probability}.",
                "Choose lengths of 1 token or more and a share between 0 and 1.",
            )
        self.mask_id = mask_id
        self.encoder_length = encoder_length
        self.decoder_length = decoder_length
        self.mlm_probability = mlm_probability
        self.seed = seed

    def __call__(self, blocks: Sequence[Any]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels`, `mlm_labels` (B, T) and `prefix_length` (B,) of token id lists.

        A block may also be a mapping with `input_ids`, as datasets give it. Shorter blocks are padded on the right.

        Raises:
            InvalidOptionError: a block that has no token after its prefix, or more than both parts hold.
        """
        rows = [self._row(block) for block in blocks]
        width = max(len(row) for row in rows)
        batch = {
            "input_ids": torch.full((len(rows), width), self.mask_id),
            "attention_mask": torch.zeros(len(rows), width, dtype=torch.long),
            "labels": torch.full((len(rows), width), IGNORED),
            "mlm_labels": torch.full((len(rows), width), IGNORED),
            "prefix_length": torch.full((len(rows),), self.encoder_length),
        }
        for index, row in enumerate(rows):
            hidden = self._hidden(row)
            batch["input_ids"][index, : len(row)] = row
            batch["input_ids"][index, hidden] = self.mask_id
            batch["attention_mask"][index, : len(row)] = 1
            batch["labels"][index, self.encoder_length : len(row)] = row[self.encoder_length :]
            batch["mlm_labels"][index, hidden] = row[hidden]
        return batch

    def _row(self, block: Any) -> Tensor:
        ids = block["input_ids"] if hasattr(block, "keys") else block
        row = torch.as_tensor(ids, dtype=torch.long)
        longest = self.encoder_length + self.decoder_length
        if not self.encoder_length < len(row) <= longest:
            raise InvalidOptionError(
                f"A block has {len(row)} tokens; encoder and decoder hold {self.encoder_length} and up to "
                f"{self.decoder_length}.",
                f"Cut the text into blocks of {self.encoder_length + 1} to {longest} tokens.",
            )
        return row

    def _hidden(self, row: Tensor) -> Tensor:
        """The places of the hidden tokens."""
        if not self.mlm_probability:
            return torch.zeros(0, dtype=torch.long)
        digest = hashlib.sha256(f"{self.seed}:".encode() + row.numpy().tobytes()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        count = max(1, round(self.mlm_probability * self.encoder_length))
        return torch.randperm(self.encoder_length, generator=generator)[:count]
