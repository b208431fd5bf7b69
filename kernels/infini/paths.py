"""Which implementation a call of Infini-attention takes, and why not a faster one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jrt.kernels.infini.features import InfiniState

Attention = Callable[..., tuple[Tensor, InfiniState]]


@dataclass(frozen=True)
class Choice:
    """The path that was taken, and why each faster one was not."""

    path: str
    passed_over: tuple[tuple[str, str], ...] = ()


def choose(device: torch.device, dtype: torch.dtype, width: int, value_width: int) -> Choice:
    """The fastest path that fits; `torch` always does."""
    return Choice("torch")


def implementation(path: str) -> Attention:
    """The function behind a path's name; nothing that it needs is imported before."""
    module, name = {"torch": ("jrt.kernels.infini.cpu", "infini_attention_torch")}[path]
    found: Attention = getattr(importlib.import_module(module), name)
    return found
