"""The sums that full segments write, as torch sees them: registered like `ops.infini_read`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jrt.kernels.infini.ops import precision

WARPS = 8


def block_size(dtype: torch.dtype) -> int:
    """Positions of one step: 32 in 16 bits; fewer in float32, whose products take registers."""
    return 16 if dtype == torch.float32 else 32


def _options(keys: Tensor, values: Tensor, relu: bool) -> dict[str, Any]:
    sizes = dict(D=keys.shape[-1], DV=values.shape[-1], BM=block_size(keys.dtype))
    return dict(**sizes, RELU=relu, PRECISION=precision(keys.dtype), num_warps=WARPS)


@torch.library.custom_op("jrt::infini_sums", mutates_args=())
def infini_sums(
    keys: Tensor, values: Tensor, weight: Tensor | None, segment_length: int, relu: bool
) -> tuple[Tensor, Tensor]:
    """Of every full segment, sum w sigma(k) v^T and sum w sigma(k).

    Args:
        keys: `(B, Hkv, T, D)`, D of 16, 32, 64 or 128.
        values: `(B, Hkv, T, Dv)`, Dv the same.
        weight: `(B, Hkv, T)`, float32; None is 1.
        segment_length: S.
        relu: whether sigma is ReLU; else ELU + 1.

    Returns:
        `(B, Hkv, n, D, Dv)` and `(B, Hkv, n, D)`, float32, n = T // S.
    """
    from jrt.kernels.infini.triton_sums import sums_kernel

    keys, values = keys.contiguous(), values.contiguous()
    weight = None if weight is None else weight.contiguous()
    (rows, heads, length, width), wide = keys.shape, values.shape[-1]
    n, columns = length // segment_length, min(wide, 64)
    memory = keys.new_empty(rows, heads, n, width, wide, dtype=torch.float32)
    normaliser = keys.new_empty(rows, heads, n, width, dtype=torch.float32)
    with torch.cuda.device_of(keys):
        sums_kernel[(rows * heads * n, wide // columns)](
            keys, values, weight, memory, normaliser, length, n, segment_length,
            BV=columns, **_options(keys, values, relu),
        )  # fmt: skip
    return memory, normaliser


@infini_sums.register_fake
def _(keys: Tensor, values: Tensor, weight: Tensor | None, segment_length: int, relu: bool) -> tuple[Tensor, Tensor]:
    sizes = (*keys.shape[:2], keys.shape[2] // segment_length, keys.shape[3])
    memory = keys.new_empty(*sizes, values.shape[3], dtype=torch.float32)
    return memory, keys.new_empty(sizes, dtype=torch.float32)


@torch.library.custom_op("jrt::infini_sums_gradient", mutates_args=())
def infini_sums_gradient(
    d_memory: Tensor,
    d_normaliser: Tensor,
    keys: Tensor,
    values: Tensor,
    weight: Tensor | None,
    segment_length: int,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of keys, values and weight; the last is empty where there is no weight."""
    from jrt.kernels.infini.triton_sums import backward_sums_kernel

    d_memory, d_normaliser = d_memory.contiguous(), d_normaliser.contiguous()
    keys, values = keys.contiguous(), values.contiguous()
    weight = None if weight is None else weight.contiguous()
    rows, heads, length, _ = keys.shape
    n = length // segment_length
    full = n * segment_length
    d_keys, d_values = keys.new_empty(keys.shape), values.new_empty(values.shape)
    d_weight = keys.new_empty(keys.shape[:3] if weight is not None else (0,), dtype=torch.float32)
    for gradient in (d_keys, d_values, *([] if weight is None else [d_weight])):
        gradient[:, :, full:] = 0
    with torch.cuda.device_of(keys):
        backward_sums_kernel[(rows * heads * n * -(-segment_length // block_size(keys.dtype)),)](
            keys, values, weight, d_memory, d_normaliser, d_keys, d_values, None if weight is None else d_weight,
            length, n, segment_length, **_options(keys, values, relu),
        )  # fmt: skip
    return d_keys, d_values, d_weight


@infini_sums_gradient.register_fake
def _(
    d_memory: Tensor, d_normaliser: Tensor, keys: Tensor, values: Tensor, weight: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    d_weight = keys.new_empty(keys.shape[:3] if weight is not None else (0,), dtype=torch.float32)
    return keys.new_empty(keys.shape), values.new_empty(values.shape), d_weight


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx: Any, d_memory: Tensor, d_normaliser: Tensor) -> tuple[Tensor | None, ...]:
    keys, values, weight = ctx.saved_tensors
    *gradients, d_weight = infini_sums_gradient(d_memory, d_normaliser, keys, values, weight, *ctx.options)
    return *gradients, None if weight is None else d_weight, None, None


infini_sums.register_autograd(_backward, setup_context=_save)
