"""The selective scan as Triton kernels: forward with a state in and out, and backward.

One program takes BLOCK_D channels of one row through the whole sequence with the states in registers, (N, BLOCK_D) with
channels along the lanes, so that the sum over states stays inside a thread. Time is sequential: what limits a GPU here
is the exponentials, one for each step, channel and state, and a parallel scan over time would add work to every one.

Time comes before channels in memory. `step` has gone through softplus and mask; skip connection and gate are outside.
The forward pass for training stores the state at the beginning of every CHUNK steps. The backward pass takes the chunks
from the last to the first: it makes the states of a chunk again, into a scratch buffer of its own, and runs the adjoint
recurrence g_t = C_t grad_y_t + exp(step_{t+1} A) g_{t+1} through it. B and C are shared by all channels, so every
program writes its own part of their gradients, and the parts are summed outside: no result depends on timing.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# (types of Triton's language say nothing to a type checker)

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _fetch(u, step, B, C, channels, per_state, d, n, D, N, t, T):
    """What step t reads; zeros beyond the end, which leave the state as it is."""
    in_d = (d < D) & (d * 0 + t < T)
    in_n = (n < N) & (n * 0 + t < T)
    s = tl.load(step + channels, mask=in_d, other=0.0)
    x = tl.load(u + channels, mask=in_d, other=0.0) * s
    return s, x, tl.load(B + per_state, mask=in_n, other=0.0), tl.load(C + per_state, mask=in_n, other=0.0)


@triton.jit
def _advance(h, rate, s, x, b, c, y, d, D, t, T):
    """One step: the next state; its output is stored."""
    h = tl.exp2(s[None, :] * rate) * h + x[None, :] * b[:, None]
    tl.store(y, tl.sum(h * c[:, None], 0), mask=(d < D) & (d * 0 + t < T))
    return h


@triton.jit
def forward_kernel(
    u,  # (rows, T, D)
    step,  # (rows, T, D)
    A,  # (N, D)
    B,  # (rows, T, N)
    C,  # (rows, T, N)
    initial_state,  # (rows, N, D)
    y,  # (rows, T, D), written
    state,  # (rows, N, D), written
    begins,  # (rows, chunks, N, D), written when SAVE
    T,
    D,
    chunks,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr,
    SAVE: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_d, in_n = d < D, n < N
    tile = n[:, None] * D + d[None, :]
    in_tile = in_n[:, None] & in_d[None, :]
    rate = tl.load(A + tile, mask=in_tile, other=0.0) * LOG2_E
    h = tl.load(initial_state + row * N * D + tile, mask=in_tile, other=0.0)
    channels = row * T * D + d
    per_state = row * T * N + n
    saved = begins + row * chunks * N * D + tile
    for t in range(0, T, 4):  # four steps are fetched before the first is computed, to wait for memory once
        if SAVE and t % CHUNK == 0:
            tl.store(saved, h, mask=in_tile)
            saved += N * D
        s0, x0, b0, c0 = _fetch(u, step, B, C, channels, per_state, d, n, D, N, t, T)
        s1, x1, b1, c1 = _fetch(u, step, B, C, channels + D, per_state + N, d, n, D, N, t + 1, T)
        s2, x2, b2, c2 = _fetch(u, step, B, C, channels + 2 * D, per_state + 2 * N, d, n, D, N, t + 2, T)
        s3, x3, b3, c3 = _fetch(u, step, B, C, channels + 3 * D, per_state + 3 * N, d, n, D, N, t + 3, T)
        h = _advance(h, rate, s0, x0, b0, c0, y + channels, d, D, t, T)
        h = _advance(h, rate, s1, x1, b1, c1, y + channels + D, d, D, t + 1, T)
        h = _advance(h, rate, s2, x2, b2, c2, y + channels + 2 * D, d, D, t + 2, T)
        h = _advance(h, rate, s3, x3, b3, c3, y + channels + 3 * D, d, D, t + 3, T)
        channels += 4 * D
        per_state += 4 * N
    tl.store(state + row * N * D + tile, h, mask=in_tile)


@triton.jit
def backward_kernel(  # noqa: PLR0915
    u,  # (rows, T, D)
    step,  # (rows, T, D)
    A,  # (N, D)
    B,  # (rows, T, N)
    C,  # (rows, T, N)
    begins,  # (rows, chunks, N, D)
    grad_y,  # (rows, T, D)
    grad_state,  # (rows, N, D)
    scratch,  # (rows, blocks, CHUNK, N, BLOCK_D)
    grad_u,  # (rows, T, D), written
    grad_step,  # (rows, T, D), written
    grad_A,  # (rows, N, D), written
    grad_B,  # (rows, blocks, T, N), written
    grad_C,  # (rows, blocks, T, N), written
    grad_initial,  # (rows, N, D), written
    T,
    D,
    chunks,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    block = row * tl.num_programs(0) + tl.program_id(0)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_d, in_n = d < D, n < N
    tile = n[:, None] * D + d[None, :]
    in_tile = in_n[:, None] & in_d[None, :]
    own = scratch + block * CHUNK * N * BLOCK_D + n[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    a = tl.load(A + tile, mask=in_tile, other=0.0)
    rate = a * LOG2_E
    carried = tl.load(grad_state + row * N * D + tile, mask=in_tile, other=0.0)  # exp(step A) g of the step after
    of_A = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        count = tl.minimum(T - chunk * CHUNK, CHUNK)
        h = tl.load(begins + (row * chunks + chunk) * N * D + tile, mask=in_tile, other=0.0)
        channels = (row * T + chunk * CHUNK) * D + d
        per_state = (row * T + chunk * CHUNK) * N + n
        kept = own
        for _ in range(0, count):
            s = tl.load(step + channels, mask=in_d, other=0.0)
            x = tl.load(u + channels, mask=in_d, other=0.0) * s
            b = tl.load(B + per_state, mask=in_n, other=0.0)
            h = tl.exp2(s[None, :] * rate) * h + x[None, :] * b[:, None]
            tl.store(kept, h, mask=in_n[:, None])
            channels += D
            per_state += N
            kept += N * BLOCK_D
        tl.debug_barrier()  # the layouts of the stores above and the loads below may differ
        part = (block * T + chunk * CHUNK + count) * N + n
        for _ in range(0, count):
            channels -= D
            per_state -= N
            kept -= N * BLOCK_D
            part -= N
            h = tl.load(kept, mask=in_n[:, None], other=0.0)
            s = tl.load(step + channels, mask=in_d, other=0.0)
            value = tl.load(u + channels, mask=in_d, other=0.0)
            b = tl.load(B + per_state, mask=in_n, other=0.0)
            c = tl.load(C + per_state, mask=in_n, other=0.0)
            of_y = tl.load(grad_y + channels, mask=in_d, other=0.0)
            x = value * s
            g = c[:, None] * of_y[None, :] + carried
            through = g * (h - x[None, :] * b[:, None])  # exp(step A) h_{t-1} = h_t - what step t wrote
            of_x = tl.sum(g * b[:, None], 0)
            tl.store(grad_C + part, tl.sum(h * of_y[None, :], 1), mask=in_n)
            tl.store(grad_B + part, tl.sum(g * x[None, :], 1), mask=in_n)
            tl.store(grad_u + channels, of_x * s, mask=in_d)
            tl.store(grad_step + channels, of_x * value + tl.sum(through * a, 0), mask=in_d)
            of_A += through * s[None, :]
            carried = tl.exp2(s[None, :] * rate) * g
        tl.debug_barrier()
    tl.store(grad_A + row * N * D + tile, of_A, mask=in_tile)
    tl.store(grad_initial + row * N * D + tile, carried, mask=in_tile)
