"""A state as tensors and plain values, and back: what a saved reading holds.

A state is put back into a fresh cache of the same model, which one token makes; so its classes are the model's own and
only numbers are stored (safetensors and JSON, never pickle).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jrt.errors import StateMismatchError
from jrt.state.capabilities import Capabilities
from jrt.state.state import State, advance
from jrt.state.tensors import Plain, flatten, restore


def state_to_tensors(state: State) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """Every tensor and plain value of a state by its path; the token ids are among them."""
    tensors = {"ids": state.ids.to(torch.int32), "mask": state.mask.to(torch.uint8)}
    values: dict[str, Plain] = {}
    parts = enumerate(state.rows) if state.rows is not None else []
    for index, row in parts:
        row_tensors, row_values = state_to_tensors(row)
        tensors |= {f"rows.{index}.{path}": tensor for path, tensor in row_tensors.items()}
        values |= {f"rows.{index}.{path}": value for path, value in row_values.items()}
    if state.cache is not None:
        cache_tensors, cache_values = flatten(state.cache)
        tensors |= {f"cache.{path}": tensor for path, tensor in cache_tensors.items()}
        values |= {f"cache.{path}": value for path, value in cache_values.items()}
    return {path: tensor.detach().contiguous().clone() for path, tensor in tensors.items()}, values


def state_from_tensors(
    model: Any, capabilities: Capabilities, tensors: dict[str, Tensor], values: dict[str, Plain]
) -> State:
    """The inverse of `state_to_tensors` for the same model.

    Raises:
        StateMismatchError: the tensors do not fit the state of this model in this version of transformers.
    """
    device = model.device
    state = State(ids=tensors["ids"].long().to(device), mask=tensors["mask"].long().to(device))
    rows = {path.split(".")[1] for path in tensors if path.startswith("rows.")}
    if rows:
        state.rows = [
            state_from_tensors(model, capabilities, _below(f"rows.{index}.", tensors), _below(f"rows.{index}.", values))
            for index in range(len(rows))
        ]
    cache_tensors, cache_values = _below("cache.", tensors), _below("cache.", values)
    if not cache_tensors:
        return state
    fresh = State.empty(1, device)
    advance(model, fresh, torch.zeros(1, 1, dtype=torch.long, device=device), capabilities=capabilities)
    try:
        restore(fresh.cache, cache_tensors, cache_values)
    except KeyError as error:
        raise StateMismatchError(
            f"The saved state and the state of {type(model).__name__} differ in {error}.",
            "It was saved by another version of transformers; read the document again.",
        ) from None
    state.cache = fresh.cache
    return state


def _below(prefix: str, items: dict[str, Any]) -> dict[str, Any]:
    return {path.removeprefix(prefix): item for path, item in items.items() if path.startswith(prefix)}
