"""Which implementation a call of Taylor attention takes, and why not the faster one."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from jrt.kernels.devices import limits
from jrt.kernels.switch import VARIABLE, plain_torch_only

INTERPRETER = "TRITON_INTERPRET"
"""Triton's own switch: kernels run on CPU tensors, slowly, for tests. It must be set before triton is imported."""

_SHARED_MEMORY = {torch.bfloat16: 99_000, torch.float16: 137_000, torch.float32: 99_000}
"""Bytes that the default launches of all passes fit into (resources.json)."""


@dataclass(frozen=True)
class Situation:
    """What decides about the path of a call.

    Attributes:
        device: where the tensors are.
        dtype: their data type.
        feature_dim: width of queries and keys.
        capability: of a CUDA device, as (major, minor).
        shared_memory: bytes of it that a program may have.
    """

    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    feature_dim: int = 16
    capability: tuple[int, int] = (9, 0)
    shared_memory: int = 232_448


@dataclass(frozen=True)
class Choice:
    """The path that was taken, and why the faster one was not."""

    path: str
    passed_over: tuple[tuple[str, str], ...]


def choose(situation: Situation) -> Choice:
    """`triton` where it fits, else `torch`, which always does."""
    reason = next(_obstacles(situation), None)
    return Choice("triton", ()) if reason is None else Choice("torch", (("triton", reason),))


def implementation(k: Tensor) -> ModuleType:
    """The module with `state`, `state_gradient`, `forward`, `backward` and `step` for keys like `k`."""
    path = choose(situation(k)).path
    return importlib.import_module(f"jrt.kernels.taylor.{path}_path")


def situation(k: Tensor) -> Situation:
    """The situation of a call with keys like `k`."""
    found = limits(k.device)
    return Situation(k.device, k.dtype, k.shape[-1], found.capability, found.shared_memory)


@lru_cache(maxsize=1)
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _obstacles(situation: Situation) -> Iterator[str]:
    if plain_torch_only():
        yield f"{VARIABLE}=torch is set"
    if situation.device.type != "cuda" and os.environ.get(INTERPRETER) != "1":
        yield "it needs a CUDA device"
    if situation.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        yield "it sums in float32"
    if situation.feature_dim != 16:
        yield "its kernels are written for a feature dimension of 16"
    if situation.capability < (8, 0):
        yield "it needs a GPU of capability 8.0 (Ampere) or later"
    if situation.shared_memory < (needed := _SHARED_MEMORY.get(situation.dtype, 0)):
        yield f"its programs take {needed} bytes of shared memory and the GPU has {situation.shared_memory}"
    if not _installed():
        yield "triton is not installed (pip install triton)"
