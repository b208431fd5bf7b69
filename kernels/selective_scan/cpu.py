"""The selective scan in plain torch: fast on any CPU without a compiler, differentiable, right on every device.

The time loop cannot be avoided (the decay differs for every channel and state, so no matrix product does the job), but
it can be made cheap: time comes first and channels last in memory, so that every operation is long, and what the steps
need is made for a block of them at once, in buffers that stay in the cache and are used again. Two-level scans, which
take fewer steps, pay a second pass of exponentials, and were measured to be slower (README.md).

A block is so short that torch keeps to one thread for each operation (up to 32768 elements): an operation of a few
microseconds that waits for a second thread takes milliseconds on a busy machine. For the same reason the exponential
is `exp2`: torch shares `exp` among threads from 2048 elements on, and `exp2` was twice as fast in one thread as well.

The backward pass recomputes each block from the state it began with and runs the recurrence of the gradients from its
end to its beginning; nothing of size (T, N, D) is ever kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jrt.kernels.selective_scan.reference import compute_dtype, positive_step

_SERIAL = 32767  # elements up to which torch runs an elementwise operation in the calling thread
_LONGEST = 32  # steps a block at most, so that its buffers stay in the cache


def selective_scan_torch(
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
    """`selective_scan` in plain torch; the arguments and results are its own."""
    dtype = compute_dtype(u)
    if initial_state is None:
        initial_state = u.new_zeros(*u.shape[:2], A.shape[1], dtype=dtype)
    inputs = _time_first(u, dtype)
    step = positive_step(delta.permute(2, 0, 1).contiguous().permute(1, 2, 0), delta_bias, mask, dtype)
    y, state = _Scan.apply(
        inputs,
        _time_first(step, dtype),
        A.to(dtype).t().contiguous(),
        _time_first(B, dtype),
        _time_first(C, dtype),
        initial_state.to(dtype).transpose(1, 2).contiguous(),
    )
    if D is not None:
        y = y.addcmul(inputs, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.permute(2, 0, 1).to(dtype))
    return y.to(u.dtype).permute(1, 2, 0), state.transpose(1, 2)


def _time_first(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, K, T) as a contiguous (T, B, K)."""
    return tensor.permute(2, 0, 1).to(dtype).contiguous()


class _Scan(torch.autograd.Function):
    """h_t = exp(step_t A) h_{t-1} + step_t u_t B_t, y_t = C_t h_t; time first, (N, D) states."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """u, step (T, B, D); A (N, D); B, C (T, B, N); initial_state (B, N, D) -> y (T, B, D), state (B, N, D)."""
        keep, begins = any(ctx.needs_input_grad), []
        length = _LONGEST if keep else min(_LONGEST, _SERIAL // initial_state.numel() or _LONGEST)
        blocks, y, state = _Blocks(length, u, step, A, B, initial_state), torch.empty_like(u), initial_state
        for index, (weights, outputs) in enumerate(zip(C[..., None].split(length), y.split(length), strict=True)):
            if keep:
                begins.append(state.clone())
            states, decay = blocks.states(index, state)
            if states.numel() <= _SERIAL:  # a batched product would be shared among threads
                torch.sum(torch.mul(weights, states, out=decay), 2, out=outputs)
            else:
                torch.matmul(weights.mT, states, out=outputs[:, :, None])
            state = states[-1]
        if keep:
            ctx.save_for_backward(u, step, A, B, C, *begins)
        return y, state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor, ...]:
        """The adjoint recurrence g_t = C_t grad_y_t + exp(step_{t+1} A) g_{t+1}, block by block from the end."""
        u, step, A, B, C, *begins = ctx.saved_tensors
        grad_u, grad_step, grad_A = torch.empty_like(u), torch.empty_like(step), torch.zeros_like(A)
        grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
        blocks = _Blocks(_LONGEST, u, step, A, B, grad_state)
        carried = grad_state.contiguous()  # exp(step A) g of the step that follows
        for index in range(len(begins) - 1, -1, -1):
            here = slice(index * _LONGEST, min((index + 1) * _LONGEST, len(u)))
            states, decay = blocks.states(index, begins[index])
            adjoint = C[here, ..., None] * grad_y[here, :, None]
            for t in range(len(adjoint) - 1, -1, -1):
                carried = adjoint[t].add_(carried) * decay[t]
            x = step[here] * u[here]
            written = x[:, :, None] * B[here, ..., None]
            through_decay = adjoint * (states - written)  # exp(step A) h_{t-1} = h_t - what step t wrote
            grad_C[here] = (states @ grad_y[here, ..., None]).squeeze(-1)
            grad_B[here] = (adjoint @ x[..., None]).squeeze(-1)
            grad_x = (B[here, :, None] @ adjoint).squeeze(2)
            grad_u[here] = grad_x * step[here]
            grad_step[here] = grad_x * u[here] + (through_decay * A).sum(2)
            grad_A += (through_decay * step[here, :, None]).sum((0, 1))
        return grad_u, grad_step, grad_A, grad_B, grad_C, carried


class _Blocks:
    """Decays and states block by block, in buffers that are used again: a block's live until the one after the next."""

    def __init__(self, length: int, u: Tensor, step: Tensor, A: Tensor, B: Tensor, state: Tensor) -> None:
        size = min(length, len(u))
        self.rate = A * math.log2(math.e)
        self.decay, *self.buffers = u.new_empty(3, size, *state.shape).unbind()
        self.steps = step[:, :, None].split(length)
        self.inputs = (step * u)[:, :, None].split(length)
        self.weights = B[..., None].split(length)

    def states(self, index: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """The states after each step of a block that begins with `state`, and the decays, both (K, B, N, D)."""
        steps, decay, states = self.steps[index], self.decay, self.buffers[index % 2]
        if len(steps) < len(decay):  # the last block
            decay, states = decay[: len(steps)], states[: len(steps)]
        torch.mul(steps, self.rate, out=decay).exp2_()
        torch.mul(self.inputs[index], self.weights[index], out=states)
        for current, factor in zip(states.unbind(), decay.unbind(), strict=True):
            state = current.addcmul_(factor, state)
        return states, decay
