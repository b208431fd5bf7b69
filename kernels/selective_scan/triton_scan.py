"""The selective scan on a GPU without mamba-ssm: launches the Triton kernels, forward and backward.

With TRITON_INTERPRET=1 set before triton is imported, the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jrt.kernels.selective_scan.reference import finish, positive_step
from jrt.kernels.selective_scan.triton_kernels import backward_kernel, forward_kernel

CHUNK = 64  # steps between two stored states of the training pass
_MANY = 512  # programs that fill a large GPU


def selective_scan_triton(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` by Triton; the arguments and results are its own, float64 is computed in float32."""
    if initial_state is None:
        initial_state = u.new_zeros(*u.shape[:2], A.shape[1], dtype=torch.float32)
    y, state = _Scan.apply(
        _time_before_channels(u),
        positive_step(delta.mT.contiguous().mT, delta_bias, mask, torch.float32).mT,
        A.float().t().contiguous(),
        _time_before_channels(B),
        _time_before_channels(C),
        initial_state.float().mT.contiguous(),
    )
    return finish(y.mT, u, D, z), state.mT


def block_channels(rows: int, channels: int) -> int:
    """How many channels a program takes: a warp's 32, or fewer where that would leave a GPU idle."""
    return next((size for size in (32, 16) if rows * channels >= size * _MANY), 8)


def _time_before_channels(tensor: Tensor) -> Tensor:
    """(B, K, T) as a contiguous float32 (B, T, K)."""
    return tensor.mT.float().contiguous()


class _Scan(torch.autograd.Function):
    """h_t = exp(step_t A) h_{t-1} + step_t u_t B_t, y_t = C_t h_t; time before channels, (N, D) states."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """u, step (B, T, D); A (N, D); B, C (B, T, N); initial_state (B, N, D) -> y (B, T, D), state (B, N, D)."""
        (rows, steps, channels), states = u.shape, A.shape[0]
        step = step.contiguous()
        y, state = torch.empty_like(u), torch.empty_like(initial_state)
        keep, chunks = any(ctx.needs_input_grad), -(-steps // CHUNK)
        begins = u.new_empty((rows, chunks, states, channels)) if keep else u.new_empty(1)
        size = block_channels(rows, channels)
        with torch.cuda.device_of(u):
            forward_kernel[(-(-channels // size), rows)](
                u, step, A, B, C, initial_state, y, state, begins, steps, channels, chunks, states,
                BLOCK_N=_power_of_two(states), BLOCK_D=size, CHUNK=CHUNK, SAVE=keep, num_warps=1,
            )  # fmt: skip
        if keep:
            ctx.save_for_backward(u, step, A, B, C, begins)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor, ...]:
        u, step, A, B, C, begins = ctx.saved_tensors
        (rows, steps, channels), states = u.shape, A.shape[0]
        size = block_channels(rows, channels)
        blocks = -(-channels // size)
        scratch = u.new_empty((rows, blocks, CHUNK, states, size))
        grad_u, grad_step = torch.empty_like(u), torch.empty_like(u)
        grad_A, grad_initial = u.new_empty((rows, states, channels)), u.new_empty((rows, states, channels))
        grad_B, grad_C = u.new_empty((rows, blocks, steps, states)), u.new_empty((rows, blocks, steps, states))
        with torch.cuda.device_of(u):
            backward_kernel[(blocks, rows)](
                u, step, A, B, C, begins, grad_y.contiguous(), grad_state.contiguous(), scratch, grad_u, grad_step,
                grad_A, grad_B, grad_C, grad_initial, steps, channels, begins.shape[1], states,
                BLOCK_N=_power_of_two(states), BLOCK_D=size, CHUNK=CHUNK, num_warps=1,
            )  # fmt: skip
        return grad_u, grad_step, grad_A.sum(0), grad_B.sum(1), grad_C.sum(1), grad_initial


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()
