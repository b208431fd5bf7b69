"""Which implementation a call of Infini-attention takes, and why not a faster one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jrt.kernels.devices import Limits, limits
from jrt.kernels.infini.features import InfiniState
from jrt.kernels.switch import VARIABLE, plain_torch_only

Attention = Callable[..., tuple[Tensor, InfiniState]]
SHARED_MEMORY = {64: 99_000, 128: 140_000}
"""Bytes that all passes fit into, by the wider of the two widths (resources.json)."""


@dataclass(frozen=True)
class Choice:
    """The path that was taken, and why each faster one was not."""

    path: str
    passed_over: tuple[tuple[str, str], ...] = ()


def choose(
    device: torch.device, dtype: torch.dtype, width: int, value_width: int, of_device: Limits | None = None
) -> Choice:
    """The fastest path that fits; `torch` always does. `of_device` are the limits of `device`; None asks it."""
    reason = next(_obstacles(device, dtype, width, value_width, of_device or limits(device)), None)
    return Choice("triton") if reason is None else Choice("torch", (("triton", reason),))


def implementation(path: str) -> Attention:
    """The function behind a path's name; nothing that it needs is imported before."""
    module, name = {
        "triton": ("jrt.kernels.infini.triton_path", "infini_attention_triton"),
        "torch": ("jrt.kernels.infini.cpu", "infini_attention_torch"),
    }[path]
    found: Attention = getattr(importlib.import_module(module), name)
    return found


def _obstacles(
    device: torch.device, dtype: torch.dtype, width: int, value_width: int, of_device: Limits
) -> Iterator[str]:
    if plain_torch_only():
        yield f"{VARIABLE}=torch is set"
    if device.type != "cuda":
        yield "it needs a CUDA device"
    if dtype == torch.float64:
        yield "it computes in float32"
    if not {width, value_width} <= {16, 32, 64, 128}:
        yield "heads have to be 16, 32, 64 or 128 wide"
    if of_device.capability < (8, 0):
        yield "it needs a GPU of capability 8.0 (Ampere) or later"
    if of_device.shared_memory < (needed := SHARED_MEMORY[64 if max(width, value_width) <= 64 else 128]):
        yield f"its programs take {needed} bytes of shared memory and the GPU has {of_device.shared_memory}"
    if importlib.util.find_spec("triton") is None:
        yield "triton is not installed (pip install triton)"
