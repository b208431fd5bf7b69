"""Which implementation a call of the selective scan takes, and why not a faster one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jrt.kernels.switch import VARIABLE, plain_torch_only

Scan = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Situation:
    """What decides about the path of a call.

    Attributes:
        device: where the tensors are.
        dtype: their data type.
        states: N, the states of a channel.
        continued: the scan starts from a state or masks steps.
        gradients: a backward pass will follow.
        readable: all tensors are ordinary ones, not fake or wrapped as they are while a model is traced.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    states: int = 16
    continued: bool = False
    gradients: bool = False
    readable: bool = True


@dataclass(frozen=True)
class Choice:
    """The path that was taken, and why each faster one was not."""

    path: str
    passed_over: tuple[tuple[str, str], ...]


def choose(situation: Situation) -> Choice:
    """The fastest path that fits; `torch` always does."""
    passed_over: list[tuple[str, str]] = []
    for path, obstacles in (("mamba_ssm", _mamba_ssm), ("triton", _triton), ("compiled", _compiled)):
        reason = next(obstacles(situation), None)
        if reason is None:
            return Choice(path, tuple(passed_over))
        passed_over.append((path, reason))
    return Choice("torch", tuple(passed_over))


def implementation(path: str) -> Scan:
    """The function behind a path's name; nothing that it needs is imported before."""
    module, name = {
        "mamba_ssm": ("jrt.kernels.selective_scan.installed", "selective_scan_mamba_ssm"),
        "triton": ("jrt.kernels.selective_scan.triton_scan", "selective_scan_triton"),
        "compiled": ("jrt.kernels.selective_scan.compiled", "selective_scan_compiled"),
        "torch": ("jrt.kernels.selective_scan.cpu", "selective_scan_torch"),
    }[path]
    found: Scan = getattr(importlib.import_module(module), name)
    return found


def _mamba_ssm(situation: Situation) -> Iterator[str]:
    if plain_torch_only():
        yield f"{VARIABLE}=torch is set"
    if situation.device.type != "cuda":
        yield "it needs a CUDA device"
    if situation.continued:
        yield "it starts from zero and knows no mask"
    if situation.gradients:
        yield "its final state has no gradient"
    if situation.dtype == torch.float64 or situation.states > 256:
        yield "it takes neither float64 nor more than 256 states"
    if importlib.util.find_spec("mamba_ssm") is None:
        yield "mamba-ssm is not installed (pip install --no-build-isolation mamba-ssm; it needs nvcc)"
    if isinstance(found := mamba_ssm_scan(), str):
        yield found


def mamba_ssm_scan() -> Any:
    """mamba-ssm's function, or why it cannot be used."""
    try:
        interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except Exception as error:  # a build that does not fit raises whatever it likes
        return f"mamba-ssm is installed and does not import: {type(error).__name__}: {error}"
    if getattr(interface, "selective_scan_cuda", None) is None:
        return "mamba-ssm was built without its CUDA part for Mamba-1"
    return interface.selective_scan_fn


def _triton(situation: Situation) -> Iterator[str]:
    if plain_torch_only():
        yield f"{VARIABLE}=torch is set"
    if situation.device.type != "cuda":
        yield "it needs a CUDA device"
    if situation.dtype == torch.float64:
        yield "it computes in float32"
    if importlib.util.find_spec("triton") is None:
        yield "triton is not installed (pip install triton)"


def _compiled(situation: Situation) -> Iterator[str]:
    from jrt.kernels.selective_scan import compiled

    if plain_torch_only():
        yield f"{VARIABLE}=torch is set"
    if situation.device.type != "cpu":
        yield "it runs on the CPU only"
    if situation.gradients:
        yield "it has no backward pass"
    if situation.dtype == torch.float64:
        yield "it computes in float32"
    if not situation.readable:
        yield "fake and wrapped tensors have no memory to read"
    if (reason := compiled.NATIVE.unavailable()) is not None:
        yield reason
