"""The state of a reading, and the one function that moves it forward.

`advance` feeds tokens through a model on top of a `State` such that the logits are those of the full prompt, for every
family that transformers has. What makes that hard is listed in `Capabilities`; the answers are: explicit positions, the
full attention mask for key-value caches and the new part for recurrent ones, single steps where a chunk restarts the
scan, a state per row where rows disturb each other, and reading again where no state comes out.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jrt.state.capabilities import Capabilities

PREFILL_CHUNK = 2048
"""Tokens in one forward of a long prefill; keeps activations bounded while matrices stay large enough to be fast."""


Progress = Callable[[int, int], None]
"""Is told how many columns are read, and how many there are."""


@dataclass
class State:
    """Everything a model remembers of what it has read, for a batch of rows.

    A state either holds one cache for all rows or, where the model mixes rows up, one single-row state for each.
    transformers' `generate` takes it as its cache.

    Attributes:
        ids: token ids read so far, (B, T).
        mask: 1 for tokens, 0 for padding, (B, T).
        cache: the model's own state object; None before the first token and for models that are read again.
        rows: the states of the single rows, without padding; None when `cache` holds all rows.
    """

    ids: Tensor
    mask: Tensor
    cache: Any = None
    rows: list[State] | None = field(default=None)

    @classmethod
    def empty(cls, batch_size: int, device: torch.device | str = "cpu") -> State:
        """The state of a model that has read nothing."""
        nothing = torch.zeros(batch_size, 0, dtype=torch.long, device=device)
        return cls(ids=nothing, mask=nothing.clone())

    def __len__(self) -> int:
        """The number of columns read, padding included."""
        return self.ids.shape[1]

    @property
    def num_tokens(self) -> Tensor:
        """Tokens read in each row, padding not counted, (B,)."""
        return self.mask.sum(dim=1)

    @property
    def nbytes(self) -> int:
        """Bytes of the model's state; the token ids are not counted."""
        if self.rows is not None:
            return sum(row.nbytes for row in self.rows)
        from jrt.state.tensors import tensors_of

        return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(self.cache).values())

    def fork(self) -> State:
        """A copy that can go another way; nothing is shared that is ever written to."""
        return copy.deepcopy(self)

    def select(self, indices: Tensor) -> State:
        """A new state with the rows `indices`, (N,); a row may appear several times (one document, N questions)."""
        state = self.fork()
        state.reorder_cache(indices)
        return state

    def reorder_cache(self, indices: Tensor) -> None:
        """`select` in place: what beam search calls after every step."""
        indices = indices.to(self.ids.device)
        if self.rows is None and len(self) and not reorderable(self.cache):
            self.split()
        self.ids, self.mask = self.ids.index_select(0, indices), self.mask.index_select(0, indices)
        if self.rows is not None:
            used: set[int] = set()
            rows = []
            for index in indices.tolist():
                rows.append(self.rows[index].fork() if index in used else self.rows[index])
                used.add(index)
            self.rows = rows
        elif self.cache is not None:
            self.cache.reorder_cache(indices)

    def split(self) -> None:
        """Gives every row a state of its own, for models and masks that one cache cannot serve."""
        if self.rows is not None:
            return
        if self.cache is None and len(self) == 0:
            self.rows = [State.empty(1, self.ids.device) for _ in range(len(self.ids))]
            return
        indices = torch.arange(len(self.ids), device=self.ids.device)
        rows = [self.select(index[None]) for index in indices] if len(indices) > 1 else [copy.copy(self)]
        self.rows, self.cache = rows, None

    # What transformers' `generate` asks of a cache that a user passes in.
    is_compileable = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return len(self)


@torch.no_grad()
def advance(
    model: Any,
    state: State,
    ids: Tensor,
    mask: Tensor | None = None,
    *,
    capabilities: Capabilities,
    chunk_size: int = PREFILL_CHUNK,
    progress: Progress | None = None,
) -> Tensor:
    """Reads `ids` on top of `state`, which is changed in place.

    Args:
        model: a causal language model of transformers.
        state: what was read before; `State.empty(B)` for nothing.
        ids: new token ids, (B, N), N >= 1.
        mask: 1 for tokens, 0 for padding, (B, N); the last column must be tokens. None means no padding.
        capabilities: what `probe(model)` found.
        chunk_size: tokens in one forward.
        progress: told after every forward how many columns of `ids` are read, and how many there are.

    Returns:
        The logits after the last token, (B, V).
    """
    mask = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
    if state.rows is None and _needs_rows(state, mask, capabilities):
        state.split()
    if state.rows is None and capabilities.continuation != "replay":
        return _feed(model, state, ids, mask, capabilities, chunk_size, progress)
    if state.rows is not None:
        logits = _advance_rows(model, state.rows, ids, mask, capabilities, chunk_size)
    else:
        logits = _replay(model, torch.cat([state.ids, ids], dim=1))
    state.ids, state.mask = torch.cat([state.ids, ids], dim=1), torch.cat([state.mask, mask], dim=1)
    return logits


