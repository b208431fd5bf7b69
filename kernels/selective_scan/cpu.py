"""The selective scan in plain torch: fast on any CPU without a compiler, differentiable, right on every device.

The time loop cannot be avoided (the decay differs for every channel and state, so no matrix product does the job), but
it can be made cheap: time comes first and channels last in memory, so that every operation is long; exponentials and
products of a block of steps are made at once, in buffers that stay in the cache and are used again; the loop itself is
one fused multiply-add per step. Two-level scans, which take fewer steps, pay a second pass of exponentials, and were
measured to be slower (README.md).

The backward pass recomputes each block from the state it began with and runs the recurrence of the gradients from its
end to its beginning; nothing of size (T, N, D) is ever kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jrt.kernels.selective_scan.reference import compute_dtype, finish, positive_step

_BLOCK = 32  # steps a block: long enough for two threads to pay off, short enough to stay in the cache


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
    step = positive_step(delta.permute(2, 0, 1).contiguous().permute(1, 2, 0), delta_bias, mask, dtype)
    if initial_state is None:
        initial_state = u.new_zeros(*u.shape[:2], A.shape[1], dtype=dtype)
    y, state = _Scan.apply(
        _time_first(u, dtype),
        _time_first(step, dtype),
        A.to(dtype).t().contiguous(),
        _time_first(B, dtype),
        _time_first(C, dtype),
        initial_state.to(dtype).transpose(1, 2).contiguous(),
    )
    return finish(y.permute(1, 2, 0), u, D, z), state.transpose(1, 2)


def _time_first(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, K, T) as a contiguous (T, B, K)."""
    return tensor.permute(2, 0, 1).to(dtype, memory_format=torch.contiguous_format).contiguous()


class _Scan(torch.autograd.Function):
    """h_t = exp(step_t A) h_{t-1} + step_t u_t B_t, y_t = C_t h_t; time first, (N, D) states."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """u, step (T, B, D); A (N, D); B, C (T, B, N); initial_state (B, N, D) -> y (T, B, D), state (B, N, D)."""
        state = initial_state.clone()
        y = torch.empty_like(u)
        keep = any(ctx.needs_input_grad)
        block = _Block(u, step, A, B)
        begins = []
        for first in range(0, len(u), _BLOCK):
            if keep:
                begins.append(state.clone())
            states, _ = block.states(first, state)
            torch.matmul(C[first : first + _BLOCK, :, None], states, out=y[first : first + _BLOCK, :, None])
            state.copy_(states[-1])
        if keep:
            ctx.save_for_backward(u, step, A, B, C, *begins)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor, ...]:
        """The adjoint recurrence g_t = C_t grad_y_t + exp(step_{t+1} A) g_{t+1}, block by block from the end."""
        u, step, A, B, C, *begins = ctx.saved_tensors
        grad_u, grad_step, grad_A = torch.empty_like(u), torch.empty_like(step), torch.zeros_like(A)
        grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
        block = _Block(u, step, A, B)
        carried = grad_state.contiguous()  # exp(step A) g of the step that follows
        for index in range(len(begins) - 1, -1, -1):
            here = slice(index * _BLOCK, min((index + 1) * _BLOCK, len(u)))
            states, decay = block.states(here.start, begins[index])
            adjoint = C[here, ..., None] * grad_y[here, :, None]
            for t in range(len(adjoint) - 1, -1, -1):
                carried = adjoint[t].add_(carried) * decay[t]
            written = (step[here] * u[here])[:, :, None] * B[here, ..., None]
            through_decay = adjoint * (states - written)  # exp(step A) h_{t-1} = h_t - what step t wrote
            grad_C[here] = (states @ grad_y[here, ..., None]).squeeze(-1)
            grad_B[here] = (adjoint @ (step[here] * u[here])[..., None]).squeeze(-1)
            grad_x = (B[here, :, None] @ adjoint).squeeze(2)
            grad_u[here] = grad_x * step[here]
            grad_step[here] = grad_x * u[here] + (through_decay * A).sum(2)
            grad_A += (through_decay * step[here, :, None]).sum((0, 1))
        return grad_u, grad_step, grad_A, grad_B, grad_C, carried


class _Block:
    """Buffers for the decays and states of one block, made once and used for every block."""

    def __init__(self, u: Tensor, step: Tensor, A: Tensor, B: Tensor) -> None:
        self.u, self.step, self.A, self.B = u, step, A, B
        shape = (min(_BLOCK, len(u)), u.shape[1], *A.shape)
        self.decay, self.states_buffer = u.new_empty(shape), u.new_empty(shape)

    def states(self, first: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """The states after each step from `first` on, and the decays: two buffers of (K, B, N, D)."""
        here = slice(first, first + _BLOCK)
        size = len(self.u[here])
        decay, states = self.decay[:size], self.states_buffer[:size]
        torch.mul(self.step[here, :, None], self.A, out=decay).exp_()
        torch.mul((self.step[here] * self.u[here])[:, :, None], self.B[here, ..., None], out=states)
        for current, factor in zip(states.unbind(), decay.unbind(), strict=True):
            state = current.addcmul_(factor, state)
        return states, decay
