"""Launches the Triton kernels; the functions, arguments and results are those of `torch_path`.

Queries, keys and values have a dense last dimension and any strides before it; everything else is contiguous.

With TRITON_INTERPRET=1 set before triton is imported, the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from jrt.kernels.taylor import tuning
from jrt.kernels.taylor.features import TaylorState, num_features, packed_indices
from jrt.kernels.taylor.triton_backward import keys_kernel, queries_kernel, upstream_kernel
from jrt.kernels.taylor.triton_forward import forward_kernel, scan_kernel, state_kernel
from jrt.kernels.taylor.triton_step import step_kernel

_SCAN_BLOCK = 1024
_NO_PIPELINE = dict(STAGES=1, num_stages=1)
"""For the gradient of a prefix: two stages do not fit into the shared memory of smaller GPUs."""


@lru_cache(maxsize=16)
def _factors(device: torch.device) -> Tensor:
    """(2, 160): left and right entry of every feature."""
    left, right, _ = packed_indices(16)
    return torch.tensor([left, right], dtype=torch.int32, device=device)


@lru_cache(maxsize=16)
def _selections(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(3, 32, 160) 0/1 matrices: left factor, right factor, left factor times the feature's weight."""
    left, right = (functional.one_hot(row.long(), 32).T.float() for row in _factors(torch.device("cpu")))
    left[17], right[17] = 0, 0  # index 17 is the padding's zero
    weight = torch.tensor(packed_indices(16)[2], device="cpu")
    operands = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    return torch.stack([left, right, left * weight]).to(device, operands)


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for tensor in tensors for stride in tensor.stride()[:3])


@lru_cache(maxsize=16)
def _device(device: torch.device) -> tuple[str, int]:
    """(name, multiprocessors); the interpreter is a device with one."""
    if device.type != "cuda":
        return "interpreter", 1
    return torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).multi_processor_count