def _needs_rows(state: State, mask: Tensor, capabilities: Capabilities) -> bool:
    """Whether one cache for all rows would mix them up or see padding where it must not."""
    padded = not bool(mask.all())
    if not capabilities.batched:
        return padded or len(mask) > 1
    if capabilities.gaps or not padded:
        return False
    whole = torch.cat([state.mask, mask], dim=1)
    return bool((whole[:, 1:] < whole[:, :-1]).any())


def _advance_rows(
    model: Any, rows: list[State], ids: Tensor, mask: Tensor, capabilities: Capabilities, chunk_size: int
) -> Tensor:
    """Each row on its own, its padding dropped; a row that is all padding gets zeros, which nobody reads."""
    results: list[Tensor | None] = []
    for row, row_ids, row_mask in zip(rows, ids, mask, strict=True):
        tokens = row_ids[row_mask.bool()][None]
        if tokens.numel():
            results.append(advance(model, row, tokens, capabilities=capabilities, chunk_size=chunk_size))
        else:
            results.append(None)
    some = next(result for result in results if result is not None)
    return torch.cat([torch.zeros_like(some) if result is None else result for result in results])


def _feed(
    model: Any,
    state: State,
    ids: Tensor,
    mask: Tensor,
    capabilities: Capabilities,
    chunk_size: int,
    progress: Progress | None,
) -> Tensor:
    """Forward after forward over parts of the new tokens; `state` grows with every part.

    A model that is exact in single steps only still reads its very first tokens at once, and so does a model with a
    prefix: the very first `advance` fixes it, however long the parts are.
    """
    name = str(capabilities.state_argument)
    parameters = forward_parameters(model)
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
    width = chunk_size if capabilities.continuation == "chunk" else 1 if state.cache is not None else ids.shape[1]
    first = max(width, _prefix_columns(model, mask)) if state.cache is None else width
    length, done = ids.shape[1], 0
    sizes = [min(first, length), *(min(width, length - start) for start in range(first, length, width))]
    for part, part_mask in zip(ids.split(sizes, dim=1), mask.split(sizes, dim=1), strict=True):
        state.ids, state.mask = torch.cat([state.ids, part], dim=1), torch.cat([state.mask, part_mask], dim=1)
        if "attention_mask" in parameters:
            options["attention_mask"] = state.mask if name == "past_key_values" else part_mask
        if "position_ids" in parameters:
            options["position_ids"] = positions(state.mask)[:, -part.shape[1] :]
        if state.cache is not None:
            options[name] = state.cache
        output = model(input_ids=part, use_cache=True, **options)
        state.cache = getattr(output, name)
        done += part.shape[1]
        if progress is not None:
            progress(done, length)
    logits: Tensor = output.logits[:, -1]
    return logits


def _replay(model: Any, ids: Tensor) -> Tensor:
    """The logits after rows that are read from their first token, for a model that gives no state away."""
    parameters = forward_parameters(model)
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
    if "position_ids" in parameters:
        options["position_ids"] = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    logits: Tensor = model(input_ids=ids, use_cache=False, **options).logits[:, -1]
    return logits


def prefix_options(model: Any, num_tokens: int) -> dict[str, int]:
    """What `forward` needs to read a whole prompt as it is read when its first `num_tokens` tokens come alone."""
    return {"prefix_length": min(num_tokens, longest_prefix(model))} if longest_prefix(model) else {}


def longest_prefix(model: Any) -> int:
    """How many tokens the first forward of a model with a prefix (JRT-RNN) reads non-causally; 0 for causal models."""
    return int(model.config.encoder_length) if "prefix_length" in forward_parameters(model) else 0


def _prefix_columns(model: Any, mask: Tensor) -> int:
    """The columns that hold every row's prefix; a row that is padded on the left has it late."""
    longest = longest_prefix(model)
    if not longest:
        return 0
    read = mask.cumsum(dim=1)
    return 1 + int((read < read[:, -1:].clamp_max(longest)).sum(dim=1).max())


def reorderable(cache: Any) -> bool:
    """Whether `cache.reorder_cache` moves everything that the cache holds; subclasses keep tensors that it misses."""
    from transformers import DynamicCache

    return type(cache) is DynamicCache or bool(getattr(cache, "reorders_everything", False))


def positions(mask: Tensor) -> Tensor:
    """The position of every token among the tokens of its row, (B, T); padding gets 0 or the position before it."""
    return (mask.long().cumsum(dim=1) - 1).clamp_min(0)


def forward_parameters(model: Any) -> frozenset[str]:
    """The names that the model's `forward` takes, seen through a PEFT wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(inner.forward).parameters)
