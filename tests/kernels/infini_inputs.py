"""Random arguments of `infini_attention`, float64, for the tests of every path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jrt.kernels.infini import InfiniState
from jrt.kernels.infini.reference import infini_attention_reference


def infini_inputs(
    rows: int = 2,
    heads: int = 4,
    pairs: int = 2,
    length: int = 37,
    width: int = 6,
    value_width: int = 5,
    *,
    state: bool = False,
    masked: bool = False,
    write_gate: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Tensors by argument; the mask leaves out the beginning of row 0 and single positions elsewhere."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    tensors: dict[str, Any] = dict(
        query=normal(rows, heads, length, width),
        key=normal(rows, pairs, length, width),
        value=normal(rows, pairs, length, value_width),
        memory_query=normal(rows, heads, length, width),
        memory_key=normal(rows, pairs, length, width),
        gate=normal(heads),
    )
    if state:
        tensors["state"] = InfiniState(normal(rows, pairs, width, value_width), normal(rows, pairs, width).abs() * 5)
    if masked:
        mask = torch.rand(rows, length, generator=source) > 0.2
        mask[0, : length // 3] = False
        mask[:, -1] = True
        tensors["mask"] = mask
    if write_gate:
        tensors["write_gate"] = torch.rand(rows, pairs, length, generator=source, dtype=torch.float64)
    return tensors


def to(tensors: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The floating tensors in another type; a state stays in the type that states have."""
    kept = torch.float64 if dtype == torch.float64 else torch.float32

    def cast(value: Any) -> Any:
        if isinstance(value, InfiniState):
            return InfiniState(value.memory.to(kept), value.normaliser.to(kept))
        return value.to(dtype) if value.is_floating_point() else value

    return {name: cast(value) for name, value in tensors.items()}


def leaves(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Every floating tensor by name, the state's two apart, made to collect a gradient (in place)."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if isinstance(value, InfiniState):
            tensors[name] = InfiniState(*(part.detach().clone().requires_grad_() for part in value))
            found |= {"memory": tensors[name].memory, "normaliser": tensors[name].normaliser}
        elif value.is_floating_point():
            found[name] = tensors[name] = value.detach().clone().requires_grad_()
    return found


def reference(tensors: dict[str, Any], **options: Any) -> tuple[Tensor, InfiniState]:
    """The definition, with `infini_attention`'s defaults."""
    arguments = dict(state=None, mask=None, write_gate=None) | tensors
    settings = dict(rule="linear", feature_map="elu", scale=tensors["query"].shape[-1] ** -0.5, epsilon=1e-6)
    return infini_attention_reference(**arguments, **(settings | options))


def relative_error(found: Tensor, right: Tensor) -> float:
    """L2 norm of the difference over that of the right one."""
    found, right = found.detach().double(), right.detach()
    return float((found - right).norm() / right.norm().clamp(min=1e-12))
