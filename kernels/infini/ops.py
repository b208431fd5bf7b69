"""Local attention with the memory read fused in, as torch sees it: registered, so that autograd, `torch.compile` and
fake tensors work. Inputs are made contiguous here, because gradients arrive expanded (stride 0)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)


def block_size(width: int, value_width: int, segment_length: int, dtype: torch.dtype) -> int:
    """Queries and keys of one program: what keeps the widest heads in registers, and no more than a segment.

    In float32 no tensor core multiplies, and tiles of 64 spill thousands of bytes.
    """
    largest = 16 if dtype == torch.float32 else 64 if max(width, value_width) <= 64 else 32
    return min(max(16, 1 << (segment_length - 1).bit_length()), largest)


def warps(kernel: str, dtype: torch.dtype) -> int:
    """Warps of one program: with four, the backward kernels spill more, and so does everything in float32."""
    return 4 if kernel == "forward" and dtype != torch.float32 else 8


def precision(dtype: torch.dtype) -> str:
    """Of products whose factors Triton holds in float32."""
    return "ieee" if dtype == torch.float32 else "tf32"


def _constants(q: Tensor, v: Tensor) -> dict[str, Any]:
    return dict(D=q.shape[-1], DV=v.shape[-1], PRECISION=precision(q.dtype))


@torch.library.custom_op("jrt::infini_read", mutates_args=())
def infini_read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mq: Tensor,
    memory: Tensor,
    normaliser: Tensor,
    gate: Tensor,
    mask: Tensor | None,
    segment_length: int,
    relu: bool,
    scale: float,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """(output `(B, H, T, Dv)`, log2 of the softmax's sums `(B, H, T)`)"""
    from jrt.kernels.infini.triton_kernels import forward_kernel

    tensors = [x.contiguous() for x in (q, k, v, mq, memory, normaliser, gate)]
    q, k, v, mq, memory, normaliser, gate = tensors
    (rows, heads, length, _), n = q.shape, memory.shape[2]
    o, lse = v.new_empty(rows, heads, length, v.shape[-1]), q.new_empty(rows, heads, length, dtype=torch.float32)
    real = None if mask is None else mask.contiguous().to(torch.uint8)
    size, constants = block_size(q.shape[-1], v.shape[-1], segment_length, q.dtype), _constants(q, v)
    with torch.cuda.device_of(q):
        forward_kernel[(n * -(-segment_length // size) * rows * heads,)](
            *tensors, real, o, lse, scale * LOG2_E, epsilon, length, n, heads, heads // k.shape[1], segment_length,
            BM=size, BN=size, RELU=relu, MASKED=mask is not None, num_warps=warps("forward", q.dtype), **constants,
        )  # fmt: skip
    return o, lse


@infini_read.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return v.new_empty(*q.shape[:3], v.shape[-1]), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("jrt::infini_read_gradient", mutates_args=())
def infini_read_gradient(
    d_o: Tensor,
    o: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mq: Tensor,
    memory: Tensor,
    normaliser: Tensor,
    gate: Tensor,
    mask: Tensor | None,
    segment_length: int,
    relu: bool,
    scale: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, mq, memory, normaliser and gate."""
    from jrt.kernels.infini import triton_kernels as kernels

    tensors = [x.contiguous() for x in (q, k, v, mq, memory, normaliser, gate)]
    q, k, v, mq, memory, normaliser, gate = tensors
    d_o, o, lse = d_o.contiguous(), o.contiguous(), lse.contiguous()
    (rows, heads, length, _), (pairs, n) = q.shape, memory.shape[1:3]
    real = None if mask is None else mask.contiguous().to(torch.uint8)
    size, constants = block_size(q.shape[-1], v.shape[-1], segment_length, q.dtype), _constants(q, v)
    blocks, masked = n * -(-segment_length // size), mask is not None
    gradients = [torch.empty_like(x) for x in (q, k, v, mq, memory, normaliser)]
    d_q, d_k, d_v, d_mq, d_memory, d_normaliser = gradients
    d_gate = q.new_empty(rows, heads, blocks, dtype=torch.float32)
    delta = torch.empty_like(lse)
    sizes = (length, n, heads, heads // pairs, segment_length)
    with torch.cuda.device_of(q):
        kernels.backward_query_kernel[(blocks * rows * heads,)](
            *tensors, real, o, lse, d_o, d_q, d_mq, d_gate, delta, scale * LOG2_E, epsilon, *sizes,
            BM=size, BN=size, RELU=relu, MASKED=masked, num_warps=warps("backward_query", q.dtype), **constants,
        )  # fmt: skip
        kernels.backward_key_kernel[(blocks * rows * pairs,)](
            q, k, v, normaliser, gate, real, lse, d_o, delta, d_k, d_v, scale * LOG2_E, *sizes,
            BM=size, BN=size, MASKED=masked, num_warps=warps("backward_key", q.dtype), **constants,
        )  # fmt: skip
        kernels.backward_memory_kernel[(n * rows * pairs,)](
            mq, memory, normaliser, gate, d_o, d_memory, d_normaliser, epsilon, *sizes,
            BM=size, RELU=relu, num_warps=warps("backward_memory", q.dtype), **constants,
        )  # fmt: skip
    return d_q, d_k, d_v, d_mq, d_memory, d_normaliser, d_gate.sum((0, 2)).to(gate.dtype)


@infini_read_gradient.register_fake
def _(d_o: Tensor, o: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:7])  # q, k, v, mq, memory, normaliser and gate


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:8], *output)
    ctx.options = inputs[8:]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_o: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, o, lse = ctx.saved_tensors
    return *infini_read_gradient(d_o, o, lse, *inputs, *ctx.options), None, None, None, None, None


infini_read.register_autograd(_backward, setup_context=_save)