class _Plan:
    """The launch of one pass over `(B, H, T, width)`: its grid, constants and segments."""

    def __init__(self, pass_: tuning.Pass, v: Tensor, how: tuning.Launch | None) -> None:
        batch, heads, length, width = v.shape
        (name, processors), arithmetic = _device(v.device), tuning.arithmetic(v.dtype)
        if how is None:
            how = tuning.launch(name, pass_, arithmetic, width)
        self.rows, self.heads, self.length, self.width = batch * heads, heads, length, width
        segments = how.segments(self.rows, length, width, processors)
        chunks = -(-length // how.block_t)
        self.segment = max(1, -(-chunks // segments)) * how.block_t
        self.segments = max(1, -(-length // self.segment))
        self.blocks = -(-width // how.block_v)
        self.grid = (self.rows, self.segments, self.blocks)
        self.how = how
        self.constants: dict[str, Any] = dict(
            DOT=tl.bfloat16 if arithmetic == "bf16" else tl.float32,
            PRECISION="tf32" if arithmetic == "tf32" else "ieee",
            WIDTH=width,
            BLOCK_T=how.block_t,
            BLOCK_V=how.block_v,
            STAGES=how.stages,
            num_warps=how.num_warps,
            num_stages=how.stages,
        )

    def states(self, like: Tensor, *, every_segment: bool) -> tuple[Tensor, Tensor]:
        shape = (self.rows, self.segments) if every_segment else (self.rows,)
        values = like.new_empty((*shape, num_features(16), self.width), dtype=torch.float32)
        return values, like.new_empty((*shape, num_features(16)), dtype=torch.float32)


def _sums(
    plan: _Plan, x: Tensor, y: Tensor, coefficient: Tensor | None, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Every segment's sum of feature(x) [y, coefficient]^T; queries' features where there is a coefficient."""
    values, normalizer = plan.states(y, every_segment=True)
    state_kernel[plan.grid](
        x, y, coefficient, mask, _selections(x.device, y.dtype), values, normalizer,
        scale, plan.length, plan.heads, plan.segment, *_strides(x, y),
        OF_QUERIES=coefficient is not None, **plan.constants,
    )  # fmt: skip
    return values, normalizer


def _scan(parts: Tensor, initial: Tensor | None, *, reverse: bool = False) -> Tensor:
    """Replaces each segment's sum by the state at its beginning (`reverse`: end); the sum of all comes back."""
    (rows, segments), size = parts.shape[:2], parts[0, 0].numel()
    final = parts.new_empty((rows, *parts.shape[2:]))
    scan_kernel[(rows, -(-size // _SCAN_BLOCK))](
        parts, initial, final, segments, size, REVERSE=reverse, BLOCK=_SCAN_BLOCK
    )
    return final


def _split(values: Tensor, normalizer: Tensor, like: Tensor) -> TaylorState:
    """(rows, ...) as (B, H, ...)."""
    return TaylorState(values.view(*like.shape[:2], *values.shape[1:]), normalizer.view(*like.shape[:2], -1))


def state(k: Tensor, v: Tensor, mask: Tensor | None, *, how: tuning.Launch | None = None) -> TaylorState:
    """`torch_path.state`; `how` as for every pass here: None takes the launch of the device's table."""
    plan = _Plan("state", v, how)
    with torch.cuda.device_of(v):
        values, normalizer = _sums(plan, k, v, None, mask, 1.0)
    return _split(values.sum(1), normalizer.sum(1), v)


def _beginnings(
    plan: _Plan, k: Tensor, v: Tensor, initial: TaylorState | None, mask: Tensor | None
) -> tuple[TaylorState | None, TaylorState | None]:
    """(state at the beginning of every segment, final state); with one segment the initial state and None."""
    if plan.segments == 1:
        return initial, None
    sums = _sums(plan, k, v, None, mask, 1.0)
    finals = [_scan(part, start) for part, start in zip(sums, initial or (None, None), strict=True)]
    return TaylorState(*sums), TaylorState(*finals)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial: TaylorState | None,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
    *,
    how: tuning.Launch | None = None,
) -> tuple[Tensor, Tensor, TaylorState]:
    """`torch_path.forward`."""
    plan = _Plan("forward", v, how)
    o = v.new_empty(v.shape)
    denominator = v.new_empty(v.shape[:3], dtype=torch.float32)
    with torch.cuda.device_of(v):
        begins, scanned = _beginnings(plan, k, v, initial, mask)
        final = scanned or plan.states(v, every_segment=False)
        written = final if scanned is None else (None, None)
        forward_kernel[plan.grid](
            q, k, v, mask, _selections(q.device, v.dtype), *(begins or (None, None)), o, denominator, *written,
            scale, epsilon, plan.length, plan.heads, plan.segment, *_strides(q, k, v),
            **plan.constants,
        )  # fmt: skip
    return o, denominator, _split(*final, v)


def state_gradient(
    d_values: Tensor, d_normalizer: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`torch_path.state_gradient`."""
    plan = _Plan("backward", v, None)
    d_k, d_v = _gradient_parts(plan, k), v.new_empty(v.shape)
    with torch.cuda.device_of(v):
        keys_kernel[plan.grid](
            None, k, v, mask, _selections(k.device, v.dtype), None, None, d_values, d_normalizer, d_k, d_v, None, None,
            1.0, plan.length, plan.heads, plan.segment, 1, 0, 0, 0, 0, *_strides(k, v),
            **plan.constants | _NO_PIPELINE,
        )  # fmt: skip
    return _summed(d_k, k), d_v


def _gradient_parts(plan: _Plan, like: Tensor) -> Tensor:
    """Room for each block of columns to write its part of a gradient `like` queries or keys."""
    return like.new_empty((plan.blocks, *like.shape), dtype=like.dtype if plan.blocks == 1 else torch.float32)


def _summed(parts: Tensor, like: Tensor) -> Tensor:
    return parts[0] if parts.shape[0] == 1 else parts.sum(0).to(like.dtype)


def backward(
    d_o: Tensor,
    d_final: TaylorState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial: TaylorState | None,
    mask: Tensor | None,
    o: Tensor,
    denominator: Tensor,
    scale: float,
    *,
    how: tuning.Launch | None = None,
) -> tuple[Tensor, Tensor, Tensor, TaylorState]:
    """`torch_path.backward`."""
    plan = _Plan("backward", v, how)
    selections, sizes = _selections(q.device, v.dtype), (plan.length, plan.heads, plan.segment)
    of_numerator = v.new_empty(v.shape, dtype=v.dtype if v.dtype == torch.bfloat16 else torch.float32)
    of_denominator = torch.empty_like(denominator)
    d_q, d_k, d_v = _gradient_parts(plan, q), _gradient_parts(plan, k), v.new_empty(v.shape)
    with torch.cuda.device_of(v):
        upstream_kernel[(plan.rows * -(-plan.length // 64),)](
            d_o, o, denominator, of_numerator, of_denominator, plan.length,
            WIDTH=plan.width, BLOCK_T=64, BLOCK_V=triton.next_power_of_2(plan.width),
        )  # fmt: skip
        begins, _ = _beginnings(plan, k, v, initial, mask)
        queries_kernel[plan.grid](
            q, k, v, mask, selections, of_numerator, of_denominator, *(begins or (None, None)), d_q,
            scale, *sizes, *_strides(q, k, v), **plan.constants,
        )  # fmt: skip
        if plan.segments == 1:
            ends: tuple[Tensor, Tensor] = d_final
            d_initial = plan.states(v, every_segment=False)
            written: tuple[Tensor | None, Tensor | None] = d_initial
        else:
            ends, written = _sums(plan, q, of_numerator, of_denominator, None, scale), (None, None)
            d_initial = (_scan(ends[0], d_final[0], reverse=True), _scan(ends[1], d_final[1], reverse=True))
        keys_kernel[plan.grid](
            q, k, v, mask, selections, of_numerator, of_denominator, *ends, d_k, d_v, *written,
            scale, *sizes, plan.segments, 1, *_strides(q, k, v), **plan.constants,
        )  # fmt: skip
    return _summed(d_q, q), _summed(d_k, k), d_v, _split(*d_initial, v)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    normalizer: Tensor,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
) -> Tensor:
    """`torch_path.step`."""
    batch, heads, _, width = v.shape
    o = v.new_empty(v.shape)
    strides = [stride for tensor in (q, k, v) for stride in tensor.stride()[:2]]
    with torch.cuda.device_of(v):
        step_kernel[(batch * heads,)](
            q, k, v, mask, _factors(q.device), values, normalizer, o, scale, epsilon, heads, *strides,
            WIDTH=width, BLOCK_V=max(16, triton.next_power_of_2(width)), BLOCK_E=32, num_warps=4,
        )  # fmt: skip
    return o
