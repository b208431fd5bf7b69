"""Lets the attention of a base model run through Infini-attention while one forward lasts, and only for that forward.

transformers calls attention by a name in its registry that the config holds. `switched` puts a name of ours there and
takes it away again; the function behind it finds the forward that it serves in a context variable. Where there is none
(another thread runs the same base model plainly at that moment), attention and mask are what the config said before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "jrt_infini_"
"""What our names in transformers' registries begin with; the rest is the implementation that they stand in for."""


class Attention(Protocol):
    """One forward, as the layers' attention calls it."""

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None,
        dropout: float,
        softcap: float | None,
    ) -> Tensor: ...


_CURRENT: ContextVar[Attention | None] = ContextVar("jrt_infini", default=None)
_LOCK = threading.Lock()
_ACTIVE: dict[int, tuple[int, str]] = {}
"""Of every config that is switched now, by its id: how often, and the implementation to go back to."""


@contextmanager
def switched(config: Any, attention: Attention) -> Iterator[None]:
    """A context in which models with this config attend through `attention`, in this thread.

    Args:
        config: the base model's; as it was when the context is left, also after an error.
        attention: what computes.
    """
    with _LOCK:
        times, stock = _ACTIVE.get(id(config), (0, config._attn_implementation or "eager"))
        _ACTIVE[id(config)] = times + 1, stock
        if times == 0:
            config._attn_implementation = _registered(stock)
    token = _CURRENT.set(attention)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        with _LOCK:
            times, stock = _ACTIVE.pop(id(config))
            if times == 1:
                config._attn_implementation = stock
            else:
                _ACTIVE[id(config)] = times - 1, stock


def current() -> Attention | None:
    """The forward that attention runs for in this thread."""
    return _CURRENT.get()


def _registered(stock: str) -> str:
    name = PREFIX + stock
    AttentionInterface.register(name, partial(_attention, stock))
    AttentionMaskInterface.register(name, partial(_mask, stock))
    return name


def _attention(
    stock: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The function in the registry: `(B, H, N, D)` in, `(B, N, H, Dv)` out."""
    attention = _CURRENT.get()
    if attention is None:
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(stock, eager)
        found: tuple[Tensor, Tensor | None] = function(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
        return found
    output = attention.attend(
        module,
        query,
        key,
        value,
        scaling=scaling,
        dropout=dropout,
        softcap=options.get("softcap"),
    )
    return output.transpose(1, 2).contiguous(), None


def _mask(stock: str, *args: Any, **options: Any) -> Any:
    """No mask for a forward of ours, which knows its rows; the stock one otherwise."""
    if _CURRENT.get() is not None or stock not in ALL_MASK_ATTENTION_FUNCTIONS:
        return None
    return ALL_MASK_ATTENTION_FUNCTIONS[stock](*args, **options)
