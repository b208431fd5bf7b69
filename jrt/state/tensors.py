"""The tensors inside a state object, by path: what saving, loading and counting bytes share.

transformers has many cache classes; they all are objects, lists and dicts that hold tensors and a few plain values. So
a cache is walked, not known: `flatten` names every tensor and plain value by its path, and `restore` writes them into a
fresh cache of the same model. A tensor's path looks like `layers.3.keys` or `rnn_state.0.1`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Plain = bool | int | float | str | None


def tensors_of(cache: Any) -> dict[str, Tensor]:
    """Every tensor in `cache` by its path."""
    return flatten(cache)[0]


def flatten(cache: Any) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """The tensors and the plain values (counters, flags) of a cache, each by its path."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Plain] = {}

    def visit(path: str, item: Any) -> Any:
        if isinstance(item, Tensor):
            tensors[path] = item
        elif isinstance(item, (bool, int, float, str)) or item is None:
            values[path] = item
        return item

    _walk(cache, "", visit)
    return tensors, values


def restore(cache: Any, tensors: dict[str, Tensor], values: dict[str, Plain]) -> None:
    """Writes what `flatten` gave into `cache`, a fresh one of the same model that has read at least one token.

    Raises:
        KeyError: the fresh cache has a tensor or value that is not among the given ones, or the reverse.
    """
    unused = set(tensors) | set(values)

    def visit(path: str, item: Any) -> Any:
        if isinstance(item, Tensor):
            unused.discard(path)
            return tensors[path].to(device=item.device, dtype=item.dtype)
        if isinstance(item, (bool, int, float, str)) or item is None:
            unused.discard(path)
            return tensors[path] if path in tensors else values[path]
        return item

    _walk(cache, "", visit)
    if unused:
        raise KeyError(min(unused))


def _walk(item: Any, path: str, visit: Callable[[str, Any], Any]) -> Any:
    """Rebuilds `item` in place with every leaf replaced by what `visit` returns; tuples are made anew."""
    if isinstance(item, list):
        item[:] = [_walk(child, _join(path, index), visit) for index, child in enumerate(item)]
        return item
    if isinstance(item, tuple):
        return tuple(_walk(child, _join(path, index), visit) for index, child in enumerate(item))
    if isinstance(item, dict):
        for key in list(item):
            item[key] = _walk(item[key], _join(path, key), visit)
        return item
    if _is_state_object(item):
        for name in sorted(vars(item)):
            vars(item)[name] = _walk(vars(item)[name], _join(path, name), visit)
        return item
    return visit(path, item)


def _is_state_object(item: Any) -> bool:
    """Caches and their layers; configs, dtypes, devices and classes are not state."""
    if (
        isinstance(item, (Tensor, torch.dtype, torch.device, type, str))
        or callable(item)
        or not hasattr(item, "__dict__")
    ):
        return False
    return "cache" in type(item).__module__ or "modeling_" in type(item).__module__


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
