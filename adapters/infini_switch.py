"""Lets the attention of a base model run through Infini-attention while one forward lasts, and only for that forward.

transformers calls attention by a name in its registry that the config holds. `switched` puts a name of ours there and
takes it away again; the function behind it finds the forward that it serves in a context variable. Where there is none
(another thread runs the same base model plainly at that moment), attention and mask are what the config said before.
A family whose attention does not ask the registry gets a stand-in for `forward` on its modules, for as long.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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


StandIn = Callable[..., Any]
"""Takes an attention module and the arguments of its `forward`; the stock one where `current()` is None."""


@dataclass
class _Switch:
    """A base model that is switched now: by how many forwards, and what to put back."""

    stock: str
    covered: list[tuple[nn.Module, str, Any]]
    times: int = 0


_CURRENT: ContextVar[Attention | None] = ContextVar("jrt_infini", default=None)
_LOCK = threading.Lock()
_ABSENT = object()
_ACTIVE: dict[int, _Switch] = {}
"""By the id of the config."""


@contextmanager
def switched(
    config: Any, attention: Attention, modules: Sequence[nn.Module] = (), stand_in: StandIn | None = None
) -> Iterator[None]:
    """A context in which the model with this config attends through `attention`, in this thread.

    Args:
        config: the base model's; as it was when the last context is left, also after an error.
        attention: what computes.
        modules: attention modules that do not ask the registry.
        stand_in: what stands for their `forward`.
    """
    with _LOCK:
        switch = _ACTIVE.setdefault(id(config), _Switch(config._attn_implementation or "eager", []))
        switch.times += 1
        if switch.times == 1:
            config._attn_implementation = _registered(switch.stock)
            switch.covered = [_cover(module, stand_in) for module in modules if stand_in is not None]
    token = _CURRENT.set(attention)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        with _LOCK:
            switch.times -= 1
            if switch.times == 0:
                del _ACTIVE[id(config)]
                config._attn_implementation = switch.stock
                for module, name, covered in switch.covered:
                    if covered is _ABSENT:
                        del vars(module)[name]
                    else:
                        vars(module)[name] = covered


def _cover(module: nn.Module, stand_in: StandIn) -> tuple[nn.Module, str, Any]:
    name = "_old_forward" if "_old_forward" in vars(module) else "forward"  # accelerate keeps the real one there
    covered = vars(module).get(name, _ABSENT)
    vars(module)[name] = partial(stand_in, module)
    return module, name, covered


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
