"""What the layers of Based and JRT-RNN remember: a cache of transformers with a fixed size.

Sums are float32 whatever the weights are. Everything has the batch in front, so beams, forks and saved readings move
rows by index. Padding always lies in front of the tokens here: `Regions` puts it there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from jrt.errors import StateMismatchError
from jrt.kernels.taylor import TaylorState


class LayerMemory(CacheLayerMixin):
    """The memory of one layer; each kind of layer uses its own tensors, None before the first token.

    Attributes:
        keys: rotated keys of the last tokens, (B, S, H, D).
        values: their values, (B, S, H, D).
        conv_states: the last inputs of a convolution, (B, K - 1, C).
        sums: what Taylor attention keeps of the values, (B, H, E, Dv).
        normalizer: and of the keys alone, (B, H, E).
    """

    TENSORS = ("keys", "values", "conv_states", "sums", "normalizer")

    def __init__(self) -> None:
        super().__init__()
        self.conv_states: Tensor | None = None
        self.sums: Tensor | None = None
        self.normalizer: Tensor | None = None
        self.length = 0

    @property
    def taylor(self) -> TaylorState | None:
        if self.sums is None or self.normalizer is None:
            return None
        return TaylorState(self.sums, self.normalizer)

    @taylor.setter
    def taylor(self, state: TaylorState) -> None:
        self.sums, self.normalizer = state.values, state.normalizer

    def change(self, function: Callable[[Tensor], Tensor | None]) -> None:
        """Replaces every tensor that is there."""
        for name in self.TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, function(tensor))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: the first forward writes everything."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("A recurrent layer keeps no list of keys; its mixer writes what it remembers.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.change(lambda tensor: None)
        self.length = 0


class BasedCache(Cache):
    """The memory of all layers.

    Attributes:
        length: columns that were read, padding included.
        num_tokens: tokens read in each row, (B,); None before the first.
        padded: whether there was padding in any row.
    """

    reorders_everything = True
    keeps_gaps = True

    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[LayerMemory() for _ in range(num_layers)])
        self.num_tokens: Tensor | None = None
        self.padded = False

    @property
    def length(self) -> int:
        return int(self.layers[0].length) if self.layers else 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def tokens_before(self, batch: int, device: torch.device) -> Tensor:
        """Tokens read in each row so far, (B,)."""
        if self.num_tokens is None:
            return torch.zeros(batch, dtype=torch.long, device=device)
        if len(self.num_tokens) != batch:
            raise StateMismatchError(
                f"The state holds {len(self.num_tokens)} rows, and {batch} came after it.",
                "Select the rows with reorder_cache, batch_repeat_interleave or batch_select_indices first.",
            )
        return self.num_tokens

    def advance(self, columns: int, num_tokens: Tensor, padded: bool) -> None:
        """Counts columns that all layers have read; `num_tokens` (B,) is of everything read."""
        for layer in self.layers:
            layer.length += columns
        self.num_tokens, self.padded = num_tokens, padded

    def _change(self, function: Callable[[Tensor], Tensor]) -> None:
        for layer in self.layers:
            layer.change(function)
        if self.num_tokens is not None:
            self.num_tokens = function(self.num_tokens)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._change(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._change(lambda tensor: tensor[indices])

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self.num_tokens, self.padded = None, False


def as_cache(past_key_values: Any, num_layers: int) -> BasedCache:
    """`past_key_values` as the cache of a model with `num_layers` layers; None gives an empty one.

    Raises:
        StateMismatchError: it is another kind of cache, or of another model.
    """
    if past_key_values is None:
        return BasedCache(num_layers)
    if not isinstance(past_key_values, BasedCache) or len(past_key_values.layers) != num_layers:
        raise StateMismatchError(
            f"past_key_values is a {type(past_key_values).__name__}, and this model's memory is a BasedCache "
            f"of {num_layers} layers.",
            "Pass what the model returned as past_key_values, or nothing at first.",
        )
    return past_key_values
